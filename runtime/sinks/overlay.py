"""Results drawn into the frame, in place.

`Overlay.draw` looks the painter up by the result's type: another kind of result is another entry of
PAINTERS.
"""

from __future__ import annotations

import colorsys
import time
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import numpy.typing as npt

from edgedet.contract.frames import check_image
from edgedet.contract.results import Detections, Instances, Result, SegmentationMap
from edgedet.contract.text import printable

Image = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_BLACK, _WHITE = (0, 0, 0), (255, 255, 255)
_OPACITY = 0.5  # of a class's colour over the frame
_CLEAR = "background"


class Style:
    """Sizes that follow the frame's, so that a label reads the same at 320 and at 4K.

    line: width of a box in pixels; font: scale for OpenCV's fonts; pad: pixels around a text; plate: height
    of a label, the same for every text; below: from its text's base line to its lower edge.
    """

    def __init__(self, height: int, width: int) -> None:
        short = min(height, width)
        self.line = max(1, round(short / 300))
        self.font = max(0.35, short / 1300)
        self.weight = max(1, round(short / 800))
        self.pad = max(2, round(short / 240))
        (_, above), below = cv2.getTextSize("Ag|", _FONT, self.font, self.weight)
        self.below = below + self.pad
        self.plate = above + self.below + self.pad


class Overlay:
    """Draws results of a model with these classes.

    Args:
        classes: names by label.
        caption: a line at the top left, followed by the frame rate; none if empty.
    """

    def __init__(self, classes: Sequence[str], *, caption: str = "") -> None:
        self.classes = [printable(name) for name in classes]
        self.colours = [class_colour(i) for i in range(len(classes))]
        self.palette = np.zeros((256, 1, 3), np.uint8)
        """The colour of each value of a class map, as OpenCV's colour maps have them."""
        self.palette[: len(classes), 0] = self.colours[:256]
        self.clear = next((i for i, name in enumerate(classes) if name.casefold() == _CLEAR), None)
        """The class that is not painted, where there is one."""
        self.paint: Image = np.empty((0, 0, 3), np.uint8)
        self.unpainted = np.empty((0, 0), np.bool_)
        """Both as large as the frame: colours on their way into it, and where there are none."""
        self._caption = caption
        self._style = Style(1, 1)
        self._size = (0, 0)
        self._interval = 0.0
        self._last = 0.0

    def warm_up(self) -> None:
        """Make now what would be made at the first frame, 20 to 100 ms. In the thread that will draw.

        OpenCV 5 loads a font, and its glyphs, for each thread anew.
        """
        image = np.zeros((720, 1280, 3), np.uint8)
        style = Style(*image.shape[:2])
        for text in (*self.classes, printable(self._caption), "0123456789. %<FPS"):
            draw_label(image, text, (0, 0), _BLACK, style)
        cv2.addWeighted(image, 1 - _OPACITY, cv2.applyColorMap(image[..., 0], self.palette), _OPACITY, 0)

    def draw(self, image: Image, result: Result) -> None:
        """Draw into image (H, W, 3) uint8 BGR. Raises ImageError: it is something else."""
        height, width = check_image(image).shape[:2]
        if (height, width) != self._size:
            self._size = (height, width)
            self._style = Style(height, width)
            self.paint = np.empty((height, width, 3), np.uint8)
            self.unpainted = np.empty((height, width), np.bool_)
        PAINTERS[type(result)](image, result, self, self._style)
        if self._caption:
            self._draw_caption(image)

    def _draw_caption(self, image: Image) -> None:
        now = time.monotonic()
        if self._last:
            # smoothed over some 20 frames: readable while it changes
            interval = now - self._last
            self._interval += (interval - self._interval) * (0.05 if self._interval else 1.0)
        self._last = now
        rate = f"  {1 / self._interval:.0f} FPS" if self._interval else ""
        draw_label(image, self._caption + rate, (0, 0), _BLACK, self._style)


def draw_detections(image: Image, result: Result, overlay: Overlay, style: Style) -> None:
    """Boxes, the best last so that it lies on top, each with its class and score."""
    assert isinstance(result, Detections)
    corners = np.rint(result.boxes).astype(int).tolist()
    scores, labels = result.scores.tolist(), result.labels.tolist()
    for (x0, y0, x1, y1), score, label in reversed(list(zip(corners, scores, labels, strict=True))):
        colour = overlay.colours[label]
        cv2.rectangle(image, (x0, y0), (x1 - 1, y1 - 1), colour, style.line)
        draw_label(image, f"{overlay.classes[label]} {score:.2f}", (x0, y0), colour, style)


