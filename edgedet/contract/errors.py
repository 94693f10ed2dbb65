"""Every failure edgedet can name, as one tree.

An error says what was got, what was expected and what to do about it: `message` is the first two on
one line, `hint` the third. The command line prints both without a traceback (`--debug` shows it) and
exits with `exit_code`.

    EdgedetError                    exit code 1
    ├── UsageError                  exit code 2: an argument or option that cannot be meant
    │   └── UnknownName             a name not in its registry; the close one is suggested
    ├── MissingDependency           a library that an extra installs; names the extra
    ├── SpecError                   a ModelSpec that is absent, malformed or of another version
    ├── WeightsError                weights absent, truncated, or of another model
    ├── DataError                   a data set, folder or file that cannot be used
    │   ├── EmptyDataset            nothing usable was found where data was expected
    │   ├── AnnotationError         a label file that cannot be read, with file and line
    │   │   └── MaskError           a mask of classes that cannot be used, with the kind of problem
    │   └── ImageError              an image that cannot be decoded
    ├── TrainingError               a run that cannot start, resume or continue
    ├── ExportError                 a graph that cannot be written for its target
    │   ├── ParityError          the exported graph does not compute what the model computes
    │   └── TargetError             the target cannot run what was asked for
    ├── CalibrationError            ranges that cannot be observed or do not belong to the graph
    ├── EngineError                 an engine that cannot be opened or run
    │   ├── EngineMismatch          an engine built for another device, version or precision
    │   └── EngineTimeout           an inference that did not end in time
    ├── SourceError                 a camera, stream or file that cannot be opened or read
    ├── SinkError                   a result that cannot be shown or written
    ├── OutputError                 a folder or file that cannot be written
    └── AccuracyGateFailed          exit code 3: quantisation cost more accuracy than allowed
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar


class EdgedetError(Exception):
    """Base of all named failures. `hint` says what to do; it may be empty."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".rstrip()


class UsageError(EdgedetError):
    """An argument or option that cannot be meant."""

    exit_code = 2


class UnknownName(UsageError):
    """A name that is not in its registry; suggests the closest one."""

    def __init__(self, kind: str, got: str, known: Iterable[str]) -> None:
        names = sorted(known)
        close = difflib.get_close_matches(got.lower(), names, n=1, cutoff=0.5)
        suggestion = f"Did you mean {close[0]!r}?" if close else f"Known: {', '.join(names)}."
        super().__init__(f"no {kind} is named {got!r}.", hint=suggestion)
        self.got = got
        self.known = names


class MissingDependency(EdgedetError):
    """A library is not installed; the message names the extra that installs it."""

    def __init__(self, library: str, *, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs {library}, which is not installed.",
            hint=f"Install it with: pip install 'edgedet[{extra}]'",
        )
        self.library = library
        self.extra = extra


class SpecError(EdgedetError):
    """A ModelSpec is absent, malformed or of another version."""


class WeightsError(EdgedetError):
    """Weights are absent, truncated, or of another model."""


class DataError(EdgedetError):
    """A data set, folder or file cannot be used."""


class EmptyDataset(DataError):
    """Nothing usable was found where data was expected."""


class AnnotationError(DataError):
    """A label file cannot be read; says the file, the line (0 = the whole file) and the reason."""

    def __init__(self, file: object, line: int, reason: str, *, hint: str = "") -> None:
        place = f"{file}:{line}" if line else str(file)
        super().__init__(f"{place}: {reason}.", hint=hint)
        self.line = line
        self.reason = reason


class MaskError(AnnotationError):
    """A mask of classes cannot be used; says the file, the kind of problem (by which it is counted), why."""

    def __init__(self, file: Path, kind: str, detail: str, *, hint: str = "") -> None:
        super().__init__(file, 0, f"{kind}: {detail}", hint=hint)
        self.file = file
        self.kind = kind
        self.detail = detail


class ImageError(DataError):
    """An image cannot be decoded."""


class TrainingError(EdgedetError):
    """A training run cannot start, resume or continue."""


class ExportError(EdgedetError):
    """A graph cannot be written for its target."""


class ParityError(ExportError):
    """The exported graph does not compute what the model computes."""


class TargetError(ExportError):
    """The target cannot run what was asked for."""


class CalibrationError(EdgedetError):
    """Ranges cannot be observed, or do not belong to the graph."""


class EngineError(EdgedetError):
    """An engine cannot be opened or run."""


class EngineMismatch(EngineError):
    """An engine was built for another device, version or precision."""


class EngineTimeout(EngineError):
    """An inference did not end in time; its buffers still belong to the engine."""


class SourceError(EdgedetError):
    """A camera, stream or file cannot be opened or read."""


class SinkError(EdgedetError):
    """A result cannot be shown or written."""


class OutputError(EdgedetError):
    """A folder or file cannot be written."""


class AccuracyGateFailed(EdgedetError):
    """Quantisation cost more accuracy than `--max-drop` allows."""

    exit_code = 3
