"""Rewrites of ONNX graphs, one per file."""
