"""What R-CNN's time goes into, part by part: proposals, network, SVMs, regression, decoding, NMS.

SVMs and regression are layers of R-CNN's one graph, so no clock stands between them. Here the graph is cut at
the features: what leads to them is the network (crops included), and each branch behind them runs alone.
All parts run on ONNX Runtime, beside the whole graph, on the same frames, so that their sum can be compared.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from edgedet.bench.measure import first_images
from edgedet.calib.observe import cpu_session
from edgedet.contract.errors import UsageError
from edgedet.contract.frames import Image
from edgedet.contract.postprocess import make_postprocessor
from edgedet.contract.preprocess import Preprocessor
from edgedet.contract.proposals import RegionInput, in_runs
from edgedet.contract.spec import ModelSpec
from edgedet.runtime import read_spec
from edgedet.runtime.sources.source import Source

FRAMES = 5
"""Frames that parts are timed on: each takes seconds."""

_QUANTISING = ("DequantizeLinear", "QuantizeLinear")


@dataclass(frozen=True)
class Parts:
    """Milliseconds a frame, the median over `frames`; regions and runs of the graph: of a frame, on average.

    whole: the uncut graph; the parts between proposals and NMS are what it consists of.
    """

    frames: int
    regions: float
    runs: float
    proposals: float
    network: float
    svms: float
    regression: float
    decoding: float
    whole: float
    nms: float

    def to_json(self) -> dict[str, Any]:
        """Plain values for `json.dumps`."""
        return asdict(self)

    def rows(self) -> list[tuple[str, str, str]]:
        """(part, milliseconds, what it covers), to be shown."""
        runs = f"{self.regions:.0f} regions in {self.runs:.1f} runs"
        return [
            ("proposals", f"{self.proposals:.1f}", "where objects may be, from the frame's pixels"),
            ("network", f"{self.network:.1f}", f"crops and convolutions to the features: {runs}"),
            ("SVMs", f"{self.svms:.2f}", "a margin for each region and class"),
            ("regression", f"{self.regression:.2f}", "four deltas for each region and class"),
            ("decoding", f"{self.decoding:.2f}", "scores and boxes"),
            ("NMS", f"{self.nms:.2f}", "what is kept"),
            ("whole graph", f"{self.whole:.1f}", "network, SVMs, regression and decoding, not cut"),
        ]


@dataclass(frozen=True)
class Cut:
    """R-CNN's graph in parts (onnx.ModelProto): to the features, from there to each branch, and the rest."""

    network: Any
    svms: Any
    regression: Any
    rest: Any


def cut(graph: Any, classes: int) -> Cut:
    """Cut R-CNN's graph, quantised or not, at the features that its last two convolutions read.

    Args:
        graph: onnx.ModelProto that takes an image and proposals.

    Raises:
        UsageError: it does not end in a convolution for `classes` margins and one for 4 times as many deltas.
    """
    from onnx import shape_inference
    from onnx.utils import Extractor

    graph = shape_inference.infer_shapes(graph)
    made = {output: node for node in graph.graph.node for output in node.output}
    shapes = {v.name: v.type.tensor_type.shape.dim for v in graph.graph.value_info}
    last = {
        shapes[node.output[0]][1].dim_value: node
        for node in _last_convolutions(graph)
        if node.output[0] in shapes
    }
    if last.keys() != {classes, 4 * classes}:
        raise UsageError(
            f"The graph's last convolutions have {sorted(last)} channels, expected {classes} margins and"
            f" {4 * classes} deltas.",
            hint="Give an ONNX file of rcnn that edgedet-export wrote.",
        )

    def features(node: Any) -> str:
        name: str = node.input[0]
        while name in made and made[name].op_type in _QUANTISING:
            name = made[name].input[0]
        return name

    seen = {features(node) for node in last.values()}
    if len(seen) != 1:
        raise UsageError("The graph's last convolutions read different features: this is no R-CNN.")
    source = seen.pop()
    margins, deltas = (last[n].output[0] for n in (classes, 4 * classes))
    inputs, outputs = [v.name for v in graph.graph.input], [v.name for v in graph.graph.output]
    extract = Extractor(graph).extract_model
    return Cut(
        extract(inputs, [source]),
        extract([source], [margins]),
        extract([source], [deltas]),
        extract([*inputs, margins, deltas], outputs),
    )


