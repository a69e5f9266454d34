"""TensorRT engines of a bundle: planned, compiled, checked and timed."""
