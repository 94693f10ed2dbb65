"""`edgedet doctor`: what this machine has, what is missing, how to get it."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Annotated

import typer

from edgedet import __version__
from edgedet.contract.text import printable
from edgedet.runtime import hardware
from edgedet.runtime.engines.engine import ENGINES

if TYPE_CHECKING:
    from rich.table import Table

CV2_WHEELS = (
    "opencv-contrib-python-headless",
    "opencv-contrib-python",
    "opencv-python-headless",
    "opencv-python",
)
BUILDERS = ("tensorrt", "tensorrt-rtx")
"""What builds TensorRT plans; the second does so without a GPU."""


@dataclass(frozen=True)
class Library:
    """A library edgedet can use: the extra that asks for it ("base" for none), least and found version."""

    name: str
    extra: str
    wanted: str
    version: str | None

    @property
    def state(self) -> str:
        """One of "ok", "missing", "too old"."""
        if self.version is None:
            return "missing"
        return "too old" if _numbers(self.version) < _numbers(self.wanted) else "ok"


@dataclass(frozen=True)
class OpenCV:
    """What the installed cv2 can do; `problem` says why it cannot be imported, empty if it can."""

    wheels: tuple[str, ...]
    version: str = ""
    ffmpeg: bool = False
    gstreamer: bool = False
    gui: str = ""
    problem: str = ""


@dataclass(frozen=True)
class MachineReport:
    """All that doctor finds. `advice` is what to do, most urgent first."""

    python: str
    system: str
    cpu: hardware.Cpu
    memory_gib: float | None
    jetson: str
    gpus: list[hardware.Gpu]
    cuda_driver: bool
    display: bool
    opencv: OpenCV
    cameras: list[hardware.Camera]
    libraries: list[Library]
    edgedet: str = __version__
    advice: list[str] = field(default_factory=list)

    def has(self, name: str) -> bool:
        """Whether a library is there in a version that will do."""
        return any(x.name == name and x.state == "ok" for x in self.libraries)

    def engines(self) -> list[str]:
        """The engines that can run a model here, in the order in which edgedet prefers them."""
        return [name for name in ENGINES if self.has(name)]

    def builders(self) -> list[str]:
        """What can build a TensorRT plan here."""
        gpu = bool(self.gpus or self.jetson)
        return [name for name in BUILDERS if self.has(name) and (gpu or name == "tensorrt-rtx")]


def doctor(
    json_output: Annotated[bool, typer.Option("--json", help="Print the report as JSON only.")] = False,
) -> int:
    """Say what this machine has, what is missing and how to get it.

    Exit code 0 if a model can run here, 1 if not.

    Example: edgedet doctor --json
    """
    report = examine()
    if json_output:
        typer.echo(
            json.dumps(
                asdict(report) | {"engines": report.engines(), "builders": report.builders()}, indent=2
            )
        )
    else:
        show(report)
    return 0 if report.engines() and not report.opencv.problem else 1


def examine() -> MachineReport:
    """Look at everything; nothing is opened, no CUDA context is made."""
    from ctypes.util import find_library
    from dataclasses import replace

    report = MachineReport(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        cpu=hardware.cpu(),
        memory_gib=hardware.memory_gib(),
        jetson=hardware.jetson(),
        gpus=hardware.gpus(),
        cuda_driver=find_library("cuda") is not None,
        display=bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")),
        opencv=opencv(),
        cameras=hardware.cameras(),
        libraries=libraries(importlib.metadata.requires("edgedet") or []),
    )
    return replace(report, advice=advise(report))


def libraries(requirements: list[str]) -> list[Library]:
    """The libraries of edgedet's own metadata, with what is installed of them."""
    found = []
    for requirement in requirements:
        match = re.match(
            r"([\w.-]+)\s*(?:[=><~!]=?\s*([\d.]+))?[^;]*(?:;.*extra == [\"'](\w+)[\"'])?", requirement
        )
        if match and match[1] != "edgedet":
            found.append(Library(match[1], match[3] or "base", match[2] or "0", _version(match[1])))
    return found


def opencv() -> OpenCV:
    """What cv2 is and can, from its own build information."""
    wheels = tuple(w for w in CV2_WHEELS if _version(w) is not None)
    try:
        import cv2
    except ImportError as e:
        return OpenCV(wheels, problem=" ".join(str(e).split()))
    lines = dict(re.findall(r"^\s+(FFMPEG|GStreamer|GUI):\s+(\S+)", cv2.getBuildInformation(), re.MULTILINE))
    gui = lines.get("GUI", "NONE")
    return OpenCV(
        wheels,
        cv2.__version__,
        lines.get("FFMPEG") == "YES",
        lines.get("GStreamer") == "YES",
        "" if gui == "NONE" else gui,
    )


