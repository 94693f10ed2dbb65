"""A live camera: MJPEG over HTTP on this machine, read through FFmpeg as any network camera is."""

from __future__ import annotations

import contextlib
import functools
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgedet.contract.errors import SourceError
from edgedet.contract.frames import Frame, Image, Notice
from edgedet.contract.results import Detections, Result
from edgedet.runtime import (
    Callback,
    CpuPredictor,
    JsonLines,
    Pipeline,
    VideoFile,
    open_predictor,
    open_source,
)
from edgedet.runtime.sources.live import Live

Camera = Callable[..., Any]


@pytest.fixture(scope="module")
def predictor(brightness: Path) -> Iterator[CpuPredictor]:
    with open_predictor(brightness) as opened:
        yield opened


def grey(level: float, size: tuple[int, int] = (48, 64)) -> Image:
    return np.full((*size, 3), round(255 * level), np.uint8)


def steady(level: float, size: tuple[int, int] = (48, 64), count: int | None = None) -> Iterator[Any]:
    for _ in itertools.count() if count is None else range(count):
        yield grey(level, size)
        yield 0.01


def test_frames_of_a_network_camera(camera: Camera, predictor: CpuPredictor, backend: str) -> None:
    server = camera(lambda connection: steady(0.5))
    source = open_source(server.url)
    assert source.live
    assert source.frames is None
    scores: list[float] = []

    def keep(frame: Frame, result: Result) -> None:
        assert isinstance(result, Detections)
        scores.append(float(result.scores[0]))

    report = Pipeline(source, predictor, [Callback(keep)], limit=20).run()
    assert report.frames == 20
    np.testing.assert_allclose(scores, 0.5, atol=0.02)
    assert server.connections == 1
    assert report.notices == ()


def test_a_lost_camera_comes_back_in_another_size(
    camera: Camera, predictor: CpuPredictor, tmp_path: Path, backend: str
) -> None:
    sizes = [(48, 64), (96, 128), (48, 64)]
    server = camera(lambda n: steady(0.2 + 0.2 * n, sizes[min(n, 2)], 15 if n < 2 else None))
    said: list[Notice] = []
    seen: list[tuple[tuple[int, ...], float]] = []

    def keep(frame: Frame, result: Result) -> None:
        assert isinstance(result, Detections)
        seen.append((frame.image.shape[:2], round(float(result.scores[0]), 1)))

    video, lines = tmp_path / "out.mp4", tmp_path / "out.jsonl"
    sinks = [Callback(keep), VideoFile(video), JsonLines(lines)]
    pipeline = Pipeline(open_source(server.url), predictor, sinks, limit=35, notify=said.append)
    report = pipeline.run()
    assert server.connections == 3
    assert {(s, v) for s, v in seen} == {((48, 64), 0.2), ((96, 128), 0.4), ((48, 64), 0.6)}
    kinds = ["lost", "back", "size"] if backend == "av" else ["lost", "back"]
    assert [s.kind for s in said] == kinds * 2
    assert report.notices == tuple(said)
    assert sum('"notice"' in line for line in lines.read_text().splitlines()) == len(said)
    check = cv2.VideoCapture(str(video))
    assert (check.get(cv2.CAP_PROP_FRAME_WIDTH), check.get(cv2.CAP_PROP_FRAME_HEIGHT)) == (64, 48)
    assert check.get(cv2.CAP_PROP_FRAME_COUNT) > 0
    check.release()


def test_a_pause_is_waited_out(camera: Camera, predictor: CpuPredictor, backend: str) -> None:
    def pausing(connection: int) -> Iterator[Any]:
        yield from steady(0.3, count=10)
        yield 0.6
        yield from steady(0.6)

    report = Pipeline(open_source(camera(pausing).url), predictor, limit=25).run()
    assert report.notices == ()
    assert report.frames == 25