def draw_instances(image: Image, result: Result, overlay: Overlay, style: Style) -> None:
    """Each object's colour over its pixels, the best last, then the boxes as `draw_detections`."""
    assert isinstance(result, Instances)
    labels = result.detections.labels.tolist()
    for i in reversed(range(len(result))):
        place, probability = result.window(i, (image.shape[0], image.shape[1]))
        if probability.size:
            inside = probability > 0.5
            part = image[place]
            painted = part * np.float32(1 - _OPACITY) + np.float32(_OPACITY) * np.array(
                overlay.colours[labels[i]], np.float32
            )
            part[inside] = np.rint(painted).astype(np.uint8)[inside]
    draw_detections(image, result.detections, overlay, style)


def draw_map(image: Image, result: Result, overlay: Overlay, style: Style) -> None:
    """Each class's colour over its pixels, "background" left clear, and a legend of what is there.

    Raises ValueError: the map is of another size than the frame.
    """
    assert isinstance(result, SegmentationMap)
    if result.classes.shape != image.shape[:2]:
        raise ValueError(f"classes: got shape {result.classes.shape}, expected {image.shape[:2]}")
    paint, clear = overlay.paint, overlay.clear
    cv2.applyColorMap(result.classes, overlay.palette, dst=paint)
    if clear is not None and result.pixels[clear]:
        np.equal(result.classes, clear, out=overlay.unpainted)
        # mixed with itself the frame stays as it is
        cv2.copyTo(image, overlay.unpainted.view(np.uint8), dst=paint)
    cv2.addWeighted(image, 1 - _OPACITY, paint, _OPACITY, 0, dst=image)
    _draw_legend(image, result, overlay, style)


def _draw_legend(image: Image, result: SegmentationMap, overlay: Overlay, style: Style) -> None:
    """At the lower left, the largest on top; the smallest are left out where the frame is too low."""
    total = max(1, result.classes.size)
    present = [k for k in np.argsort(-result.pixels, kind="stable").tolist() if result.pixels[k]]
    present = present[: image.shape[0] // style.plate]
    for above, k in enumerate(reversed(present)):
        percent = round(100 * result.pixels[k] / total)
        text = f"{overlay.classes[k]} {percent or '<1'} %"
        colour = _BLACK if k == overlay.clear else overlay.colours[k]
        draw_label(image, text, (0, image.shape[0] - above * style.plate), colour, style)


Painter = Callable[[Image, Result, Overlay, Style], None]

PAINTERS: dict[type[Result], Painter] = {
    Detections: draw_detections,
    Instances: draw_instances,
    SegmentationMap: draw_map,
}
"""Type of result -> what draws it."""


def draw_label(image: Image, text: str, anchor: tuple[int, int], colour: Colour, style: Style) -> None:
    """Text on a filled background that sits on `anchor` (x, y), moved so that it stays in the frame."""
    text = printable(text)
    height, width = image.shape[:2]
    w, h = cv2.getTextSize(text, _FONT, style.font, style.weight)[0][0] + 2 * style.pad, style.plate
    x = max(0, min(anchor[0], width - w))
    y = max(0, min(anchor[1] - h, height - h))
    cv2.rectangle(image, (x, y), (x + w - 1, y + h - 1), colour, cv2.FILLED)
    at = (x + style.pad, y + h - style.below)
    cv2.putText(image, text, at, _FONT, style.font, text_colour(colour), style.weight, cv2.LINE_AA)


def class_colour(label: int) -> Colour:
    """A BGR colour for a class: always the same, and far from its neighbours'.

    Hues by the golden angle; those that come near again, 5, 8 and 13 classes on, are dark or pale instead.
    """
    hue = (label * 0.6180339887498949) % 1.0
    saturation, value = ((0.85, 1.0), (0.9, 0.65), (0.45, 1.0))[label % 3]
    r, g, b = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(255 * b), round(255 * g), round(255 * r)


def text_colour(background: Colour) -> Colour:
    """Black or white, whichever stands out: luma by ITU-R BT.601."""
    b, g, r = background
    return _BLACK if 0.114 * b + 0.587 * g + 0.299 * r > 140 else _WHITE
