"""TensorRT plans: built from a typed graph, read back, described."""
