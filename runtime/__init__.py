"""Engines, pipeline, sources, sinks. Never imports torch."""
