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


def test_not_measured_is_not_passed():
    verdict = Verdict("", None, None, None, "FP32 finds nothing on the frames")
    assert verdict.passed is None
    assert not verdict.accepts()
    with pytest.raises(AccuracyGateFailed, match=r"INT8 was not measured: FP32 finds nothing on") as e:
        verdict.require("INT8")
    assert e.value.exit_code == 3
    assert "--eval-data" in e.value.hint
    assert "--accept-unmeasured" in e.value.hint
    verdict.require("INT8", unmeasured=True)


def test_what_failed_is_not_accepted_as_unmeasured():
    with pytest.raises(AccuracyGateFailed, match="at least"):
        Verdict("AP", 60.0, 50.0, 59.5).require("INT8", unmeasured=True)
