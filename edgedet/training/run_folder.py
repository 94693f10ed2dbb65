"""The folder of a run: everything needed to repeat it, to watch it, and to go on after a kill.

run.json            the command, settings, seed, data, versions and hardware
state.safetensors   all that is needed to go on
best.safetensors    the averaged weights of the best validation, with their spec
steps.jsonl         a line per optimiser step: loss terms, learning rate, gradient norm
epochs.jsonl        a line per validation
events.out.…        the same for TensorBoard
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgedet.contract.errors import TrainingError
from edgedet.contract.files import output_error, write_atomic


class RunFolder:
    """Paths and logs of one run. Logs are written through on `flush`, which a state file follows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state = path / "state.safetensors"
        self.best = path / "best.safetensors"
        self._settings = path / "run.json"
        self._steps, self._epochs = path / "steps.jsonl", path / "epochs.jsonl"
        self._pending: list[str] = []
        self._board: Any = None

    def prepare(self, settings: dict[str, Any], repeatable: dict[str, Any]) -> bool:
        """Start the folder, or find that it holds this very run unfinished. True if there is a state.

        Args:
            settings: all of run.json. repeatable: the part that must be equal for a run to go on.
        """
        known = {"settings": repeatable} | settings
        if self._settings.exists():
            before = json.loads(self._settings.read_text()).get("settings", {})
            differing = sorted(
                k for k in before.keys() | repeatable.keys() if before.get(k) != repeatable.get(k)
            )
            if differing:
                k = differing[0]
                raise TrainingError(
                    f"{self.path} holds a run with other settings: {k} was {before.get(k)!r}, "
                    f"is now {repeatable.get(k)!r}.",
                    hint="Use another folder with -o, or the same settings to go on.",
                )
            return self.state.exists()
        write_atomic(self._settings, json.dumps(known, indent=2, sort_keys=True) + "\n")
        return False

    def open_board(self) -> None:
        """Start writing for TensorBoard."""
        from torch.utils.tensorboard import SummaryWriter

        self._board = SummaryWriter(str(self.path))

    def log_step(self, event: dict[str, Any]) -> None:
        """Note one optimiser step."""
        self._pending.append(json.dumps(event))
        if self._board is not None and event["step"] % 10 == 0:
            for name, value in event.items():
                if name not in ("step", "epoch"):
                    self._board.add_scalar(f"train/{name}", value, event["step"])

    def log_epoch(self, event: dict[str, Any]) -> None:
        """Note one validation."""
        self._append(self._epochs, [json.dumps(event)])
        if self._board is not None:
            self._board.add_scalar("validation/score", event["score"], event["validation"])

    def flush(self) -> None:
        """Write the noted steps; called just before a state file."""
        self._append(self._steps, self._pending)
        self._pending.clear()

    def truncate(self, step: int, epoch: int) -> None:
        """Drop what was logged after the state file: those steps will be taken again."""
        for path, key, end in ((self._steps, "step", step), (self._epochs, "validation", epoch)):
            if path.exists():
                kept = [line for line in path.read_text().splitlines() if _number(line, key) < end]
                write_atomic(path, "".join(f"{line}\n" for line in kept))

    def close(self) -> None:
        """Write what is pending."""
        self.flush()
        if self._board is not None:
            self._board.close()

    def _append(self, path: Path, lines: list[str]) -> None:
        try:
            with path.open("a") as f:
                f.writelines(f"{line}\n" for line in lines)
        except OSError as e:
            raise output_error(path, e) from e


def _number(line: str, key: str) -> float:
    """The line's number; infinity for a line that a kill cut short."""
    try:
        return float(json.loads(line)[key])
    except (ValueError, KeyError):
        return float("inf")