def test_a_camera_that_stays_away_is_an_error_after_its_frames(
    camera: Camera, predictor: CpuPredictor, backend: str
) -> None:
    server = camera(lambda n: steady(0.5, count=12 if n == 0 else 0))
    seen: list[int] = []
    pipeline = Pipeline(
        open_source(server.url, timeout=2, reconnects=2),
        predictor,
        [Callback(lambda frame, result: seen.append(frame.index))],
    )
    with pytest.raises(SourceError, match=r"^capture: http://.* is lost, and 2 tries"):
        pipeline.run()
    assert seen
    assert server.connections == 3
    assert [n.kind for n in pipeline.report().notices if n.kind != "note"] == ["lost"]


def test_no_reconnects_if_none_are_wanted(camera: Camera, predictor: CpuPredictor, backend: str) -> None:
    server = camera(lambda n: steady(0.5, count=12))
    with pytest.raises(SourceError, match="is lost"):
        Pipeline(open_source(server.url, reconnects=0), predictor).run()
    assert server.connections == 1


def test_stop_ends_the_wait_for_a_lost_camera(camera: Camera, predictor: CpuPredictor, backend: str) -> None:
    server = camera(lambda n: steady(0.5, count=12 if n == 0 else 0))
    lost = threading.Event()

    def notify(notice: Notice) -> None:
        if notice.kind == "lost":
            lost.set()

    source = open_source(server.url, timeout=2)
    pipeline = Pipeline(source, predictor, notify=notify)

    def end() -> None:
        lost.wait(60)
        pipeline.stop()

    thread = threading.Thread(target=end)
    thread.start()
    report = pipeline.run()
    thread.join()
    assert lost.is_set()
    assert report.frames > 0


def closed_port() -> int:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        return int(closed.getsockname()[1])


@pytest.mark.parametrize("scheme", ["http", "rtsp"])
def test_a_refusal_is_an_error_that_says_so(scheme: str, backend: str) -> None:
    with pytest.raises(SourceError, match=rf"Cannot open {scheme}://127.0.0.1.*refuses the conn") as caught:
        open_source(f"{scheme}://user:secret@127.0.0.1:{closed_port()}/live", reconnects=0)
    assert "secret" not in str(caught.value)
    assert "within" not in str(caught.value)


