"""Where results go: JSON lines, a callback, nowhere; videos and windows are in `video_sinks`.

To add a sink: a subclass of Sink with a name and `write`; open, notice and close where it needs them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from edgedet.contract.files import output_error
from edgedet.contract.frames import Frame, Notice
from edgedet.contract.results import Detections, Result, SegmentationMap
from edgedet.contract.spec import ModelSpec


@dataclass(frozen=True)
class RunInfo:
    """What a sink learns before the first frame.

    fps: the rate that the source claims, None where it claims none. inputs: the files it reads.
    """

    source: str
    fps: float | None
    live: bool
    spec: ModelSpec
    inputs: tuple[Path, ...] = ()


class Sink:
    """Base of all sinks. All methods are called from one thread, open first, close last and always.

    name: of its stage in the report, and in errors; one without a name is not timed. needs_pixels: whether
    it looks at `Frame.image`; where no sink does, nothing is drawn, and no BGR is made.
    """

    name = "sink"
    needs_pixels = True

    stop: Callable[[], None] = staticmethod(lambda: None)
    """Ends the run; set by the pipeline."""

    def open(self, stream: RunInfo) -> None:
        """Prepare. Raises SinkError or OutputError when it cannot, before any frame is read."""

    def write(self, frame: Frame, result: Result) -> None:
        """Take one result. The frame's pixels carry the overlay and are borrowed: copy what you keep."""
        raise NotImplementedError

    def notice(self, notice: Notice) -> None:
        """Something happened to the source, between two frames."""

    def close(self) -> None:
        """Finish: what was written so far is whole afterwards. Also after `open` or `write` failed."""


class Null(Sink):
    """Takes results and keeps nothing."""

    name = "null"
    needs_pixels = False

    def write(self, frame: Frame, result: Result) -> None:
        """See Sink."""


class Callback(Sink):
    """Hands every frame and result to a function, in the thread that runs the pipeline."""

    name = "callback"

    def __init__(self, function: Callable[[Frame, Result], object]) -> None:
        self._function = function

    def write(self, frame: Frame, result: Result) -> None:
        """See Sink."""
        self._function(frame, result)


class JsonLines(Sink):
    """One JSON object per frame and line, flushed, so that readers can follow (`tail -f`, a pipe).

    {"source", "frame" (index), "time" (seconds since the first line), and by the kind of result:
    detections "detections": [{"class", "score", "box": [x0, y0, x1, y1] in pixels}], best first; a class
    map "areas": [{"class", "pixels", "share" of the frame}], largest first}. What the source has to say
    comes as {"source", "notice"}.

    Args:
        path: a file, written under its own name because lines are whole one by one; "-" is stdout.
    """

    name = "json"
    needs_pixels = False

    def __init__(self, path: str | Path) -> None:
        self._path = path
        self._file: TextIO | None = None
        self._classes: Sequence[str] = ()
        self._source = ""
        self._began: float | None = None

    def open(self, stream: RunInfo) -> None:
        """See Sink."""
        self._classes, self._source = stream.spec.classes, stream.source
        if self._path == "-":
            self._file = sys.stdout
            return
        path = Path(self._path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("w", encoding="utf-8")
        except OSError as e:
            raise output_error(path, e) from e

    def write(self, frame: Frame, result: Result) -> None:
        """See Sink."""
        if self._began is None:
            self._began = frame.captured
        when = round(frame.captured - self._began, 4)
        self._line(
            {"source": frame.source, "frame": frame.index, "time": when, **describe(result, self._classes)}
        )

    def notice(self, notice: Notice) -> None:
        """See Sink."""
        self._line({"source": self._source, "notice": notice.text})

    def _line(self, record: dict[str, Any]) -> None:
        assert self._file is not None, "write without open"
        try:
            self._file.write(json.dumps(record, separators=(",", ":"), ensure_ascii=False) + "\n")
            self._file.flush()
        except BrokenPipeError:
            raise  # not a failure to write: the reader has had enough, which the command line handles
        except OSError as e:
            raise output_error(Path(self._path), e) from e

    def close(self) -> None:
        """See Sink."""
        if self._file is not None and self._file is not sys.stdout:
            self._file.close()
        self._file = None


def describe(result: Result, classes: Sequence[str]) -> dict[str, Any]:
    """A result as JSON values: scores and shares to 4 digits, boxes to hundredths of a pixel."""
    return DESCRIBERS[type(result)](result, classes)


def _describe_detections(result: Result, classes: Sequence[str]) -> dict[str, Any]:
    assert isinstance(result, Detections)
    # through float64: a rounded float32 would print all its binary digits
    boxes = np.round(result.boxes.astype(np.float64), 2).tolist()
    scores = np.round(result.scores.astype(np.float64), 4).tolist()
    found = zip(result.labels.tolist(), scores, boxes, strict=True)
    return {"detections": [{"class": classes[k], "score": s, "box": b} for k, s, b in found]}


def _describe_map(result: Result, classes: Sequence[str]) -> dict[str, Any]:
    assert isinstance(result, SegmentationMap)
    counts, total = result.pixels.tolist(), max(1, result.classes.size)
    present = sorted((k for k, n in enumerate(counts) if n), key=lambda k: -counts[k])
    return {
        "areas": [
            {"class": classes[k], "pixels": counts[k], "share": round(counts[k] / total, 4)} for k in present
        ]
    }


DESCRIBERS: dict[type[Result], Callable[[Result, Sequence[str]], dict[str, Any]]] = {
    Detections: _describe_detections,
    SegmentationMap: _describe_map,
}
"""Type of result -> its JSON."""
