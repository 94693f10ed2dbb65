"""What importing the runtime costs: no torch, no engine, and OpenCV only when it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import edgedet.runtime


def loaded_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_package_alone_loads_no_library() -> None:
    heavy = {"torch", "numpy", "cv2", "openvino", "onnxruntime", "onnx", "rich", "typer"}
    assert not heavy & loaded_by("import edgedet.runtime")


def test_no_name_loads_torch_or_an_engine() -> None:
    heavy = {"torch", "openvino", "onnxruntime", "onnx", "rich", "typer"}
    assert not heavy & loaded_by("from edgedet.runtime import *")


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = edgedet.runtime.Nothing
    assert set(edgedet.runtime.__all__) <= set(dir(edgedet.runtime))
