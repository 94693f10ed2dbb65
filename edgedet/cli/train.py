"""`edgedet-train`: from a data set to best.safetensors in a run folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import platform
import shlex
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgedet.cli.train_progress import follow, say
from edgedet.contract.errors import EdgedetError, TrainingError, UsageError
from edgedet.models import parse_options, parse_size

if TYPE_CHECKING:
    from torch import nn

    from edgedet.data import Dataset
    from edgedet.training.loop import Trainer


def train(
    model: Annotated[str, typer.Option(help="Which of the lecture's models, for example yolo.")],
    data: Annotated[
        list[str],
        typer.Option(
            help="Training data: voc:, coco: or yolo:PATH; instances:PATH; masks: or voc-seg:PATH. "
            "Repeatable: sets of the same classes are trained on together, the first is validated on."
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Run folder. [default: runs/MODEL]")
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            help="Fine-tune: start from the layers of this file that fit, rather than from ImageNet's."
        ),
    ] = None,
    loss: Annotated[
        str | None,
        typer.Option(help="Of a semantic model: cross-entropy, dice+focal, ... [default: the recipe's]"),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VALUE, an option of the model's class, e.g. variant=16s; repeatable."),
    ] = None,
    freeze: Annotated[
        list[str] | None,
        typer.Option(
            help="A part of the network that stays as --weights has it: backbone, box_head.fc6; repeatable."
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="Split to train on.")] = "train",
    val_split: Annotated[str, typer.Option(help="Split to validate on; 'none' for no validation.")] = "val",
    size: Annotated[str | None, typer.Option(help="Network input HxW. [default: the model's]")] = None,
    window: Annotated[
        str | None,
        typer.Option(help="Of a semantic model: train on windows HxW of the images. [default: the recipe's]"),
    ] = None,
    scale: Annotated[
        str | None,
        typer.Option(help="LOW,HIGH: scale of the windows; 1 shows the whole image. [default: the recipe's]"),
    ] = None,
    upright: Annotated[
        bool | None,
        typer.Option(
            "--upright/--no-upright",
            help="The pictures have an up: windows are not flipped vertically. [default: the recipe's]",
        ),
    ] = None,
    schedule: Annotated[
        str,
        typer.Option(
            help="joint: all at once. alternating, of faster-rcnn: the paper's 4 steps (RPN; detector on its "
            "proposals; RPN alone; box head alone), 6 + 8 + 3 + 4 epochs."
        ),
    ] = "joint",
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Passes over the data; alternating: of all steps together, in proportion to the planned "
            "ones. [default: the recipe's]",
        ),
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Images per step, over all processes.")] = None,
    lr: Annotated[float | None, typer.Option(min=0, help="Peak learning rate; not 0.")] = None,
    patience: Annotated[
        int | None,
        typer.Option(min=0, help="Stop after this many validations without a better score; 0 = never."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
    workers: Annotated[int, typer.Option(min=0, max=1024, help="Processes that load and augment.")] = 1,
    amp: Annotated[str, typer.Option(help="Mixed precision: auto, off, bf16 or fp16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    eval_limit: Annotated[int | None, typer.Option(min=1, help="Validate on this many images only.")] = None,
    state_every: Annotated[int, typer.Option(min=1, help="Steps between state files.")] = 50,
    limit: Annotated[int | None, typer.Option(min=1, help="Train on the first so many images only.")] = None,
    proposals_cache: Annotated[
        Path | None,
        typer.Option(
            help="Folder that keeps the regions proposed in each image, of a model that takes them; runs,"
            " edgedet-eval and edgedet-export may share one. [default: proposals in the run folder]"
        ),
    ] = None,
    resume: Annotated[bool, typer.Option(help="Insist that the folder holds a run to go on with.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print the result as JSON only.")] = False,
) -> None:
    """Train a model; the same command after a kill goes on where it was.

    Example: edgedet-train --model yolo --data voc:VOCdevkit -o runs/yolo
    """
    from edgedet.models import entry
    from edgedet.training.recipe import RECIPES, Recipe

    entry(model)  # an unknown name is said before torch is loaded, and so is a number that cannot be meant
    if amp not in ("auto", "off", "bf16", "fp16") or device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"--amp {amp} --device {device}: expected auto|off|bf16|fp16 and auto|cpu|cuda.")
    if schedule not in ("joint", "alternating"):
        raise UsageError(f"--schedule {schedule}: expected joint or alternating.")
    chosen = parse_options(option or []) | ({"loss": loss} if loss else {})
    given = {
        "epochs": epochs,
        "batch": batch,
        "lr": lr,
        "patience": patience,
        "window": parse_size(window, "--window"),
        "scale": parse_range(scale),
        "upright": upright,
        "frozen": None if freeze is None else tuple(freeze),
    }
    recipe = replace(RECIPES.get(model, Recipe()), **{k: v for k, v in given.items() if v is not None})  # type: ignore[arg-type]
    import torch

    from edgedet.contract.spec import Provenance
    from edgedet.data import open_dataset, open_datasets
    from edgedet.models import build, make_spec
    from edgedet.training.checkpoint import start_from
    from edgedet.training.determinism import deterministic
    from edgedet.training.loop import Trainer
    from edgedet.training.memory import keep_freed_memory
    from edgedet.training.phases import alternating
    from edgedet.training.processes import join
    from edgedet.training.run_folder import RunFolder
    from edgedet.training.signals import Stopped, StopRequest

    if schedule == "alternating":
        recipe = alternating(model, recipe, epochs)
    pixels = parse_size(size) or entry(model).size
    options = {**recipe.model, **({"size": list(pixels)} if entry(model).sized else {}), **chosen}
    recipe = replace(recipe, model=options)
    folder = RunFolder(output or Path("runs") / model)
    stop, trainer = StopRequest(), None
    try:
        with stop.handled(), join(device) as processes, deterministic(seed):
            keep_freed_memory()
            train_data = first(open_datasets(data, split), limit)
            val_data = (
                None if val_split == "none" else open_dataset(data[0], val_split, classes=train_data.classes)
            )
            network = build(model, len(train_data.classes), **options)
            fresh = start_from(network, weights) if weights else []
            check_learned(recipe.frozen, network, fresh if weights else None)
            provenance = Provenance(data=train_data.name, tools={"torch": torch.__version__})
            changes = {"provenance": provenance}
            spec = make_spec(model, network, train_data.classes, size=pixels, changes=changes)
            trainer = Trainer(
                network,
                spec,
                train_data,
                val_data,
                recipe,
                folder,
                processes,
                seed=seed,
                workers=workers,
                amp=amp,
                state_every=state_every,
                eval_limit=eval_limit,
                stop=stop,
                proposals_cache=proposals_cache,
            )
            repeatable: dict[str, Any] = {
                "weights_sha256": sha256(weights) if weights else None,
                "fresh": fresh,
                "limit": limit,
            }
            run(trainer, repeatable, resume=resume, weights=weights, quiet=json_output)
            if processes.main:
                finish(trainer, data[0], json_output)
    except Stopped as e:
        done = 0 if trainer is None else trainer.progress.step
        kept = f"after step {done}, the state is in {folder.state}" if done else "before the first step"
        again = "The same command goes on from there." if done else "Nothing was kept."
        print(f"stopped by {e} {kept}. {again}", file=sys.stderr)
        raise typer.Exit(e.exit_code) from None


def run(
    trainer: Trainer, repeatable: dict[str, Any], *, resume: bool, weights: Path | None, quiet: bool
) -> None:
    """Take the folder, say what will be done, train.

    Args:
        trainer: ready. repeatable: more of what must be equal for a run to go on. resume: there must be
            one. weights: what it starts from. quiet: no progress bar.
    """
    from rich.console import Console

    from edgedet.training.summary import before

    folder, processes, val = trainer.folder, trainer.processes, trainer.val
    repeatable = {
        **repeatable,
        "model": trainer.spec.model,
        "recipe": json.loads(json.dumps(asdict(trainer.recipe))),
        "size": list(trainer.spec.input.size),
        "seed": trainer.seed,
        "data": trainer.train.name,
        "data_sha256": trainer.train.fingerprint(),
        "validation": val.name if val else None,
        "validation_sha256": val.fingerprint() if val else None,
        "eval_limit": trainer.eval_limit,
        "processes": processes.world,
        "amp": trainer.amp,
        "proposals": trainer.proposer.identity() if trainer.proposer is not None else None,
    }
    settings = {"command": sys.argv, "versions": versions(), "hardware": hardware(processes.device)}
    unfinished = 0.0
    try:
        if processes.main:
            if resume and not folder.state.exists():
                raise TrainingError(
                    f"{folder.path} holds no run to resume.", hint="Leave --resume out to start one."
                )
            unfinished = float(folder.prepare(settings, repeatable))
        if processes.broadcast(unfinished):
            trainer.resume()
        if processes.main:
            folder.check_space(trainer.file_bytes())
            say(before(trainer, weights, repeatable["fresh"]), Console(stderr=True))
            folder.open_board(trainer.progress.step)
        follow(trainer, quiet=quiet or not processes.main)
    except BaseException:
        with contextlib.suppress(EdgedetError):  # what went wrong first is what is said
            folder.close()
        raise
    folder.close()


def finish(trainer: Trainer, data: str, json_output: bool) -> None:
    """The summary: what was trained, how good it is, where it lies, what comes next."""
    from rich.console import Console

    done, folder = trainer.progress, trainer.folder
    problems = trainer.train.problems
    if json_output:
        result = {
            "model": trainer.spec.model,
            "epochs": done.epoch,
            "steps": done.step,
            "skipped_steps": done.skipped,
            "measure": trainer.task.score,
            "best": done.best,
            "best_epoch": done.best_epoch,
            "weights": str(folder.best),
            "problems": problems.counts(),
        }
        typer.echo(json.dumps(result))
        return
    rows = [
        ("model", f"{trainer.spec.model}, {len(trainer.spec.classes)} classes"),
        ("data", f"{trainer.train.name}: {len(trainer.train)} images"),
    ]
    for kind, count in problems.counts().items():
        first = next(p for p in problems.items if p.kind == kind)
        rows.append(("problem", f"{count} x {kind}; first: {first}"))
    best = "not measured: the weights are those of the last epoch"
    if done.best is not None:
        best = f"{done.best:.4f} in epoch {done.best_epoch}"
    rows += [
        ("steps", f"{done.step} in {done.epoch} epochs"),
        *([("", f"{done.skipped} were skipped: their gradients were not finite")] if done.skipped else []),
        (f"best {trainer.task.score}", best),
        ("weights", str(folder.best)),
        (
            "next",
            f"edgedet-export --model {trainer.spec.model} --weights {shlex.quote(str(folder.best))} --int8"
            f" --calib-data {shlex.quote(data)} --eval-data {shlex.quote(data)}",
        ),
    ]
    say(rows, Console())


def parse_range(text: str | None) -> tuple[float, float] | None:
    """As typed: "0.5,2" -> (0.5, 2.0). UsageError unless it is two numbers, 0 < low <= high."""
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low, high = 0.0, 0.0
    if not 0 < low <= high < math.inf:
        raise UsageError(f"--scale {text!r} is not LOW,HIGH.", hint="For example --scale 0.5,2.")
    return low, high


def check_learned(frozen: tuple[str, ...], network: nn.Module, fresh: list[str] | None) -> None:
    """UsageError if a part that is to stay as it is has nothing to keep.

    fresh: the layers that no weights were given for; None: all but the backbone, which has ImageNet's.
    """
    if fresh is None:
        fresh = [name for name in dict(network.named_modules()) if not name.startswith("backbone")]
    for part in frozen:
        new = [name for name in fresh if f"{name}.".startswith(f"{part}.")]
        if new:
            raise UsageError(
                f"--freeze {part}: nothing was learned there that could stay as it is ({new[0]} is fresh).",
                hint="Start from --weights that have it, or leave --freeze out.",
            )


def sha256(path: Path) -> str:
    """Of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def first(dataset: Dataset, limit: int | None) -> Dataset:
    """The first `limit` images of a data set."""
    return dataset.part(range(len(dataset))[:limit])


def versions() -> dict[str, str]:
    """What the run depends on."""
    from importlib.metadata import PackageNotFoundError, version

    def known(name: str) -> str:
        try:
            return version(name)
        except PackageNotFoundError:  # of another source: a system's OpenCV, edgedet from its folder
            return "not installed as a package"

    names = ("edgedet", "torch", "torchvision", "timm", "numpy", "opencv-contrib-python-headless")
    return {"python": platform.python_version()} | {name: known(name) for name in names}


def hardware(device: Any) -> dict[str, Any]:
    """Where the run happens: processor and cores, GPU."""
    import torch

    from edgedet.runtime.hardware import cpu_name

    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {"cpu": cpu_name(), "cores": os.cpu_count(), "threads": torch.get_num_threads(), "gpu": gpu}
