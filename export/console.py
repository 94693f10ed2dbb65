"""What an export says while it works: labelled lines and progress bars, on one console."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from edgedet.contract.text import printable

LABEL = 11
"""Width of the label column."""


class LabelledConsole:
    """Lines on `console`, bars on the same one; `quiet` shows neither."""

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self.console = console
        self.quiet = quiet

    @property
    def bars(self) -> bool:
        """Whether progress bars are shown: on terminals only, they are no text for a file."""
        return not self.quiet and self.console.is_terminal

    def line(self, label: str, text: str) -> None:
        """`label      text`, the text as it is, whole on its line where that is not a terminal."""
        if not self.quiet:
            lead = Text(f"{label:<{LABEL}}" if label else "", style="bold")
            self.console.print(lead.append(Text(printable(text), style="not bold")), soft_wrap=True)

    @contextlib.contextmanager
    def bar(self, label: str, total: int) -> Iterator[Callable[[int], None]]:
        """A progress bar that disappears when done; call what it gives with the number done."""
        columns = (
            TextColumn(f"{label:<{LABEL - 1}}"),
            MofNCompleteColumn(),
            BarColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self.console, transient=True, disable=not self.bars) as progress:
            task = progress.add_task("", total=total)
            yield lambda done: progress.update(task, completed=done)
