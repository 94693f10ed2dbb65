"""`edgedet-run`: a camera, stream, video or images through a model, to a video, a window, JSON lines."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from edgedet.contract.errors import EdgedetError, UsageError
from edgedet.contract.frames import Frame, Notice
from edgedet.contract.results import Result
from edgedet.contract.text import printable
from edgedet.runtime.hardware import MAX_THREADS, streams_for
from edgedet.runtime.sinks.sink import JsonLines, RunInfo, Sink

_REFRESH = 0.5  # seconds: redrawing the progress costs what a frame's postprocessing costs


def run(
    model: Annotated[str, typer.Argument(metavar="MODEL.onnx", help="What edgedet-export wrote.")],
    source: Annotated[
        str,
        typer.Option(
            help="Camera index (0), URL (rtsp://...), video, image, folder, or glob ('shots/*.jpg')."
        ),
    ],
    save: Annotated[Path | None, typer.Option(help="Write the annotated video: out.mp4.")] = None,
    json_lines: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write one JSON object per frame; - is stdout.")
    ] = None,
    window: Annotated[bool, typer.Option("--window", help="Show the annotated frames; q ends.")] = False,
    engine: Annotated[str, typer.Option(help="auto, openvino or onnxruntime.")] = "auto",
    precision: Annotated[
        str | None, typer.Option(help="fp32 or bf16 (OpenVINO) for what is not quantised. [default: fp32]")
    ] = None,
    score: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Drop results at or below. [default: the model's]")
    ] = None,
    iou: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="NMS overlap allowed. [default: the model's]")
    ] = None,
    tile: Annotated[
        float | None,
        typer.Option(
            metavar="OVERLAP",
            min=0.0,
            max=0.75,
            help="Run large frames in tiles at their own resolution that overlap by this share (0.25);"
            " semantic models.",
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="End after this many frames.")] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1, max=MAX_THREADS, help="CPU threads for inference. [default: the engine's choice]"
        ),
    ] = None,
    streams: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MAX_THREADS,
            help="Inferences at the same time. [default: 1 for live sources, more for files]",
        ),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(
            min=0.1, max=3600, help="Seconds that a camera or URL may take to open, or for its next frame."
        ),
    ] = 10.0,
    reconnects: Annotated[
        int | None,
        typer.Option(min=0, help="Tries in a row to open a lost camera again. [default: for ever]"),
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print the summary as JSON on stdout.")] = False,
) -> int:
    """Run a model on a camera, a stream, a video or images.

    Every frame of a file is processed; of a live source the newest. Ctrl-C, SIGTERM and SIGHUP end a run
    with its outputs whole. Outputs never replace those of an earlier live run: out-2.mp4 beside out.mp4.

    Example: edgedet-run yolo-int8.onnx --source 0 --window

    Example: edgedet-run yolo-int8.onnx --source clip.mp4 --save out.mp4 --json-lines out.jsonl

    Example: edgedet-run unet-int8.onnx --source aerial.mp4 --tile 0.25 --save out.mp4
    """
    from edgedet.runtime.engines.engine import artifact_spec
    from edgedet.runtime.pipeline import Pipeline
    from edgedet.runtime.predictor import Predictor, open_predictor
    from edgedet.runtime.sinks.outputs import check_outputs, is_stdout
    from edgedet.runtime.sinks.overlay import Overlay
    from edgedet.runtime.sinks.video import VideoFile, Window
    from edgedet.runtime.sources.source import open_source
    from edgedet.runtime.tiles import TiledPredictor

    if json_lines is not None and is_stdout(json_lines):
        json_lines = "-"
    if json_output and json_lines == "-":
        raise UsageError("--json and --json-lines - would both write to stdout.", hint="Name a file for one.")
    outputs: dict[str, str | Path] = {} if save is None else {"--save": save}
    if json_lines not in (None, "-"):
        outputs["--json-lines"] = json_lines
    inputs: dict[str, Sequence[str | Path]] = {"the model": [model], "--source": [source]}
    check_outputs(outputs, inputs)
    spec = artifact_spec(Path(model))
    if spec.task == "semantic" and not (score is None and iou is None):
        raise UsageError(f"--score and --iou are for boxes; {spec.model!r} gives a class per pixel.")
    thresholds = replace(
        spec.thresholds,
        score=spec.thresholds.score if score is None else score,
        iou=spec.thresholds.iou if iou is None else iou,
    )

    sinks: list[Sink] = []
    if save is not None:
        sinks.append(VideoFile(save))
    if json_lines is not None:
        sinks.append(JsonLines(json_lines))
    if window:
        sinks.append(Window())

    with ExitStack() as stack:
        opened = open_source(source, timeout=timeout, reconnects=reconnects)
        stack.callback(opened.close)
        check_outputs(outputs, inputs | {"--source": opened.paths})
        whole = stack.enter_context(
            open_predictor(
                model,
                thresholds=thresholds,
                engine=engine,
                precision=precision,
                threads=threads,
                streams=streams or streams_for(opened.live),
            )
        )
        whole(
            np.zeros((spec.input.height, spec.input.width, 3), np.uint8)
        )  # the first is slow: not a frame's
        predictor: Predictor = whole if tile is None else TiledPredictor(whole, overlap=tile)
        overlay = Overlay(spec.classes, caption=predictor.name) if save or window else None
        progress = _Progress(opened.frames, limit)
        pipeline = Pipeline(
            opened, predictor, [*sinks, progress], overlay=overlay, limit=limit, notify=progress.say
        )

        def show() -> None:
            report = pipeline.report()
            if json_output:
                print(report.to_json())
            else:
                Console(stderr=json_lines == "-").print(report.table())

        try:
            report = pipeline.run()
        except EdgedetError:
            if pipeline.report().frames:
                show()
            raise
        show()
    # a signal is the usual end of a live source
    return 0 if report.signal is None or opened.live else 128 + report.signal


class _Progress(Sink):
    """Frames done and frames a second, on stderr where a person looks at it."""

    name = ""
    needs_pixels = False

    def __init__(self, frames: int | None, limit: int | None) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:.1f} FPS"),
            TimeRemainingColumn(),
            console=self._console,
            auto_refresh=False,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._total = min((n for n in (frames, limit) if n is not None), default=None)
        self._done = 0
        self._drawn = 0.0
        self._began = 0.0

    def say(self, notice: Notice) -> None:
        """A line of its own, above the bar, and in a log too."""
        self._console.print(printable(notice.text), style="yellow", markup=False, soft_wrap=True)

    def open(self, stream: RunInfo) -> None:
        """See Sink."""
        self._began = time.monotonic()
        self._task = self._bar.add_task(printable(stream.source), total=self._total, rate=0.0)
        self._bar.start()

    def write(self, frame: Frame, result: Result) -> None:
        """See Sink."""
        self._done += 1
        now = time.monotonic()
        if now - self._drawn > _REFRESH:
            self._drawn = now
            rate = self._done / (now - self._began)
            self._bar.update(self._task, completed=self._done, rate=rate, refresh=True)

    def close(self) -> None:
        """See Sink."""
        self._bar.stop()
