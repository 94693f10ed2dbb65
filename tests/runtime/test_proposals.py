"""A graph that takes an image and its proposals, in the predictor and in evaluation, on every engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgedet.contract.errors import EngineTimeout
from edgedet.contract.frames import Frame
from edgedet.contract.preprocess import preprocess
from edgedet.contract.proposals import SelectiveSearch
from edgedet.contract.results import Detections
from edgedet.contract.spec import SPEC_KEY, Decode, Input, ModelSpec, Proposals, Tensor, Thresholds
from edgedet.evaluation import engine_under_test
from edgedet.runtime import open_engine, open_predictor
from edgedet.runtime.engines.engine import ENGINES, Request
from edgedet.runtime.request_slot import RequestSlot

onnx = pytest.importorskip("onnx", reason="needs onnx (extra export) to write a model")
every_engine = pytest.mark.parametrize("engine", [name for name, b in ENGINES.items() if b.installed])
P = 40
SHOW_ALL = Thresholds(score=0.0, iou=1.0, max_detections=P)


@pytest.fixture(scope="module", params=[None, 8], ids=["at once", "in runs"])
def artifact(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """Says of every proposal that it is a "thing", as surely as it is large; of none, nothing.

    It looks at all of an image's proposals at once, or at 8.
    """
    rows = request.param or P
    helper, node = onnx.helper, onnx.helper.make_node
    size = (64, 96)
    nodes = [
        node("Slice", ["rois", "0", "2", "2axis"], ["low"]),
        node("Slice", ["rois", "2", "4", "2axis"], ["high"]),
        node("Sub", ["high", "low"], ["sides"]),
        node("ReduceProd", ["sides"], ["area"], axes=[2], keepdims=1),
        node("Mul", ["area", "share"], ["plain"]),
        node("ReduceMean", ["images"], ["light"], axes=[1, 2, 3], keepdims=1),
        node("Reshape", ["light", "column"], ["lit"]),
        node("Mul", ["lit", "nothing"], ["still"]),
        node("Add", ["plain", "still"], ["scores"]),
        node("Identity", ["rois"], ["boxes"]),
    ]
    constants = {
        "0": np.array([0]),
        "2": np.array([2]),
        "4": np.array([4]),
        "2axis": np.array([2]),
        "share": np.array(1 / (size[0] * size[1]), np.float32),
        "column": np.array([-1, 1, 1]),
        "nothing": np.zeros((1, 1, 1), np.float32),
    }
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "regions",
        [value("images", 1, ["N", 3, *size]), value("rois", 1, ["N", rows, 4])],
        [value("boxes", 1, ["N", rows, 4]), value("scores", 1, ["N", rows, 1])],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    spec = ModelSpec(
        "regions",
        "detection",
        Input("images", *size, (0.0,) * 3, (1.0,) * 3),
        (Tensor("boxes", "boxes", (None, rows, 4)), Tensor("scores", "scores", (None, rows, 1))),
        Decode("dense"),
        ("thing",),
        thresholds=SHOW_ALL,
        extra_inputs=(Tensor("rois", "proposals", (None, rows, 4)),),
        proposals=Proposals("selective_search", P, {"side": 120, "most": 30}, request.param),
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=9)
    helper.set_model_props(made, {SPEC_KEY: spec.to_json()})
    path = tmp_path_factory.mktemp("regions") / "regions.onnx"
    onnx.save(made, path)
    return path


def picture(seed: int) -> np.ndarray:
    image = np.random.default_rng(seed).integers(60, 120, (80, 110, 3), dtype=np.uint8)
    image[10 + seed : 50, 20:60] = (20, 40, 230)
    return image


def expected(image: np.ndarray) -> np.ndarray:
    """The proposals, largest first."""
    found = SelectiveSearch(side=120, most=30)(image)
    area = (found[:, 2] - found[:, 0]) * (found[:, 3] - found[:, 1])
    return found[np.argsort(-area, kind="stable")]


def check(result: object, image: np.ndarray) -> None:
    assert isinstance(result, Detections)
    want = expected(image)
    assert len(result) == len(want) <= 30
    order = np.lexsort(np.round(result.boxes.T))
    np.testing.assert_allclose(result.boxes[order], want[np.lexsort(np.round(want.T))], atol=1e-3)
    assert (np.diff(result.scores) <= 0).all()


@every_engine
def test_the_predictor_proposes_and_says_how_long_it_took(artifact: Path, engine: str) -> None:
    with open_predictor(artifact, engine=engine) as predictor:
        assert predictor.stages == ("preprocess", "proposals", "network", "postprocess")
        ticket = predictor.submit([Frame(picture(3))])
        check(predictor.collect(ticket)[0], picture(3))
        assert ticket.times["proposals"] > 0
        check(predictor(picture(7)), picture(7))  # the slot is used again


@every_engine
def test_rows_of_an_earlier_batch_do_not_stay(artifact: Path, engine: str) -> None:
    with open_predictor(artifact, engine=engine, batch=2, in_flight=1) as predictor:
        both = predictor.collect(predictor.submit([Frame(picture(1)), Frame(picture(2))]))
        check(both[1], picture(2))
        check(predictor.collect(predictor.submit([Frame(picture(2))]))[0], picture(2))


@every_engine
def test_a_frame_without_proposals_has_no_detections(artifact: Path, engine: str) -> None:
    with open_predictor(artifact, engine=engine) as predictor:
        assert len(predictor(np.full((4, 4, 3), 9, np.uint8))) == 0


@every_engine
def test_evaluation_proposes_as_the_predictor_does(artifact: Path, engine: str) -> None:
    with open_engine(artifact, engine=engine) as opened:
        check(engine_under_test(opened, SHOW_ALL)(picture(4)), picture(4))

        class Nothing:
            def __call__(self, image: np.ndarray) -> np.ndarray:
                return np.zeros((0, 4), np.float32)

            def identity(self) -> str:
                return "none"

        assert len(engine_under_test(opened, SHOW_ALL, proposer=Nothing())(picture(4))) == 0
        inputs = {
            "images": preprocess(picture(4), opened.spec.input)[0],
            "rois": np.zeros((1, opened.spec.proposals.a_run, 4), np.float32),
        }
        assert set(opened.infer(inputs)) == {"boxes", "scores"}


class Counted:
    """An engine's request that counts how often it runs."""

    def __init__(self, request: Request) -> None:
        self.request, self.started = request, 0
        self.inputs, self.outputs = request.inputs, request.outputs

    def start(self) -> None:
        self.started += 1
        self.request.start()

    def wait(self, timeout: float | None = None) -> float:
        return self.request.wait(timeout)


