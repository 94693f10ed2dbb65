"""What this machine is: read from the system's own files, without loading a library or touching a GPU."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

FLAGS = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx_vnni": "VNNI (256 bit)",
    "avx512_vnni": "VNNI",
    "avx512_bf16": "BF16",
    "amx_bf16": "AMX BF16",
    "amx_int8": "AMX INT8",
    "asimd": "NEON",
    "asimddp": "dot product",
    "i8mm": "I8MM",
    "bf16": "BF16",
    "sve": "SVE",
}
"""The instruction sets that matter to inference, as Linux spells them (x86, then ARM), and their names."""

MAX_THREADS = 1024
"""More threads or inferences at once nobody means; a library that is asked for millions ends the process."""

INT8_FLAGS = frozenset({"avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm"})
"""Flags of the instructions that make INT8 quicker than FP32 on a CPU."""


@dataclass(frozen=True)
class Cpu:
    """The processor; `cores` are those this process may use, `flags` keys of `FLAGS`."""

    model: str
    cores: int
    flags: tuple[str, ...]

    @property
    def fast_int8(self) -> bool:
        """Whether it has instructions for INT8 dot products."""
        return not INT8_FLAGS.isdisjoint(self.flags)

    def __str__(self) -> str:
        return f"{self.model}, {self.cores} core{'s' * (self.cores != 1)}"


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU, as its driver names it."""

    name: str
    driver: str
    memory_mib: int
    compute_capability: str


@dataclass(frozen=True)
class Camera:
    """A video device, its name as the driver gives it, and whether this user may open it."""

    path: str
    name: str
    readable: bool


def cpu(root: Path = Path("/")) -> Cpu:
    """The CPU, with those of its instruction sets that matter here; no flags where the system tells none."""
    text = _read(root / "proc/cpuinfo")
    found = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", text, re.MULTILINE)
    present = set(found[1].split()) if found else set()
    return Cpu(cpu_name(), cores(), tuple(f for f in FLAGS if f in present))


def memory_gib(root: Path = Path("/")) -> float | None:
    """Memory of the machine in GiB; None where the system does not tell."""
    found = re.search(r"^MemTotal:\s*(\d+) kB", _read(root / "proc/meminfo"), re.MULTILINE)
    return int(found[1]) / 2**20 if found else None


def jetson(root: Path = Path("/")) -> str:
    """The board's name on an NVIDIA Jetson; empty elsewhere."""
    model = _read(root / "proc/device-tree/model").strip("\0 \n")
    return model if "NVIDIA" in model or "Jetson" in model else ""


def gpus() -> list[Gpu]:
    """NVIDIA GPUs through nvidia-smi, which asks the driver and makes no CUDA context."""
    if shutil.which("nvidia-smi") is None:
        return []
    query = "--query-gpu=name,driver_version,memory.total,compute_cap"
    try:
        out = subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader,nounits"], capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return parse_gpus(out.stdout) if out.returncode == 0 else []


def parse_gpus(text: str) -> list[Gpu]:
    """nvidia-smi's CSV: name, driver, memory in MiB ("[N/A]" on boards that share it), compute capability."""
    rows = [[cell.strip() for cell in line.split(",")] for line in text.splitlines()]
    return [Gpu(r[0], r[1], int(r[2]) if r[2].isdigit() else 0, r[3]) for r in rows if len(r) == 4]


def cameras(root: Path = Path("/")) -> list[Camera]:
    """The video devices, in order of their numbers."""
    devices = sorted((root / "dev").glob("video[0-9]*"), key=lambda p: int(p.name[5:]))
    return [
        Camera(
            str(p),
            _read(root / "sys/class/video4linux" / p.name / "name").strip() or "unknown",
            os.access(p, os.R_OK | os.W_OK),
        )
        for p in devices
    ]


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def cpu_name() -> str:
    """The processor's model, for example "AMD EPYC 9354"."""
    for line in _read(Path("/proc/cpuinfo")).splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model"):
            return value.strip()
    return platform.processor() or platform.machine()


def cores() -> int:
    """Processors this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def streams_for(live: bool) -> int:
    """Inferences at the same time: a live source wants each answer soon, a file most frames a second."""
    return 1 if live else max(1, min(4, cores(), max(2, cores() // 2)))
