"""A graph behind the pixel front computes what it computed of normalised images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest

from edgedet.calib import PLACEMENTS, Scales, observe, quantise
from edgedet.contract.errors import ExportError
from edgedet.contract.preprocess import preprocess
from edgedet.contract.spec import Input
from edgedet.evaluation import engine_under_test
from edgedet.export.graph import to_bytes, with_spec
from edgedet.export.passes.pixels import from_pixels
from edgedet.runtime import open_engine

FRONT = ["Transpose", "Gather", "Cast", "Mul", "Add"]


def run(graph: onnx.ModelProto, name: str, image: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(to_bytes(graph), providers=["CPUExecutionProvider"])
    return session.run(None, {name: image})


def pixels(size: tuple[int, int], count: int = 2) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *size, 3), np.uint8)


def normalised(images: np.ndarray, spec: Input) -> np.ndarray:
    """uint8 BGR -> what a network without the front takes."""
    return np.concatenate([preprocess(image, spec)[0] for image in images])


@pytest.fixture(scope="module")
def scales(exported) -> Scales:
    whole = normalised(pixels(exported.spec.input.size), exported.spec.input)
    images = ({"images": whole[i : i + 1]} for i in (0, 1))
    return observe(exported.graphs.core, images, total=2, data=lambda: "noise")


def test_the_front_stands_before_an_untouched_graph(exported) -> None:
    plain, spec = exported.graphs.decoded(), exported.graphs.decoded_spec
    before = to_bytes(plain)
    graph, taken = from_pixels(plain, spec)
    assert to_bytes(plain) == before
    assert [n.op_type for n in graph.graph.node[:5]] == FRONT
    assert [n.name for n in graph.graph.node[5:]] == [n.name for n in plain.graph.node]
    assert [o.name for o in graph.graph.output] == [o.name for o in plain.graph.output]
    (image,) = graph.graph.input
    assert image.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert (taken.input.dtype, taken.input.layout, taken.input.colour) == ("uint8", "NHWC", "BGR")
    assert taken.with_(input=spec.input) == spec
    assert to_bytes(from_pixels(plain, spec)[0]) == to_bytes(graph)


@pytest.mark.parametrize("colour", ["RGB", "BGR"])
@pytest.mark.parametrize(
    ("mean", "std"), [((0.5,) * 3, (0.5,) * 3), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
)
def test_float_results_are_those_of_the_float_path(exported, colour, mean, std) -> None:
    """Image borders included, where convolutions pad: to 1e-4 of the heads' range."""
    image = replace(exported.graphs.spec.input, colour=colour, mean=mean, std=std)
    spec = exported.graphs.spec.with_(input=image)
    images = pixels(image.size)
    graph, taken = from_pixels(exported.graphs.core, spec)
    (want,) = run(exported.graphs.core, image.name, normalised(images, image))
    (got,) = run(graph, image.name, images)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())
    # the spec says the same of the pixels
    tables = Input("i", *image.size, taken.input.mean, taken.input.std, "BGR")
    (same,) = run(exported.graphs.core, image.name, normalised(images, tables)[:, [2, 1, 0]])
    if colour == "RGB":
        np.testing.assert_allclose(same, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_int8_stays_int8_and_gives_the_same(exported, scales, engine, tmp_path) -> None:
    pytest.importorskip(engine)
    quantised = quantise(exported.graphs.core, scales, PLACEMENTS[engine])
    decoded, spec = exported.graphs.decoded(quantised.graph), exported.graphs.decoded_spec
    graph, taken = from_pixels(decoded, spec)
    count = {k: sum(n.op_type == k for n in decoded.graph.node) for k in ("QuantizeLinear", "Conv")}
    assert count == {k: sum(n.op_type == k for n in graph.graph.node) for k in count}
    results = []
    images = pixels(spec.input.size)
    for name, model, meaning in (("floats", decoded, spec), ("pixels", graph, taken)):
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(to_bytes(with_spec(model, meaning)))
        with open_engine(path, engine=engine) as opened:
            predict = engine_under_test(opened)
            results.append([predict(image) for image in images])
    for a, b in zip(*results, strict=True):
        assert len(a.boxes) > 0
        np.testing.assert_array_equal(a.labels, b.labels)
        np.testing.assert_allclose(a.boxes, b.boxes, atol=1e-2)
        np.testing.assert_allclose(a.scores, b.scores, atol=1e-4)


def test_onnxruntime_runs_the_first_convolution_in_int8(exported, scales, tmp_path) -> None:
    """What it makes of the graph: as many fused convolutions as without the front."""
    quantised = quantise(exported.graphs.core, scales, PLACEMENTS["onnxruntime"]).graph
    kinds = []
    for i, graph in enumerate((quantised, from_pixels(quantised, exported.graphs.spec)[0])):
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / f"{i}.onnx")
        options.log_severity_level = 4
        onnxruntime.InferenceSession(to_bytes(graph), options, providers=["CPUExecutionProvider"])
        nodes = onnx.load(tmp_path / f"{i}.onnx").graph.node
        kinds.append([n.op_type for n in nodes if "Conv" in n.op_type])
    assert kinds[0] == kinds[1]
    assert kinds[0][0] == "QLinearConv"


def test_the_batch_stays_free_or_fixed(exported) -> None:
    free, _ = from_pixels(exported.graphs.core, exported.graphs.spec)
    assert run(free, "images", pixels(exported.spec.input.size, 3))[0].shape[0] == 3
    fixed = onnx.ModelProto()
    fixed.CopyFrom(exported.graphs.core)
    for value in (*fixed.graph.input, *fixed.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 2
    graph, _ = from_pixels(fixed, exported.graphs.spec)
    assert graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 2


def test_twice_is_refused(exported) -> None:
    graph, spec = from_pixels(exported.graphs.core, exported.graphs.spec)
    with pytest.raises(ExportError, match="uint8 NHWC already"):
        from_pixels(graph, spec)