@every_engine
def test_a_slot_runs_as_often_as_its_frames_need(artifact: Path, engine: str) -> None:
    with open_engine(artifact, engine=engine) as opened:
        counted = Counted(opened.request(2))
        slot = RequestSlot(counted, opened.spec)
        assert opened.spec.proposals is not None
        rows = opened.spec.proposals.a_run
        for frames in ([picture(3), picture(5)], [np.full((4, 4, 3), 9, np.uint8)], [picture(5)]):
            counted.started, times = 0, {}
            slot.fill([Frame(image) for image in frames], times)
            needed = max(1, -(-max(len(expected(image)) for image in frames) // rows))
            for _ in range(2):  # what was filled in may be run again
                slot.start()
                assert slot.wait(60) > 0
            assert counted.started == 2 * needed
            for i, image in enumerate(frames):
                seen = slot.outputs["boxes"][i]
                seen = seen[(seen != 0).any(axis=1)]
                assert len(seen) == len(expected(image))
            assert slot.outputs["scores"].shape == (2, needed * rows, 1)


@every_engine
def test_a_wait_that_took_too_long_is_waited_for_again(artifact: Path, engine: str) -> None:
    with open_engine(artifact, engine=engine) as opened:
        slot = RequestSlot(opened.request(1), opened.spec)
        slot.fill([Frame(picture(3))], {})
        slot.start()
        for _ in range(100_000):
            try:
                slot.wait(1e-9)
            except EngineTimeout:
                assert slot.running
            else:
                break
        assert not slot.running
        seen = slot.outputs["boxes"][0]
        assert (seen != 0).any(axis=1).sum() == len(expected(picture(3)))
