from __future__ import annotations

import tracemalloc

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from edgedet.calib import graph_hash, observe, quantisable
from edgedet.contract.errors import CalibrationError, UnknownName


def test_the_tensors_between_operators(core):
    assert quantisable(core) == [
        "images",
        "first/clip",
        "stem",
        "wide/clip",
        "deep/clip",
        "narrow",
        "narrow/add",
        "left/clip",
        "right/clip",
        "left/clip/concat",
    ]


def test_ranges_are_those_of_the_tensors(core, images):
    seen = []
    scales = observe(
        core, iter(images), total=12, data=lambda: "noise", method="minmax", on_image=seen.append
    )
    assert seen == list(range(1, 13))
    assert (scales.graph, scales.data, scales.images) == (graph_hash(core), "noise", 12)
    assert set(scales.ranges) == set(quantisable(core))

    names = [n for n in scales.ranges if n != "images"]
    whole = onnx.ModelProto()
    whole.CopyFrom(core)
    whole.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names)
    session = onnxruntime.InferenceSession(whole.SerializeToString(), providers=["CPUExecutionProvider"])
    values = session.run(names, {"images": np.concatenate([i["images"] for i in images])})
    for name, value in zip(names, values, strict=True):
        low, high = scales.ranges[name]
        assert low == pytest.approx(min(0, float(value.min())), rel=1e-4, abs=1e-6), name
        assert high == pytest.approx(max(0, float(value.max())), rel=1e-4), name


def test_settled_where_nothing_new_comes(core, images):
    # the fourth image holds the largest values, later ones change nothing
    order = [{"images": 0.5 * i["images"]} for i in images[:3]] + [images[3]] * 17
    scales = observe(core, iter(order), total=20, data=lambda: "", method="minmax")
    assert scales.settled == 4


def test_memory_does_not_grow_with_the_images(core):
    """What Python and numpy hold at their peak; that of a whole process is measured by tools/bench."""

    def peak(n: int) -> int:
        rng = np.random.default_rng(0)
        stream = ({"images": rng.uniform(-1, 1, (1, 3, 24, 24)).astype(np.float32)} for _ in range(n))
        tracemalloc.start()
        observe(core, stream, total=n, data=lambda: "")
        high = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return high

    peak(5)  # imports and caches
    assert peak(400) < 1.1 * peak(40)


def test_broken_weights_name_the_tensor(core, images):
    weight = next(t for t in core.graph.initializer if t.name == "wide.weight")
    values = numpy_helper.to_array(weight).copy()
    values[0] = np.inf
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    with pytest.raises(CalibrationError, match=r"Tensor '.*' is not finite"):
        observe(core, iter(images), total=12, data=lambda: "")


def test_no_image_and_no_such_method(core):
    with pytest.raises(CalibrationError, match="no usable image"):
        observe(core, iter([]), total=0, data=lambda: "")
    with pytest.raises(UnknownName):
        observe(core, iter([]), total=0, data=lambda: "", method="entropie")
