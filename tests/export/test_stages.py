"""A model with a stage after NMS as two graphs, equal to the eager model on each engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edgedet.calib import quantisable
from edgedet.contract.results import Instances
from edgedet.contract.spec import Thresholds
from edgedet.evaluation.predict_torch import torch_under_test
from edgedet.export.graph import export_graphs, with_digest, with_spec
from edgedet.export.parity import compare
from edgedet.models import build, make_spec
from edgedet.models.mask_rcnn import ROWS
from edgedet.runtime import open_predictor

LIMITS = Thresholds(score=0.02, max_detections=20)


def test_mask_rcnn_is_two_graphs_that_equal_eager(tmp_path: Path):
    torch.manual_seed(0)
    model = build("mask-rcnn", 3, width=16, hidden=32, proposals=16, pretrained=False).eval()
    graphs = export_graphs(model, make_spec("mask-rcnn", model, ("a", "b", "c"), size=(96, 96)))
    compare(model, graphs.spec, graphs.decoded())
    assert [o.name for o in graphs.decoded_spec.outputs] == ["boxes", "scores", "level0", "level1", "level2"]
    convolutions = [n for n in graphs.stages["masks"].graph.node if n.op_type in ("Conv", "ConvTranspose")]
    assert {n.input[0] for n in convolutions} <= set(quantisable(graphs.stages["masks"]))
    path = tmp_path / "m.onnx"
    path.write_bytes(with_spec(graphs.decoded(), graphs.decoded_spec).SerializeToString())
    stage = graphs.spec.stages[0].file
    path.with_name(stage).write_bytes(with_digest(graphs.stages["masks"]).SerializeToString())
    image = np.random.default_rng(0).integers(0, 255, (120, 160, 3), np.uint8)
    want = torch_under_test(model, graphs.spec, thresholds=LIMITS)(image)
    assert isinstance(want, Instances) and len(want) > ROWS, "more than one run of the stage takes"
    for engine in ("onnxruntime", "openvino"):
        pytest.importorskip(engine)
        with open_predictor(path, engine=engine, thresholds=LIMITS) as predictor:
            got = predictor(image)
        assert isinstance(got, Instances)
        np.testing.assert_array_equal(got.detections.labels, want.detections.labels)
        np.testing.assert_allclose(got.detections.boxes, want.detections.boxes, atol=1e-2)
        np.testing.assert_allclose(got.masks, want.masks, atol=1e-3)
