"""What this machine is, for reports: the one place that asks."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def cpu_name() -> str:
    """The processor's model, for example "AMD EPYC 9354"."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
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
