"""Nothing that edgedet imports sends anything: no socket, no process that stays, no file under HOME."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

SCRIPTS = Path(sysconfig.get_path("scripts"))
VERBS = (
    *("doctor", "info", "run", "run onnxruntime", "bench", "eval"),
    *(pytest.param(verb, marks=pytest.mark.slow) for verb in ("train", "export")),
)
STRACE = ("strace", "-f", "-qq", "-e", "trace=socket,connect,sendto,sendmsg")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture(scope="module")
def commands(
    tiny_model: Callable[..., Path], clip: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[Any]]:
    """A command of each verb that does its whole work."""
    pytest.importorskip("torch", reason="needs torch (extra train)")
    pytest.importorskip("openvino", reason="needs OpenVINO (extra cpu)")
    from edgedet.models import build, make_spec
    from edgedet.training.checkpoint import save_model

    root = tmp_path_factory.mktemp("sends")
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (root / "data" / kind / split).mkdir(parents=True)
        for n in range(2):
            image = rng.integers(0, 256, (64, 64, 3), np.uint8)
            cv2.imwrite(str(root / "data" / "images" / split / f"{n}.jpg"), image)
            (root / "data" / "labels" / split / f"{n}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    yaml = "train: images/train\nval: images/val\nnames: [thing, other]\n"
    (root / "data" / "data.yaml").write_text(yaml)
    model = build("yolo", 2, pretrained=False)
    weights = root / "w.safetensors"
    save_model(weights, model.state_dict(), make_spec("yolo", model, ("thing", "other"), size=(64, 64)), {})
    data, tiny = f"yolo:{root / 'data'}", tiny_model()
    return {
        "doctor": ["edgedet", "doctor"],
        "info": ["edgedet", "info", tiny],
        "run": ["edgedet-run", tiny, "--source", clip, "--save", root / "out.mp4"],
        "run onnxruntime": ["edgedet-run", tiny, "--source", clip, "--engine", "onnxruntime"],
        "bench": ["edgedet-bench", tiny, "--source", clip, "--frames", "10", "--rounds", "1"],
        "eval": ["edgedet-eval", tiny, "--data", data],
        "train": [
            *("edgedet-train", "--model", "yolo", "--data", data, "--size", "64", "--epochs", "1"),
            *("--weights", weights, "--workers", "1", "--batch", "2", "-o", root / "run"),
        ],
        "export": [
            *("edgedet-export", "--weights", weights, "--int8", "--calib-data", f"folder:{root / 'data'}"),
            *("--target", "openvino", "-o", root / "out"),
        ],
    }


def environment(folder: Path) -> dict[str, str]:
    """A HOME of its own, and a mark by which the processes that were started are known."""
    (folder / "home").mkdir()
    # ONNX Runtime sends nothing where it finds CI
    plain = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith("XDG_") and k not in ("CI", "ORT_DISABLE_TELEMETRY")
    }
    return plain | {
        "HOME": str(folder / "home"),
        "MPLCONFIGDIR": str(folder / "matplotlib"),
        "EDGEDET_TEST": uuid.uuid4().hex,
    }


def alive(mark: str) -> Iterator[str]:
    """The command lines of the processes with this mark in their environment."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes():
                yield (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            pass


def files_below(folder: Path) -> list[str]:
    return [str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()]


@dataclass(frozen=True)
class Left:
    """What a command left: the processes that stay, the files under HOME, and its calls for sockets.

    calls: None where strace is absent, or may not look.
    """

    processes: list[str]
    files: list[str]
    calls: list[str] | None


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> bool:
    """Whether strace may look at what a process calls."""
    log = tmp_path_factory.mktemp("strace") / "log"
    command = [*STRACE, "-o", str(log), "true"]
    return shutil.which("strace") is not None and not subprocess.run(command, capture_output=True).returncode


@pytest.fixture(scope="module", params=VERBS)
def left(
    request: pytest.FixtureRequest,
    commands: dict[str, list[Any]],
    traced: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> Left:
    """Each verb runs once; strace ends with the last process that it follows."""
    folder = tmp_path_factory.mktemp("left")
    env, log = environment(folder), folder / "calls"
    script, *args = commands[request.param]
    command = [*([*STRACE, "-o", str(log)] if traced else []), SCRIPTS / script, *args]
    done = subprocess.run(command, env=env, capture_output=True, timeout=300)
    assert done.returncode in (0, 3), done.stderr  # 3: a network that was never trained
    processes = list(alive(env["EDGEDET_TEST"]))
    return Left(processes, files_below(folder / "home"), log.read_text().splitlines() if traced else None)


def test_no_process_stays_and_nothing_is_kept_under_home(left: Left) -> None:
    assert left.processes == []
    assert left.files == []


def test_no_socket_is_opened(left: Left) -> None:
    """Also none of a library's own, in whatever process."""
    if left.calls is None:
        pytest.skip("needs strace, and the right to use it")
    assert [line for line in left.calls if re.search(r"AF_(INET6?|NETLINK)", line)] == []


def test_the_telemetry_of_openvino_is_a_stub() -> None:
    pytest.importorskip("openvino", reason="needs OpenVINO (extra cpu)")
    code = (
        "import sys, edgedet.runtime.engines.backend_openvino, openvino.tools.ovc as ovc;"
        "assert not sys.modules.get('openvino_telemetry');"
        "assert 'stub' in type(ovc.telemetry).__module__, type(ovc.telemetry)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