def _last_convolutions(graph: Any) -> list[Any]:
    """Those behind which there is no other."""
    leads: set[str] = set()  # to a convolution
    found = []
    for node in reversed(graph.graph.node):
        reached = leads.intersection(node.output)
        if node.op_type == "Conv" and not reached:
            found.append(node)
        if node.op_type == "Conv" or reached:
            leads.update(node.input)
    return found


class _Clock:
    """Adds up what calls take."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self, call: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        result = call()
        self.seconds += time.perf_counter() - began
        return result


def measure_parts(path: Path, images: Sequence[Image]) -> Parts:
    """Time the parts of an R-CNN file on frames (H, W, 3) uint8 BGR, each frame once after one to warm up.

    Raises:
        UsageError: no R-CNN, or no frame. SpecError, EngineError: a file that cannot be read.
    """
    import onnx

    spec = read_spec(path)
    if spec.proposals is None or not images:
        raise UsageError(
            f"{path} takes no proposals." if images else "There are no frames to measure on.",
            hint="Give an ONNX file of rcnn, and a source with frames.",
        )
    graph = onnx.load(path)
    parts = cut(graph, len(spec.classes))
    sessions = {name: cpu_session(part) for name, part in vars(parts).items()} | {"whole": cpu_session(graph)}
    frames = [_frame(spec, sessions, image) for image in (images[0], *images)][1:]
    ms = {name: 1e3 * median(f[name] for f in frames) for name in frames[0]}
    return Parts(
        frames=len(frames),
        regions=float(np.mean([f["regions"] for f in frames])),
        runs=float(np.mean([f["runs"] for f in frames])),
        proposals=ms["proposals"],
        network=ms["network"],
        svms=ms["svms"],
        regression=ms["regression"],
        decoding=ms["rest"],
        whole=ms["whole"],
        nms=ms["nms"],
    )


def parts_of(files: Iterable[Path], opened: Callable[[], Source]) -> dict[Path, Parts]:
    """The parts of those files that are R-CNNs, on the first frames of a source.

    None where ONNX or ONNX Runtime are not installed. Raises as `measure_parts` and `first_images`.
    """
    found = [path for path in dict.fromkeys(files) if read_spec(path).model == "rcnn"]
    if not found or not all(find_spec(library) for library in ("onnx", "onnxruntime")):
        return {}
    images = first_images(opened, FRAMES)
    return {path: measure_parts(path, images) for path in found}


def _frame(spec: ModelSpec, sessions: Mapping[str, Any], image: Image) -> dict[str, float]:
    """Seconds of one frame by part; its regions and runs."""
    assert spec.proposals is not None
    pixels = np.zeros((1, *spec.input.shape[1:]), spec.input.dtype)
    boxes = np.zeros((1, spec.proposals.count, 4), np.float32)
    fill = RegionInput(spec)
    transform = Preprocessor(spec.input)(image, pixels[0])
    clocks = {name: _Clock() for name in ("proposals", *sessions, "nms")}
    count = clocks["proposals"](lambda: fill(image, transform, boxes[0]))
    runs = 0

    def run(name: str, given: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        session = sessions[name]
        outputs = [o.name for o in session.get_outputs()]
        wanted = {i.name: given[i.name] for i in session.get_inputs()}
        return dict(zip(outputs, clocks[name](lambda: session.run(outputs, wanted)), strict=True))

    def each(part: slice) -> dict[str, npt.NDArray[Any]]:
        nonlocal runs
        runs += 1
        known = {spec.input.name: pixels, fill.name: np.ascontiguousarray(boxes[:, part])}
        run("whole", known)
        for name in ("network", "svms", "regression", "rest"):
            known |= run(name, known)
        return {o.name: known[o.name] for o in spec.outputs}

    outputs = in_runs(each, boxes, spec.proposals.a_run)
    postprocess = make_postprocessor(spec)
    clocks["nms"](lambda: postprocess(outputs, [transform]))
    return {name: clock.seconds for name, clock in clocks.items()} | {"regions": count, "runs": runs}
