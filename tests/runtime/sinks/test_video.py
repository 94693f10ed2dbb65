"""Recordings: every frame at its time, playable at any moment, and nothing of an earlier run lost."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from runtime_fixtures import levels_of, times_of

from edgedet.contract.errors import OutputError, SourceError, UsageError
from edgedet.contract.frames import Frame
from edgedet.contract.results import Detections
from edgedet.runtime import VideoFile, read_spec
from edgedet.runtime.sinks import recorder
from edgedet.runtime.sinks.backend_opencv import OpencvWriter
from edgedet.runtime.sinks.outputs import OutputFile
from edgedet.runtime.sinks.recorder import Recorder, have_pyav
from edgedet.runtime.sinks.sink import RunInfo

NOTHING = Detections.empty()
needs_pyav = pytest.mark.skipif(not have_pyav(), reason="needs PyAV (extra av)")


@pytest.fixture
def stream(brightness: Path) -> RunInfo:
    return RunInfo("clip.mp4", 30.0, False, read_spec(brightness))


@pytest.fixture
def camera_info(stream: RunInfo) -> RunInfo:
    return replace(stream, source="camera 0", live=True)


def frame(
    index: int,
    level: int = 100,
    size: tuple[int, int] = (48, 64),
    captured: float | None = None,
    media_time: float | None = None,
) -> Frame:
    return Frame(np.full((*size, 3), level, np.uint8), index, captured, media_time=media_time)


def until(true: Callable[[], Any]) -> None:
    ends = time.monotonic() + 20
    while not true():
        assert time.monotonic() < ends, "it does not come"
        time.sleep(0.01)


def record(sink: VideoFile, info: RunInfo, frames: Iterator[Frame] | list[Frame]) -> None:
    """All frames, none of them left out because it came too quickly."""
    sink.open(info)
    for n, f in enumerate(frames, 1):
        sink.write(f, NOTHING)
        until(lambda n=n: sink.written == n)  # type: ignore[misc]
    sink.close()


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".avi"])
def test_a_video_holds_every_frame(tmp_path: Path, stream: RunInfo, suffix: str) -> None:
    path = tmp_path / "new" / f"out{suffix}"
    sink = VideoFile(path)
    sink.open(stream)
    for i in range(20):
        sink.write(frame(i, 20 + 10 * i), NOTHING)
    sink.close()
    np.testing.assert_allclose(levels_of(path), [20 + 10 * i for i in range(20)], atol=5)
    np.testing.assert_allclose(times_of(path), np.arange(20) / 30, atol=0.002)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@needs_pyav
@pytest.mark.parametrize("rate", [30.0, 1000.0, 90000.0, 0.0, None])
def test_the_times_are_the_medium_s_whatever_rate_is_claimed(
    tmp_path: Path, stream: RunInfo, rate: float | None
) -> None:
    times = [2.0, 2.04, 2.08, 3.5, 3.5, 9.25]  # variable, one twice, and not from 0 on
    sink = VideoFile(tmp_path / "out.mp4")
    sink.open(replace(stream, fps=rate))
    for i, t in enumerate(times):
        sink.write(frame(i, 40 * i, media_time=t), NOTHING)
    sink.close()
    np.testing.assert_allclose(times_of(tmp_path / "out.mp4"), np.subtract(times, 2.0), atol=0.001)
    np.testing.assert_allclose(levels_of(tmp_path / "out.mp4"), [0, 40, 80, 120, 160, 200], atol=5)


@needs_pyav
@pytest.mark.parametrize("rate", [10.0, 1000.0, 90000.0, None])
def test_a_live_video_has_the_times_at_which_frames_came(
    tmp_path: Path, camera_info: RunInfo, rate: float | None
) -> None:
    times = (0.0, 0.1, 0.5, 0.6, 30.0, 30.1)
    sink = VideoFile(tmp_path / "out.mp4")
    frames = [frame(i, 40 * i, captured=1000 + t) for i, t in enumerate(times)]
    record(sink, replace(camera_info, fps=rate), frames)
    np.testing.assert_allclose(times_of(tmp_path / "out.mp4"), times, atol=0.001)


def test_an_avi_keeps_the_pace_of_the_clock_by_its_rate(tmp_path: Path, camera_info: RunInfo) -> None:
    sink = VideoFile(tmp_path / "out.avi")
    frames = [frame(i, 50 * i, captured=1000 + t) for i, t in enumerate((0.0, 0.1, 0.5, 0.6))]
    record(sink, replace(camera_info, fps=10.0), frames)
    np.testing.assert_allclose(levels_of(tmp_path / "out.avi"), [0, 50, 50, 50, 50, 100, 150], atol=6)


def test_frames_of_another_size_keep_their_shape(tmp_path: Path, stream: RunInfo) -> None:
    sink = VideoFile(tmp_path / "out.mp4")
    sink.open(stream)
    for i, size in enumerate([(48, 64), (96, 64), (20, 80), (47, 63)]):
        sink.write(frame(i, 200, size), NOTHING)
    sink.close()
    video = cv2.VideoCapture(str(tmp_path / "out.mp4"))
    for height, width in [(48, 64), (48, 32), (16, 64), (47, 63)]:
        image = video.read()[1]
        assert image.shape == (48, 64, 3)
        bright = image[..., 0] > 100
        assert abs(np.count_nonzero(bright[24]) - width) <= 2
        assert abs(np.count_nonzero(bright[:, 32]) - height) <= 2


def test_an_odd_size_loses_no_pixel(tmp_path: Path, stream: RunInfo) -> None:
    sink = VideoFile(tmp_path / "out.mp4")
    sink.open(stream)
    sink.write(frame(0, 200, (49, 65)), NOTHING)
    sink.close()
    image = cv2.VideoCapture(str(tmp_path / "out.mp4")).read()[1]
    assert image.shape == (50, 66, 3)
    assert image[48, 64].min() > 150


def test_no_frame_no_file(tmp_path: Path, stream: RunInfo) -> None:
    sink = VideoFile(tmp_path / "out.mp4")
    sink.open(stream)
    assert list(tmp_path.iterdir()) == []
    sink.close()
    assert list(tmp_path.iterdir()) == []


@needs_pyav
def test_what_is_recorded_plays_while_it_grows(tmp_path: Path, camera_info: RunInfo) -> None:
    path = tmp_path / "out.mp4"
    sink = VideoFile(path)
    sink.open(camera_info)
    for i in range(100):
        sink.write(frame(i, 2 * i, captured=1000 + i / 10), NOTHING)
        until(lambda i=i: sink.written == i + 1)  # type: ignore[misc]
        if i % 7 == 0 and i > 10:  # a copy now is what a kill now leaves
            copy = tmp_path / "copy.mp4"
            copy.write_bytes(path.read_bytes())
            assert times_of(copy)[-1] > i / 10 - 0.8
    sink.close()
    assert len(times_of(path)) == 100


def test_an_older_video_is_replaced_only_by_a_whole_one(tmp_path: Path, stream: RunInfo) -> None:
    path = tmp_path / "out.mp4"
    path.write_bytes(b"old")
    for whole in (False, True):
        sink = VideoFile(path)
        sink.open(stream)
        sink.write(frame(0), NOTHING)
        until(lambda: sink.written)  # noqa: B023
        assert path.read_bytes() == b"old"
        sink.whole = whole  # as the pipeline says it: False after a failure or an interruption
        sink.close()
        assert (path.read_bytes() == b"old") != whole
        assert len(levels_of(tmp_path / "out-2.mp4")) == 1
    assert len(levels_of(path)) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out-2.mp4", "out.mp4"]


def test_a_live_run_never_overwrites_the_one_before(tmp_path: Path, camera_info: RunInfo) -> None:
    for n in range(3):
        sink, told = VideoFile(tmp_path / "out.mp4"), []
        sink.tell = told.append
        record(sink, camera_info, [frame(i, 60 * n) for i in range(2)])
        assert bool(told) == (n > 0)
    for n, name in enumerate(("out.mp4", "out-2.mp4", "out-3.mp4")):
        np.testing.assert_allclose(levels_of(tmp_path / name), [60 * n] * 2, atol=5)


@needs_pyav
def test_a_lost_camera_looks_lost(
    tmp_path: Path, camera_info: RunInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = OutputFile(tmp_path / "out.mp4", live=True)
    recording = Recorder(file, live=True, rate=None, began=lambda: None)
    clock = [1000.0]
    monkeypatch.setattr(recorder.time, "monotonic", lambda: clock[0])
    picture = np.full((240, 320, 3), 200, np.uint8)
    recording.picture(picture, 1000.0)
    recording.picture(picture, 1000.1)
    for clock[0] in (1001.0, 1005.0, 1006.0):  # silent: after a second that is no silence yet
        recording.tick()
    recording.lost("camera 0 is lost")
    clock[0] = 1008.0
    recording.tick()
    recording.picture(picture, 1009.0)
    recording.close()
    file.close(whole=True)
    np.testing.assert_allclose(
        times_of(tmp_path / "out.mp4"), [0, 0.1, 5, 6, 6 + 1 / 60000, 8, 9], atol=0.001
    )
    levels = levels_of(tmp_path / "out.mp4")
    assert [level > 150 for level in levels] == [True, True, False, False, False, False, True]


def test_a_slow_camera_is_not_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = OutputFile(tmp_path / "out.mp4", live=True)
    recording = Recorder(file, live=True, rate=None, began=lambda: None)
    for t in (1000.0, 1008.0, 1016.0):
        recording.picture(np.full((48, 64, 3), 200, np.uint8), t)
    monkeypatch.setattr(recorder.time, "monotonic", lambda: 1023.0)
    recording.tick()
    recording.close()
    file.close(whole=True)
    assert len(levels_of(tmp_path / "out.mp4")) == (3 if have_pyav() else 16 * 25 + 1)


def test_the_encoder_does_not_hold_a_live_source(
    tmp_path: Path, camera_info: RunInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on, plain = threading.Event(), Recorder.picture

    def slow(self: Recorder, image: Any, when: float) -> None:
        assert goes_on.wait(60)
        plain(self, image, when)

    monkeypatch.setattr(Recorder, "picture", slow)
    sink, told = VideoFile(tmp_path / "out.mp4"), []
    sink.tell = told.append
    sink.open(camera_info)
    for i in range(50):
        sink.write(frame(i, captured=1000 + i / 10), NOTHING)
    assert sink.missed >= 50 - 33
    goes_on.set()
    sink.close()
    assert sink.missed + sink.written == 50
    assert len(levels_of(tmp_path / "out.mp4")) == sink.written
    assert f"{sink.missed} frames not recorded" in told[-1].text


def test_an_encoder_that_hangs_is_given_up(
    tmp_path: Path, camera_info: RunInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgedet.contract.errors import SinkError
    from edgedet.runtime.sinks import video

    goes_on = threading.Event()
    monkeypatch.setattr(video, "_CLOSE", 0.1)
    monkeypatch.setattr(Recorder, "picture", lambda self, image, when: goes_on.wait(60))
    sink = VideoFile(tmp_path / "out.mp4")
    sink.open(camera_info)
    sink.write(frame(0), NOTHING)
    with pytest.raises(SinkError, match="did not end within"):
        sink.close()
    goes_on.set()
    until(lambda: not any(t.name == "edgedet_record" for t in threading.enumerate()))


class _FullAfter(OutputFile):
    """A disk with room for so many bytes; a real one is tried in tests/cli."""

    room = 20_000

    def write(self, data: bytes | bytearray | memoryview) -> None:
        fd, write = self.fd, os.write
        left = self.room - self._good

        def limited(to: int, part: Any) -> int:
            nonlocal left
            if to == fd and left <= 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            n = write(to, part[:left])
            left -= n
            return n

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("edgedet.runtime.sinks.outputs.os.write", limited)
            super().write(data)


@needs_pyav
@pytest.mark.parametrize("is_live", [False, True])
def test_a_full_disk_is_said_at_once_and_leaves_what_it_holds(
    tmp_path: Path, stream: RunInfo, is_live: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgedet.runtime.sinks.video.OutputFile", _FullAfter)
    path = tmp_path / "out.mp4"
    sink, told = VideoFile(path), []
    sink.tell = told.append
    sink.open(replace(stream, live=is_live))
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8)

    def go_on() -> None:
        for i in range(300):
            sink.write(Frame(noise.copy(), i, 1000 + i / 10, media_time=i / 10), NOTHING)
            time.sleep(0.001)

    if is_live:
        go_on()
        assert "disk is full" in told[0].text
    else:
        with pytest.raises(OutputError, match="disk is full"):
            go_on()
    with pytest.raises(OutputError, match="disk is full"):
        sink.close()
    assert 0 < path.stat().st_size <= _FullAfter.room
    times = times_of(path)
    assert len(times) > 2
    assert sink.written - len(times) <= 12  # a fragment


def test_without_pyav_it_is_said_and_still_written(
    tmp_path: Path, stream: RunInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("video", "recorder"):
        monkeypatch.setattr(f"edgedet.runtime.sinks.{module}.have_pyav", lambda: False)
    sink, told = VideoFile(tmp_path / "out.mp4"), []
    sink.tell = told.append
    record(sink, stream, [frame(i, 40 * i) for i in range(5)])
    assert "extra av" in told[0].text
    np.testing.assert_allclose(levels_of(tmp_path / "out.mp4"), [0, 40, 80, 120, 160], atol=5)


def test_opencv_stops_before_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgedet.runtime.sinks.backend_opencv._SPARE_BYTES", 1 << 60)
    (tmp_path / "out.avi").touch()
    writer = OpencvWriter(tmp_path / "out.avi", (48, 64), rate=None, live=False)
    with pytest.raises(OutputError, match="disk is full"):
        writer.write(np.zeros((48, 64, 3), np.uint8), 0.0)
    writer.close()


def test_an_unknown_kind_of_video_is_refused(tmp_path: Path, stream: RunInfo) -> None:
    with pytest.raises(OutputError, match=r"\.mp4"):
        VideoFile(tmp_path / "out.xyz").open(stream)


def test_the_source_is_not_overwritten(tmp_path: Path, stream: RunInfo) -> None:
    source = tmp_path / "clip.mp4"
    source.write_bytes(b"a clip")
    (tmp_path / "link.mp4").hardlink_to(source)
    sink = VideoFile(tmp_path / "link.mp4")
    with pytest.raises(UsageError, match="the source"):
        sink.open(replace(stream, inputs=(source,)))
    sink.close()
    assert source.read_bytes() == b"a clip"


def test_a_name_that_opencv_would_crash_on_is_refused(tmp_path: Path) -> None:
    from edgedet.runtime.sinks.backend_opencv import OpencvWriter
    from edgedet.runtime.sources.backend_opencv import OpenCVReader

    name = tmp_path / os.fsdecode(b"a\xff.avi")
    with pytest.raises(OutputError, match="its name is not UTF-8"):
        OpencvWriter(name, (32, 32), rate=25.0, live=False)
    with pytest.raises(SourceError, match="its name is not UTF-8"):
        OpenCVReader(name, timeout=1.0)
