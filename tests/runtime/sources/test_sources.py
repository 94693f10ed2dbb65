"""Video files: all their frames, or a named error that says what is missing."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
from source_helpers import find_box, find_size, picture, read_all, read_until_error, write_video

from edgedet.contract.errors import SourceError
from edgedet.runtime import open_source
from edgedet.runtime.sources.containers import visible_share


def test_a_video_gives_all_its_frames_and_facts(bikes: Path, backend: str) -> None:
    source = open_source(bikes)
    assert (source.name, source.live, source.fps, source.frames) == ("bikes.mp4", False, 25, 250)
    frames = read_all(source)
    assert len(frames) == 250
    assert frames[0].shape == (272, 640, 3)


def test_a_video_is_read_into_the_buffer(bikes: Path) -> None:
    source = open_source(bikes)
    buffer = np.empty((272, 640, 3), np.uint8)
    first = source.read(buffer)
    assert first is buffer
    other = source.read(np.empty((10, 10, 3), np.uint8))
    assert other is not None
    assert other.shape == (272, 640, 3)  # a buffer that does not fit is left alone
    source.close()


@pytest.mark.parametrize("fill", ["noise", "zeros"])
def test_a_corrupt_last_frame_is_an_error_after_the_good_ones(
    bikes: Path, tmp_path: Path, fill: str, backend: str
) -> None:
    data = bytearray(bikes.read_bytes())
    start, size = find_box(data, b"mdat")
    end = start + size
    junk = (
        np.random.default_rng(0).integers(0, 256, 1500, np.uint8)
        if fill == "noise"
        else np.zeros(1500, np.uint8)
    )
    data[end - 1500 : end] = junk.tobytes()
    path = tmp_path / "corrupt.mp4"
    path.write_bytes(data)
    frames = read_until_error(
        open_source(path), SourceError, r"2 of 250 frames of the video corrupt\.mp4 are missing or corrupt"
    )
    assert frames == 248


def test_frames_after_a_corrupt_one_are_delivered(bikes: Path, tmp_path: Path, backend: str) -> None:
    data = bytearray(bikes.read_bytes())
    data[250_000:252_000] = np.random.default_rng(0).integers(0, 256, 2000, np.uint8).tobytes()
    path = tmp_path / "corrupt.mp4"
    path.write_bytes(data)
    frames = read_until_error(
        open_source(path),
        SourceError,
        r"frames of the video corrupt\.mp4 are missing or corrupt, the first near",
    )
    assert 200 < frames < 250


@pytest.mark.parametrize("codec", ["mp4v"])
@pytest.mark.parametrize("suffix", [".avi", ".mkv"])
def test_a_truncated_video_of_another_container(
    tmp_path: Path, suffix: str, codec: str, backend: str
) -> None:
    path = write_video(tmp_path / f"whole{suffix}", codec, frames=100)
    assert len(read_all(open_source(path))) == 100
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    frames = read_until_error(open_source(cut), SourceError, "missing or corrupt")
    assert 5 < frames < 60


def test_what_is_no_video_is_refused(tmp_path: Path, bikes: Path, backend: str) -> None:
    (tmp_path / "text.mp4").write_text("hello")
    (tmp_path / "headless.mp4").write_bytes(bikes.read_bytes()[:400_000])  # its index is at the end
    for name in ("text.mp4", "headless.mp4"):
        with pytest.raises(SourceError, match=f"Cannot open the video {name}"):
            open_source(tmp_path / name)
    with pytest.raises(SourceError, match="no source"):
        open_source(tmp_path / "absent.mp4")


@pytest.mark.parametrize("where", ["start", "end"])
def test_a_trimmed_video_is_whole(bikes: Path, tmp_path: Path, where: str, backend: str) -> None:
    """An edit list hides 50 frames: phones trim so. The container still counts them."""
    data = bytearray(bikes.read_bytes())
    at = data.index(b"elst", find_box(data, b"moov")[0]) + 12
    duration, media_time, rate = struct.unpack_from(">IiI", data, at)
    assert (duration, visible_share(bikes)) == (10_000, 1.0)
    shift = 2 * 12_800 if where == "start" else 0
    struct.pack_into(">IiI", data, at, duration - 2_000, media_time + shift, rate)
    path = tmp_path / "trimmed.mp4"
    path.write_bytes(data)
    assert visible_share(path) == pytest.approx(0.8, abs=0.001)
    assert len(read_all(open_source(path))) == 200


def test_the_share_of_what_is_no_mp4_is_one(tmp_path: Path) -> None:
    for i, content in enumerate((b"", b"text", b"\0\0\0\x10moov" + b"\xff" * 8, b"\0\0\0\0mdat")):
        path = tmp_path / f"{i}.mp4"
        path.write_bytes(content)
        assert visible_share(path) == 1.0


def test_opencv_and_ffmpeg_say_nothing(bikes: Path, tmp_path: Path) -> None:
    # in a process of its own: FFmpeg's log level is read once, when OpenCV first uses it
    (tmp_path / "headless.mp4").write_bytes(bikes.read_bytes()[:400_000])
    code = f"""
