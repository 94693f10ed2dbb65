"""What every model is: three methods, no type switches; and what training may ask of it besides."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from edgedet.contract.errors import UnknownName
from edgedet.contract.spec import Decode, Output, Proposals, Stage
from edgedet.contract.targets import Targets


class Model(nn.Module, abc.ABC):
    """A network of the lecture: `forward` for the heads, `loss` for training, `decode` for results.

    `stride`: both sides of the input must be multiples of it. `backbone`, where a model has one, holds
    the pretrained weights, which the recipes train more gently.
    """

    stride: int

    operators = False
    """Which form of `models.regions` the network runs and is exported in. Without regions there is one."""

    rounds = 0
    """Of the plain form's suppression of proposals; 0 where there is none."""

    frozen: tuple[str, ...] = ()
    """Parts that training leaves as they are (`freeze`)."""

    @abc.abstractmethod
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) normalised -> {role: head tensor}, the raw values that leave the network.

        A model with `proposals` takes them as a second argument: (N, P, 4) xyxy in network pixels, rows
        without one 0, 0, 0, 0.
        """

    @abc.abstractmethod
    def loss(self, heads: Mapping[str, Tensor], targets: Sequence[Targets]) -> dict[str, Tensor]:
        """{term: scalar}, already weighted: the loss is their plain sum."""

    def training_loss(self, images: Tensor, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """What a training step minimises: (N, 3, H, W) normalised, one `Targets` an image -> {term: scalar}.

        By default the loss of the heads. Two-stage models override it: while they train, their second
        stage sees regions that are sampled with the truth at hand. Every parameter that is trained should
        have a gradient in every step, 0 where there is nothing to learn from: several processes wait for
        each other's. Losses are to be computed without autocast, in float32.
        """
        heads = self(images)
        with torch.autocast(images.device.type, enabled=False):
            return self.loss(heads, targets)

    def freeze(self, parts: Sequence[str]) -> None:
        """Let training leave these parts as they are, "backbone" or "box_head.fc6" for example, with the
        statistics of norms.

        Raises:
            UnknownName: the network has no such part.
        """
        names = [name for name, _ in self.named_modules() if name]
        for part in parts:
            known = [name for name in names if name.count(".") == part.count(".")]
            if part not in known:
                raise UnknownName("part of the network", part, known)
            self.get_submodule(part).requires_grad_(False).eval()
        self.frozen = tuple(parts)

    def train(self, mode: bool = True) -> Model:
        """As torch's, but for what is frozen."""
        super().train(mode)
        for part in self.frozen:
            self.get_submodule(part).eval()
        return self

    def begin_epoch(self, share: float) -> None:
        """Called before each epoch with the share of the training that is done, from 0 to below 1.

        For losses that change on the way. Most models have none.
        """

    @abc.abstractmethod
    def decode(self, heads: Mapping[str, Tensor], size: tuple[int, int]) -> dict[str, Tensor]:
        """Heads of an input of `size` (height, width) -> what is found in it, by role.

        {"boxes": (N, A, 4) in its pixels, "scores": (N, A, K)} or {"class_map": (N, H, W) uint8}.
        """

    @abc.abstractmethod
    def outputs(self, size: tuple[int, int]) -> tuple[Output, ...]:
        """The head tensors for the spec, in the order of `forward`'s dictionary."""

    @abc.abstractmethod
    def decode_spec(self) -> Decode:
        """What `decode` does, for the spec: a kind of `contract.decode.DECODERS` and its parameters."""

    def rounds_needed(self, images: Tensor) -> int:
        """The least `rounds` with which these images (N, 3, H, W) get the proposals of greedy suppression."""
        return 0

    def proposals(self) -> Proposals | None:
        """Where the regions come from that `forward` and `training_loss` take beside the images.

        Most models take none. Those that do find them in `Targets.proposals` while they train.
        """
        return None

    def stages(self, size: tuple[int, int]) -> tuple[Stage, ...]:
        """The graphs that run after NMS, for the spec; their inputs of the first graph by its names.

        Most models have none. `size`: (height, width) of the input.
        """
        return ()

    def run_stage(self, name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The stage of this name: its inputs -> its outputs, by the names that `stages` gives."""
        raise KeyError(name)
