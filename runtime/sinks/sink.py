"""Where results go: JSON lines, a callback, nowhere; videos and windows are in `video`.

To add a sink: a subclass of Sink with a name and `write`; open, notice and close where it needs them.
"""

from __future__ import annotations

import json
import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgedet.contract.errors import OutputError
from edgedet.contract.files import output_error
from edgedet.contract.frames import Frame, Notice
from edgedet.contract.results import Detections, Instances, Result, SegmentationMap
from edgedet.contract.spec import ModelSpec
from edgedet.runtime.sinks.outputs import OutputFile, check_outputs
from edgedet.runtime.sinks.worker import Worker

_MOST_LINES = 1000
"""That wait for a reader."""
_CLOSE = 5.0
"""Seconds for a reader to take what waits."""


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


class Sink(ABC):
    """Base of all sinks. All methods are called from one thread, open first, close last and always.

    name: of its stage in the report, and in errors; one without a name is not timed. needs_pixels: whether
    it looks at `Frame.image`; where no sink does, nothing is drawn, and no BGR is made.
    """

    name = "sink"
    needs_pixels = True

    stop: Callable[[], None] = staticmethod(lambda: None)
    """Ends the run; set by the pipeline."""

    tell: Callable[[Notice], None] = staticmethod(lambda notice: None)
    """Says at once what has happened to this sink; from any thread; set by the pipeline."""

    whole = True
    """In `close`: whether the run came to its end, without failure or interruption; set by the pipeline."""

    def open(self, stream: RunInfo) -> None:
        """Prepare. Raises SinkError or OutputError when it cannot, before any frame is read."""

    @abstractmethod
    def write(self, frame: Frame, result: Result) -> None:
        """Take one result. The frame's pixels carry the overlay and are borrowed: copy what you keep."""

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
    """One JSON object per frame and line, written at once, so that readers can follow (`tail -f`, a pipe).

    {"source", "file" (the one it was read from, if any), "frame" (index), "time" (seconds: of a file the
    medium's, of a live source since the first line; absent where there is none, as for images), "utc" (live
    sources: when the frame came), "width", "height" (pixels), and by the kind of result: detections
    "detections": [{"class", "score", "box": [x0, y0, x1, y1] in pixels}], best first,
    of instances with "mask": {"size": [height, width], "counts": COCO's uncompressed run lengths}; a class
    map "areas": [{"class", "pixels", "share" of the frame}], largest first}. What a source or sink has to
    say comes as {"source", "utc", "notice", "kind"}.

    Nothing is lost that stood there before: see `outputs`. Lines are whole one by one. When one cannot be
    written, as on a full disk, a file's run ends with that error; a live one says so at once, goes on, and
    ends with the error. A live source never waits for a reader who has stopped reading: lines beyond
    a thousand are left out and counted.

    Args:
        path: a file; "-" is stdout.
    """

    name = "json"
    needs_pixels = False

    def __init__(self, path: str | Path) -> None:
        self._path = path
        self._file: OutputFile | None = None
        self._stdout = False
        self._live = False
        self._classes: Sequence[str] = ()
        self._source = ""
        self._began: float | None = None
        self._worker: Worker | None = None
        self._error: Exception | None = None
        self._waiting = 0
        self._written = 0
        self.missed = 0
        """Lines of a live source that were not written."""

    def open(self, stream: RunInfo) -> None:
        """See Sink. UsageError: it is a file that the source reads."""
        self._classes, self._source = stream.spec.classes, stream.source
        self._live, self._stdout = stream.live, self._path == "-"
        if not self._stdout:
            check_outputs({"the JSON lines": self._path}, {"the source": stream.inputs})
            self._file = OutputFile(self._path, live=stream.live)
        elif sys.stdout is None:
            raise OutputError("There is no standard output to write JSON lines to.", hint="Name a file.")
        if stream.live and (self._file is None or not self._file.regular):
            self._worker = Worker("lines", self._put, ended=lambda well: None, failed=self._failed)

    def write(self, frame: Frame, result: Result) -> None:
        """See Sink."""
        if self._began is None:
            self._began = frame.captured
        height, width = frame.size
        record: dict[str, Any] = {"source": frame.source}
        if frame.file:
            record["file"] = frame.file
        record["frame"] = frame.index
        if self._live:
            record["time"] = round(frame.captured - self._began, 4)
            record["utc"] = iso_utc(frame.utc)
        elif frame.media_time is not None and math.isfinite(frame.media_time):
            record["time"] = round(frame.media_time, 4)
        self._line(record | {"width": width, "height": height} | describe(result, self._classes, frame.size))

    def notice(self, notice: Notice) -> None:
        """See Sink."""
        utc = iso_utc(notice.utc)
        self._line({"source": self._source, "utc": utc, "notice": notice.text, "kind": notice.kind})

    def _line(self, record: dict[str, Any]) -> None:
        if self._error is not None:
            self.missed += 1
            if not self._live:
                raise self._error
            return
        data = _encoded(record)
        if self._worker is None:
            try:
                self._put(data)
            except OutputError as e:
                if not self._live:
                    raise
                self._failed(e)
        elif self._waiting - self._written < _MOST_LINES:
            self._waiting += 1
            self._worker.put(data)
        else:
            self.missed += 1

    def _put(self, data: bytes) -> None:
        try:
            if self._file is None:
                sys.stdout.buffer.write(data)
                sys.stdout.buffer.flush()
            else:
                if self._file.fd < 0:
                    self._begin(self._file)
                self._file.write(data)
            self._written += 1
        except BrokenPipeError:
            raise  # not a failure to write: the reader has had enough, which the command line handles
        except (OSError, ValueError) as e:  # ValueError: stdout is closed
            error = e if isinstance(e, OSError) else OSError(str(e))
            raise output_error(Path("standard output"), error) from e

    def _begin(self, file: OutputFile) -> None:
        file.begin()
        if self._live and file.path != file.target:
            self.tell(Notice(f"json: {self._path} exists; writing to {file.path}."))

    def _failed(self, error: Exception) -> None:
        self._error = error
        if isinstance(error, BrokenPipeError):
            self.stop()
        else:
            self.tell(Notice(f"json: {error} No more lines are written."))

    def close(self) -> None:
        """See Sink. Raises what stopped the lines of a live run."""
        worker, self._worker = self._worker, None
        stuck = worker is not None and not worker.close(_CLOSE)
        file, self._file = self._file, None
        self.missed += self._waiting - self._written if worker is not None else 0
        if self._live and self.missed and not isinstance(self._error, BrokenPipeError):
            self.tell(Notice(f"json: {self.missed} lines not written."))
        if file is not None and not stuck:
            file.close(whole=self.whole and self._error is None)
            if not self._live and file.path != file.target:
                self.tell(Notice(f"json: {self._path} is as it was; the lines are in {file.path}."))
        error, self._error = self._error, None
        if error is not None and self._live:
            raise error


