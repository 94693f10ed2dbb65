"""Features of the regions of images, one file an image: whole or not there, so that a killed run goes on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from edgedet.contract.errors import WeightsError
from edgedet.contract.tensor_file import read_tensor_file
from edgedet.training.checkpoint import write_tensors

NAMES = {"features", "boxes", "objects"}


@dataclass(frozen=True)
class RegionStore:
    """A folder of them, by the index of the image.

    features (n, D) float16; boxes (n, 4) float32 xyxy in network pixels, those proposed first, then the
    objects' own that are not ignored; objects (m, 4): all objects, in the order of the data set's truth.
    """

    folder: Path
    dimensions: int

    def path(self, image: int) -> Path:
        """The file of an image."""
        return self.folder / f"{image:06d}.safetensors"

    def __contains__(self, image: int) -> bool:
        """Whether its file is there, whole and of this form."""
        try:
            found = read_tensor_file(self.path(image)).tensors
        except WeightsError:
            return False
        if found.keys() != NAMES:
            return False
        dtype, shape = found["features"]
        return dtype == "F16" and shape == (found["boxes"][1][0], self.dimensions)

    def write(self, image: int, features: Tensor, boxes: Tensor, objects: Tensor) -> None:
        """Keep the regions of an image. Raises OutputError."""
        tensors = {"features": features.half(), "boxes": boxes.float(), "objects": objects.float()}
        write_tensors(self.path(image), {k: t.cpu().contiguous() for k, t in tensors.items()}, {})

    def boxes(self, image: int) -> tuple[Tensor, Tensor]:
        """(boxes, objects) alone."""
        with safe_open(self.path(image), framework="pt") as f:
            return f.get_tensor("boxes"), f.get_tensor("objects")

    def features(self, image: int) -> Tensor:
        """(n, D) float32."""
        with safe_open(self.path(image), framework="pt") as f:
            found: Tensor = f.get_tensor("features").float()
        return found

    def bytes_of(self, regions: int) -> int:
        """What an image with so many regions takes, about."""
        return regions * (2 * self.dimensions + 16) + 512
