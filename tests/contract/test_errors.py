"""The exception tree: its drawing is true, and every message says what to do."""

from __future__ import annotations

import inspect
import re

from edgedet.contract import errors


def test_the_docstring_draws_the_tree_that_is() -> None:
    drawn: list[tuple[str, str]] = []
    stack: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"^\s*([│├└─ ]*)(\w+)\s", line)
        if match and isinstance(getattr(errors, match[2], None), type):
            depth = len(match[1])
            while stack and stack[-1][0] >= depth:
                stack.pop()
            drawn.append((match[2], stack[-1][1] if stack else "Exception"))
            stack.append((depth, match[2]))
    real = {
        (name, kind.__base__.__name__)
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.EdgedetError) and kind.__base__ is not None
    }
    assert set(drawn) == real


def test_exit_codes() -> None:
    assert errors.EdgedetError("x").exit_code == 1
    assert errors.UsageError("x").exit_code == 2
    assert errors.AccuracyGateFailed("x").exit_code == 3


def test_messages_carry_the_hint() -> None:
    missing = errors.MissingDependency("openvino", extra="cpu", purpose="Running on this CPU")
    assert missing.message == "Running on this CPU needs openvino, which is not installed."
    assert str(missing).endswith("Install it with: pip install 'edgedet[cpu]'")
    assert "Did you mean 'unet'" in str(errors.UnknownName("model", "Unett", ["unet", "yolo"]))
    assert "Known: unet, yolo." in str(errors.UnknownName("model", "zzz", ["yolo", "unet"]))
