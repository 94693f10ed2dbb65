"""The processes that load images: what they need, and that each way in which they fail ends the wait."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs torch (extra train)")
from training_runs import ENVIRONMENT, children, command, lines, start, wait_for  # noqa: E402

from edgedet.contract.errors import EmptyDataset, TrainingError, UsageError  # noqa: E402
from edgedet.data import open_dataset  # noqa: E402
from edgedet.data.augment import segmentation_transform  # noqa: E402
from edgedet.training import batches  # noqa: E402
from edgedet.training.batches import Loader, Order, Samples  # noqa: E402
from edgedet.training.failures import named  # noqa: E402
from edgedet.training.processes import join  # noqa: E402

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc, or needs its /dev/shm")
MOUNT = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs -o size="$0" tmpfs /dev/shm && exec "$@"']


@pytest.fixture(scope="module")
def own_shm() -> None:
    if subprocess.run([*MOUNT, "1m", "true"], capture_output=True).returncode:
        pytest.skip("this user cannot mount a /dev/shm of their own")


def with_shm(size: str, call: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*MOUNT, size, sys.executable, *call], env=ENVIRONMENT, capture_output=True, text=True, timeout=120
    )


def test_batches_need_no_shared_memory(own_shm: None, voc: Path, tmp_path: Path) -> None:
    """64 KiB hold the semaphores, and not one batch of 96 KiB."""
    done = with_shm("64k", command(voc, tmp_path, "--workers", "1", "--batch", "8", "--epochs", "1"))
    assert done.returncode == 0, done.stderr
    assert len(lines(tmp_path / "steps.jsonl")) == 1


def test_no_room_for_semaphores_is_said(own_shm: None, voc: Path, tmp_path: Path) -> None:
    done = with_shm("4k", command(voc, tmp_path, "--workers", "1"))
    assert done.returncode == 1
    assert "error [TrainingError]: Cannot start 1 processes that load images" in done.stderr
    assert "/dev/shm" in done.stderr
    assert "--workers 0" in done.stderr
    assert "Traceback" not in done.stderr
    done = with_shm("4k", command(voc, tmp_path, "--workers", "0", "--epochs", "1"))  # in the same folder
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGBUS])
def test_a_loader_that_dies_ends_the_run(voc: Path, tmp_path: Path, number: signal.Signals) -> None:
    process = start(voc, tmp_path, "--workers", "1", "--epochs", "500", "--state-every", "2")
    wait_for(process, lambda: (tmp_path / "state.safetensors").exists() and bool(children(process.pid)))
    os.kill(children(process.pid)[0], number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert "error [TrainingError]: A process that loads images died" in said
    assert "Traceback" not in said


@pytest.fixture
def samples(masks: Path) -> Samples:
    transform = segmentation_transform((16, 24), train=False, fill=(0, 0, 0))
    return Samples(open_dataset(f"masks:{masks}", "all"), transform, seed=0)


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # on one core
def test_a_loader_that_stalls_ends_the_wait(samples: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a disk that does not answer."""
    monkeypatch.setattr(batches, "STALLED_S", 2.0)
    monkeypatch.setattr(type(samples.source), "load", lambda source, index, **options: time.sleep(3600))
    loader = Loader(samples, Order(6, 2, seed=0), 1)
    try:
        with pytest.raises(TrainingError, match="No batch came from the loader processes"), named(1):
            list(loader)
    finally:
        loader.close()
    assert not children(os.getpid())


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # on one core
@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_keeps_its_name_on_the_way(samples: Samples, masks: Path, workers: int) -> None:
    for file in (masks / "images").iterdir():
        file.write_bytes(b"no picture")
    loader = Loader(samples, Order(6, 2, seed=0), workers)
    try:
        with pytest.raises(EmptyDataset, match="can be used; the first error") as raised:
            list(loader)
        assert "Traceback" not in str(raised.value)
    finally:
        loader.close()


def test_the_other_processes_end_when_one_dies(voc: Path, tmp_path: Path) -> None:
    """No launcher here that would end them: each sees for itself that the other is gone."""
    port = str(20000 + os.getpid() % 20000)
    ranks = []
    more = ("--epochs", "500", "--state-every", "2")
    for rank in ("0", "1"):
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "RANK": rank}
        ranks.append(
            subprocess.Popen(
                [sys.executable, *command(voc, tmp_path, *more, "--val-split", "none")],
                env=ENVIRONMENT | place,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    wait_for(ranks[0], lambda: (tmp_path / "state.safetensors").exists())
    ranks[1].kill()
    said = ranks[0].communicate(timeout=60)[1]
    ranks[1].communicate()
    assert ranks[0].returncode == 1, said
    assert "error [TrainingError]: Another of the 2 processes of this run ended" in said
    assert "Traceback" not in said


def test_a_signal_to_one_process_stops_all_after_the_same_step(voc: Path, tmp_path: Path) -> None:
    port = str(20001 + os.getpid() % 20000)
    ranks = []
    more = ("--epochs", "500", "--state-every", "2")
    for rank in ("0", "1"):
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "RANK": rank}
        ranks.append(
            subprocess.Popen(
                [sys.executable, *command(voc, tmp_path, *more)],
                env=ENVIRONMENT | place,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    wait_for(ranks[0], lambda: (tmp_path / "state.safetensors").exists())
    ranks[1].send_signal(signal.SIGTERM)
    said = [rank.communicate(timeout=60)[1].splitlines()[-1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [143, 143], said
    assert said[0] == said[1]
    assert f"stopped by SIGTERM after step {len(lines(tmp_path / 'steps.jsonl'))}," in said[0]


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ({"WORLD_SIZE": ""}, "WORLD_SIZE is '', expected a number"),
        ({"WORLD_SIZE": "2", "RANK": "-1"}, "RANK is '-1', expected a number"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "WORLD_SIZE is 2, but .*MASTER_ADDR"),
    ],
)
def test_an_environment_that_is_not_torchruns(
    monkeypatch: pytest.MonkeyPatch, place: dict[str, str], said: str
) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=said), join("cpu"):
        pytest.fail("it joined")


def test_a_library_that_is_no_package_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system's OpenCV, say."""
    from importlib import metadata

    from edgedet.cli.train import versions

    known = metadata.version

    def version(name: str) -> str:
        if "opencv" in name:
            raise metadata.PackageNotFoundError(name)
        return known(name)

    monkeypatch.setattr(metadata, "version", version)
    assert versions()["opencv-contrib-python-headless"] == "not installed as a package"
    assert versions()["numpy"] == known("numpy")
