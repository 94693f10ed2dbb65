"""The five upsamplings: by hand, against torch, and as ONNX on every engine that is here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from torch import Tensor, nn

from edgedet.contract.errors import UnknownName, UsageError
from edgedet.contract.spec import Decode, Input, ModelSpec, Output
from edgedet.export.graph import _export, to_bytes
from edgedet.export.passes.half import to_half
from edgedet.models.upsampling import (
    UPSAMPLINGS,
    Bilinear,
    MaxPooling,
    MaxUnpooling,
    TransposedConvolution,
    bilinear_kernel,
    first_maximum,
    upsampler,
)

CHANNELS = 3
SIZE = (12, 18)

every_one = pytest.mark.parametrize("name", sorted(UPSAMPLINGS))
factors = pytest.mark.parametrize("factor", [2, 3, 4])

# what TensorRT for RTX refuses, what would make shapes, and what would move values one by one
UNWANTED = {"MaxUnpool", "NonZero", "Shape", "Loop", "If", "ArgMax", "TopK"}


def up(name: str, factor: int = 2, channels: int = 1) -> nn.Module:
    return upsampler(name, channels, factor, remembered=True)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@every_one
@factors
def test_shape_type_and_gradient(name: str, factor: int) -> None:
    x = random(2, CHANNELS, 4, 5).requires_grad_()
    _, where = MaxPooling(factor)(random(2, CHANNELS, 4 * factor, 5 * factor, seed=1))
    y = up(name, factor, CHANNELS)(x, where)
    assert y.shape == (2, CHANNELS, 4 * factor, 5 * factor)
    assert y.dtype == torch.float32
    y.sum().backward()
    assert x.grad is not None
    # every value is handed on: once, or with the weights of an interpolation
    whole = {"bed-of-nails": 1, "max-unpooling": 1}.get(name, factor**2)
    inner = x.grad[:, :, 1:-1, 1:-1]
    torch.testing.assert_close(inner, torch.full_like(inner, float(whole)))


def test_by_hand() -> None:
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    assert up("nearest")(x).tolist() == [[[[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]]]
    assert up("bed-of-nails")(x).tolist() == [[[[1, 0, 2, 0], [0, 0, 0, 0], [3, 0, 4, 0], [0, 0, 0, 0]]]]
    # a quarter of the way between two centres, constant beyond the outermost
    first = [1, 1.25, 1.75, 2]
    assert up("bilinear")(x).tolist() == [[[[v + d for v in first] for d in (0, 0.5, 1.5, 2)]]]


def test_max_unpooling_by_hand() -> None:
    pooled_from = torch.tensor([[[[1.0, 5, 0, 0], [2, 3, 0, 0], [0, 0, 7, 7], [9, 0, 7, 8]]]])
    values, where = MaxPooling(2)(pooled_from)
    assert values.tolist() == [[[[5, 0], [9, 8]]]]
    assert where.tolist() == [[[[1, 0], [2, 3]]]]  # of the equal zeros, the first
    assert where.dtype == torch.int32
    x = torch.tensor([[[[10.0, 20.0], [30.0, -40.0]]]])
    expected = [[0, 10, 20, 0], [0, 0, 0, 0], [0, 0, 0, 0], [30, 0, 0, -40]]
    assert MaxUnpooling(1, 2)(x, where).tolist() == [[expected]]


@factors
def test_max_pooling_and_unpooling_are_torchs_own(factor: int) -> None:
    # after a ReLU and rounding, many windows have several maxima
    x = random(2, CHANNELS, 6 * factor, 5 * factor).mul(2).round().relu()
    values, where = MaxPooling(factor)(x)
    theirs, indices = nn.functional.max_pool2d(x, factor, return_indices=True)
    assert torch.equal(values, theirs)
    y = random(*values.shape, seed=1)
    assert torch.equal(
        MaxUnpooling(CHANNELS, factor)(y, where), nn.functional.max_unpool2d(y, indices, factor)
    )


def test_positions_need_no_gradient_and_pooling_has_one() -> None:
    x = random(1, 1, 4, 4).requires_grad_()
    values, where = MaxPooling(2)(x)
    assert not where.requires_grad
    values.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, MaxUnpooling(1, 2)(torch.ones(1, 1, 2, 2), where))


def test_the_first_maximum_is_found_in_an_uneven_window() -> None:
    x = torch.full((1, 1, 3, 3), -1.0)
    x[0, 0, 1, 2] = x[0, 0, 2, 0] = 4.0
    assert first_maximum(x, 3).tolist() == [[[[1 * 3 + 2]]]]


@pytest.mark.parametrize("factor", [2, 3, 4, 5, 8])
def test_a_transposed_convolution_starts_as_bilinear_interpolation(factor: int) -> None:
    x = random(2, CHANNELS, 6, 7)
    learned, plain = TransposedConvolution(CHANNELS, factor), Bilinear(CHANNELS, factor)
    inner = (..., slice(factor // 2, -(factor // 2)), slice(factor // 2, -(factor // 2)))
    torch.testing.assert_close(learned(x)[inner], plain(x)[inner], rtol=1e-5, atol=1e-5)
    kernel = 2 * factor - factor % 2
    assert learned.convolution.weight.shape == (CHANNELS, CHANNELS, kernel, kernel)
    assert learned.convolution.weight.requires_grad
    assert [n for n, _ in learned.named_parameters()] == ["convolution.weight"]


def test_the_bilinear_kernel_by_hand() -> None:
    assert bilinear_kernel(2)[1].tolist() == [0.75 * v for v in (0.25, 0.75, 0.75, 0.25)]
    third = torch.tensor([1, 2, 3, 2, 1]) / 3
    torch.testing.assert_close(bilinear_kernel(3), third[:, None] * third)


def test_what_cannot_be_meant_is_named() -> None:
    with pytest.raises(UnknownName, match=r"no upsampling is named 'bilinaer'\. Did you mean 'bilinear'"):
        upsampler("bilinaer", 1, 2)
    with pytest.raises(UsageError, match=r"remembers the maxima.*nearest, bilinear, bed-of-nails"):
        upsampler("max-unpooling", 1, 2)
    with pytest.raises(UsageError, match="factor of 1"):
        upsampler("nearest", 1, 1)
    with pytest.raises(UsageError, match="cannot take 5x4 values"):
        MaxPooling(2)(torch.zeros(1, 1, 5, 4))
    with pytest.raises(UsageError, match="got none"):
        MaxUnpooling(2, 2)(torch.zeros(1, 2, 3, 3))
    with pytest.raises(UsageError, match=r"of 4x3x3 values .* got those of 2x3x3"):
        MaxUnpooling(4, 2)(torch.zeros(1, 4, 3, 3), torch.zeros(1, 2, 3, 3, dtype=torch.int32))


class All(nn.Module):
    """Every upsampling of what a pooling leaves over, as outputs of one graph."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.pool = MaxPooling(factor)
        self.ups = nn.ModuleList(up(n, factor, CHANNELS) for n in UPSAMPLINGS)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        values, where = self.pool(images)
        return tuple(u(2 * values - 1, where) for u in self.ups)


