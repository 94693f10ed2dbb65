"""Rows of boxes, polygons and key points: what cannot be told apart is refused or declared."""

from __future__ import annotations

import pytest

from edgedet.contract.errors import AnnotationError, EmptyDataset
from edgedet.data import open_dataset

BOX = [24, 12, 40, 36]


def pose_row(points: int, numbers: int, cx: float = 0.5) -> str:
    each = [
        f"{cx + 0.01 * k:.3f} {0.5 - 0.01 * k:.3f}" + (" 2" if numbers == 3 else "") for k in range(points)
    ]
    return " ".join([f"0 {cx} 0.5 0.25 0.5", *each])


@pytest.fixture
def rows(tmp_path, image):
    """rows(row, ..., yaml=text) -> the data set, one image."""

    def write(*texts, yaml=""):
        image(tmp_path / "images/train/a.jpg")
        (tmp_path / "labels/train").mkdir(parents=True, exist_ok=True)
        (tmp_path / "labels/train/a.txt").write_text("\n".join(texts))
        (tmp_path / "data.yaml").write_text(f"names: [thing]\ntrain: images/train\n{yaml}")
        return open_dataset(f"yolo:{tmp_path}")

    return write


SHAPES = [(4, 2), (4, 3), (17, 2), (17, 3), (1, 3), (1, 2)]


@pytest.mark.parametrize(("points", "numbers"), SHAPES)
def test_key_points_are_read_where_they_are_declared(rows, points, numbers):
    data = rows(pose_row(points, numbers), yaml=f"kpt_shape: [{points}, {numbers}]")
    assert data.truths[0].boxes.tolist() == [BOX]
    assert len(data.problems) == 0


@pytest.mark.parametrize(("points", "numbers"), SHAPES)
def test_key_points_are_never_taken_for_polygons(rows, points, numbers):
    # AnnotationError where the count is a polygon's too, else every row is malformed
    with pytest.raises((AnnotationError, EmptyDataset), match="kpt_shape"):
        rows(pose_row(points, numbers), pose_row(points, numbers, 0.25))
    with pytest.raises((AnnotationError, EmptyDataset), match="kpt_shape"):
        rows(pose_row(points, numbers), yaml="task: pose")


@pytest.mark.parametrize("yaml", ["task: segment", "task: obb"])
def test_polygons_are_read_where_they_are_declared(rows, yaml):
    corners = "0 0.375 0.25 0.625 0.25 0.625 0.75 0.375 0.75"
    assert rows(corners, yaml=yaml).truths[0].boxes.tolist() == [BOX]


def test_polygons_of_several_lengths_or_beside_boxes_are_known(rows):
    triangle, square = "0 0.375 0.25 0.625 0.25 0.5 0.75", "0 0.375 0.25 0.625 0.25 0.625 0.75 0.375 0.75"
    assert rows(triangle, square).truths[0].boxes.tolist() == [BOX, BOX]
    assert rows(triangle, "0 0.5 0.5 0.25 0.5").truths[0].boxes.tolist() == [BOX, BOX]


def test_rows_of_another_length_than_declared_are_counted(rows):
    data = rows(pose_row(4, 2), pose_row(3, 2), "0 0.5 0.5 0.25 0.5", yaml="kpt_shape: [4, 2]")
    assert data.truths[0].boxes.tolist() == [BOX, BOX]
    assert "11 numbers, where kpt_shape means 13" in str(data.problems.items[0])


@pytest.mark.parametrize("shape", ["[17, 4]", "17", "[17]", "[a, 2]", "{x: 2}", "[99999, 2]"])
def test_a_shape_that_is_none(rows, shape):
    with pytest.raises(AnnotationError, match="`kpt_shape` is expected to be"):
        rows(pose_row(4, 2), yaml=f"kpt_shape: {shape}")