def test_a_server_that_never_answers_is_given_up(backend: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        with pytest.raises(SourceError, match="no answer within 1 s"):
            open_source(f"http://127.0.0.1:{silent.getsockname()[1]}/live", timeout=1, reconnects=0)
        assert time.monotonic() - began < 60  # the default of FFmpeg is to wait for ever


def test_an_absent_camera_is_an_error() -> None:
    with pytest.raises(SourceError, match=r"Cannot open camera 99\..*plugged in"):
        open_source("99")


def test_a_video_on_a_web_server_is_no_live_source(tmp_path: Path) -> None:
    writer = cv2.VideoWriter(
        str(tmp_path / "clip.avi"), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"MJPG"), 25, (64, 48)
    )
    for i in range(40):
        writer.write(grey(i / 40))
    writer.release()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def copyfile(self, source: Any, outputfile: Any) -> None:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                super().copyfile(source, outputfile)

    handler = functools.partial(Quiet, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            source = open_source(f"http://127.0.0.1:{server.server_port}/clip.avi")
            assert not source.live
            assert source.frames == 40
            count = 0
            while source.read() is not None:
                count += 1
            source.close()
        finally:
            server.shutdown()
            thread.join()
    assert count == 40


def test_a_camera_that_is_not_there_yet_is_waited_for(
    camera: Camera, predictor: CpuPredictor, backend: str
) -> None:
    port = closed_port()
    started: list[Any] = []
    said: list[Notice] = []

    def notify(notice: Notice) -> None:
        said.append(notice)
        if not started:
            started.append(camera(lambda n: steady(0.5), port))

    source = open_source(f"http://127.0.0.1:{port}/live.mjpg")
    assert source.live
    report = Pipeline(source, predictor, limit=5, notify=notify).run()
    assert report.frames == 5
    kinds = [n.kind for n in said if n.kind != "note"]
    assert kinds == ["lost", "back"]
    assert "refuses the connection; nothing listens there; waiting for it" in said[0].text


def garbage(count: int | None = None) -> Iterator[Any]:
    for _ in itertools.count() if count is None else range(count):
        yield b"\xff\xd8 this is no picture \xff\xd9"
        yield 0.02


FAILURES: dict[str, Callable[[], Iterator[Any]]] = {
    "ends at once": lambda: iter(()),
    "one frame, then the end": lambda: steady(0.5, count=1),
    "nothing that can be decoded": garbage,
    "silence": lambda: iter([30.0]),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_every_failure_of_a_stream_is_followed_by_longer_pauses(
    camera: Camera, failure: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    server = camera(lambda n: steady(0.5, count=5) if n == 0 else FAILURES[failure]())
    source = open_source(server.url, timeout=0.5)
    assert isinstance(source, Live)

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 6:
            source.stop()

    monkeypatch.setattr(source, "_sleep", sleep)
    while source.grab():
        pass
    source.close()
    assert pauses[0] == 0.0
    for i, pause in enumerate(pauses[1:]):
        assert 0.25 * 2**i <= pause <= 0.5 * 2**i
    assert server.connections <= 7


def test_tries_begin_anew_after_it_delivered_for_a_while(
    camera: Camera, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    monkeypatch.setattr("edgedet.runtime.sources.live._PROOF", 0.2)
    server = camera(lambda n: steady(0.5, count=40))
    source = open_source(server.url, reconnects=1)
    for _ in range(100):  # three connections, and never two failures in a row
        assert source.grab()
    source.close()


def test_a_stalled_camera_is_lost_and_the_wait_can_be_ended(camera: Camera, backend: str) -> None:
    def stalling(connection: int) -> Iterator[Any]:
        yield from steady(0.5, count=5)
        yield 30.0

    said: list[Notice] = []
    source = open_source(camera(stalling).url, timeout=1)

    def notify(notice: Notice) -> None:
        said.append(notice)
        source.stop()

    source.notify = notify
    while source.grab():
        pass
    source.close()
    assert [n.kind for n in said] == ["lost"]
    assert "nothing came for 1 s" in said[0].text


def test_frames_come_in_their_own_size(camera: Camera, backend: str) -> None:
    def growing(connection: int) -> Iterator[Any]:
        yield from steady(0.5, (48, 64), 10)
        yield from steady(0.5, (96, 128))

    said: list[Notice] = []
    source = open_source(camera(growing).url)
    source.notify = said.append
    shapes = [image.shape for _ in range(30) if (image := source.read()) is not None]
    source.close()
    if backend == "opencv":  # which scales, and does not say so
        assert set(shapes) == {(48, 64, 3)}
        return
    assert shapes == [(48, 64, 3)] * 10 + [(96, 128, 3)] * 20
    assert [(n.kind, n.text.partition("now")[2]) for n in said] == [("size", " sends 128x96, before 64x48")]


def test_frames_that_cannot_be_decoded_are_counted_and_said_once(camera: Camera) -> None:
    pytest.importorskip("av", reason="OpenCV does not tell")

    def damaged(connection: int) -> Iterator[Any]:
        yield from steady(0.5, count=5)
        yield from garbage(4)
        yield from steady(0.5)

    said: list[Notice] = []
    source = open_source(camera(damaged).url)
    source.notify = said.append
    for _ in range(20):
        assert source.grab()
    source.close()
    assert source.lost == 4
    assert [n.kind for n in said] == ["damaged"]


class Answers(ThreadingHTTPServer):
    """A server that answers every request with one status."""

    def __init__(self, status: int) -> None:
        class Handler(SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_error(status)

            def log_message(self, format: str, *args: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)


@pytest.mark.parametrize(("status", "said"), [(401, "does not let us in"), (404, "no such stream")])
def test_an_answer_that_refuses_is_told_as_it_is(status: int, said: str) -> None:
    pytest.importorskip("av", reason="OpenCV does not tell")
    with Answers(status) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            with pytest.raises(SourceError, match=rf"{said}.*\({status}\)"):
                open_source(f"http://127.0.0.1:{server.server_port}/live?token=secret")
        finally:
            server.shutdown()
            thread.join()
