"""The accuracy gate: a quantised model that lost too much is not handed out."""

from __future__ import annotations

from dataclasses import dataclass

from edgedet.contract.errors import AccuracyGateFailed

MAX_DROP = 0.5
"""Points of AP or mIoU that INT8 may lose (DESIGN: every model)."""

MIN_AGREEMENT = 90.0
"""Percent, where there is no truth to measure AP with. Agreement counts every difference from FP32,
those that happen to be right too, so it says less than a drop of AP: sound INT8 YOLOs had 96 to
100 on photos and video, and among them was one that had lost 0.6 AP."""


@dataclass(frozen=True)
class Verdict:
    """What the gate found.

    measure: "AP", "mIoU" or "agreement". reference and quantised: percent. allowed: the least that
    `quantised` may be. why: why nothing could be measured; `passed` is then None.
    """

    measure: str
    reference: float | None
    quantised: float | None
    allowed: float | None
    why: str = ""

    @property
    def passed(self) -> bool | None:
        """Whether INT8 is good enough; None: not measured."""
        if self.quantised is None or self.allowed is None:
            return None
        # the figures are printed with two decimals; what reads as equal is equal
        return round(self.quantised, 2) >= round(self.allowed, 2)

    def accepts(self, *, unmeasured: bool = False) -> bool:
        """Whether the artifact may be handed out; `unmeasured`: also one that nobody has measured."""
        return unmeasured if self.passed is None else self.passed

    def require(self, precision: str, *, unmeasured: bool = False) -> None:
        """Raise AccuracyGateFailed unless the gate `accepts`: not measured is not passed."""
        if self.accepts(unmeasured=unmeasured):
            return
        if self.passed is None:
            why = self.why or "there is nothing to measure on"
            raise AccuracyGateFailed(
                f"The accuracy of {precision} was not measured: {why}. Nothing was written for {precision}.",
                hint="Give pictures of what the model is for: --eval-data KIND:PATH, a folder or a video;"
                " --accept-unmeasured writes it all the same.",
            )
        assert self.quantised is not None
        assert self.reference is not None
        assert self.allowed is not None
        raise AccuracyGateFailed(
            f"{precision} has {self.quantised:.2f} {self.measure}, at least {self.allowed:.2f} is"
            f" allowed (FP32 has {self.reference:.2f}). Nothing was written for {precision}.",
            hint="Calibrate on more typical images (--calib-data), allow more (--max-drop), or look at"
            " it with --keep-failed.",
        )
