"""Inputs that show nothing: what parity and latency are measured on."""

from __future__ import annotations

import numpy as np

from edgedet.calib.observe import Feed
from edgedet.contract.spec import ModelSpec

EMPTY = 4
"""Every so many rows of proposals, the last ones hold none."""


def noise(spec: ModelSpec, batch: int = 1) -> Feed:
    """What the graph of a spec takes, the same at every call: `batch` images of noise and, where it takes
    proposals, boxes anywhere in them; the last quarter of their rows is empty.
    """
    rng = np.random.default_rng(0)
    image = spec.input
    shape = (batch, *image.shape[1:])
    if image.dtype == "uint8":
        inputs = {image.name: rng.integers(0, 256, shape, np.uint8)}
    else:
        channels = (3, 1, 1) if image.layout == "NCHW" else (3,)
        mean, std = (np.asarray(v, np.float32).reshape(channels) for v in (image.mean, image.std))
        inputs = {image.name: np.ascontiguousarray((rng.random(shape, np.float32) - mean) / std)}
    for tensor in spec.extra_inputs:  # proposals: there is nothing else that a graph takes
        count = tensor.shape[1] or 1
        corners = np.sort(rng.random((batch, count, 2, 2), np.float32), axis=2)
        corners *= np.array([image.width, image.height], np.float32)
        corners[:, count - count // EMPTY :] = 0
        inputs[tensor.name] = corners.reshape(batch, count, 4)
    return inputs
