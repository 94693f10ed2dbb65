"""A forked child has its parent's predictor, but none of the threads that answer: it is told, and ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ENGINES = ["openvino", "onnxruntime"]

FORKED = """
import os, sys, threading
import numpy as np
from edgedet.contract.errors import EngineError
from edgedet.contract.frames import Frame
from edgedet.runtime import open_predictor

image = np.full((48, 64, 3), 100, np.uint8)
predictor = open_predictor(sys.argv[1], engine=sys.argv[2], in_flight=2)
predictor(image)
held = predictor.submit([Frame(image)])
slot = predictor.reserve()
busy = threading.Event()
locked = threading.Thread(target=lambda: (predictor._slots._changed.acquire(), busy.set(), stop.wait()))
stop = threading.Event()
locked.start()  # a lock of its own, held by a thread that the child has not
busy.wait()
child = os.fork()
if child == 0:
    calls = (lambda: predictor(image), predictor.reserve, lambda: predictor.collect(held),
             lambda: predictor.submit([Frame(image)], slot), lambda: predictor.release(slot))
    for call in calls:
        try:
            call()
        except EngineError as e:
            assert "opened in another process" in e.message, e
        else:
            os._exit(3)
    predictor.close()
    os._exit(7)
_, status = os.waitpid(child, 0)
os._exit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("engine", ENGINES)
def test_a_forked_child_is_told(brightness: Path, engine: str) -> None:
    pytest.importorskip(engine)
    command = [sys.executable, "-W", "ignore", "-c", FORKED, str(brightness), engine]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (7, "")


UNCAUGHT = """
import os, sys, time, numpy as np
from edgedet.runtime import open_predictor
predictor = open_predictor(sys.argv[1], engine=sys.argv[2])
picture = np.zeros((48, 64, 3), np.uint8)
predictor(picture)
if not (child := os.fork()):
    predictor(picture)
for _ in range(400):
    if os.waitpid(child, os.WNOHANG)[0]:
        os._exit(0)
    time.sleep(0.05)
os.kill(child, 9)
os._exit(1)
"""


@pytest.mark.parametrize("engine", ENGINES)
def test_a_forked_child_that_ends_by_the_error_ends(brightness: Path, engine: str) -> None:
    """The engines' libraries would wait at its exit for threads that it does not have."""
    pytest.importorskip(engine)
    command = [sys.executable, "-W", "ignore", "-c", UNCAUGHT, str(brightness), engine]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "EngineError: The predictor of 'brightness' was opened in another process" in done.stderr
