"""Faster R-CNN's 4 steps: what moves in each, on whose proposals, and that a killed run ends the same."""

from __future__ import annotations

import copy
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from training_runs import ENVIRONMENT, command, lines

from edgedet.contract.errors import UsageError
from edgedet.contract.targets import Targets
from edgedet.data import open_dataset
from edgedet.evaluation import evaluate, evaluate_proposals
from edgedet.evaluation.predict_torch import torch_under_test
from edgedet.models import build, make_spec
from edgedet.models.faster_rcnn import FasterRcnn
from edgedet.training.alternating import FourSteps
from edgedet.training.checkpoint import load_model, read
from edgedet.training.loop import Trainer
from edgedet.training.phases import alternating, divided, phases
from edgedet.training.processes import join
from edgedet.training.recipe import RECIPES, Recipe
from edgedet.training.run_folder import RunFolder
from edgedet.training.tasks import EVERY_ROW, PROPOSALS, TRAINING

FOUR = ("--model", "faster-rcnn", "--schedule", "alternating", "--size", "64x96", "--epochs", "4")
FOUR = (*FOUR, *("--option", "width=16", "--option", "hidden=16", "--option", "proposals=128"))
FOUR = (*FOUR, "--option", "sampled=16")
STEPS = ("1-rpn", "2-detector", "3-rpn", "4-detector")
MOVING = (
    {"proposer.backbone", "proposer.neck", "proposer.rpn"},
    {"detector.backbone", "detector.neck", "detector.box_head"},
    {"detector.rpn"},
    {"detector.box_head"},
)
"""The parts that each step trains."""
TERMS = ({"rpn_class", "rpn_box"}, {"class", "box"}) * 2

KILLING = """
import os, signal, sys
from edgedet.training import loop
at, step = int(sys.argv[1]), loop.Trainer._step

def killing(self, *more):
    if self.progress.step == at:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, *more)

loop.Trainer._step = killing
from edgedet.cli.main import main
sys.argv = ["edgedet", *sys.argv[4:]]
main()
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Python with these arguments, to its end."""
    return subprocess.run(
        [sys.executable, *arguments], env=ENVIRONMENT, capture_output=True, text=True, timeout=900
    )


def small(**more: Any) -> FasterRcnn:
    torch.manual_seed(0)
    model = build("faster-rcnn", 2, pretrained=False, width=16, hidden=16, proposals=16, sampled=16, **more)
    assert isinstance(model, FasterRcnn)
    return model


def batch() -> tuple[torch.Tensor, list[Targets]]:
    boxes = torch.tensor([[4.0, 4.0, 60.0, 60.0], [30.0, 8.0, 62.0, 40.0]])
    targets = Targets(boxes, torch.tensor([0, 1]), torch.zeros(2, dtype=torch.bool))
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)), [targets] * 2


def part(name: str) -> str:
    """detector.rpn.conv.0.weight -> detector.rpn."""
    return ".".join(name.split(".")[:2])


def state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def parts_that_differ(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {part(name) for name, tensor in before.items() if not torch.equal(tensor, after[name])}


@pytest.mark.parametrize("neck", ["fpn", "none"])
@pytest.mark.parametrize("phase", range(4))
def test_a_step_trains_its_own_parts_by_its_own_terms(phase: int, neck: str) -> None:
    # norms of the backbone that learn: they too keep still where the backbone does
    model = FourSteps(small(neck=neck, frozen_norms=False))
    untouched = {n for n, p in small().named_parameters() if not p.requires_grad}
    assert untouched and all(n.startswith("backbone.") for n in untouched)
    model.begin(phase)
    model.train()
    before = state(model)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    images, targets = batch()
    for _ in range(2):  # the box head's last layers begin near 0, and let little through to others
        terms = model.training_loss(images, targets)
        assert set(terms) == TERMS[phase]
        optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
    # several processes wait for each other's gradients: none may lack
    assert {part(n) for n, p in model.named_parameters() if p.requires_grad} == MOVING[phase]
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())
    assert parts_that_differ(before, state(model)) == MOVING[phase]
    frozen = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d) and not m.training]
    still = [n for n in before if part(n) not in MOVING[phase] and n.endswith("running_mean")]
    assert len(frozen) == len(still) > 0


