"""The lecture's losses for segmentation: cross entropy, weighted, balanced, focal, Dice, and their sums.

With p the truth of a pixel (0 or 1) and q the prediction, the lecture writes

    cross-entropy   -(p log q + (1 - p) log(1 - q))
    weighted        -(beta p log q + (1 - p) log(1 - q))
    balanced        -(beta p log q + (1 - beta) (1 - p) log(1 - q))      (Xie & Tu 2015, arXiv:1504.06375)
    focal           -(alpha (1 - q)^gamma p log q + (1 - alpha) q^gamma (1 - p) log(1 - q))
                                                                         (Lin 2017, arXiv:1708.02002)
    dice            1 - 2 sum p q / (sum p + sum q)                      (Milletari 2016, arXiv:1606.04797)

The first four are means over pixels, the last has its sums over all pixels of the batch.

One logit is a binary problem, q = sigmoid(logit) for class 1; K >= 2 logits are softmax over K classes.
The first four are all w (1 - q_t)^gamma (-log q_t), q_t the probability of the pixel's true class and w a
weight by class. That is how they generalise to K classes; what remains is the choice of w, below. Dice
becomes the mean over the classes that occur in the truth.

All but Dice see logarithms only: log q_t is log softmax. With z = logit_t - logsumexp(other logits), or
+-logit for a single one, q_t is sigmoid(z), so log(1 - q_t) is logsigmoid(-z): all finite, with finite
gradients, at logits of 1e4 and more.

Pixels whose truth is `VOID` count nowhere. Where all are void, every loss is 0 and so is its gradient.
"""

from __future__ import annotations

import abc
import math
import re
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (its usual name)

from edgedet.contract.errors import DataError, UnknownName, UsageError
from edgedet.contract.spec import VOID

Weights: TypeAlias = float | tuple[float, ...]
"""One number says how class 1 of two is weighted against class 0; several are one weight for each class."""


class Loss(abc.ABC):
    """One of the lecture's losses, with its parameters: logits (N, K, H, W), truth (N, H, W) -> scalar.

    The truth is int64: a class, 0 or 1 where K = 1, or `VOID`.
    """

    name: ClassVar[str]

    @abc.abstractmethod
    def __call__(self, logits: Tensor, truth: Tensor) -> Tensor:
        """See the class. float32 or float64 logits at the size of the truth."""


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """Mean of -log q_t over pixels."""

    name: ClassVar[str] = "cross-entropy"

    def __call__(self, logits: Tensor, truth: Tensor) -> Tensor:
        """See Loss."""
        log_q, _ = log_likelihood(logits, truth)
        return _mean(-log_q)


@dataclass(frozen=True)
class Weighted(Loss):
    """Mean of -w log q_t over pixels (over their number, not over the sum of the weights).

    beta >= 0: of two classes, w is beta for class 1 and 1 for class 0. Several: w of each class.
    """

    name: ClassVar[str] = "weighted"
    beta: Weights

    def __post_init__(self) -> None:
        _check(self, "beta")

    def __call__(self, logits: Tensor, truth: Tensor) -> Tensor:
        """See Loss. UsageError if there are not as many weights as classes."""
        log_q, label = log_likelihood(logits, truth)
        pair = self.beta if isinstance(self.beta, tuple) else (1.0, self.beta)
        return _mean(-_by_class(self, "beta", pair, logits)[label] * log_q)


@dataclass(frozen=True)
class Balanced(Loss):
    """Mean of -w log q_t over pixels.

    beta in [0, 1]: of two classes, w is beta for class 1 and 1 - beta for class 0. Several: w of each
    class. None: from the truth of the batch, w = 1 - the share of the class among its pixels; of two
    classes that is beta = the share of class 0, as Xie & Tu choose it.
    """

    name: ClassVar[str] = "balanced"
    beta: Weights | None = None

    def __post_init__(self) -> None:
        _check(self, "beta", 1)

    def __call__(self, logits: Tensor, truth: Tensor) -> Tensor:
        """See Loss. UsageError if there are not as many weights as classes."""
        log_q, label = log_likelihood(logits, truth)
        if self.beta is None:
            counts = torch.bincount(label, minlength=_classes(logits)).to(log_q.dtype)
            weights = 1 - counts / counts.sum().clamp(min=1)
        else:
            pair = self.beta if isinstance(self.beta, tuple) else (1 - self.beta, self.beta)
            weights = _by_class(self, "beta", pair, logits)
        return _mean(-weights[label] * log_q)


