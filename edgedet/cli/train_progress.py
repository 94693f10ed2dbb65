"""What edgedet-train shows: rows of facts, and a bar for the epochs and for what follows them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID
    from rich.text import Text

    from edgedet.training.loop import Trainer


def say(rows: list[tuple[str, str]], console: Console) -> None:
    """Print (what, how it is)."""
    from rich.table import Table

    table = Table(show_header=False, box=None)
    for what, how in rows:
        table.add_row(what, plain(how))
    console.print(table, soft_wrap=not console.is_terminal)  # a log's lines are not broken


def follow(trainer: Trainer, *, quiet: bool) -> None:
    """Run the trainer under a progress bar, a line per epoch."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True, quiet=quiet)
    notices = Console(stderr=True) if quiet else console  # a bar and a line must not share a row
    done = trainer.progress
    if done.finished:
        console.print(f"this run is finished: {done.epoch} epochs, step {done.step}", soft_wrap=True)
    elif done.step:
        console.print(f"going on from epoch {done.epoch}, step {done.step}", soft_wrap=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[said]}"),
        TimeRemainingColumn(),
    )
    total = len(trainer.order) * trainer.recipe.epochs
    with Progress(*columns, console=console, disable=quiet) as bar:
        task = bar.add_task(f"epoch {done.epoch}", total=total, completed=done.step, said="")
        stages: dict[str, TaskID] = {}
        smooth = 0.0
        for event in trainer.run():
            if "validation" in event:
                said = f"{epoch(event, 'validation')}: {event['measure']} {validated(event)}"
                console.print(plain(said), soft_wrap=True)
                continue
            if "stage" in event:
                name = event["stage"]
                if name not in stages:
                    stages[name] = bar.add_task(name, total=event["total"], said="")
                bar.update(stages[name], completed=event["done"])
                for problem in event["problems"]:
                    notices.print(plain(f"left out: {problem}"), soft_wrap=True)
                continue
            for problem in event["problems"]:
                notices.print(plain(f"left out, another image takes its place: {problem}"), soft_wrap=True)
            if "skipped" in event:
                notices.print(f"step {event['step']} is skipped: its gradient is not finite", soft_wrap=True)
            smooth = event["loss"] if not smooth else 0.98 * smooth + 0.02 * event["loss"]
            bar.update(
                task,
                completed=event["step"] + 1,
                description=epoch(event, "epoch"),
                said=f"loss {smooth:.3f}  {event['images_per_s']:.1f} images/s",
            )


def epoch(event: dict[str, Any], key: str) -> str:
    """An event's epoch, and of which phase, if there are several."""
    number = f"epoch {event[key]}"
    return f"step {event['phase']}, {number}" if "phase" in event else number


def plain(text: str) -> Text:
    """For rich: text without markup, which a name may look like; control characters are shown, not sent."""
    from rich.text import Text

    return Text("".join(c if c.isprintable() else repr(c)[1:-1] for c in text))


def validated(event: dict[str, Any]) -> str:
    """A validation in words."""
    best = "none so far: the last weights are kept" if event["best"] is None else f"{event['best']:.4f}"
    if event["score"] is None:
        return f"not measured, {event['reason']} (best {best})"
    return f"{event['score']:.4f} (best {best})"
