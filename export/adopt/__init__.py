"""Published models as bundles: what a person gets is read, rebuilt as ONNX, cut, probed and
sealed."""