@dataclass(frozen=True)
class Focal(Loss):
    """Mean of -w (1 - q_t)^gamma log q_t over pixels: what is known already counts little.

    alpha in [0, 1]: of two classes, w is alpha for class 1 and 1 - alpha for class 0. Several: w of each
    class. None: Lin et al.'s 0.25 for two classes, w = 1 for more. gamma >= 0; theirs is 2.
    """

    name: ClassVar[str] = "focal"
    alpha: Weights | None = None
    gamma: float = 2.0

    def __post_init__(self) -> None:
        _check(self, "alpha", 1)
        _check(self, "gamma", several=False)

    def __call__(self, logits: Tensor, truth: Tensor) -> Tensor:
        """See Loss. UsageError if there are not as many weights as classes."""
        z, label = true_margin(logits, truth)
        alpha = self.alpha
        if alpha is None:
            alpha = 0.25 if _classes(logits) == 2 else (1.0,) * _classes(logits)
        pair = alpha if isinstance(alpha, tuple) else (1 - alpha, alpha)
        # the power as exp(gamma log(1 - q_t)): its gradient is finite at q_t = 1 for any gamma
        unknown = torch.exp(self.gamma * F.logsigmoid(-z))
        return _mean(-_by_class(self, "alpha", pair, logits)[label] * unknown * F.logsigmoid(z))


@dataclass(frozen=True)
class Dice(Loss):
    """1 - 2 sum p q / (sum p + sum q), the sums over all pixels of the batch.

    One logit: of class 1, as written; 0 where nothing is there and nothing seen (0 / 0). K logits: the
    mean over the classes that occur in the truth; of a class that does not, the formula is 1 whatever is
    predicted, and teaches nothing.
    """

    name: ClassVar[str] = "dice"

    def __call__(self, logits: Tensor, truth: Tensor) -> Tensor:
        """See Loss."""
        said = truth != VOID
        label = truth[said]  # (M,)
        if logits.shape[1] == 1:
            q = torch.sigmoid(logits[:, 0][said])
            there = label == 1
            # selected, not multiplied by p: the gradient of 1 / (a tiny sum) must meet no zero
            total = there.sum() + q.sum()
            ratio = 2 * q[there].sum() / torch.where(total > 0, total, 1.0)
            return torch.where(total > 0, 1 - ratio, 0.0)
        q = logits.softmax(1).movedim(1, -1)[said]  # (M, K)
        p = torch.bincount(label, minlength=logits.shape[1])  # (K,)
        both = q.new_zeros(q.shape[1]).index_add(0, label, q.gather(1, label[:, None])[:, 0])
        present = p > 0
        dice = 1 - 2 * both / torch.where(present, p + q.sum(0), 1.0)
        return torch.where(present, dice, 0.0).sum() / present.sum().clamp(min=1)


LOSSES: dict[str, type[Loss]] = {loss.name: loss for loss in (CrossEntropy, Weighted, Balanced, Focal, Dice)}


@dataclass(frozen=True)
class Term:
    """A loss and the factor it has in a sum."""

    loss: Loss
    factor: float = 1.0


class SegmentationLoss(nn.Module):
    """A sum of the lecture's losses, one value per term. Usually made by `parse_loss`.

    Terms come already multiplied by their factors: the loss is their plain sum.
    """

    def __init__(self, terms: Sequence[Term]) -> None:
        super().__init__()
        self.terms = tuple(terms)

    def forward(self, logits: Tensor, truth: Tensor) -> dict[str, Tensor]:
        """Logits (N, K, h, w), truth (N, H, W) uint8 or int64 -> {name of the loss: scalar}.

        Logits smaller than the truth are interpolated (bilinear, half-pixel centres) to its size; half
        precision is computed in float32.

        Raises:
            UsageError: the shapes do not belong together.
            DataError: a label that is neither a class nor `VOID`.
        """
        size = truth.shape[1:]
        if (
            logits.dim() != 4
            or truth.dim() != 3
            or len(logits) != len(truth)
            or logits.shape[2] > size[0]
            or logits.shape[3] > size[1]
        ):
            raise UsageError(
                f"Logits {tuple(logits.shape)} do not belong to a truth {tuple(truth.shape)}.",
                hint="Expected are (N, K, h, w) and (N, H, W), h <= H and w <= W.",
            )
        if logits.dtype != torch.float64:
            logits = logits.float()
        if logits.shape[2:] != size:
            logits = F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)
        truth = truth.long()
        wrong = truth[(truth != VOID) & ((truth < 0) | (truth >= _classes(logits)))]
        if len(wrong):
            raise DataError(
                f"The truth has the label {int(wrong[0])}; there are {_classes(logits)} classes.",
                hint=f"Labels go from 0 to {_classes(logits) - 1}; {VOID} is void.",
            )
        return {t.loss.name: t.factor * t.loss(logits, truth) for t in self.terms}

    def extra_repr(self) -> str:
        """For print(model)."""
        return " + ".join(f"{t.factor:g} * {t.loss}" for t in self.terms)


