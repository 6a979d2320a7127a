"""Boundary IoU against a naive reading of its definition and a hand-computed case."""

import numpy as np
import pytest

from semseg_app.metrics.boundary_iou import BoundaryIoU, boundary_width, on_boundary


def naive_boundary(mask: np.ndarray, width: int) -> np.ndarray:
    """Pixels of one class's mask with a pixel of its square outside the mask or the image."""
    found = np.zeros_like(mask)
    for row, column in zip(*np.nonzero(mask), strict=True):
        inside = 0
        for other_row in range(row - width, row + width + 1):
            for other_column in range(column - width, column + width + 1):
                in_image = 0 <= other_row < mask.shape[0] and 0 <= other_column < mask.shape[1]
                inside += bool(in_image and mask[other_row, other_column])
        found[row, column] = inside < (2 * width + 1) ** 2
    return found


def blocks(seed: int, height: int, width: int) -> np.ndarray:
    cells = np.random.default_rng(seed).integers(0, 4, (-(-height // 5), -(-width // 5)), np.uint8)
    return cells.repeat(5, axis=0).repeat(5, axis=1)[:height, :width]


@pytest.mark.parametrize("width", [1, 2, 5])
def test_boundary_of_all_classes_at_once_is_that_of_each(width: int) -> None:
    classes = blocks(0, 23, 31)
    expected = np.zeros(classes.shape, bool)
    for value in range(4):
        expected |= naive_boundary(classes == value, width)
    np.testing.assert_array_equal(on_boundary(classes, width), expected)


def test_equals_the_definition_with_ignored_pixels_left_out_and_counts_summed_over_images() -> None:
    common, either = np.zeros(4), np.zeros(4)
    metric = BoundaryIoU(5)  # the fifth class never occurs
    for seed in (1, 2):
        label, prediction = blocks(seed, 37, 29), np.roll(blocks(seed, 37, 29), 1, axis=1)
        label[10:14, 3:20] = 255
        metric.add(prediction, label)
        width = boundary_width(37, 29)
        assert width == 1
        for value in range(4):
            of_label = naive_boundary(label == value, width)
            of_prediction = naive_boundary((prediction == value) & (label != 255), width)
            common[value] += (of_label & of_prediction).sum()
            either[value] += (of_label | of_prediction).sum()
    assert metric.result() == pytest.approx((common / either).mean())


def test_hand_computed_and_bounds() -> None:
    label = np.zeros((4, 4), np.uint8)
    label[:, 2:] = 1
    shifted = np.zeros((4, 4), np.uint8)
    shifted[:, 3:] = 1
    metric = BoundaryIoU(2)
    metric.add(shifted, label)
    # Every pixel of the label is on a boundary. Of the prediction, columns 0 and 2 of class 0 and the ends of column 1.
    # Class 0: common 6 (column 0, ends of column 1), either 8 + 10 - 6. Class 1: common 4, either 8 + 4 - 4.
    assert metric.result() == pytest.approx((6 / 12 + 4 / 8) / 2)
    equal = BoundaryIoU(2)
    equal.add(label, label)
    assert equal.result() == 1.0
    nothing = BoundaryIoU(2)
    nothing.add(label, np.full((4, 4), 255, np.uint8))
    assert np.isnan(nothing.result())
    assert boundary_width(360, 480) == 12