from edgedet.contract.errors import SourceError
from edgedet.runtime import open_source
for target in ({str(tmp_path / "headless.mp4")!r}, "99"):
    try:
        open_source(target)
    except SourceError:
        continue
    raise SystemExit(f"{{target}} was opened")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def announce(path: Path, width: int, height: int) -> Path:
    """A Motion-JPEG AVI whose frames' own headers claim a size."""
    data = bytearray(write_video(path, "MJPG", frames=5).read_bytes())
    at = 0
    while (at := data.find(b"\xff\xc0", at)) >= 0:
        struct.pack_into(">HH", data, at + 5, height, width)
        at += 2
    path.write_bytes(data)
    return path


def test_frames_of_more_than_100_million_pixels_are_refused(tmp_path: Path, backend: str) -> None:
    source = open_source(announce(tmp_path / "big.avi", 30_000, 30_000))
    assert read_until_error(source, SourceError, "No frame .* can be decoded.*more than 100 million pix") == 0


def test_a_header_of_more_than_100_million_pixels_is_refused(
    bikes: Path, tmp_path: Path, backend: str
) -> None:
    data = bytearray(bikes.read_bytes())
    at = data.index(b"avc1", find_box(data, b"moov")[0]) + 4 + 24
    assert struct.unpack_from(">HH", data, at) == (640, 272)
    struct.pack_into(">HH", data, at, 30_000, 30_000)
    path = tmp_path / "big.mp4"
    path.write_bytes(data)
    try:
        frames = read_all(open_source(path))
    except SourceError as e:
        assert "30000x30000, more than the 100 million pixels" in str(e)  # noqa: PT017
    else:  # the decoder has believed its own headers
        assert {f.shape for f in frames} == {(272, 640, 3)}


PLAYLISTS = {
    "hls.mp4": "#EXTM3U\n#EXTINF:1,\n{clip}\n#EXT-X-ENDLIST\n",
    "concat.mp4": "ffconcat version 1.0\nfile '{clip}'\n",
    "session.mp4": "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
}


@pytest.mark.parametrize("name", PLAYLISTS)
def test_a_file_opens_no_other_file(bikes: Path, tmp_path: Path, name: str, backend: str) -> None:
    (tmp_path / name).write_text(PLAYLISTS[name].format(clip=bikes))
    with pytest.raises(SourceError, match="is a playlist, which names other files"):
        open_source(tmp_path / name)


def test_text_is_no_picture(tmp_path: Path, backend: str) -> None:
    (tmp_path / "readme.txt").write_text("hello\n" * 500)
    with pytest.raises(SourceError, match=r"Cannot open the video readme\.txt"):
        open_source(tmp_path / "readme.txt")


@pytest.mark.parametrize(
    "url", ["subfile://x", "concat://a|b", "data://x", "cache://http://h/x", "ftp://h/x"]
)
def test_only_some_protocols_may_be_opened(url: str) -> None:
    with pytest.raises(SourceError, match=r"protocol of .* cannot be opened.*rtsp://, .*file://"):
        open_source(url)


