"""Faster R-CNN's 4-step alternating training (Ren et al. 2016, section 3.2; lecture, "Faster R-CNN").

    1-rpn        the RPN, with the backbone and neck that become the proposer's
    2-detector   the box head on those proposals, with a backbone and neck of its own, of the same start
    3-rpn        the RPN's own layers on the second backbone and neck, which stay as they are
    4-detector   the box head's own layers on step 3's proposals, on the same backbone and neck

What both stages share, and steps 3 and 4 leave to the last bit, is the backbone and the neck: every layer
whose features both look at. An RPN's own layers are `FasterRcnn.rpn`, a detector's `FasterRcnn.box_head`.
Step 3 begins from step 1's RPN layers, step 4 from step 2's box head ("fine-tune the layers unique to" each).
The result is one ordinary Faster R-CNN.

Proposals are made anew in each step for the image as it is augmented, by the averaged weights that the step
before came to, in eval form. The paper's authors keep those of whole images on disk; made anew they are of
the crop that the detector sees, at its scale, and there is no cache that could be of other weights.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from edgedet.contract.spec import Decode, Output
from edgedet.contract.targets import Targets
from edgedet.models.base import Model
from edgedet.models.faster_rcnn import FasterRcnn
from edgedet.training.phases import InPhases, Planned
from edgedet.training.tasks import PROPOSALS, Training

PROPOSER: tuple[tuple[str, ...], ...] = (("backbone", "neck", "rpn"), (), (), ())
DETECTOR: tuple[tuple[str, ...], ...] = ((), ("backbone", "neck", "box_head"), ("rpn",), ("box_head",))
"""The parts of either network that each step trains; all others keep still, their norms too."""


class FourSteps(InPhases):
    """See the module's docstring.

    proposer: the network of step 1, whose box head is never used. detector: the one of steps 2 to 4.

    Args:
        network: with the weights that both start from; becomes the detector.
    """

    plan = (
        Planned("1-rpn", 6, "RPN, with a backbone and neck that step 2 does not get"),
        Planned("2-detector", 8, "box head, backbone and neck, on step 1's proposals"),
        Planned("3-rpn", 3, "RPN alone, on step 2's backbone and neck"),
        Planned("4-detector", 4, "box head alone, on step 3's proposals"),
    )

    def __init__(self, network: Model) -> None:
        super().__init__()
        assert isinstance(network, FasterRcnn)
        self.stride = network.stride
        self._free = {name for name, p in network.named_parameters() if p.requires_grad}
        self.proposer = copy.deepcopy(network)
        self.detector = network
        self.begin(0)

    @property
    def result(self) -> FasterRcnn:
        """See InPhases."""
        return self.detector

    def begin(self, phase: int) -> None:
        """See InPhases."""
        self.phase = phase
        if phase == 2:
            self.detector.rpn.load_state_dict(self.proposer.rpn.state_dict())
        for network, trained in ((self.proposer, PROPOSER[phase]), (self.detector, DETECTOR[phase])):
            for name, parameter in network.named_parameters():
                # the backbone's first stages learn in no phase
                parameter.requires_grad_(name in self._free)
            network.freeze([name for name, _ in network.named_children() if name not in trained])
        self.train(self.training)

    def task(self, phase: int, whole: Training) -> Training:
        """An RPN is measured by the recall of its proposals."""
        return PROPOSALS if self.of_rpn(phase) else whole

    @staticmethod
    def of_rpn(phase: int) -> bool:
        """Whether a phase trains an RPN."""
        return phase in (0, 2)

    def training_loss(self, images: Tensor, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """{"rpn_class", "rpn_box"} in steps 1 and 3, {"class", "box"} in steps 2 and 4."""
        size = (images.shape[2], images.shape[3])
        first, second = self.proposer, self.detector
        if self.phase == 0:
            return first.rpn_losses(first.rpn(first.features(images)), size, targets)
        if self.phase == 1:
            with torch.no_grad():
                found = first.rpn(first.features(images))
            return second.region_losses(second.features(images), first.proposed(found, size), targets)
        with torch.no_grad():
            levels = second.features(images)
        if self.phase == 2:
            return second.rpn_losses(second.rpn(levels), size, targets)
        with torch.no_grad():
            found = second.rpn(levels)
        return second.region_losses(levels, second.proposed(found, size), targets)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """As `FasterRcnn.forward`, of both networks in step 2; in 1 and 3 proposals and objectness alone."""
        size = (images.shape[2], images.shape[3])
        first, second = (self.proposer if self.phase < 2 else self.detector), self.detector
        levels = first.features(images)
        boxes, objectness = first.propose(first.rpn(levels), size, operators=second.operators)
        if self.of_rpn(self.phase):
            return {"proposals": boxes, "objectness": objectness}
        if first is not second:
            levels = second.features(images)
        return second.second_stage(levels, boxes, objectness)

    def loss(self, heads: Mapping[str, Tensor], targets: Sequence[Targets]) -> dict[str, Tensor]:
        """As `FasterRcnn.loss`, where there are such heads."""
        return self.detector.loss(heads, targets)

    def decode(self, heads: Mapping[str, Tensor], size: tuple[int, int]) -> dict[str, Tensor]:
        """As `FasterRcnn.decode`; while an RPN is trained its proposals, of one class: objects."""
        if self.of_rpn(self.phase):
            return {"boxes": heads["proposals"], "scores": heads["objectness"][..., None]}
        return self.detector.decode(heads, size)

    def outputs(self, size: tuple[int, int]) -> tuple[Output, ...]:
        """Of the network that is saved."""
        return self.detector.outputs(size)

    def decode_spec(self) -> Decode:
        """Of the network that is saved."""
        return self.detector.decode_spec()
