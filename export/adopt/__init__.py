"""Published models as bundles: their files are read, rebuilt as ONNX, cut to a region, probed and
sealed."""
