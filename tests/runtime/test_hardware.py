"""What the machine is, read from a system's files: those of this machine, and of others laid out as files."""

from __future__ import annotations

from pathlib import Path

from edgedet.runtime import hardware


def system(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_flags_of_an_x86(tmp_path: Path) -> None:
    root = system(tmp_path, {"proc/cpuinfo": "processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512_vnni\n"})
    found = hardware.cpu(root)
    assert found.flags == ("avx2", "avx512f", "avx512_vnni")
    assert found.fast_int8


def test_flags_of_an_arm_with_and_without_dot_products(tmp_path: Path) -> None:
    new = system(tmp_path / "a", {"proc/cpuinfo": "Features\t: fp asimd asimddp\nCPU part\t: 0xd42\n"})
    old = system(tmp_path / "b", {"proc/cpuinfo": "Features\t: fp asimd\n"})
    assert hardware.cpu(new).fast_int8
    assert hardware.cpu(old).flags == ("asimd",)
    assert not hardware.cpu(old).fast_int8


def test_a_system_that_tells_nothing(tmp_path: Path) -> None:
    assert hardware.cpu(tmp_path).flags == ()
    assert hardware.memory_gib(tmp_path) is None
    assert hardware.jetson(tmp_path) == ""
    assert hardware.cameras(tmp_path) == []


def test_memory_and_board(tmp_path: Path) -> None:
    files = {
        "proc/meminfo": "MemTotal:        7864320 kB\nMemFree: 1 kB\n",
        "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
    }
    root = system(tmp_path, files)
    assert hardware.memory_gib(root) == 7.5
    assert hardware.jetson(root) == "NVIDIA Jetson Orin Nano Developer Kit"
    other = system(tmp_path / "pi", {"proc/device-tree/model": "Raspberry Pi 5\0"})
    assert hardware.jetson(other) == ""


def test_cameras_in_order_of_their_numbers(tmp_path: Path) -> None:
    names = {f"sys/class/video4linux/video{n}/name": f"Camera {n}\n" for n in (2, 10)}
    root = system(tmp_path, {"dev/video10": "", "dev/video2": "", "dev/video-list": ""} | names)
    assert [(Path(c.path).name, c.name, c.readable) for c in hardware.cameras(root)] == [
        ("video2", "Camera 2", True),
        ("video10", "Camera 10", True),
    ]


def test_nvidia_smi_rows() -> None:
    text = "NVIDIA H100 80GB HBM3, 580.65.06, 81559, 9.0\nOrin (nvgpu), 540.4.0, [N/A], 8.7\n\n"
    assert hardware.parse_gpus(text) == [
        hardware.Gpu("NVIDIA H100 80GB HBM3", "580.65.06", 81559, "9.0"),
        hardware.Gpu("Orin (nvgpu)", "540.4.0", 0, "8.7"),
    ]


def test_this_machine() -> None:
    found = hardware.cpu()
    assert found.model
    assert found.cores >= 1
    assert str(found).startswith(found.model)
