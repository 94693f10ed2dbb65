"""Numbers that somebody chose, refused before any work where they cannot be meant."""

from __future__ import annotations

import math
from numbers import Integral, Real

from edgedet.contract.errors import UsageError


def check_count(name: str, value: object, least: int = 1, most: int | None = None) -> None:
    """UsageError unless `value` is a whole number from `least` to `most`, or None: not given."""
    if value is None:
        return
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):  # type: ignore[operator]
        _refuse(
            name, value, "a whole number", f"of at least {least}" if most is None else f"{least} to {most}"
        )


def check_number(
    name: str, value: object, least: float = 0.0, most: float = math.inf, *, above: bool = False
) -> None:
    """UsageError unless `value` is a finite number from `least` to `most`, or None: not given.

    above: `least` itself is refused too.
    """
    if value is None:
        return
    real = isinstance(value, Real) and not isinstance(value, bool)
    # not a number fails every comparison
    if not (real and least <= value <= most and -math.inf < value < math.inf) or (above and value == least):  # type: ignore[operator]
        low = f"above {least:g}" if above else f"of at least {least:g}"
        _refuse(name, value, "a finite number", low + (f" and at most {most:g}" if most < math.inf else ""))


def _refuse(name: str, value: object, kind: str, limits: str) -> None:
    raise UsageError(f"{name} is {value!r:.40}, expected {kind} {limits}.")
