from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from edgedet.contract.errors import ExportError, ParityError
from edgedet.export.graph import OPSET, export_graphs, to_bytes, with_spec
from edgedet.export.parity import compare
from edgedet.runtime.engines.onnx_metadata import read_spec


def operators(model: onnx.ModelProto) -> set[str]:
    return {n.op_type for n in model.graph.node}


def test_the_core_is_nothing_but_the_network(exported):
    core = exported.graphs.core
    # norms folded, TF-"same" padding inside the convolutions, nothing left to compute shapes with
    assert operators(core) == {"Conv", "Clip", "Add", "Concat", "Resize"}
    assert core.opset_import[0].version == OPSET
    strided = [n for n in core.graph.node if [3, 3] in [list(a.ints) for a in n.attribute]]
    pads = {tuple(a.ints) for n in strided for a in n.attribute if a.name == "pads"}
    assert (0, 0, 1, 1) in pads
    convolutions = [n for n in core.graph.node if n.op_type == "Conv"]
    plain = sum(isinstance(m, torch.nn.Conv2d) for m in exported.model.modules())
    assert len(convolutions) == plain
    onnx.checker.check_model(core, full_check=True)


def test_both_forms_hold_the_same_core(exported):
    graphs = exported.graphs
    decoded = graphs.decoded()
    n = len(graphs.core.graph.node)
    assert [x.SerializeToString() for x in decoded.graph.node[:n]] == [
        x.SerializeToString() for x in graphs.core.graph.node
    ]
    assert all(x.name.startswith("decode/") for x in decoded.graph.node[n:])
    assert [o.name for o in decoded.graph.output] == ["boxes", "scores"]
    assert [(o.role, o.shape) for o in graphs.spec.outputs] == [("grid", (None, 13, 4, 6))]
    assert [(o.role, o.shape) for o in graphs.decoded_spec.outputs] == [
        ("boxes", (None, 48, 4)),
        ("scores", (None, 48, 3)),
    ]
    assert graphs.spec.decode.kind == "yolo"
    assert graphs.decoded_spec.decode.kind == "dense"


def test_names_say_where_a_tensor_comes_from(exported):
    core = exported.graphs.core
    modules = dict(exported.model.named_modules())
    for node in core.graph.node:
        if node.op_type == "Conv":
            assert isinstance(modules[node.name], torch.nn.Conv2d), node.name
            assert node.input[1] == f"{node.name}.weight"
        assert list(node.output) == ["grid"] if node.name == "head.3" else [node.name]


@pytest.mark.parametrize("batch", [1, 3])
def test_any_batch_equals_eager(exported, batch):
    torch.manual_seed(batch)
    images = torch.randn(batch, 3, *exported.spec.input.size)
    with torch.no_grad():
        heads = exported.model(images)
        results = exported.model.decode(heads, exported.spec.input.size)
    for graph, want in (
        (exported.graphs.core, [heads["grid"]]),
        (exported.graphs.decoded(), [*results.values()]),
    ):
        session = onnxruntime.InferenceSession(to_bytes(graph), providers=["CPUExecutionProvider"])
        for got, expected in zip(session.run(None, {"images": images.numpy()}), want, strict=True):
            np.testing.assert_allclose(got, expected.numpy(), rtol=1e-3, atol=1e-4)


def test_agreement_is_measured_and_demanded(exported):
    found = compare(exported.model, exported.graphs.spec, exported.graphs.decoded())
    assert 0 < found.heads < 1e-4
    assert found.results["boxes"] < 1e-2
    assert found.results["scores"] < 1e-3
    broken = exported.graphs.decoded()
    bias = next(t for t in broken.graph.initializer if t.name == "head.3.bias")
    values = onnx.numpy_helper.to_array(bias) + np.float32(1e-2)
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    with pytest.raises(ParityError, match=r"head 'grid' differs .* by 0\.01"):
        compare(exported.model, exported.graphs.spec, broken)


def test_the_same_bytes_twice_and_an_untouched_model(exported):
    before = {k: v.clone() for k, v in exported.model.state_dict().items()}
    again = export_graphs(exported.model, exported.spec)
    assert to_bytes(again.decoded()) == to_bytes(exported.graphs.decoded())
    assert to_bytes(again.core) == to_bytes(exported.graphs.core)
    after = exported.model.state_dict()
    assert all((after[k] == v).all() for k, v in before.items())


def test_the_spec_travels_inside(exported, tmp_path):
    path = tmp_path / "yolo.onnx"
    path.write_bytes(to_bytes(with_spec(exported.graphs.decoded(), exported.graphs.decoded_spec)))
    assert read_spec(path) == exported.graphs.decoded_spec


def test_heads_the_spec_does_not_name(exported):
    wrong = exported.spec.with_(outputs=(exported.graphs.decoded_spec.outputs[0],))
    with pytest.raises(ExportError, match="returns grid; its spec names boxes"):
        export_graphs(exported.model, wrong)
