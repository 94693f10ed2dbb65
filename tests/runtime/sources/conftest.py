"""Every test of a video or stream runs with PyAV and, as if that were not installed, with OpenCV."""

from __future__ import annotations

import sys

import pytest


@pytest.fixture(params=["av", "opencv"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With PyAV, and as if it were not installed."""
    if request.param == "av":
        pytest.importorskip("av", reason="needs PyAV (extra: av)")
    else:
        monkeypatch.setitem(sys.modules, "edgedet.runtime.sources.backend_av", None)
    return str(request.param)
