"""The lecture's losses: by hand, against torch, torchvision, scipy and scikit-learn, and at their limits."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.spatial.distance import dice as scipy_dice
from torch import Tensor, nn
from torchvision.ops import sigmoid_focal_loss

from edgedet.contract.errors import DataError, UnknownName, UsageError
from edgedet.contract.spec import VOID
from edgedet.models.segmentation_loss import LOSSES, SegmentationLoss, Weighted, parse_loss


def logit(q: float) -> float:
    return math.log(q / (1 - q))


def value(text: str, logits: Tensor, truth: Tensor) -> float:
    (term,) = parse_loss(text)(logits, truth).values()
    return term.item()


def total(text: str, logits: Tensor, truth: Tensor) -> Tensor:
    return torch.stack([*parse_loss(text)(logits, truth).values()]).sum()


def problem(k: int, *, seed: int = 0, void: bool = True) -> tuple[Tensor, Tensor]:
    """Logits (2, K, 5, 6) in float64 and a truth with every class, and with void."""
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, k, 5, 6, generator=random, dtype=torch.float64) * 2
    truth = torch.randint(0, max(k, 2), (2, 5, 6), generator=random)
    if void:
        truth[0, 1:3, 2] = truth[1, 4, 4:] = VOID
    return logits, truth


# two pixels: the truth is 1 and 0, the prediction q is 0.8 and 0.4
TWO = torch.tensor([logit(0.8), logit(0.4)], dtype=torch.float64).reshape(1, 1, 1, 2)
TWO_TRUTH = torch.tensor([[[1, 0]]])
BY_HAND = {
    "cross-entropy": -(math.log(0.8) + math.log(0.6)) / 2,
    "weighted:beta=3": -(3 * math.log(0.8) + math.log(0.6)) / 2,
    "balanced:beta=0.7": -(0.7 * math.log(0.8) + 0.3 * math.log(0.6)) / 2,
    "balanced": -(0.5 * math.log(0.8) + 0.5 * math.log(0.6)) / 2,
    "focal": -(0.25 * 0.2**2 * math.log(0.8) + 0.75 * 0.4**2 * math.log(0.6)) / 2,
    "focal:alpha=0.6,gamma=3": -(0.6 * 0.2**3 * math.log(0.8) + 0.4 * 0.4**3 * math.log(0.6)) / 2,
    "dice": 1 - 2 * 0.8 / (1 + 0.8 + 0.4),
}


@pytest.mark.parametrize("text", BY_HAND)
def test_binary_by_hand(text: str) -> None:
    assert value(text, TWO, TWO_TRUTH) == pytest.approx(BY_HAND[text], rel=1e-12)
    # a third pixel, about which nothing is said, changes nothing
    wide = torch.cat([TWO, torch.full((1, 1, 1, 1), 7.0)], dim=3)
    truth = torch.tensor([[[1, 0, VOID]]], dtype=torch.uint8)
    assert value(text, wide, truth) == pytest.approx(BY_HAND[text], rel=1e-12)


@pytest.mark.parametrize("text", [t for t in BY_HAND if t != "dice"])
def test_two_logits_are_one(text: str) -> None:
    one, truth = problem(1)
    two = torch.cat([torch.zeros_like(one), one], dim=1) + 5.0
    assert value(text, two, truth) == pytest.approx(value(text, one, truth), rel=1e-12)


def test_three_classes_by_hand() -> None:
    # three pixels of classes 0, 0, 2, probabilities below
    q = torch.tensor([[0.5, 0.3, 0.2], [0.7, 0.2, 0.1], [0.1, 0.3, 0.6]], dtype=torch.float64)
    logits = q.log().T.reshape(1, 3, 1, 3)
    truth = torch.tensor([[[0, 0, 2]]])
    a, b, c = math.log(0.5), math.log(0.7), math.log(0.6)
    expected = {
        "cross-entropy": -(a + b + c) / 3,
        "weighted:beta=1/9/4": -(a + b + 4 * c) / 3,
        "balanced:beta=1/9/4": -(a + b + 4 * c) / 3,
        "balanced": -(a / 3 + b / 3 + c * 2 / 3) / 3,
        "focal": -(0.25 * a + 0.09 * b + 0.16 * c) / 3,
        "focal:alpha=0.5/9/2,gamma=1": -(0.5 * 0.5 * a + 0.5 * 0.3 * b + 2 * 0.4 * c) / 3,
        # class 1 does not occur; sums of p: 2 and 1, of q: 1.3 and 0.9
        "dice": ((1 - 2 * 1.2 / 3.3) + (1 - 2 * 0.6 / 1.9)) / 2,
    }
    for text, by_hand in expected.items():
        assert value(text, logits, truth) == pytest.approx(by_hand, rel=1e-12), text


def test_cross_entropy_is_torchs() -> None:
    logits, truth = problem(1, void=False)
    theirs = nn.functional.binary_cross_entropy_with_logits(logits[:, 0], truth.double())
    assert value("cross-entropy", logits, truth) == pytest.approx(theirs.item(), rel=1e-12)


def test_cross_entropy_is_scikit_learns() -> None:
    from sklearn import metrics

    logits, truth = problem(4)
    said = truth != VOID
    q = logits.softmax(1).movedim(1, -1)[said].numpy()
    theirs = metrics.log_loss(truth[said].numpy(), q, labels=range(4))
    assert value("cross-entropy", logits, truth) == pytest.approx(theirs, rel=1e-9)


def test_weights_are_torchs_but_the_mean_is_over_pixels() -> None:
    logits, truth = problem(3)
    weight = torch.tensor([0.5, 2.0, 4.0], dtype=torch.float64)
    theirs = nn.functional.cross_entropy(logits, truth, weight, ignore_index=VOID, reduction="sum")
    mean = theirs.item() / int((truth != VOID).sum())
    assert value("weighted:beta=0.5/2/4", logits, truth) == pytest.approx(mean, rel=1e-12)

    logits, truth = problem(1, void=False)
    p = truth[:, None].double()
    theirs = nn.functional.binary_cross_entropy_with_logits(logits, p, pos_weight=torch.tensor(3.0))
    assert value("weighted:beta=3", logits, truth) == pytest.approx(theirs.item(), rel=1e-12)
    share = float((truth == 0).double().mean())
    balanced = p * share + (1 - p) * (1 - share)
    theirs = nn.functional.binary_cross_entropy_with_logits(logits, p, balanced)
    assert value("balanced", logits, truth) == pytest.approx(theirs.item(), rel=1e-12)
    assert value(f"balanced:beta={share!r}", logits, truth) == pytest.approx(theirs.item(), rel=1e-12)


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.6, 0.5), (0.5, 0.0)])
def test_focal_is_torchvisions(alpha: float, gamma: float) -> None:
    logits, truth = problem(1, void=False)
    theirs = sigmoid_focal_loss(logits, truth[:, None].double(), alpha, gamma, reduction="mean")
    ours = value(f"focal:alpha={alpha},gamma={gamma}", logits, truth)
    assert ours == pytest.approx(theirs.item(), rel=1e-12)


def test_focal_with_gamma_0_is_cross_entropy() -> None:
    logits, truth = problem(5)
    assert value("focal:gamma=0", logits, truth) == pytest.approx(value("cross-entropy", logits, truth))


def test_dice_of_certain_predictions_is_scipys() -> None:
    logits, truth = problem(1, void=False)
    seen = logits[:, 0] > 0
    theirs = scipy_dice(seen.flatten().numpy(), truth.bool().flatten().numpy())
    assert value("dice", logits * 1e4, truth) == pytest.approx(theirs, rel=1e-9)


def test_dice_of_certain_predictions_is_scikit_learns_f1() -> None:
    from sklearn import metrics

    logits, truth = problem(4)
    said = truth != VOID
    scores = metrics.f1_score(truth[said].numpy(), logits.argmax(1)[said].numpy(), average="macro")
    assert value("dice", logits * 1e4, truth) == pytest.approx(1 - scores, rel=1e-9)


def test_dice_where_a_class_does_not_occur() -> None:
    nothing = torch.zeros(1, 2, 2, dtype=torch.int64)
    assert value("dice", torch.full((1, 1, 2, 2), 0.0), nothing) == 1  # seen where nothing is
    assert value("dice", torch.full((1, 1, 2, 2), -1e4), nothing) == 0  # nothing seen either
    logits = torch.zeros(1, 3, 2, 2)
    logits[:, 0] = 1e4
    assert value("dice", logits, nothing) == 0


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("name", LOSSES)
def test_gradients_in_float64(name: str, k: int) -> None:
    beta = ":beta=3" if k < 3 else ":beta=1/2/0.5/4"
    logits, truth = problem(k)
    text = name + (beta if name == "weighted" else "")
    small = logits[:, :, ::2, ::2].contiguous().requires_grad_()  # interpolated to the truth's size
    assert torch.autograd.gradcheck(lambda x: value_of(text, x, truth), (small,))


def value_of(text: str, logits: Tensor, truth: Tensor) -> Tensor:
    (term,) = parse_loss(text)(logits, truth).values()
    return term


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_extreme_logits(k: int, gamma: float) -> None:
    """Right and wrong by 1e4: values and gradients stay finite, and wrong ones are still pushed."""
    random = torch.Generator().manual_seed(k)
    truth = torch.randint(0, max(k, 2), (2, 6, 6), generator=random)
    sign = torch.randint(0, 2, (2, k, 6, 6), generator=random) * 2 - 1
    beta = "3" if k < 3 else "1/2/3"
    text = f"cross-entropy+weighted:beta={beta}+balanced+focal:gamma={gamma}+dice"
    for factor in (1e4, -1e4):
        logits = (sign * factor).float().requires_grad_()
        terms = parse_loss(text)(logits, truth)
        assert all(bool(torch.isfinite(t)) for t in terms.values()), terms
        torch.stack([*terms.values()]).sum().backward()
        assert logits.grad is not None
        assert bool(torch.isfinite(logits.grad).all())
        assert bool(logits.grad.any())

    right = torch.nn.functional.one_hot(truth, max(k, 2)).movedim(-1, 1)[:, -k:] * 2e4 - 1e4
    logits = right.float().requires_grad_()
    terms = parse_loss(text)(logits, truth)
    assert all(abs(t.item()) < 1e-6 for t in terms.values()), terms
    torch.stack([*terms.values()]).sum().backward()
    assert logits.grad is not None
    assert not logits.grad.any()
    wrong = value_of("cross-entropy", -right.float(), truth)
    # one logit is off by 1e4, K of them by 2e4 with K - 1 wrong ones
    assert wrong.item() == pytest.approx(1e4 if k == 1 else 2e4 + math.log(k - 1), rel=1e-6)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_a_batch_that_is_all_void_is_0_with_a_gradient_of_0(k: int) -> None:
    logits = torch.randn(2, k, 3, 3, requires_grad=True)
    truth = torch.full((2, 6, 6), VOID, dtype=torch.uint8)
    beta = "3" if k < 3 else "1/2/3"
    terms = parse_loss(f"cross-entropy+weighted:beta={beta}+balanced+focal+dice")(logits, truth)
    assert [t.item() for t in terms.values()] == [0] * 5
    torch.stack([*terms.values()]).sum().backward()
    assert logits.grad is not None
    assert not logits.grad.any()


def test_void_pixels_teach_nothing() -> None:
    logits, truth = problem(4)
    logits.requires_grad_()
    total("cross-entropy+balanced+focal+dice", logits, truth).backward()
    assert logits.grad is not None
    taught = logits.grad.abs().sum(1) > 0
    assert torch.equal(taught, truth != VOID)


def test_small_logits_are_interpolated_to_the_truth() -> None:
    logits, truth = problem(3)
    small = logits[:, :, :2, :3]
    wide = nn.functional.interpolate(small, size=(5, 6), mode="bilinear", align_corners=False)
    assert value("focal", small, truth) == value("focal", wide, truth)


def test_half_precision_is_computed_in_float32() -> None:
    logits, truth = problem(3)
    terms = parse_loss("focal+dice")(logits.bfloat16(), truth)
    for name, term in parse_loss("focal+dice")(logits.bfloat16().float(), truth).items():
        assert terms[name].dtype == torch.float32
        assert torch.equal(terms[name], term)


def test_each_falls_when_it_is_followed() -> None:
    for text in ("cross-entropy", "weighted:beta=1/2/3/4", "balanced", "focal", "dice"):
        logits, truth = problem(4)
        logits = logits.requires_grad_()
        optimizer = torch.optim.Adam([logits], lr=0.5)
        before = value(text, logits, truth)
        for _ in range(30):
            optimizer.zero_grad()
            total(text, logits, truth).backward()
            optimizer.step()
        assert value(text, logits, truth) < 0.2 * before, text
        said = truth != VOID
        assert torch.equal(logits.argmax(1)[said], truth[said]), text


def test_a_sum_by_name() -> None:
    logits, truth = problem(2)
    loss = parse_loss(" 0.5*dice + focal:gamma=3,alpha=0.4+2 * weighted : beta = 1/4")
    terms = loss(logits, truth)
    assert [*terms] == ["dice", "focal", "weighted"]
    assert float(terms["dice"]) == pytest.approx(0.5 * value("dice", logits, truth))
    assert float(terms["focal"]) == pytest.approx(value("focal:alpha=0.4,gamma=3", logits, truth))
    assert float(terms["weighted"]) == pytest.approx(2 * value("weighted:beta=4", logits, truth))
    assert isinstance(loss, SegmentationLoss)
    assert repr(loss) == (
        "SegmentationLoss(0.5 * Dice() + 1 * Focal(alpha=0.4, gamma=3.0) + 2 * Weighted(beta=(1.0, 4.0)))"
    )
    assert loss.terms[2].loss == Weighted((1.0, 4.0))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dyce+focal", r"no loss is named 'dyce'\. Did you mean 'dice'"),
        ("dice+", "'' is not a loss"),
        ("", "'' is not a loss"),
        ("2*3*dice", "is not a loss"),
        ("x*dice", r"'x' in 'x\*dice' is not a number"),
        ("nan*dice", "is not a number"),
        ("-1*dice", "is not positive"),
        ("dice+0.5*dice", "names dice twice"),
        ("focal:gama=2", r"no parameter of focal is named 'gama'\. Did you mean 'gamma'"),
        ("focal:gamma=-1", "gamma of focal is -1.0, expected a number of at least 0"),
        ("focal:gamma=1/2", r"gamma of focal is \(1\.0, 2\.0\), expected a number of at least 0\."),
        ("focal:gamma=1,gamma=2", "gives gamma twice"),
        ("focal:gamma", "'' in 'focal:gamma' is not a number"),
        ("focal:alpha=1.5", "alpha of focal is 1.5, expected a number from 0 to 1, or one"),
        ("balanced:beta=2", "beta of balanced is 2.0, expected a number from 0 to 1"),
        ("weighted", "weighted needs beta.*weighted:beta=2"),
        ("weighted:beta=1/-1", r"beta of weighted is \(1\.0, -1\.0\)"),
        ("dice:beta=1", "dice has no parameters, got 'beta=1'"),
    ],
)
def test_what_cannot_be_meant_is_named(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_loss(text)


def test_unknown_names_are_of_their_own_kind() -> None:
    with pytest.raises(UnknownName) as e:
        parse_loss("cross_entropy")
    assert "cross-entropy" in e.value.hint


def test_weights_that_do_not_fit_the_classes_are_named() -> None:
    logits, truth = problem(4)
    with pytest.raises(UsageError, match=r"beta of weighted is one number.*there are 4 classes.*beta=1/2/"):
        value("weighted:beta=2", logits, truth)
    with pytest.raises(UsageError, match="alpha of focal is 3 numbers; there are 4 classes"):
        value("focal:alpha=1/2/3", logits, truth)


def test_a_truth_that_does_not_fit_is_named() -> None:
    logits, truth = problem(4)
    truth[0, 0, 0] = 4
    with pytest.raises(DataError, match=r"label 4; there are 4 classes.*0 to 3; 255 is void"):
        value("dice", logits, truth)
    with pytest.raises(DataError, match="label 2; there are 2 classes"):
        value("dice", logits[:, :1], torch.full_like(truth, 2))
    with pytest.raises(DataError, match="label -1"):
        value("dice", logits, torch.full_like(truth, -1))
    with pytest.raises(UsageError, match=r"\(2, 4, 5, 6\) do not belong to a truth \(2, 4, 6\)"):
        value("dice", logits, truth[:, :4])
    with pytest.raises(UsageError, match="do not belong"):
        value("dice", logits, truth[:1])
    with pytest.raises(UsageError, match="do not belong"):
        value("dice", logits, truth[0])
