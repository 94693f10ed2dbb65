"""Numbers that somebody chose: what is refused, in which words."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgedet.contract.errors import UsageError
from edgedet.contract.numbers import check_count, check_number


def test_what_can_be_meant_passes() -> None:
    check_count("frames", 1)
    check_count("frames", np.int64(3), most=3)
    check_count("workers", 0, least=0)
    check_count("limit", None)
    check_number("lr", 1e-3, above=True)
    check_number("score", np.float32(0.5), most=1)
    check_number("ema", 1, most=1)
    check_number("iou", None)


@pytest.mark.parametrize("value", [0, -1, 1.0, math.nan, True, "3", 10**30])
def test_a_count_that_is_none(value: object) -> None:
    with pytest.raises(UsageError, match=r"frames is .*, expected a whole number 1 to 100\."):
        check_count("frames", value, most=100)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1e-9, 0, 2, "1", True, 1j])
def test_a_number_that_cannot_be_meant(value: object) -> None:
    with pytest.raises(UsageError, match=r"lr is .*, expected a finite number above 0 and at most 1\."):
        check_number("lr", value, most=1, above=True)


def test_infinity_is_no_number_without_an_end_either() -> None:
    with pytest.raises(UsageError, match="lr is inf, expected a finite number of at least 0"):
        check_number("lr", math.inf)
