"""Plain images without truth: for calibration and for looking at results."""

from __future__ import annotations

from pathlib import Path

from edgedet.contract.errors import DataError, EmptyDataset
from edgedet.contract.image_files import ENDINGS, list_images
from edgedet.data.clean import BoxList
from edgedet.data.dataset import Dataset, existing
from edgedet.data.sample import Problems


def open_folder(path: Path) -> Dataset:
    """All image files in a folder and the folders in it, by path; or one image file.

    Raises:
        DataError: no such folder, or a file that is no image. EmptyDataset: it holds no images.
    """
    existing(path, "folder")
    if path.is_file():
        files = [path]
        if path.suffix.lower() not in ENDINGS:
            raise DataError(f"folder:{path} is a file, and no image ({', '.join(ENDINGS)}).")
    else:
        files = list_images(path, deep=True)
    if not files:
        raise EmptyDataset(f"folder:{path} holds no images ({', '.join(ENDINGS)}).", hint="Put some there.")
    problems = Problems()
    truths = [BoxList(file, file, None, problems).truth() for file in files]
    return Dataset(f"folder:{path.resolve().name}", (), truths, problems, labelled=False)
