"""R-CNN's graph cut into parts: together they compute what the whole does, and each has its time."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from edgedet.bench.rcnn_parts import cut, measure_parts
from edgedet.calib import PLACEMENTS, observe, quantise
from edgedet.calib.observe import cpu_session
from edgedet.contract.errors import UsageError
from edgedet.contract.spec import ModelSpec
from edgedet.export.graph import Graphs, export_graphs, to_bytes, with_spec
from edgedet.export.noise import noise
from edgedet.models import build, make_spec
from edgedet.models.rcnn import Rcnn

CLASSES = ("cat", "dog", "bird")
SIZE = (64, 96)


@pytest.fixture(scope="module")
def graphs() -> Graphs:
    torch.manual_seed(0)
    model = build("rcnn", 3, pretrained=False, proposals=12, rows=4, side=32, width=8).eval()
    assert isinstance(model, Rcnn)
    for layer in (model.svm, model.deltas):
        torch.nn.init.normal_(layer.weight, std=0.3)
    return export_graphs(model, make_spec("rcnn", model, CLASSES, size=SIZE))


@pytest.mark.parametrize("form", ["heads", "decoded", "int8"])
def test_the_parts_compute_what_the_whole_does(graphs: Graphs, form: str) -> None:
    whole = graphs.core if form == "heads" else graphs.decoded()
    if form == "int8":
        scales = observe(graphs.core, [noise(graphs.spec)], total=1, data=lambda: "noise")
        whole = graphs.decoded(quantise(graphs.core, scales, PLACEMENTS["onnxruntime"]).graph)
    known = dict(noise(graphs.spec, 2))
    session = cpu_session(whole, exact=True)
    expected = dict(zip([o.name for o in session.get_outputs()], session.run(None, known), strict=True))
    parts = cut(whole, len(CLASSES))
    for part in (parts.network, parts.svms, parts.regression, parts.rest):
        one = cpu_session(part, exact=True)
        given = {i.name: known[i.name] for i in one.get_inputs()}
        known |= dict(zip([o.name for o in one.get_outputs()], one.run(None, given), strict=True))
    for name, value in expected.items():
        np.testing.assert_allclose(known[name], value, rtol=1e-5, atol=1e-5)
    operators = [n.op_type for n in parts.svms.graph.node]
    assert operators.count("Conv") == 1 and [n.op_type for n in parts.rest.graph.node].count("Conv") == 0


def test_another_graph_is_refused(graphs: Graphs) -> None:
    with pytest.raises(UsageError, match=r"channels, expected 4 margins and 16 deltas"):
        cut(graphs.core, 4)


def test_each_part_has_its_time(graphs: Graphs, tmp_path: Path) -> None:
    path = tmp_path / "rcnn.onnx"
    path.write_bytes(to_bytes(with_spec(graphs.decoded(), graphs.decoded_spec)))
    image = np.random.default_rng(0).integers(0, 256, (80, 120, 3), np.uint8)
    cv2.rectangle(image, (20, 20), (60, 50), (20, 20, 220), -1)
    found = measure_parts(path, [image, np.full((4, 4, 3), 9, np.uint8)])
    assert found.frames == 2
    assert found.regions == 6 and found.runs == 2  # 12 in three runs; none in one
    named = found.to_json()
    assert all(named[part] > 0 for part in ("proposals", "network", "svms", "regression", "decoding", "nms"))
    assert [row[0] for row in found.rows()][:4] == ["proposals", "network", "SVMs", "regression"]
    with pytest.raises(UsageError, match="no frames"):
        measure_parts(path, [])


def test_only_a_graph_that_takes_proposals(graphs: Graphs, tmp_path: Path) -> None:
    spec = graphs.decoded_spec
    assert isinstance(spec, ModelSpec) and spec.proposals is not None
    path = tmp_path / "yolo.onnx"
    model = build("yolo", 3, pretrained=False, size=SIZE)
    other = export_graphs(model, make_spec("yolo", model, CLASSES, size=SIZE))
    path.write_bytes(to_bytes(with_spec(other.core, other.spec)))
    with pytest.raises(UsageError, match="takes no proposals"):
        measure_parts(path, [np.zeros((9, 9, 3), np.uint8)])