def test_both_networks_begin_from_the_same_weights() -> None:
    model = FourSteps(small())
    for name, tensor in model.proposer.state_dict().items():
        assert torch.equal(tensor, model.detector.state_dict()[name]), name


def test_step_2_learns_from_proposals_of_step_1(monkeypatch: pytest.MonkeyPatch) -> None:
    """And step 4 from those of its own network; in both by weights and norms that do not change meanwhile."""
    model = FourSteps(small())
    with torch.no_grad():  # as if step 1 had been: another network
        for parameter in model.proposer.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    images, targets = batch()
    seen: list[torch.Tensor] = []
    losses = FasterRcnn.region_losses

    def watched(self: FasterRcnn, levels: Any, proposals: torch.Tensor, targets: Any) -> Any:
        assert self is model.detector
        assert not proposals.requires_grad
        seen.append(proposals)
        return losses(self, levels, proposals, targets)

    monkeypatch.setattr(FasterRcnn, "region_losses", watched)
    for phase in (1, 3):
        model.begin(phase)
        model.train()
        model.training_loss(images, targets)
    with torch.no_grad():
        first, second = copy.deepcopy(model.proposer).eval(), copy.deepcopy(model.detector).eval()
        torch.testing.assert_close(seen[0], first(images)["proposals"], rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(seen[1], second(images)["proposals"], rtol=1e-4, atol=1e-3)
    assert not torch.allclose(seen[0], seen[1], atol=1.0)


@torch.no_grad()
def test_what_a_step_is_measured_by() -> None:
    model = FourSteps(small()).eval()
    for parameter in model.proposer.parameters():
        parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    images, _ = batch()
    for phase, network in ((0, model.proposer), (2, model.detector)):
        model.begin(phase)
        heads = model(images)
        found = model.decode(heads, (64, 64))
        expected = network(images)
        assert torch.equal(found["boxes"], expected["proposals"])
        assert torch.equal(found["scores"][..., 0], expected["objectness"])
        assert model.task(phase, TRAINING["detection"]) is PROPOSALS
    for phase in (1, 3):
        model.begin(phase)
        assert model.task(phase, TRAINING["detection"]) is TRAINING["detection"]
        heads, mine = model(images), model.detector(images)
        boxes = model.proposer(images)["proposals"] if phase == 1 else mine["proposals"]
        assert torch.equal(heads["proposals"], boxes)
        pooled = model.detector.pool(model.detector.features(images), boxes, operators=False)
        assert torch.equal(heads["class_logits"], model.detector.box_head(pooled)[0])


def test_step_3_begins_from_step_1s_rpn() -> None:
    model = FourSteps(small())
    with torch.no_grad():
        for parameter in model.proposer.rpn.parameters():
            parameter.add_(1.0)
    model.begin(2)
    for name, tensor in model.proposer.rpn.state_dict().items():
        assert torch.equal(tensor, model.detector.rpn.state_dict()[name]), name


@pytest.mark.parametrize(
    ("epochs", "shares"),
    [(21, (6, 8, 3, 4)), (42, (12, 16, 6, 8)), (8, (2, 3, 1, 2)), (5, (1, 2, 1, 1)), (4, (1, 1, 1, 1))],
)
def test_epochs_are_divided_as_planned(epochs: int, shares: tuple[int, ...]) -> None:
    assert divided(epochs, (6, 8, 3, 4)) == shares
    recipe = alternating("faster-rcnn", RECIPES["faster-rcnn"], epochs)
    assert (recipe.epochs, recipe.phases) == (epochs, shares)
    assert [(p.first, p.end, p.kept) for p in phases(FourSteps(small()), recipe, TRAINING["detection"])] == [
        (sum(shares[:i]), sum(shares[: i + 1]), i == 3) for i in range(4)
    ]


def test_every_phase_has_an_epoch_however_uneven_the_plan() -> None:
    assert divided(6, (1, 1, 100)) == (1, 1, 4)
    assert divided(3, (100, 1, 1)) == (1, 1, 1)


def test_what_cannot_be_meant_is_said() -> None:
    assert alternating("faster-rcnn", RECIPES["faster-rcnn"]).epochs == 21
    with pytest.raises(UsageError, match="--epochs 3 cannot be divided into 4 steps"):
        alternating("faster-rcnn", Recipe(), 3)
    with pytest.raises(UsageError, match="yolo is trained all at once") as error:
        alternating("yolo", Recipe())
    assert "faster-rcnn" in (error.value.hint or "")
    model = FourSteps(small())
    with pytest.raises(UsageError, match="--patience 2"):
        phases(model, alternating("faster-rcnn", Recipe(patience=2)), TRAINING["detection"])
    with pytest.raises(UsageError, match="--freeze neck"):
        phases(model, alternating("faster-rcnn", Recipe(frozen=("neck",))), TRAINING["detection"])
    with pytest.raises(UsageError, match="4 phases of FourSteps"):
        phases(model, Recipe(epochs=8, phases=(4, 4)), TRAINING["detection"])


def test_a_model_that_has_no_steps_says_so(voc: Path, tmp_path: Path) -> None:
    done = run(*command(voc, tmp_path / "run", "--schedule", "alternating"))
    assert done.returncode == 2
    assert "yolo is trained all at once" in done.stderr and "faster-rcnn" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def unbroken(voc: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("four") / "unbroken"
    done = run(*command(voc, folder, *FOUR))
    assert done.returncode == 0, done.stderr
    for name in STEPS:
        assert f"step {name}" in done.stderr
    assert "step 1-rpn, epoch 0: recall 0." in done.stderr
    assert "step 4-detector, epoch 3: AP 0." in done.stderr
    return folder


def test_a_run_ends_in_an_ordinary_faster_r_cnn(unbroken: Path, voc: Path) -> None:
    model, spec = load_model(unbroken / "best.safetensors")
    assert type(model) is FasterRcnn
    steps = [json.loads(line) for line in lines(unbroken / "steps.jsonl")]
    assert [s["step"] for s in steps] == list(range(16))
    assert [s["phase"] for s in steps] == [name for name in STEPS for _ in range(4)]
    for step in steps:
        terms = TERMS[STEPS.index(step["phase"])]
        assert step["loss"] == pytest.approx(sum(step[t] for t in terms))
        assert not {"class", "box", "rpn_class", "rpn_box"} & set(step) - terms
        assert step["lr"] == pytest.approx(steps[step["step"] % 4]["lr"])  # it begins anew with each step
    measured = [json.loads(line) for line in lines(unbroken / "epochs.jsonl")]
    assert [(m["phase"], m["measure"]) for m in measured] == [
        (name, ("recall", "AP")[i % 2]) for i, name in enumerate(STEPS)
    ]
    assert [m["best"] for m in measured] == [m["score"] for m in measured]  # none of an earlier step
    val = open_dataset(f"voc:{voc}", "val")
    found = evaluate(torch_under_test(model, spec), val, progress=False)
    assert found.ap11 == pytest.approx(measured[3]["score"])
    counts = {c["name"]: c["detections"] for c in measured[3]["metrics"]["classes"]}
    assert {c.name: c.detections for c in found.classes} == counts
    assert sum(counts.values()) > 0
    # box head alone moved since: proposals are those that step 3 was measured by
    whole = FourSteps(model).eval()
    whole.begin(2)
    again = evaluate_proposals(torch_under_test(whole, spec, thresholds=EVERY_ROW), val, progress=False)
    assert again.recall == pytest.approx(measured[2]["score"])
    assert again.recall is not None and again.recall > 0
    assert 0 < again.proposals == pytest.approx(measured[2]["metrics"]["proposals"])


def test_what_is_shared_is_the_same_to_the_bit_after_steps_3_and_4(voc: Path, tmp_path: Path) -> None:
    """By the loop itself, its averaged weights too."""
    data = open_dataset(f"voc:{voc}", "train")
    torch.manual_seed(0)
    options = {"width": 16, "hidden": 16, "proposals": 16, "sampled": 16}
    model = build("faster-rcnn", len(data.classes), pretrained=False, **options)
    spec = make_spec("faster-rcnn", model, data.classes, size=(64, 96))
    recipe = alternating("faster-rcnn", Recipe(batch=4, model=options), 4)
    folder = RunFolder(tmp_path / "run")
    folder.prepare({}, {})
    ends: list[dict[str, torch.Tensor]] = []
    with join("cpu") as one:
        trainer = Trainer(model, spec, data, None, recipe, folder, one, workers=0)
        four = trainer.model
        assert isinstance(four, FourSteps)
        begun: list[int] = []
        begin = four.begin

        def noted(phase: int) -> None:
            begin(phase)
            begun.append(phase)
            ends.append(state(four))

        four.begin = noted  # type: ignore[method-assign]
        for event in trainer.run():
            assert STEPS.index(event["phase"]) == four.phase
    ends.append(state(trainer.average))
    assert begun == [1, 2, 3]
    folder.close()
    after_1, after_2, after_3, after_4 = ends
    # after_2 has step 3's beginning in it: the RPN of step 1
    assert parts_that_differ(after_1, after_2) == MOVING[1] | {"detector.rpn"}
    assert parts_that_differ(after_2, after_3) == MOVING[2]
    assert parts_that_differ(after_3, after_4) == MOVING[3]
    assert parts_that_differ(after_3, state(four)) == MOVING[3]
    saved, _ = read(folder.best)
    for name, tensor in saved.items():
        assert torch.equal(tensor, after_4[f"detector.{name}"]), name


@pytest.mark.slow
def test_kill_9_in_each_step_and_the_same_command_give_the_same_network(
    voc: Path, unbroken: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "killed"
    for at in (2, 4, 6, 10, 13):  # 4: just after the first step's end
        killed = run("-c", KILLING, str(at), *command(voc, folder, *FOUR, "--state-every", "1"))
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert len(lines(folder / "steps.jsonl")) == at
        assert not (folder / "best.safetensors").exists()
    again = run(*command(voc, folder, *FOUR))
    assert again.returncode == 0, again.stderr
    assert "going on from epoch 3, step 13" in again.stderr
    first, second = (read(f / "best.safetensors")[0] for f in (unbroken, folder))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
    finished = run(*command(voc, folder, *FOUR))
    assert finished.returncode == 0 and "this run is finished" in finished.stderr


def test_two_processes_take_all_steps_and_go_on(voc: Path, tmp_path: Path) -> None:
    folder, script = tmp_path / "two", tmp_path / "killing.py"
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    script.write_text(KILLING)
    killed = run(*launch, str(script), "9", *command(voc, folder, *FOUR, "--state-every", "1"))
    assert killed.returncode == 1, killed.stderr
    again = run(*launch, *command(voc, folder, *FOUR))
    assert again.returncode == 0, again.stderr
    assert [json.loads(line)["phase"] for line in lines(folder / "epochs.jsonl")] == list(STEPS)
    assert len(lines(folder / "steps.jsonl")) == 16
    assert type(load_model(folder / "best.safetensors")[0]) is FasterRcnn


def test_joint_is_another_run(voc: Path, unbroken: Path) -> None:
    words = [word for word in FOUR if word not in ("--schedule", "alternating")]
    done = run(*command(voc, unbroken, *words))
    assert done.returncode == 1
    assert "recipe.phases" in done.stderr


def test_a_run_from_before_there_were_phases_goes_on(tmp_path: Path) -> None:
    before = {"recipe": {"epochs": 4, "model": {"neck": "fpn"}}}
    folder = RunFolder(tmp_path)
    folder.prepare({}, before)
    folder.close()
    folder.state.write_bytes(b"")
    now = {"recipe": {"epochs": 4, "phases": [], "model": {"neck": "fpn"}}}
    assert folder.prepare({}, now)
    folder.close()
