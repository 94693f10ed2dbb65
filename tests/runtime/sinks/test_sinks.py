"""JSON lines and windows, and sinks in a pipeline: whole, readable, or a named error."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from runtime_fixtures import grey, levels_of

from edgedet.contract.errors import OutputError, SinkError
from edgedet.contract.frames import Frame, Notice
from edgedet.contract.results import Detections, SegmentationMap
from edgedet.runtime import (
    Callback,
    CpuPredictor,
    JsonLines,
    Overlay,
    Pipeline,
    VideoFile,
    Window,
    open_predictor,
    open_source,
    read_spec,
)
from edgedet.runtime.sinks.sink import RunInfo, Sink, describe


@pytest.fixture(scope="module")
def predictor(brightness: Path) -> Iterator[CpuPredictor]:
    with open_predictor(brightness) as opened:
        yield opened


@pytest.fixture
def stream(brightness: Path) -> RunInfo:
    return RunInfo("clip.mp4", 30.0, False, read_spec(brightness))


def live(stream: RunInfo) -> RunInfo:
    return replace(stream, live=True, source="camera 0")


def frame(
    index: int, level: int = 100, size: tuple[int, int] = (48, 64), captured: float | None = None
) -> Frame:
    when = time.monotonic() if captured is None else captured
    return Frame(np.full((*size, 3), level, np.uint8), index, when, "clip.mp4")


FOUND = Detections(
    np.array([[1.005, 2.5, 30.123456, 40]], np.float32),
    np.array([0.87654], np.float32),
    np.array([1], np.int64),
)


@pytest.mark.parametrize("make", [VideoFile, JsonLines])
def test_where_nothing_can_be_written_is_an_error_at_once(
    tmp_path: Path, stream: RunInfo, make: type[Sink]
) -> None:
    (tmp_path / "file").write_text("in the way")
    places = [tmp_path / "file" / "out.mp4"]
    if os.geteuid() != 0:  # root may write anywhere
        (tmp_path / "locked").mkdir(mode=0o500)
        places.append(tmp_path / "locked" / "out.mp4")
    elif Path("/proc/self").exists():
        places.append(Path("/proc/self/out.mp4"))
    for path in places:
        sink = make(path)  # type: ignore[call-arg]
        with pytest.raises(OutputError, match="Cannot write"):
            sink.open(stream)
        sink.close()


def test_a_line_per_frame_of_a_file(tmp_path: Path, stream: RunInfo) -> None:
    path = tmp_path / "new" / "out.jsonl"
    sink = JsonLines(path)
    sink.open(stream)
    sink.write(Frame(grey(0.5), 7, 100.0, "clip.mp4", media_time=3.2, file="/d/clip.mp4"), FOUND)
    assert len(path.read_text().splitlines()) == 1  # followers see it now
    sink.notice(Notice("a frame is damaged", "damaged", utc=0.0625))
    sink.write(Frame(grey(0.5), 9, 100.0, "clip.mp4", media_time=float("nan")), Detections.empty())
    sink.close()
    first, second, third = map(json.loads, path.read_text().splitlines())
    assert first == {
        "source": "clip.mp4",
        "file": "/d/clip.mp4",
        "frame": 7,
        "time": 3.2,  # the medium's, not the run's
        "width": 64,
        "height": 48,
        "detections": [{"class": "bright", "score": 0.8765, "box": [1.0, 2.5, 30.12, 40.0]}],
    }
    assert second == {
        "source": "clip.mp4",
        "utc": "1970-01-01T00:00:00.062Z",
        "notice": "a frame is damaged",
        "kind": "damaged",
    }
    assert third == {"source": "clip.mp4", "frame": 9, "width": 64, "height": 48, "detections": []}


def test_a_live_line_has_the_absolute_time(tmp_path: Path, stream: RunInfo) -> None:
    sink = JsonLines(tmp_path / "out.jsonl")
    sink.open(live(stream))
    for second in (0.0, 0.5):
        sink.write(Frame(grey(0.5), 0, 100 + second, "camera 0", utc=1e9 + second), Detections.empty())
    sink.close()
    first, second = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert (first["time"], first["utc"]) == (0.0, "2001-09-09T01:46:40.000Z")
    assert (second["time"], second["utc"]) == (0.5, "2001-09-09T01:46:40.500Z")


def test_a_restart_of_a_live_source_keeps_the_lines_before(tmp_path: Path, stream: RunInfo) -> None:
    (tmp_path / "out.jsonl").write_text("before\n")
    sink, told = JsonLines(tmp_path / "out.jsonl"), []
    sink.tell = told.append
    sink.open(live(stream))
    sink.write(frame(0), FOUND)
    sink.close()
    assert (tmp_path / "out.jsonl").read_text() == "before\n"
    assert json.loads((tmp_path / "out-2.jsonl").read_text())["frame"] == 0
    assert "out-2.jsonl" in told[0].text


def test_lines_go_where_something_listens(tmp_path: Path, stream: RunInfo) -> None:
    os.mkfifo(tmp_path / "pipe")
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_text()))
    reader.start()
    for path, info in ((tmp_path / "pipe", live(stream)), (Path("/dev/null"), stream)):
        sink = JsonLines(path)
        sink.open(info)
        sink.write(frame(0), FOUND)
        sink.close()
    reader.join()
    assert json.loads(got[0])["frame"] == 0


def test_a_reader_that_stops_reading_does_not_hold_a_live_source(tmp_path: Path, stream: RunInfo) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    sink, told = JsonLines(tmp_path / "pipe"), []
    sink.tell = told.append
    sink.open(live(stream))
    for i in range(3000):  # far more than the pipe's 64 KiB and the queue hold
        sink.write(frame(i, size=(2, 2)), FOUND)
    assert sink.missed > 0
    os.close(reader)
    with pytest.raises(BrokenPipeError):
        sink.close()


def test_odd_names_and_numbers_are_lines_too(tmp_path: Path, stream: RunInfo) -> None:
    name = os.fsdecode(b"caf\xe9\x1b[31m.jpg")
    sink = JsonLines(tmp_path / "out.jsonl")
    sink.open(stream)
    odd = Detections(FOUND.boxes, np.array([np.nan], np.float32), FOUND.labels)
    sink.write(Frame(grey(0.5), 0, 0.0, name, file=name), odd)
    sink.close()
    data = (tmp_path / "out.jsonl").read_bytes()
    record = json.loads(data.decode("utf-8"), parse_constant=lambda text: pytest.fail(text))
    assert record["file"] == name
    assert record["detections"][0]["score"] is None
    assert b"\x1b" not in data


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk without space")
def test_a_full_disk_ends_the_lines_of_a_file_and_is_told_in_a_live_run(stream: RunInfo) -> None:
    sink = JsonLines("/dev/full")
    sink.open(stream)
    with pytest.raises(OutputError, match="disk is full"):
        sink.write(frame(0), FOUND)
    sink.close()
    sink, told = JsonLines("/dev/full"), []
    sink.tell = told.append
    sink.open(live(stream))
    for i in range(3):
        sink.write(frame(i), FOUND)
    with pytest.raises(OutputError, match="disk is full"):
        sink.close()
    assert "disk is full" in told[0].text


def test_lines_on_stdout(stream: RunInfo, capsys: pytest.CaptureFixture[str]) -> None:
    sink = JsonLines("-")
    sink.open(stream)
    sink.write(frame(0), FOUND)
    sink.close()
    assert json.loads(capsys.readouterr().out)["frame"] == 0
    print("stdout is still open")


def test_a_window_where_there_is_none_is_an_error(stream: RunInfo) -> None:
    gui = next(line for line in cv2.getBuildInformation().splitlines() if line.strip().startswith("GUI:"))
    if "NONE" not in gui:
        pytest.skip("this OpenCV has windows")
    sink = Window()
    with pytest.raises(SinkError, match="--save"):
        sink.open(stream)
    sink.close()


def test_a_video_is_whole_when_another_sink_fails(
    predictor: CpuPredictor, bikes: Path, tmp_path: Path
) -> None:
    def fail(frame: Frame, result: object) -> None:
        if frame.index == 30:
            raise ValueError("no more")

    video, lines = tmp_path / "out.mp4", tmp_path / "out.jsonl"
    sinks = [VideoFile(video), JsonLines(lines), Callback(fail)]
    with pytest.raises(SinkError, match="no more"):
        Pipeline(open_source(bikes), predictor, sinks, overlay=Overlay(("dark", "bright"))).run()
    assert len(levels_of(video)) == 31
    assert [json.loads(line)["frame"] for line in lines.read_text().splitlines()] == list(range(31))


def test_a_damaged_video_gives_whole_outputs(predictor: CpuPredictor, bikes: Path, tmp_path: Path) -> None:
    from edgedet.contract.errors import SourceError

    data = bytearray(bikes.read_bytes())
    data[506_141 - 1500 : 506_141] = bytes(1500)  # the end of its media
    clip, video = tmp_path / "clip.mp4", tmp_path / "out.mp4"
    clip.write_bytes(data)
    with pytest.raises(SourceError, match=r"^capture: [23] of 250 frames"):
        Pipeline(open_source(clip), predictor, [VideoFile(video)]).run()
    assert len(levels_of(video)) == 248


def test_a_class_map_is_described_by_its_areas() -> None:
    classes = np.full((30, 100), 2, np.uint8)
    classes[:, :10] = 0
    classes[0, 99] = 3
    described = describe(SegmentationMap(classes), ("sky", "road", "tree", "car"))
    assert described == {
        "areas": [
            {"class": "tree", "pixels": 2699, "share": 0.8997},
            {"class": "sky", "pixels": 300, "share": 0.1},
            {"class": "car", "pixels": 1, "share": 0.0003},
        ]
    }
    assert json.loads(json.dumps(described)) == described