@pytest.mark.parametrize("name", ["clip.mp4", "picture.jpg"])
def test_a_pipe_or_a_device_is_no_source(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    for path in (tmp_path / name, "/dev/zero", "/dev/null"):
        with pytest.raises(SourceError, match="neither a file nor a folder nor a camera"):
            open_source(path)


def test_a_video_names_its_file_and_its_times(bikes: Path, backend: str) -> None:
    source = open_source(bikes)
    times = []
    while source.grab():
        times.append(source.media_time)
    assert (source.file, source.paths) == (str(bikes), (bikes,))
    np.testing.assert_allclose(times, np.arange(250) / 25, atol=1e-6)


def test_times_of_a_variable_rate_are_the_clips_own(tmp_path: Path, backend: str) -> None:
    """The first 20 of 60 frames are made to last three times as long."""
    path = write_video(tmp_path / "variable.mp4", "mp4v")
    data = bytearray(path.read_bytes())
    at = data.index(b"stts", find_box(data, b"moov")[0])
    following = at + 20  # one entry; the box that follows gives way, which no reader needs
    assert data[following + 4 : following + 8] == b"stss"
    spare, (step,) = find_size(data, following), struct.unpack_from(">I", data, at + 16)
    struct.pack_into(">I", data, at - 4, 32)
    struct.pack_into(">IIIII", data, at + 8, 2, 20, 3 * step, 40, step)
    struct.pack_into(">I4s", data, following + 8, spare - 8, b"free")
    edits = data.index(b"edts", find_box(data, b"moov")[0])  # which would end it earlier
    data[edits : edits + 4] = b"free"
    path.write_bytes(data)
    source = open_source(path)
    times = []
    while source.grab():
        times.append(source.media_time)
    steps = [3 / 25] * 20 + [1 / 25] * 39
    np.testing.assert_allclose(times, np.cumsum([0, *steps]), atol=1e-3)


def test_a_video_without_a_picture_says_so(tmp_path: Path, backend: str) -> None:
    path = tmp_path / "sound.avi"
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(16000))
    with pytest.raises(SourceError, match="video"):
        open_source(path)


def test_damaged_clips_end_in_named_errors(bikes: Path, tmp_path: Path, backend: str) -> None:
    whole = [bikes, write_video(tmp_path / "a.avi", "MJPG", 20), write_video(tmp_path / "b.mkv", "mp4v", 20)]
    rng = np.random.default_rng(5)
    outcomes = []
    for i in range(45):
        data = bytearray(whole[i % 3].read_bytes())
        if i % 4 == 0:
            del data[int(rng.integers(1, len(data))) :]
        head = i % 2 == 0  # where the structure is
        for at in rng.integers(0, min(len(data), 2000) if head else len(data), 30):
            data[at] = rng.integers(0, 256)
        path = tmp_path / f"damaged{whole[i % 3].suffix}"
        path.write_bytes(data)
        try:
            outcomes.append(len(read_all(open_source(path))))
        except SourceError:
            outcomes.append(-1)
    assert -1 in outcomes
    assert max(outcomes) <= 260


@pytest.mark.parametrize("suffix", [".mkv", ".avi", ".mp4", ".mov"])
def test_sound_that_is_longer_than_the_picture_is_no_damage(
    tmp_path: Path, suffix: str, backend: str
) -> None:
    av = pytest.importorskip("av", reason="needs PyAV (extra: av) to write sound")
    path = tmp_path / f"clip{suffix}"
    with av.open(str(path), "w") as out:
        picture_stream = out.add_stream("mpeg4", rate=25)
        picture_stream.width, picture_stream.height, picture_stream.pix_fmt = 80, 60, "yuv420p"
        sound_stream = out.add_stream("mp2", rate=48_000)
        for i in range(25):
            frame = av.VideoFrame.from_ndarray(picture(i), format="bgr24")
            out.mux(picture_stream.encode(frame))
        out.mux(picture_stream.encode(None))
        silence = av.AudioFrame.from_ndarray(
            np.zeros((1, 2 * 48_000 * 5), np.int16), format="s16", layout="stereo"
        )
        silence.rate = 48_000
        out.mux(sound_stream.encode(silence))
        out.mux(sound_stream.encode(None))
    assert len(read_all(open_source(path))) == 25


def test_a_truncated_gif_is_told(tmp_path: Path, backend: str) -> None:
    av = pytest.importorskip("av", reason="needs PyAV (extra: av) to write a GIF")
    path = tmp_path / "clip.gif"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("gif", rate=10)
        stream.width, stream.height, stream.pix_fmt = 80, 60, "rgb8"
        for i in range(10):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture(i), format="bgr24")))
        out.mux(stream.encode(None))
    assert len(read_all(open_source(path))) == 10
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    assert 3 < read_until_error(open_source(path), SourceError, "truncated, its end is missing") < 10