def parse_loss(text: str) -> SegmentationLoss:
    """A sum of losses as it is typed: "dice+focal", "0.5*dice+focal:gamma=3", "weighted:beta=1/4/2".

    Terms are joined by +; each may have a factor before it and parameters behind it. Several numbers for
    one parameter are joined by /.

    Raises:
        UnknownName: no loss, or no parameter of it, has that name; suggests the close one.
        UsageError: a factor or parameter out of range, one that is missing, or a loss named twice.
    """
    terms = [_term(part.strip()) for part in text.split("+")]
    names = [t.loss.name for t in terms]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"{text!r} names {name} twice.", hint="Give it once, with a factor.")
    return SegmentationLoss(terms)


def log_likelihood(logits: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """As `true_margin`, with log q_t in the place of z. For K >= 2 a third of its time."""
    if logits.shape[1] == 1:
        z, label = true_margin(logits, truth)
        return F.logsigmoid(z), label
    said = truth != VOID
    return -F.cross_entropy(logits, truth, ignore_index=VOID, reduction="none")[said], truth[said]


def true_margin(logits: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (N, K, H, W), truth (N, H, W) int64 -> z and class, (M,) each, of the pixels that are not void.

    The probability of a pixel's true class is sigmoid(z).
    """
    said = truth != VOID
    label = truth[said]
    if logits.shape[1] == 1:
        z = logits[:, 0][said]
        return torch.where(label == 1, z, -z), label
    values = logits.movedim(1, -1)[said]  # (M, K)
    own = label[:, None]
    others = values.scatter(1, own, -math.inf).logsumexp(1)
    return values.gather(1, own)[:, 0] - others, label


def _mean(values: Tensor) -> Tensor:
    """Of nothing: 0, with a gradient of zeros."""
    return values.sum() / max(values.numel(), 1)


def _classes(logits: Tensor) -> int:
    return max(logits.shape[1], 2)


def _by_class(loss: Loss, parameter: str, weights: tuple[float, ...], logits: Tensor) -> Tensor:
    """(classes,) weights. One number was made two of them, which fits two classes only."""
    if len(weights) != _classes(logits):
        several = isinstance(getattr(loss, parameter), tuple)
        got = f"{len(weights)} numbers" if several else "one number, which weighs two classes"
        raise UsageError(
            f"{parameter} of {loss.name} is {got}; there are {_classes(logits)} classes.",
            hint=f"Give one number for each class: {loss.name}:{parameter}=1/2/...",
        )
    return logits.new_tensor(weights)


def _check(loss: Loss, parameter: str, high: float = math.inf, *, several: bool = True) -> None:
    """UsageError unless the parameter lies in 0 to `high`; of several numbers, each is at least 0."""
    value = getattr(loss, parameter)
    if value is None:
        return
    many = several and isinstance(value, tuple)
    for v in value if many else (value,):
        if not isinstance(v, (int, float)) or not 0 <= v <= (math.inf if many else high) or math.isinf(v):
            limits = f"from 0 to {high:g}" if high < math.inf else "of at least 0"
            classes = ", or one of at least 0 for each class" if several else ""
            raise UsageError(f"{parameter} of {loss.name} is {value!r}, expected a number {limits}{classes}.")


_TERM = re.compile(r"(?:(?P<factor>[^*:]*)\*)?(?P<name>[^*:]+)(?::(?P<parameters>.+))?")


def _term(text: str) -> Term:
    match = _TERM.fullmatch(text)
    if match is None:
        raise UsageError(
            f"{text!r} is not a loss.", hint="Losses look like dice, 0.5*dice or focal:gamma=2,alpha=0.25."
        )
    factor = _number(match["factor"], text) if match["factor"] is not None else 1.0
    if factor <= 0:
        raise UsageError(f"The factor in {text!r} is not positive.", hint="Leave the term out, or weigh it.")
    name = match["name"].strip()
    if name not in LOSSES:
        raise UnknownName("loss", name, LOSSES)
    known = {f.name: f for f in fields(LOSSES[name])}  # type: ignore[arg-type]
    given: dict[str, Weights] = {}
    for pair in (match["parameters"] or "").split(",") if match["parameters"] else ():
        key, _, value = (s.strip() for s in pair.partition("="))
        if key not in known:
            if not known:
                raise UsageError(f"{name} has no parameters, got {pair.strip()!r}.")
            raise UnknownName(f"parameter of {name}", key, known)
        if key in given:
            raise UsageError(f"{text!r} gives {key} twice.")
        numbers = tuple(_number(n, text) for n in value.split("/"))
        given[key] = numbers if len(numbers) > 1 else numbers[0]
    missing = [f.name for f in known.values() if f.default is MISSING and f.name not in given]
    if missing:
        raise UsageError(
            f"{name} needs {missing[0]}, how much class 1 counts against class 0, or one number per class.",
            hint=f"For example {name}:{missing[0]}=2. The loss 'balanced' takes it from the truth.",
        )
    return Term(LOSSES[name](**given), factor)


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UsageError(f"{text.strip()!r} in {where!r} is not a number.")
    return value
