from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edgedet.contract.errors import EngineError, SpecError
from edgedet.contract.spec import Decode, Input, ModelSpec, Output
from edgedet.runtime.engines.plan_spec import SEARCHED, read_plan_spec

SPEC = ModelSpec(
    model="yolo",
    task="detection",
    input=Input("images", 64, 96, (0.5,) * 3, (0.25,) * 3),
    outputs=(Output("grid", "grid", (None, 13, 2, 3)),),
    decode=Decode("yolo", {"boxes_per_cell": 2}),
    classes=("cat", "Hündchen"),
    build={"library": "tensorrt_rtx", "version": "1.7"},
)


def plan(tmp_path: Path, *parts: bytes) -> Path:
    path = tmp_path / "a.plan"
    path.write_bytes(b"".join(parts))
    return path


def test_the_spec_is_found_among_bytes(tmp_path):
    noise = bytes(range(256)) * 3
    text = SPEC.to_json().encode()
    assert read_plan_spec(plan(tmp_path, noise, text, noise)) == SPEC
    # a piece that begins alike but is none
    assert read_plan_spec(plan(tmp_path, noise, b'{"build":{}}', b'{"build": 1', noise, text, noise)) == SPEC


def test_no_spec(tmp_path):
    for parts in ([b""], [b"\0" * 5000], [b"\0" * SEARCHED, SPEC.to_json().encode()], [b'{"build":{}}']):
        with pytest.raises(SpecError, match="carries no edgedet spec"):
            read_plan_spec(plan(tmp_path, *parts))
    with pytest.raises(EngineError, match="No such file"):
        read_plan_spec(tmp_path / "none.plan")


def test_a_spec_of_another_version(tmp_path):
    text = SPEC.to_json().replace('"spec_version":1', '"spec_version":99').encode()
    with pytest.raises(SpecError, match="version 99"):
        read_plan_spec(plan(tmp_path, text))


def test_neither_tensorrt_nor_torch_is_loaded(tmp_path):
    path = plan(tmp_path, SPEC.to_json().encode())
    code = (
        "import sys; from pathlib import Path; from edgedet.runtime.engines.plan_spec import read_plan_spec;"
        "read_plan_spec(Path(sys.argv[1]));"
        "assert not {'tensorrt', 'tensorrt_rtx', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
