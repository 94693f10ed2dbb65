"""The ModelSpec inside a TensorRT plan, read without TensorRT and without deserializing.

The spec is the network's name, which stands as plain text near the start of a plan; the plan stays a
pure plan that `trtexec --loadEngine` opens. So a machine can say what a plan is, and for which device
and version it was built, before anything touches a GPU.
"""

from __future__ import annotations

import json
from pathlib import Path

from edgedet.contract.errors import EngineError, SpecError
from edgedet.contract.reading import open_regular
from edgedet.contract.spec import ModelSpec

SEARCHED = 1 << 20
"""How much of the file is looked at. The name was seen at 644 bytes; weights come later."""

_START = '{"build":'  # ModelSpec.to_json sorts its keys

_TRIES = 100  # places that begin like a spec and are none; a plan has very few


def read_plan_spec(path: Path) -> ModelSpec:
    """The spec of a plan file.

    Raises:
        EngineError: there is no such file.
        SpecError: it carries no spec, or one this edgedet cannot read.
    """
    try:
        with open_regular(path) as f:
            head = f.read(SEARCHED)
    except OSError as e:
        raise EngineError(f"Cannot read {path}: {e.strerror or e}.", hint="Check the path.") from e
    text = head.decode("latin1")  # a character a byte, so that places stay what they are
    at = text.find(_START)
    for _ in range(_TRIES):
        if at < 0:
            break
        try:
            raw, end = json.JSONDecoder().raw_decode(text, at)
        except (ValueError, RecursionError):
            raw, end = None, 0
        if isinstance(raw, dict) and "spec_version" in raw:
            return ModelSpec.from_json(_ascii(text[at:end], path))
        at = text.find(_START, at + 1)
    raise SpecError(
        f"{path} carries no edgedet spec: it is no plan, or one that edgedet did not build.",
        hint="Build it with edgedet-export --target tensorrt-rtx.",
    )


def _ascii(text: str, path: Path) -> str:
    """The text if it is ASCII, as ModelSpec.to_json writes it; SpecError otherwise."""
    if not text.isascii():
        raise SpecError(f"The spec in {path} is damaged.", hint="Build the plan again, or copy it again.")
    return text
