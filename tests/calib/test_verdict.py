from __future__ import annotations

import pytest

from edgedet.calib.verdict import Verdict
from edgedet.contract.errors import AccuracyGateFailed


def test_the_gate():
    Verdict("AP", 60.0, 59.5, 59.5).require("INT8")
    Verdict("AP", 60.0, 59.496, 59.5).require("INT8")  # what is printed as 59.50 is 59.50
    with pytest.raises(AccuracyGateFailed, match=r"59\.49 AP, at least 59\.50") as e:
        Verdict("AP", 60.0, 59.49, 59.5).require("INT8")
    assert e.value.exit_code == 3


def test_not_measured_is_neither():
    verdict = Verdict("", None, None, None)
    assert verdict.passed is None
    verdict.require("INT8")
