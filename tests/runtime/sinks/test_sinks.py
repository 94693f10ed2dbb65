"""Videos, JSON lines and windows: whole, readable, or a named error."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

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


def frames_of(path: Path) -> list[int]:
    """The mean level of every frame that can be decoded."""
    video = cv2.VideoCapture(str(path))
    levels = []
    while True:
        good, image = video.read()
        if not good:
            return levels
        levels.append(round(float(image.mean())))


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".avi"])
def test_a_video_holds_every_frame(tmp_path: Path, stream: RunInfo, suffix: str) -> None:
    path = tmp_path / "new" / f"out{suffix}"
    sink = VideoFile(path)
    sink.open(stream)
    for i in range(20):
        sink.write(frame(i, 20 + 10 * i), FOUND)
        assert not path.exists()
    sink.close()
    np.testing.assert_allclose(frames_of(path), [20 + 10 * i for i in range(20)], atol=4)
    assert cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FPS) == pytest.approx(30, rel=0.01)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_frames_of_another_size_are_fitted(tmp_path: Path, stream: RunInfo) -> None:
    sink = VideoFile(tmp_path / "out.mp4")
    sink.open(stream)
    for i, size in enumerate([(48, 64), (100, 90), (48, 64), (20, 20)]):
        sink.write(frame(i, 50 * i, size), FOUND)
    sink.close()
    np.testing.assert_allclose(frames_of(tmp_path / "out.mp4"), [0, 50, 100, 150], atol=6)


def test_a_live_video_keeps_the_pace_of_the_clock(tmp_path: Path, stream: RunInfo) -> None:
    sink = VideoFile(tmp_path / "out.mp4")
    sink.open(RunInfo("camera 0", 10.0, True, stream.spec))
    for i, second in enumerate((0.0, 0.1, 0.5, 0.6, 30.0, 30.1)):  # frames dropped, then a long silence
        sink.write(frame(i, 40 * i, captured=1000 + second), FOUND)
    sink.close()
    levels = frames_of(tmp_path / "out.mp4")
    assert len(levels) == 1 + 1 + 4 + 1 + 20 + 1
    np.testing.assert_allclose(levels[:7], [0, 40, 80, 80, 80, 80, 120], atol=6)


def test_no_frame_no_file(tmp_path: Path, stream: RunInfo) -> None:
    sink = VideoFile(tmp_path / "out.mp4")
    sink.open(stream)
    sink.close()
    assert list(tmp_path.iterdir()) == []


def test_an_older_video_is_replaced_only_by_a_whole_one(tmp_path: Path, stream: RunInfo) -> None:
    path = tmp_path / "out.mp4"
    path.write_bytes(b"old")
    sink = VideoFile(path)
    sink.open(stream)
    sink.write(frame(0), FOUND)
    (temporary,) = [p for p in tmp_path.iterdir() if p != path]
    assert path.read_bytes() == b"old"
    sink._writer.release()  # type: ignore[union-attr]
    temporary.write_bytes(temporary.read_bytes()[:100])  # as a full disk leaves it
    with pytest.raises(OutputError, match="did not become whole: 0 of 1"):
        sink.close()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_unknown_kind_of_video_is_refused(tmp_path: Path, stream: RunInfo) -> None:
    with pytest.raises(OutputError, match=r"\.mp4"):
        VideoFile(tmp_path / "out.xyz").open(stream)


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


def test_a_line_per_frame(tmp_path: Path, stream: RunInfo) -> None:
    path = tmp_path / "new" / "out.jsonl"
    sink = JsonLines(path)
    sink.open(stream)
    sink.write(frame(7, captured=100.0), FOUND)
    assert len(path.read_text().splitlines()) == 1  # followers see it now
    sink.notice(Notice("camera 0 is lost", "lost"))
    sink.write(frame(9, captured=100.04), Detections.empty())
    sink.close()
    first, second, third = map(json.loads, path.read_text().splitlines())
    box = [1.0, 2.5, 30.12, 40.0]
    assert first == {
        "source": "clip.mp4",
        "frame": 7,
        "time": 0.0,
        "detections": [{"class": "bright", "score": 0.8765, "box": box}],
    }
    assert second == {"source": "clip.mp4", "notice": "camera 0 is lost"}
    assert third == {"source": "clip.mp4", "frame": 9, "time": 0.04, "detections": []}


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
    assert len(frames_of(video)) == 31
    assert [json.loads(line)["frame"] for line in lines.read_text().splitlines()] == list(range(31))


def test_a_damaged_video_gives_whole_outputs(predictor: CpuPredictor, bikes: Path, tmp_path: Path) -> None:
    from edgedet.contract.errors import SourceError

    data = bytearray(bikes.read_bytes())
    data[506_141 - 1500 : 506_141] = bytes(1500)  # the end of its media
    clip, video = tmp_path / "clip.mp4", tmp_path / "out.mp4"
    clip.write_bytes(data)
    with pytest.raises(SourceError, match=r"^capture: 2 of 250 frames"):
        Pipeline(open_source(clip), predictor, [VideoFile(video)]).run()
    assert len(frames_of(video)) == 248


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
