"""One artifact of two graphs: what runs after NMS is opened with the first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgedet.contract.errors import EngineError
from edgedet.contract.results import Instances
from edgedet.contract.spec import Decode, Input, ModelSpec, Output, Stage, Tensor
from edgedet.evaluation import engine_under_test
from edgedet.export.graph import with_digest, with_spec
from edgedet.runtime import open_engine, open_predictor

SPEC = ModelSpec(
    model="m",
    task="instance",
    input=Input("images", 8, 8, (0, 0, 0), (1, 1, 1)),
    outputs=(
        Output("boxes", "boxes", (None, 2, 4)),
        Output("scores", "scores", (None, 2, 2)),
        Output("level", "features", (None, 3, 8, 8)),
    ),
    decode=Decode("dense"),
    classes=("a", "b"),
    stages=(
        Stage(
            "masks",
            "m-masks.onnx",
            (Tensor("level", "features", (None, 3, 8, 8)), Tensor("kept", "boxes", (None, 4, 4))),
            (Tensor("logits", "masks", (None, 4, 2, 4, 4)),),
        ),
    ),
)


def graph(nodes, inputs, outputs, constants) -> onnx.ModelProto:
    def value(t):
        return helper.make_tensor_value_info(t.name, TensorProto.FLOAT, ["batch", *t.shape[1:]])

    made = helper.make_graph(
        nodes,
        "g",
        [value(t) for t in inputs],
        [value(t) for t in outputs],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    n = helper.make_node
    boxes = np.array([[[0, 0, 4, 8], [4, 0, 8, 8]]], np.float32)
    scores = np.array([[[0.9, 0], [0, 0.8]]], np.float32)
    first = graph(
        [
            n("ReduceMean", ["images", "axes"], ["mean"]),
            n("Mul", ["mean", "zero"], ["nothing"]),
            n("Reshape", ["nothing", "flat"], ["row"]),
            n("Add", ["row", "b"], ["boxes"]),
            n("Add", ["row", "s"], ["scores"]),
            n("Identity", ["images"], ["level"]),
        ],
        [Tensor("images", "features", (None, 3, 8, 8))],
        SPEC.outputs,
        {
            "axes": np.array([1, 2, 3], np.int64),
            "zero": np.zeros(1, np.float32),
            "flat": np.array([-1, 1, 1], np.int64),
            "b": boxes,
            "s": scores,
        },
    )
    stage = SPEC.stages[0]
    weights = np.zeros((4, 32), np.float32)
    weights[0, :16], weights[0, 16:] = 1, -1  # class a: + x0, class b: - x0
    second = graph(
        [
            n("ReduceMean", ["level", "axes"], ["mean"]),
            n("Reshape", ["mean", "flat"], ["row"]),
            n("MatMul", ["kept", "w"], ["side"]),
            n("Add", ["side", "row"], ["sum"]),
            n("Reshape", ["sum", "to"], ["logits"]),
        ],
        stage.inputs,
        stage.outputs,
        {
            "axes": np.array([1, 2, 3], np.int64),
            "flat": np.array([-1, 1, 1], np.int64),
            "w": weights,
            "to": np.array([-1, 4, 2, 4, 4], np.int64),
        },
    )
    path = tmp_path / "m.onnx"
    path.write_bytes(with_spec(first, SPEC).SerializeToString())
    (tmp_path / stage.file).write_bytes(with_digest(second).SerializeToString())
    return path


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_both_graphs_run(artifact: Path, name: str):
    pytest.importorskip(name)
    image = np.full((8, 8, 3), 255, np.uint8)  # the mean of the level is 1
    with open_predictor(artifact, engine=name) as predictor:
        found = predictor(image)
    with open_engine(artifact, engine=name) as engine:
        assert list(engine.stages) == ["masks"]
        again = engine_under_test(engine)(image)
    for result in (found, again):
        assert isinstance(result, Instances)
        assert result.detections.labels.tolist() == [0, 1]
        want = 1 / (1 + np.exp(-np.array([0 + 1.0, -4 + 1.0])))
        np.testing.assert_allclose(result.masks, want[:, None, None] * np.ones((2, 4, 4)), rtol=1e-5)
    assert result.paste(0, (8, 8))[2:6, 1:3].all() and not result.paste(1, (8, 8)).any()


def test_a_stage_that_is_not_there_or_not_whole_is_named(artifact: Path):
    stage = artifact.with_name("m-masks.onnx")
    data = bytearray(stage.read_bytes())
    stage.unlink()
    with pytest.raises(EngineError, match=r"needs m-masks\.onnx"):
        open_engine(artifact, engine="onnxruntime")
    at = data.index(np.float32(-1).tobytes())
    data[at : at + 4] = np.float32(7).tobytes()
    stage.write_bytes(data)
    with pytest.raises(EngineError, match="sha256"):
        open_engine(artifact, engine="onnxruntime")
