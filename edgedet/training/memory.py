"""Keeping freed memory in the process while training on a CPU."""

from __future__ import annotations

import ctypes
import sys

# glibc's mallopt parameters (malloc.h)
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """Tell glibc to reuse large blocks instead of returning them to the system. True if it took effect.

    A training step frees and allocates the same activations, tens of MiB each. By default each is a
    fresh mmap whose pages the kernel zeroes on first touch: a third of a step's CPU time at batch 32
    (25.8 against 16.8 images/s for Lite0's backbone at 320 px on two cores).
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library, for example musl
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 256 * 2**20))
    return all(mallopt(parameter, value) == 1 for parameter, value in settings)
