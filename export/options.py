"""What is to be exported, and what an export notes on its way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from edgedet.calib.images import DEFAULT_IMAGES
from edgedet.calib.observe import DEFAULT_METHOD
from edgedet.calib.verdict import MAX_DROP, MIN_AGREEMENT
from edgedet.contract.errors import UsageError
from edgedet.contract.numbers import check_count, check_number
from edgedet.export.console import LabelledConsole
from edgedet.export.targets import Target, find_target
from edgedet.export.tensorrt.rtx import DEFAULT_SMS, check_sms, library
from edgedet.models import entry

TOOLS = ("edgedet", "torch", "onnx", "onnxsim", "onnxruntime", "openvino", "tensorrt_rtx")


@dataclass(frozen=True)
class ExportOptions:
    """What to export, and how; `edgedet-export --help` says what each means.

    eval_images: the gate measures on no more images of labelled `eval_data` than this, evenly spread.
    """

    model: str
    output: Path
    weights: Path | None = None
    size: tuple[int, int] | None = None
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    target: str = "auto"
    sms: tuple[int, ...] = DEFAULT_SMS
    calib_data: str | None = None
    calib_cache: Path | None = None
    calib_images: int = DEFAULT_IMAGES
    calib_method: str = DEFAULT_METHOD
    eval_data: str | None = None
    eval_images: int | None = None
    max_drop: float = MAX_DROP
    min_agreement: float = MIN_AGREEMENT
    sensitivity: bool = False
    keep_failed: bool = False
    accept_unmeasured: bool = False
    proposals_cache: Path | None = None

    def check(self) -> Target:
        """The target; raises a named error for all that can be known to be wrong before any work."""
        entry(self.model)
        check_count("calib_images", self.calib_images)
        check_count("eval_images", self.eval_images)
        check_number("max_drop", self.max_drop, most=100)
        check_number("min_agreement", self.min_agreement, most=100)
        target = find_target(self.target)
        if target.name == "tensorrt-rtx":
            library()
            check_sms(self.sms, int8=self.precision == "int8")
        for option, value in (("--calib-data", self.calib_data), ("--eval-data", self.eval_data)):
            if value is not None and not value.strip():  # of a shell variable that is not set
                raise UsageError(f"{option} is empty.", hint="Name the data, or leave the option out.")
        if self.calib_data and self.calib_cache:
            raise UsageError("--calib-data and --calib-cache exclude each other.", hint="Give one of them.")
        return target

    def stem(self, target: Target) -> str:
        """What the artifact is called, without ending: "yolo-int8", "yolo-fp16-rtx"."""
        precision = "" if self.precision == "fp32" else f"-{self.precision}"
        return f"{self.model}{precision}{target.suffix}"


@dataclass
class Log:
    """What a report will say: facts by section, and why something was not measured."""

    console: LabelledConsole
    facts: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def tools() -> dict[str, str]:
    """Versions of the libraries that make an artifact."""
    found = {}
    for name in TOOLS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