_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _encoded(record: dict[str, Any]) -> bytes:
    """A line of UTF-8. What is no finite number is null; half surrogates (odd file names) are escaped."""
    try:
        text = _ENCODER.encode(record)
    except ValueError:
        text = _ENCODER.encode(_finite(record))
    return (text + "\n").encode("utf-8", "backslashreplace")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def iso_utc(seconds: float) -> str:
    """Seconds since 1970 as ISO 8601 in UTC, to the millisecond: 2026-03-29T12:00:00.000Z."""
    when = datetime.fromtimestamp(seconds, timezone.utc).replace(tzinfo=None)
    return when.isoformat(timespec="milliseconds") + "Z"


def describe(result: Result, classes: Sequence[str], size: tuple[int, int] = (0, 0)) -> dict[str, Any]:
    """A result as JSON values: scores and shares to 4 digits, boxes to hundredths of a pixel.

    size: (height, width) of the frame, which masks need.
    """
    found = DESCRIBERS[type(result)](result, classes)
    if isinstance(result, Instances):
        for i, record in enumerate(found["detections"]):
            record["mask"] = {"size": list(size), "counts": run_lengths(result.paste(i, size))}
    return found


def _describe_detections(result: Result, classes: Sequence[str]) -> dict[str, Any]:
    assert isinstance(result, Detections)
    # through float64: a rounded float32 would print all its binary digits
    boxes = np.round(result.boxes.astype(np.float64), 2).tolist()
    scores = np.round(result.scores.astype(np.float64), 4).tolist()
    found = zip(result.labels.tolist(), scores, boxes, strict=True)
    return {"detections": [{"class": classes[k], "score": s, "box": b} for k, s, b in found]}


def _describe_instances(result: Result, classes: Sequence[str]) -> dict[str, Any]:
    assert isinstance(result, Instances)
    return _describe_detections(result.detections, classes)


def run_lengths(mask: npt.NDArray[np.bool_]) -> list[int]:
    """COCO's uncompressed RLE of a mask (H, W): lengths of runs column by column, the first of zeros."""
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return [0, *runs] if flat.size and flat[0] else runs


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
    Instances: _describe_instances,
    SegmentationMap: _describe_map,
}
"""Type of result -> its JSON."""
