from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgedet.calib import Range, Scales, graph_hash, observe
from edgedet.calib.scales import _binding_before_3, binding
from edgedet.contract.errors import CalibrationError


@pytest.fixture
def scales(core, images) -> Scales:
    return observe(core, iter(images), total=12, data=lambda: 'folder:"odd name", 12 images')


def changed(core: onnx.ModelProto) -> onnx.ModelProto:
    out = onnx.ModelProto()
    out.CopyFrom(core)
    return out


def test_saved_is_loaded_exactly(scales, tmp_path):
    path = tmp_path / "calibration.json"
    scales.save(path)
    assert Scales.load(path) == scales
    assert path.stat().st_size < 2000
    assert [p.name for p in tmp_path.iterdir()] == ["calibration.json"]


def test_the_hash_is_of_what_is_computed(core):
    same = changed(core)
    same.metadata_props.add(key="edgedet.spec", value="{}")
    same.producer_name, same.doc_string = "someone", "else"
    same.graph.name = "other"
    same.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    assert graph_hash(same) == graph_hash(core)

    size = changed(core)
    size.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 48
    stride = changed(core)
    attribute = next(a for a in stride.graph.node[0].attribute if a.name == "strides")
    attribute.ints[:] = [1, 1]
    wiring = changed(core)
    wiring.graph.node[-1].input[0] = "left/clip"
    hashes = {graph_hash(g) for g in (core, size, stride, wiring)}
    assert len(hashes) == 4


def reordered(core: onnx.ModelProto, seed: int) -> onnx.ModelProto:
    """The nodes in another order in which each still comes after what it reads; constants in another too."""
    rng = np.random.default_rng(seed)
    out = changed(core)
    made = {v.name for v in core.graph.input} | {t.name for t in core.graph.initializer}
    left, nodes = list(core.graph.node), []
    while left:
        ready = [n for n in left if made.issuperset(n.input)]
        node = ready[int(rng.integers(len(ready)))]
        left.remove(node)
        nodes.append(onnx.NodeProto.FromString(node.SerializeToString()))
        made.update(node.output)
    del out.graph.node[:], out.graph.initializer[:]
    out.graph.node.extend(nodes)
    out.graph.initializer.extend(reversed(core.graph.initializer))
    return out


def test_the_order_of_independent_nodes_does_not_count(core, scales):
    orders = [reordered(core, seed) for seed in range(5)]
    assert len({tuple(n.name for n in g.graph.node) for g in orders}) > 1
    for graph in orders:
        onnx.checker.check_model(graph)
        scales.check(graph, "The cache")
        assert binding(graph) == binding(core)


def test_a_shared_constant_counts_whatever_it_is_called(core, scales):
    other = changed(core)
    for tensor in other.graph.initializer:
        tensor.name = {"low": "zero", "high": "six"}.get(tensor.name, tensor.name)
    for node in other.graph.node:
        node.input[:] = [{"low": "zero", "high": "six"}.get(n, n) for n in node.input]
    scales.check(other, "The cache")


def test_a_cache_of_version_2_is_bound_as_it_was(core, scales, tmp_path):
    graph, norms = _binding_before_3(core)
    old = replace(scales, graph=graph, norms=norms, version=2)
    old.save(tmp_path / "c.json")
    raw = json.loads((tmp_path / "c.json").read_text())
    assert raw["version"] == 2
    assert "stages" not in raw
    assert Scales.load(tmp_path / "c.json") == old
    old.check(core, "It")
    with pytest.raises(CalibrationError, match="It belongs to another graph"):
        old.check(scaled(core, 1.01), "It")


def test_the_ranges_of_stages_are_in_the_same_file(scales, tmp_path):
    stage = replace(scales, ranges={"kept": Range(-1.0, 2.5)}, images=7)
    both = replace(scales, stages={"masks": stage})
    path = tmp_path / "c.json"
    both.save(path)
    assert Scales.load(path) == both
    raw = json.loads(path.read_text())
    for damage in (
        {"stages": {"masks": {}}},
        {"stages": []},
        {"stages": {"masks": raw["stages"]["masks"] | {"images": -1}}},
    ):
        changed_ = {**raw, **damage}
        del changed_["sha256"]
        digest = hashlib.sha256(json.dumps(changed_, sort_keys=True).encode()).hexdigest()
        path.write_text(json.dumps(changed_ | {"sha256": digest}))
        with pytest.raises(CalibrationError, match=r"c\.json is not a whole calibration cache"):
            Scales.load(path)


def scaled(core: onnx.ModelProto, factor: float) -> onnx.ModelProto:
    """The core with one convolution's weights multiplied."""
    out = changed(core)
    weight = next(i for i in out.graph.initializer if len(i.dims) == 4)
    values = (numpy_helper.to_array(weight) * np.float32(factor)).astype(np.float32)
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    return out


def test_other_weights_are_refused_other_last_bits_are_not(core, scales):
    scales.check(scaled(core, 1 + 1e-6), "The cache")
    with pytest.raises(CalibrationError, match="its weights are others"):
        scales.check(scaled(core, 1.01), "The cache")


def test_ranges_of_another_graph_are_refused(core, scales):
    scales.check(core, "It")
    other = changed(core)
    other.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 48
    with pytest.raises(CalibrationError, match="The cache belongs to another graph") as e:
        scales.check(other, "The cache")
    assert "--calib-data" in e.value.hint


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: json.dumps({**json.loads(text), "version": 99}),
        lambda text: json.dumps({k: v for k, v in json.loads(text).items() if k != "graph"}),
        lambda text: json.dumps({**json.loads(text), "ranges": {"stem": [1, 2, 3]}}),
        lambda text: json.dumps({**json.loads(text), "ranges": {"stem": [0.5, 2]}}),
        lambda text: json.dumps({**json.loads(text), "ranges": {"stem": [-1, float("inf")]}}),
    ],
)
def test_a_damaged_cache_is_named(scales, tmp_path, damage):
    path = tmp_path / "calibration.json"
    scales.save(path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(CalibrationError, match=r"calibration\.json") as e:
        Scales.load(path)
    assert "--calib-data" in e.value.hint


def test_an_absent_cache_is_named(tmp_path):
    with pytest.raises(CalibrationError, match=r"none\.json"):
        Scales.load(tmp_path / "none.json")


def test_a_symmetric_threshold_covers_both_sides():
    assert Range(-3.0, 2.0).threshold == 3.0
    assert Range(0.0, 6.0).threshold == 6.0
