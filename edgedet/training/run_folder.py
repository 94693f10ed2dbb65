"""The folder of a run: everything needed to repeat it, to watch it, and to go on after a kill.

run.json            the command, settings, seed, data, versions and hardware
state.safetensors   all that is needed to go on
best.safetensors    the averaged weights of the best validation, with their spec
steps.jsonl         a line per optimiser step: loss terms, learning rate, gradient norm (or skipped); the
                    phase where there are several
epochs.jsonl        a line per validation
events.out.…        the same for TensorBoard
stages/             what the stages after the epochs have done (R-CNN), until the run is finished
proposals/          regions proposed in the images, of a model that looks at such; found again by their pixels
.lock               locked while a training is at work here
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import IO, Any

from edgedet.contract.errors import EdgedetError, OutputError, TrainingError
from edgedet.contract.files import output_error, remove_leftovers, write_atomic
from edgedet.contract.reading import read_bytes
from edgedet.contract.text import parse_json
from edgedet.training.board import Board

MAX_SETTINGS = 16 << 20
"""Bytes that a run.json may have."""


class RunFolder:
    """Paths and logs of one run. Logs are written through on `flush`, which a state file follows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state = path / "state.safetensors"
        self.best = path / "best.safetensors"
        self.stages = path / "stages"
        self.proposals = path / "proposals"
        self._settings = path / "run.json"
        self._steps, self._epochs = path / "steps.jsonl", path / "epochs.jsonl"
        self._pending: list[str] = []
        self._board: Board | None = None
        self._lock: IO[str] | None = None

    def prepare(self, settings: dict[str, Any], repeatable: dict[str, Any]) -> bool:
        """Start the folder, or find that it holds this very run unfinished. True if there is a state.

        A run that left neither a state nor weights does not hold the folder: it is started anew.

        Args:
            settings: all of run.json. repeatable: the part that must be equal for a run to go on.

        Raises:
            TrainingError: another training is at work here, or the folder holds another run.
            OutputError: the folder cannot be made or written.
        """
        self._take()
        try:
            return self._prepare(settings, repeatable)
        except EdgedetError:
            self.close()
            raise

    def _prepare(self, settings: dict[str, Any], repeatable: dict[str, Any]) -> bool:
        try:
            # of killed runs, before the disk's room is looked at
            remove_leftovers(self.path, deep=True)
        except OSError as e:
            raise output_error(self.path, e) from e
        differing = self._differing(repeatable)
        if differing and (self.state.exists() or self.best.exists()):
            raise TrainingError(
                f"{self.path} holds {differing}.",
                hint="Use another folder with -o, or the same settings to go on.",
            )
        if self.state.exists():
            return True
        self.truncate(0, 0)
        known = {"settings": repeatable} | settings
        write_atomic(self._settings, json.dumps(known, indent=2, sort_keys=True) + "\n")
        return False

    def _differing(self, repeatable: dict[str, Any]) -> str:
        """What the folder holds that is not this run; empty if nothing."""
        if not self._settings.exists():
            return "weights or a state, but no run.json that says of which run"
        try:
            before = parse_json(read_bytes(self._settings, MAX_SETTINGS))["settings"]
            # a setting that an earlier edgedet did not write down was what it is by default
            known, said = flat(before), {k: v for k, v in repeatable.items() if k in before}
            if "recipe" in said:
                said["recipe"] = {k: v for k, v in said["recipe"].items() if k in before["recipe"]}
            now = flat(said)
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as e:
            return f"a run.json that cannot be read ({type(e).__name__}: {e})"
        differing = sorted(k for k in known.keys() | now.keys() if known.get(k) != now.get(k))
        changes = [f"{k} was {known.get(k)!r}, is now {now.get(k)!r}" for k in differing]
        more = f"; and {len(changes) - 4} more" if len(changes) > 4 else ""
        return f"a run with other settings: {'; '.join(changes[:4])}{more}" if changes else ""

    def _take(self) -> None:
        """Lock the folder for this process, until it ends or `close`."""
        path = self.path / ".lock"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = path.open("a")
        except OSError as e:
            raise output_error(path, e) from e
        try:
            if sys.platform != "win32":
                import fcntl

                # a lock of the process: the loaders that it forks do not keep it when it is killed
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as e:
            lock.close()
            raise TrainingError(
                f"Another training is at work in {self.path}.",
                hint="Wait for it, end it, or use another folder with -o.",
            ) from e
        except OSError:  # a file system without locks
            pass
        self._lock = lock

    def check_space(self, needed: int) -> None:
        """OutputError if the disk has no room for files of `needed` bytes in place of those that are here."""
        there = sum(p.stat().st_size for p in (self.state, self.best) if p.exists())
        free = shutil.disk_usage(self.path).free
        if free + there < needed:
            raise OutputError(
                f"{self.path} has {free / 2**20:.0f} MiB free, the files of this run need "
                f"{(needed - there) / 2**20:.0f} MiB.",
                hint="Free some space, or use another folder with -o.",
            )

    def open_board(self, step: int) -> None:
        """Start writing for TensorBoard, from this step on."""
        self._board = Board(self.path, step)

    def log_step(self, event: dict[str, Any]) -> None:
        """Note one optimiser step."""
        self._pending.append(json.dumps(event))
        if self._board is not None and event["step"] % 10 == 0:
            values = {
                f"train/{_of_phase(event)}{k}": v
                for k, v in event.items()
                if k not in ("step", "epoch", "phase")
            }
            self._board.add(event["step"], values)

    def log_epoch(self, event: dict[str, Any]) -> None:
        """Note one validation."""
        self._append(self._epochs, [json.dumps(event)])
        if self._board is not None and event["score"] is not None:
            self._board.add(event["validation"], {f"validation/{_of_phase(event)}score": event["score"]})

    def flush(self) -> None:
        """Write the noted steps; called just before a state file."""
        self._append(self._steps, self._pending)
        self._pending.clear()
        if self._board is not None:
            self._board.flush()

    def truncate(self, step: int, epoch: int) -> None:
        """Drop what was logged after the state file: those steps will be taken again."""
        for path, key, end in ((self._steps, "step", step), (self._epochs, "validation", epoch)):
            if path.exists():
                try:
                    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
                except OSError as e:
                    raise output_error(path, e) from e
                kept = [line for line in lines if _number(line, key) < end]
                write_atomic(path, "".join(f"{line}\n" for line in kept))

    def close(self) -> None:
        """Write what is pending, and let others have the folder."""
        try:
            self.flush()
            if self._board is not None:
                self._board.close()
        finally:
            self._board = None
            if self._lock is not None:
                self._lock.close()
                self._lock = None

    def _append(self, path: Path, lines: list[str]) -> None:
        if not lines:
            return
        try:
            with path.open("a", encoding="utf-8") as f:
                f.writelines(f"{line}\n" for line in lines)
                f.flush()
                os.fsync(f.fileno())  # the state file that follows is on disk too
        except OSError as e:
            raise output_error(path, e) from e


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"recipe": {"epochs": 2}} -> {"recipe.epochs": 2}."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def _of_phase(event: dict[str, Any]) -> str:
    """Before the names of a phase's curves: each has losses and a score of its own."""
    return f"{event['phase']}/" if "phase" in event else ""


def _number(line: str, key: str) -> float:
    """The line's number; infinity for a line that a kill cut short."""
    try:
        return float(json.loads(line)[key])
    except (ValueError, KeyError, TypeError):
        return float("inf")
