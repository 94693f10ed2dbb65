"""The ModelSpec inside a TensorRT plan, read without TensorRT and without deserializing.

The spec is the network's name, which stands as plain text near the start of a plan; the plan stays a
pure plan that `trtexec --loadEngine` opens. So a machine can say what a plan is, and for which device
and version it was built, before anything touches a GPU.
"""

from __future__ import annotations

import json
from pathlib import Path

from edgedet.contract.errors import EngineError, SpecError
from edgedet.contract.spec import ModelSpec

SEARCHED = 1 << 20
"""How much of the file is looked at. The name was seen at 644 bytes; weights come later."""

_START = b'{"build":'  # ModelSpec.to_json sorts its keys


def read_plan_spec(path: Path) -> ModelSpec:
    """The spec of a plan file.

    Raises:
        EngineError: there is no such file.
        SpecError: it carries no spec, or one this edgedet cannot read.
    """
    try:
        with path.open("rb") as f:
            head = f.read(SEARCHED)
    except OSError as e:
        raise EngineError(f"Cannot read {path}: {e.strerror or e}.", hint="Check the path.") from e
    at = head.find(_START)
    while at >= 0:
        try:
            raw, end = json.JSONDecoder().raw_decode(head[at:].decode("latin1"))
        except ValueError:
            raw, end = None, 0
        if isinstance(raw, dict) and "spec_version" in raw:
            return ModelSpec.from_json(head[at : at + end].decode("ascii"))
        at = head.find(_START, at + 1)
    raise SpecError(
        f"{path} carries no edgedet spec: it is no plan, or one that edgedet did not build.",
        hint="Build it with edgedet-export --target tensorrt-rtx.",
    )