def advise(r: MachineReport) -> list[str]:
    """What is missing here and how to get it, most urgent first."""
    advice = []
    if len(r.opencv.wheels) > 1:
        advice.append(
            f"{' and '.join(r.opencv.wheels)} are both installed and overwrite each other: "
            f"pip uninstall {' '.join(r.opencv.wheels)}; pip install {CV2_WHEELS[0]}"
        )
    if r.opencv.problem:
        advice.append(f"cv2 cannot be imported ({r.opencv.problem}): pip install {CV2_WHEELS[0]}")
    if not r.engines():
        advice.append("No engine can run here: pip install 'edgedet[cpu]' (OpenVINO)")
    elif "openvino" not in r.engines():
        advice.append("OpenVINO is quicker on this CPU than ONNX Runtime: pip install 'edgedet[cpu]'")
    advice += [
        f"{x.name} {x.version} is older than {x.wanted}: pip install -U 'edgedet[{x.extra}]'".replace(
            "[base]", ""
        )
        for x in r.libraries
        if x.state == "too old"
    ]
    if r.jetson and not r.has("tensorrt"):
        advice.append(
            "TensorRT comes with JetPack: make the environment with python3 -m venv --system-site-packages, "
            "then pip install pycuda"
        )
    elif r.gpus and not r.builders():
        advice.append(f"To build TensorRT plans for the {r.gpus[0].name}: pip install 'edgedet[rtx]'")
    elif r.cuda_driver and not (r.gpus or r.jetson):
        advice.append("The CUDA driver is there but shows no GPU: see whether nvidia-smi runs")
    for extra, purpose in (("export", "export and calibrate models"), ("train", "train models")):
        missing = [x.name for x in r.libraries if x.extra == extra and x.state == "missing"]
        if missing:
            advice.append(f"To {purpose}: pip install 'edgedet[{extra}]' (missing: {', '.join(missing)})")
    if not r.cpu.fast_int8 and not (r.gpus or r.jetson):
        advice.append(
            "This CPU has no instructions for INT8 dot products: expect little or no gain from INT8"
        )
    if not r.opencv.problem and not r.opencv.ffmpeg:
        advice.append("This cv2 has no FFmpeg: video files and RTSP streams cannot be read")
    if r.jetson and not r.opencv.gstreamer:
        advice.append("CSI cameras need a cv2 with GStreamer: JetPack's (--system-site-packages), not pip's")
    for camera in r.cameras:
        if not camera.readable:
            advice.append(
                f"{camera.path} may not be opened by this user: sudo usermod -aG video $USER, log in again"
            )
    return advice


def show(r: MachineReport) -> None:
    """The report as tables on stdout."""
    from rich.console import Console
    from rich.table import Table

    # names of devices come from their makers: neither markup nor escape sequences are obeyed
    console = Console(soft_wrap=True, highlight=False, markup=False)
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    flags = ", ".join(hardware.FLAGS[f] for f in r.cpu.flags) or "none that matter"
    table.add_row("edgedet", f"{r.edgedet}, Python {r.python}, {r.system}")
    if r.jetson:
        table.add_row("board", printable(r.jetson))
    memory = f", {r.memory_gib:.1f} GiB memory" if r.memory_gib else ""
    table.add_row("CPU", printable(f"{r.cpu}{memory}; {flags}"))
    for gpu in r.gpus:
        size = f", {gpu.memory_mib} MiB" if gpu.memory_mib else ""
        table.add_row(
            "GPU",
            printable(f"{gpu.name}{size}, compute capability {gpu.compute_capability}, driver {gpu.driver}"),
        )
    if not r.gpus:
        table.add_row(
            "GPU", "no NVIDIA GPU found" + (" (the CUDA driver library is there)" if r.cuda_driver else "")
        )
    table.add_row("engines", ", ".join(r.engines()) or "none")
    table.add_row("plan builders", ", ".join(r.builders()) or "none")
    table.add_row("OpenCV", printable(_opencv_text(r)))
    names = [f"{c.path} {c.name}{'' if c.readable else ' (no permission)'}" for c in r.cameras]
    table.add_row("cameras", printable(", ".join(names)) or "none at /dev/video*")
    console.print(table)
    console.print()
    console.print(_library_table(r.libraries))
    for line in r.advice or ["For what this machine is, nothing is missing."]:
        console.print(f"- {printable(line)}")


def _library_table(libraries: list[Library]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table("library", "version", "needs", "extra", "", box=None, pad_edge=False)
    styles = {"ok": "green", "missing": "dim", "too old": "red"}
    for x in libraries:
        table.add_row(x.name, x.version or "--", x.wanted, x.extra, Text(x.state, styles[x.state]))
    return table


def _opencv_text(r: MachineReport) -> str:
    c = r.opencv
    if c.problem:
        return f"cannot be imported: {c.problem}"
    window = f"windows through {c.gui}" if c.gui else "no windows (headless build)"
    screen = "" if not c.gui or r.display else " but no display"
    video = f"FFmpeg {'yes' if c.ffmpeg else 'no'}, GStreamer {'yes' if c.gstreamer else 'no'}"
    return f"{c.version}, {video}, {window}{screen}"


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", version.split("+")[0])[:3])
