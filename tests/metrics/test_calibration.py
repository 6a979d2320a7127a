"""Expected calibration error against torchmetrics and hand-computed cases."""

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import binary_calibration_error

from semseg_app.metrics.calibration import CalibrationError


def test_equals_torchmetrics_where_no_confidence_lies_on_the_edge_of_a_bin() -> None:
    random = np.random.default_rng(0)
    confidence = random.integers(0, 256, (40, 50), np.uint8)
    confidence[confidence % 17 == 0] += 1  # edges of bins: the two round them differently
    label = random.integers(0, 3, (40, 50), np.uint8)
    classes = np.where(random.random((40, 50)) < 0.7, label, (label + 1) % 3).astype(np.uint8)
    label[:5] = 255
    metric = CalibrationError()
    metric.add(classes[:20], label[:20], confidence[:20])
    metric.add(classes[20:], label[20:], confidence[20:])
    valid = label != 255
    expected = binary_calibration_error(
        # Of a binary classifier with these probabilities, "right" is the positive label.
        torch.tensor(confidence[valid] / 255.0),
        torch.tensor((classes == label)[valid].astype(np.int64)),
        n_bins=15,
    )
    assert metric.result() == pytest.approx(float(expected), abs=1e-6)


def test_hand_computed() -> None:
    metric = CalibrationError()
    assert np.isnan(metric.result())
    # Three pixels, certain and right; one at 51/255 = 0.2 and wrong: (0 + 0.2) / 4.
    metric.add(np.zeros((2, 2), np.uint8), np.uint8([[0, 0], [0, 1]]), np.array([[255, 255], [255, 51]], np.uint8))
    assert metric.result() == pytest.approx(0.05)


def test_17_and_18_of_255_are_in_different_bins() -> None:
    classes = np.zeros((1, 2), np.uint8)
    metric = CalibrationError()
    # One right, one wrong. In one bin the errors would cancel in part.
    metric.add(classes, np.array([[1, 0]], np.uint8), np.array([[17, 18]], np.uint8))
    assert metric.result() == pytest.approx((17 / 255 + 1 - 18 / 255) / 2)
