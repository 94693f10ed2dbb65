"""TensorBoard's event file, written by this thread alone: what cannot be written is known at once.

The writer that comes with torch has a thread of its own, which a full disk ends with a traceback.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgedet.contract.files import output_error


class Board:
    """Scalars of one run from step `start` on; what an earlier file of the folder has beyond is void.

    Raises:
        OutputError: the file cannot be written.
    """

    def __init__(self, folder: Path, start: int) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._events, self._summaries = event_pb2, summary_pb2
        self.path = folder / f"events.out.tfevents.{time.time():010.0f}.{socket.gethostname()}.{os.getpid()}"
        try:
            self._file = self.path.open("wb")
        except OSError as e:
            raise output_error(self.path, e) from e
        self._records = RecordWriter(self._file)
        self._write(file_version="brain.Event:2")
        log = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._write(step=start, session_log=log)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Note {name: value} at a step."""
        scalars = [
            self._summaries.Summary.Value(tag=name, simple_value=value) for name, value in values.items()
        ]
        self._write(step=step, summary=self._summaries.Summary(value=scalars))

    def flush(self) -> None:
        """Write through what was noted."""
        try:
            self._file.flush()
        except OSError as e:
            raise output_error(self.path, e) from e

    def close(self) -> None:
        """Write through and close."""
        try:
            self._file.close()
        except OSError as e:
            raise output_error(self.path, e) from e

    def _write(self, **fields: Any) -> None:
        try:
            self._records.write(self._events.Event(wall_time=time.time(), **fields).SerializeToString())
        except OSError as e:
            raise output_error(self.path, e) from e
