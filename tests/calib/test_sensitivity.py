from __future__ import annotations

import numpy as np
from onnx import numpy_helper

from edgedet.calib import PLACEMENTS, observe, quantise
from edgedet.calib.sensitivity import rank, same_rows, signal_to_noise


def test_the_layer_that_hurts_comes_first(core, images):
    # one channel of the block's input is a hundred times the others, and is not looked at: per-tensor
    # quantisation of that tensor drowns the rest, in every layer that reads it
    weights = {t.name: t for t in core.graph.initializer}

    def edit(name: str, change) -> None:
        values = numpy_helper.to_array(weights[name]).copy()
        change(values)
        weights[name].CopyFrom(numpy_helper.from_array(values, name))

    def blow(v: np.ndarray) -> None:
        v[0] *= 100

    def ignore(v: np.ndarray) -> None:
        v[:, 0] = 0

    edit("narrow.weight", blow)
    edit("left.weight", ignore)
    edit("right.weight", ignore)
    scales = observe(core, iter(images), total=12, data=lambda: "", method="minmax")
    placement = PLACEMENTS["tensorrt"]
    seen: list[int] = []
    ranking = rank(core, scales, placement, images[:4], on_layer=seen.append)
    assert seen == list(range(1, 9))
    assert [name for name, _ in ranking[:2]] in (["left", "right"], ["right", "left"])
    assert ranking[0][1] > 1 > ranking[2][1]

    best = [name for name, _ in ranking[:2]]
    before = signal_to_noise(core, quantise(core, scales, placement).graph, images)
    after = signal_to_noise(core, quantise(core, scales, placement, keep_float=best).graph, images)
    assert after > before + 10


def test_rows_are_compared_where_they_are_of_the_same_region():
    boxes = np.array([[[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [0, 0, 0, 0]]], np.float32)
    logits = np.array([[[1], [2], [3], [4]]], np.float32)
    level = np.zeros((1, 4, 2, 2), np.float32)  # as many channels as there are rows, and none of them
    other = [
        np.array([[[41, 0, 50, 10], [0, 0, 10, 9], [0, 0, 10, 8], [60, 0, 70, 10]]], np.float32),
        np.array([[[30], [10], [11], [99]]], np.float32),
        level + 5,
    ]
    moved = same_rows([boxes, logits, level], other, 0)
    assert moved[0][0].tolist() == [[0, 0, 10, 9], [0, 0, 0, 0], [41, 0, 50, 10], [0, 0, 0, 0]]
    assert moved[1][0, :, 0].tolist() == [10, 0, 30, 4]  # its own, none, its own, no region: as it was
    assert (moved[2] == 5).all()
