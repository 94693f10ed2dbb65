"""`edgedet doctor`: facts of this machine, and the advice drawn from facts."""

from __future__ import annotations

import importlib.metadata
import json
import os
from dataclasses import replace
from typing import Any

import cv2
import pytest

from edgedet.cli.doctor import Library, MachineReport, OpenCV, advise, examine, libraries, opencv, show
from edgedet.runtime import hardware


@pytest.fixture(scope="module")
def here() -> MachineReport:
    return examine()


def bare(**changes: Any) -> MachineReport:
    """A machine with a CPU, the base install and nothing else."""
    names = {"numpy": "base", "openvino": "cpu", "onnxruntime": "onnxruntime", "tensorrt": "tensorrt"}
    names |= {"tensorrt-rtx": "rtx", "torch": "train", "onnx": "export"}
    report = MachineReport(
        python="3.12.1",
        system="Linux",
        cpu=hardware.Cpu("A CPU", 4, ("avx512_vnni",)),
        memory_gib=8.0,
        jetson="",
        gpus=[],
        cuda_driver=False,
        display=False,
        opencv=OpenCV(("opencv-contrib-python-headless",), "5.0.0", ffmpeg=True),
        cameras=[],
        libraries=[Library(n, e, "1.0", "2.0" if e == "base" else None) for n, e in names.items()],
    )
    return replace(report, **changes)


def with_libraries(report: MachineReport, **versions: str) -> MachineReport:
    """The report with these distributions installed."""
    found = [replace(x, version=versions.get(x.name.replace("-", "_"), x.version)) for x in report.libraries]
    return replace(report, libraries=found)


def test_it_sees_what_is_installed_here(here: MachineReport) -> None:
    by_name = {x.name: x for x in here.libraries}
    assert by_name["numpy"].version == importlib.metadata.version("numpy")
    assert by_name["numpy"].extra == "base"
    assert by_name["openvino"].extra == "cpu"
    assert by_name["onnx"].extra == "export"
    assert by_name["torch"].extra == "train"
    assert by_name["tensorrt-rtx"].extra == "rtx"
    assert here.opencv.version == cv2.__version__
    assert (
        here.cpu.cores == len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else here.cpu.cores
    )


def test_its_json_is_the_report(cli: Any, here: MachineReport) -> None:
    done = cli("edgedet", "doctor", "--json")
    report = json.loads(done.stdout)
    assert done.stderr == ""
    assert done.returncode == (0 if here.engines() and not here.opencv.problem else 1)
    assert report["cpu"]["model"] == here.cpu.model
    assert report["engines"] == here.engines()
    assert report["advice"] == here.advice


def test_its_text_names_the_machine_and_the_libraries(cli: Any, here: MachineReport) -> None:
    text = cli("edgedet", "doctor").stdout
    assert here.cpu.model in text
    for library in here.libraries:
        assert library.name in text


def test_requirements_are_read_as_metadata_writes_them() -> None:
    found = libraries(
        ["numpy>=1.26", 'edgedet[cpu]; extra == "export"', 'no-such-thing==3.1; extra == "demo"']
    )
    assert [(x.name, x.extra, x.wanted) for x in found] == [
        ("numpy", "base", "1.26"),
        ("no-such-thing", "demo", "3.1"),
    ]
    assert [x.state for x in found] == ["ok", "missing"]


@pytest.mark.parametrize(
    ("version", "wanted", "state"),
    [
        ("1.30.0", "1.4", "ok"),
        ("1.3", "1.30", "too old"),
        ("2.15.0+cu130", "2.15", "ok"),
        (None, "1", "missing"),
    ],
)
def test_versions_are_compared_as_numbers(version: str | None, wanted: str, state: str) -> None:
    assert Library("x", "base", wanted, version).state == state


def test_without_an_engine_it_says_how_to_get_one() -> None:
    assert bare().engines() == []
    assert advise(bare())[0] == "No engine can run here: pip install 'edgedet[cpu]' (OpenVINO)"


def test_the_engine_of_choice_depends_on_the_machine() -> None:
    both = with_libraries(bare(), openvino="2026.4", onnxruntime="1.32", tensorrt="11.4", tensorrt_rtx="1.7")
    assert both.engines() == ["openvino", "onnxruntime"]
    # TensorRT builds on the GPU it builds for, TensorRT for RTX anywhere
    assert both.builders() == ["tensorrt-rtx"]
    gpu = hardware.Gpu("RTX", "580", 8192, "8.9")
    assert replace(both, gpus=[gpu]).builders() == ["tensorrt", "tensorrt-rtx"]
    only = with_libraries(bare(), onnxruntime="1.32")
    assert "OpenVINO is quicker" in advise(only)[0]


def test_two_cv2_wheels_are_the_first_thing_it_says() -> None:
    wheels = ("opencv-contrib-python-headless", "opencv-python")
    advice = advise(bare(opencv=OpenCV(wheels, "5.0", ffmpeg=True)))
    assert advice[0].startswith("opencv-contrib-python-headless and opencv-python are both installed")


def test_a_broken_cv2_and_one_without_ffmpeg_are_named() -> None:
    assert any("libGL" in a for a in advise(bare(opencv=OpenCV((), problem="libGL.so.1: cannot open"))))
    assert any("no FFmpeg" in a for a in advise(bare(opencv=OpenCV((), "5.0"))))


def test_a_jetson_gets_its_own_advice() -> None:
    advice = advise(bare(jetson="NVIDIA Jetson Orin Nano"))
    assert any("JetPack" in a and "--system-site-packages" in a for a in advice)
    assert any("CSI" in a for a in advice)


def test_a_gpu_without_tensorrt_a_driver_without_gpu_a_closed_camera_a_slow_cpu() -> None:
    gpu = hardware.Gpu("RTX 4090", "580", 24564, "8.9")
    assert any("RTX 4090" in a and "edgedet[rtx]" in a for a in advise(bare(gpus=[gpu])))
    assert any("nvidia-smi" in a for a in advise(bare(cuda_driver=True)))
    closed = hardware.Camera("/dev/video0", "USB", readable=False)
    assert any("/dev/video0" in a for a in advise(bare(cameras=[closed])))
    assert any("INT8" in a for a in advise(bare(cpu=hardware.Cpu("Old", 2, ("avx2",)))))
    assert not any("INT8" in a for a in advise(bare()))


def test_this_cv2_is_described() -> None:
    found = opencv()
    assert found.problem == ""
    assert len(found.wheels) == 1
    assert found.ffmpeg


def test_names_of_devices_steer_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    camera = hardware.Camera("/dev/video0", "[/red] Cam\x1b[2J\u202e", True)
    show(bare(cameras=[camera], jetson="board [bold]\x07"))
    out = capsys.readouterr().out
    assert r"[/red] Cam\x1b[2J\u202e" in out
    assert r"board [bold]\x07" in out
    assert "\x1b" not in out
