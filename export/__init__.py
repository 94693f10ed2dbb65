"""Checkpoint -> ONNX -> simplified -> typed for a target -> engine."""