@dataclass(frozen=True)
class Exported:
    graph: onnx.ModelProto
    images: npt.NDArray[np.float32]
    expected: dict[str, npt.NDArray[np.float32]]


@pytest.fixture(scope="module", params=[2, 3])
def exported(request: pytest.FixtureRequest) -> Exported:
    """With weights of the transposed convolution that are no longer those of its start."""
    torch.manual_seed(0)
    module = All(request.param).eval()
    learned = module.ups[[*UPSAMPLINGS].index("transposed-convolution")]
    assert isinstance(learned, TransposedConvolution)
    nn.init.normal_(learned.convolution.weight)
    graph = _export(module, (torch.zeros(2, CHANNELS, *SIZE),), ["images"], [*UPSAMPLINGS])
    images = random(3, CHANNELS, *SIZE).mul(2).round().relu()
    with torch.no_grad():
        outputs = [y.numpy() for y in module(images)]
    return Exported(graph, images.numpy(), dict(zip(UPSAMPLINGS, outputs, strict=True)))


def test_the_graph_is_static_and_plain(exported: Exported) -> None:
    operators = {n.op_type for n in exported.graph.graph.node}
    assert not operators & UNWANTED
    assert not any("Scatter" in o or "Gather" in o for o in operators)
    assert all(len(n.output) == 1 for n in exported.graph.graph.node)  # MaxPool without its indices
    for out in exported.graph.graph.output:
        dims = out.type.tensor_type.shape.dim
        assert [d.dim_value for d in dims[1:]] == [CHANNELS, *SIZE]  # batch alone is free


def test_onnxruntime_computes_what_torch_computes(exported: Exported) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(to_bytes(exported.graph), providers=["CPUExecutionProvider"])
    compare(dict(zip(UPSAMPLINGS, session.run(None, {"images": exported.images}), strict=True)), exported)


def test_openvino_computes_what_torch_computes(exported: Exported) -> None:
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    model = core.read_model(to_bytes(exported.graph))
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = compiled({"images": exported.images})
    compare({name: found[name] for name in UPSAMPLINGS}, exported)


def compare(found: dict[str, npt.NDArray[np.float32]], exported: Exported) -> None:
    for name, expected in exported.expected.items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-5, err_msg=name)
        if name in ("nearest", "bed-of-nails", "max-unpooling"):
            np.testing.assert_array_equal(found[name], expected, err_msg=name)


@pytest.mark.parametrize("half", [False, True])
def test_tensorrt_for_rtx_builds_a_plan_of_it(exported: Exported, half: bool) -> None:
    pytest.importorskip("tensorrt_rtx")
    from edgedet.export.tensorrt.rtx import build_rtx

    spec = ModelSpec(
        "upsamplings",
        "semantic",
        Input("images", *SIZE, (0.0,) * 3, (1.0,) * 3),
        tuple(
            Output(n, "features" if i else "class_logits", (None, CHANNELS, *SIZE))
            for i, n in enumerate(UPSAMPLINGS)
        ),
        Decode("class_map"),
        ("a", "b", "c"),
    )
    plan, _ = build_rtx(to_half(exported.graph) if half else exported.graph, spec, (86, 89, 120))
    assert len(plan) > 100_000
