from __future__ import annotations

import pytest

from edgedet.export.graph import to_bytes, with_spec
from edgedet.export.latency import WARM_UP, side_by_side
from edgedet.runtime import Engine, open_engine


class Noting:
    """A real engine whose turns are noted."""

    def __init__(self, engine: Engine, log: list[str], name: str) -> None:
        self.engine, self.spec, self.log, self.name = engine, engine.spec, log, name

    def infer(self, inputs):
        self.log.append(self.name)
        return self.engine.infer(inputs)


@pytest.fixture
def engine(exported, tmp_path):
    path = tmp_path / "yolo.onnx"
    path.write_bytes(to_bytes(with_spec(exported.graphs.decoded(), exported.graphs.decoded_spec)))
    with open_engine(path, engine="onnxruntime") as opened:
        yield opened


def test_engines_take_turns(engine):
    log: list[str] = []
    found = side_by_side({name: Noting(engine, log, name) for name in "abc"}, rounds=7, seconds=600)
    assert {f.runs for f in found.values()} == {7}
    rounds = [log[i : i + 3] for i in range(0, len(log), 3)]
    assert len(rounds) == 7 + WARM_UP
    assert all(sorted(r) == ["a", "b", "c"] for r in rounds)
    assert {r[0] for r in rounds} == {"a", "b", "c"}, "each is first at times"
    assert all(0 < f.p50 <= f.p99 for f in found.values())


def test_it_stops_in_time(engine):
    assert side_by_side({"a": engine}, rounds=10**9, seconds=0.0)["a"].runs == 1
    assert side_by_side({}) == {}
