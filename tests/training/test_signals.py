"""Signals end a run after its step, with the state saved; the same command goes on from there."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs torch (extra train)")
from training_runs import children, lines, start, train, wait_for  # noqa: E402

from edgedet.training.signals import Stopped, StopRequest  # noqa: E402

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
LONG = ("--epochs", "500", "--val-split", "none", "--state-every", "3")


@pytest.mark.parametrize(
    ("number", "group", "workers"),
    [(signal.SIGINT, True, "1"), (signal.SIGTERM, True, "1"), (signal.SIGHUP, False, "0")],
)
def test_the_state_is_saved_and_the_run_goes_on(
    voc: Path, tmp_path: Path, number: signal.Signals, group: bool, workers: str
) -> None:
    """To the whole group: Ctrl-C, a stopped service; its loaders must not die of it and break the step."""
    process = start(voc, tmp_path, *LONG, "--workers", workers)
    wait_for(process, lambda: len(lines(tmp_path / "steps.jsonl")) >= 3)
    (os.killpg if group else os.kill)(process.pid, number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + number, said
    taken = len(lines(tmp_path / "steps.jsonl"))
    assert f"stopped by {number.name} after step {taken}" in said.splitlines()[-1]
    assert "Traceback" not in said

    again = start(voc, tmp_path, *LONG, "--workers", workers)
    wait_for(again, lambda: len(lines(tmp_path / "steps.jsonl")) > taken)
    again.send_signal(signal.SIGTERM)
    said = again.communicate(timeout=60)[1]
    assert again.returncode == 128 + signal.SIGTERM
    assert f", step {taken}" in said


def test_before_the_first_step_nothing_is_kept(voc: Path, tmp_path: Path) -> None:
    """The folder is free for another run."""
    process = start(voc, tmp_path, "--workers", "1")
    wait_for(process, lambda: (tmp_path / ".lock").exists())
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    if not (tmp_path / "state.safetensors").exists():  # else it was quicker
        assert said.splitlines()[-1].endswith("before the first step. Nothing was kept.")
        assert train(voc, tmp_path, "--seed", "3", "--epochs", "1").returncode == 0


def test_a_stuck_loader_does_not_keep_a_stopped_run(voc: Path, tmp_path: Path) -> None:
    process = start(voc, tmp_path, *LONG, "--workers", "1")
    wait_for(process, lambda: len(lines(tmp_path / "steps.jsonl")) >= 3)
    for child in children(process.pid):
        os.kill(child, signal.SIGSTOP)
    process.send_signal(signal.SIGTERM)
    assert "stopped by SIGTERM after step" in process.communicate(timeout=60)[1]
    assert process.returncode == 143


def test_signals_wait_for_what_must_be_finished() -> None:
    before = signal.getsignal(signal.SIGTERM)
    stop = StopRequest()
    with stop.handled():
        with stop.deferred():
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.signal == signal.SIGTERM
            with pytest.raises(Stopped), stop.interrupting():
                pytest.fail("a wait that begins after the signal")
        with pytest.raises(Stopped, match="SIGTERM") as raised:
            os.kill(os.getpid(), signal.SIGHUP)
    assert raised.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_is_ignored_stays_ignored() -> None:
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        stop = StopRequest()
        with stop.handled():
            os.kill(os.getpid(), signal.SIGHUP)
        assert stop.signal is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_no_signal_is_lost_as_a_wait_begins() -> None:
    """It may come between any two lines of Python."""
    stop = StopRequest()

    def at_every_line(frame: object, event: str, arg: object) -> object:
        if stop.signal is None and stop._at_once is False and event == "line":
            seen.append(frame.f_lineno)  # type: ignore[attr-defined]
            if len(seen) == position:
                os.kill(os.getpid(), signal.SIGTERM)
        return at_every_line

    for position in range(1, 30):
        seen: list[int] = []
        stop.signal = None
        waited = False
        with stop.handled(), stop.deferred():
            try:
                sys.settrace(at_every_line)
                with stop.interrupting():
                    sys.settrace(None)
                    waited = True
            except Stopped:
                waited = False
            finally:
                sys.settrace(None)
        assert not (waited and stop.signal), f"a signal at step {position} was noted, and waited on"
    assert 1 < len(seen) < 29
