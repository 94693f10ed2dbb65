"""Signals in real processes: the first ends a run whole, the second as usual; what was ignored stays so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, signal, sys, threading, time
from edgedet.contract.errors import EdgedetError
from edgedet.runtime import CpuPredictor, Pipeline
sys.path.insert(0, sys.argv[1])
from chaos_engine import ChaosEngine, ChaosSink, ChaosSource, Faults, boxes_spec

number, place, times = int(sys.argv[2]), sys.argv[3], int(sys.argv[4])

def kill(once=[]):
    for _ in range(0 if once else times):
        once.append(1)
        os.kill(os.getpid(), number)
        time.sleep(0.05)

class Sink(ChaosSink):
    def open(self, stream):
        print("open", flush=True)
        if place == "open":
            kill()
    def write(self, frame, result):
        super().write(frame, result)
        if place == "write" and frame.index == 3:
            kill()
        if place == "hang" and frame.index == 3:
            threading.Timer(0.1, kill).start()
            time.sleep(60)
    def close(self):
        if place == "close":
            kill()
        print("closed", len(self.frames), flush=True)

faults = Faults({})
source = ChaosSource(faults, 60 if place in ("close", "after") else 10**9, live=place == "live")
with CpuPredictor(ChaosEngine(boxes_spec(1), faults)) as predictor:
    pipeline = Pipeline(source, predictor, [Sink(faults), Sink(faults)])
    if place == "before":
        pipeline.stop()
    if place == "live":
        threading.Timer(0.2, kill).start()
    if sys.argv[5:] == ["ignored"]:
        threading.Timer(0.4, pipeline.stop).start()
    if number == signal.SIGINT:  # which a shell's background job ignores
        signal.signal(number, signal.default_int_handler)
    before = signal.getsignal(number)
    try:
        report = pipeline.run()
        print("signal", report.signal, signal.getsignal(number) == before, source.closed, flush=True)
    except KeyboardInterrupt:
        print("interrupted", source.closed, flush=True)
    if place == "after":
        kill()
print("end", [t.name for t in threading.enumerate() if t.name.startswith("edgedet")], faults.misuse)
"""

NUMBERS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")


def run(number: int, place: str, times: int = 1, *more: str) -> tuple[int, list[str]]:
    """Exit code, and lines; a run that hangs fails the test."""
    fixtures = Path(__file__).resolve().parents[1] / "fixtures"
    command = [sys.executable, "-c", PROGRAM, str(fixtures), str(int(number)), place, str(times), *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout.splitlines()


@pytest.mark.parametrize("number", NUMBERS, ids=lambda n: n.name)
@pytest.mark.parametrize("place", ["open", "write", "live", "close"])
def test_the_first_ends_it_whole(number: signal.Signals, place: str) -> None:
    code, lines = run(number, place)
    assert code == 0
    opened = 1 if place == "open" else 2  # what need not be opened is not
    assert lines[:opened] == ["open"] * opened
    closed = [line for line in lines if line.startswith("closed")]
    assert len(closed) == opened
    assert len(set(closed)) == 1  # both sinks have the same frames
    assert f"signal {int(number)} True 1" in lines
    assert lines[-1] == "end [] []"


@pytest.mark.parametrize("place", ["open", "write", "close", "hang"])
def test_the_second_interrupts_and_all_is_closed(place: str) -> None:
    code, lines = run(signal.SIGINT, place, 2)
    assert code == 0
    assert len([line for line in lines if line.startswith("closed")]) >= 1
    assert "interrupted 1" in lines
    assert lines[-1] == "end [] []"


@pytest.mark.parametrize("number", [n for n in NUMBERS if n != signal.SIGINT], ids=lambda n: n.name)
def test_the_second_kills_as_it_would_have(number: signal.Signals) -> None:
    code, _ = run(number, "write", 2)
    assert code == -number


@pytest.mark.parametrize("number", [n for n in NUMBERS if n != signal.SIGINT], ids=lambda n: n.name)
def test_a_signal_after_the_run_is_as_usual(number: signal.Signals) -> None:
    code, lines = run(number, "after")
    assert code == -number
    assert "signal None True 1" in lines


def test_nohup_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        code, lines = run(signal.SIGHUP, "live", 1, "ignored")
    finally:
        signal.signal(signal.SIGHUP, before)
    assert code == 0
    assert "signal None True 1" in lines


def test_a_stop_before_it_begins() -> None:
    code, lines = run(signal.SIGTERM, "before")
    assert (code, lines) == (0, ["signal None True 1", "end [] []"])
