import json

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix, MulticlassJaccardIndex

from semseg_app.metrics.confusion import ConfusionMatrix


def test_equal_to_torchmetrics() -> None:
    generator = np.random.default_rng(0)
    classes = 6
    label = generator.integers(0, classes, (3, 40, 50), np.uint8)
    prediction = np.where(
        generator.random(label.shape) < 0.6, label, generator.integers(0, classes, label.shape, np.uint8)
    )
    label[generator.random(label.shape) < 0.1] = 255
    matrix = ConfusionMatrix(classes)
    for one_prediction, one_label in zip(prediction, label, strict=True):
        matrix.add(one_prediction, one_label)
    scores = matrix.result()

    def reference(metric: torch.nn.Module) -> np.ndarray:
        value: np.ndarray = metric(torch.tensor(prediction).long(), torch.tensor(label).long()).numpy()
        return value

    options = {"num_classes": classes, "ignore_index": 255}
    np.testing.assert_array_equal(matrix.counts, reference(MulticlassConfusionMatrix(**options)))
    np.testing.assert_allclose(scores.iou, reference(MulticlassJaccardIndex(average=None, **options)), rtol=1e-6)
    np.testing.assert_allclose(scores.miou, reference(MulticlassJaccardIndex(average="macro", **options)), rtol=1e-6)
    np.testing.assert_allclose(scores.accuracy, reference(MulticlassAccuracy(average=None, **options)), rtol=1e-6)
    np.testing.assert_allclose(
        scores.mean_class_accuracy, reference(MulticlassAccuracy(average="macro", **options)), rtol=1e-6
    )
    np.testing.assert_allclose(
        scores.pixel_accuracy, reference(MulticlassAccuracy(average="micro", **options)), rtol=1e-6
    )


def test_by_hand() -> None:
    # Class 2 is predicted but never labeled, class 3 occurs nowhere, one pixel is ignored.
    label = np.array([[0, 0, 0, 0], [1, 1, 255, 0]], np.uint8)
    prediction = np.array([[0, 0, 1, 2], [1, 0, 3, 0]], np.int32)
    matrix = ConfusionMatrix(4)
    matrix.add(prediction, label)
    assert matrix.counts.tolist() == [[3, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert matrix.counts.dtype == np.int64
    scores = matrix.result()
    np.testing.assert_allclose(scores.iou, [3 / 6, 1 / 3, 0, np.nan])
    np.testing.assert_allclose(scores.accuracy, [3 / 5, 1 / 2, np.nan, np.nan])
    assert scores.miou == pytest.approx((1 / 2 + 1 / 3 + 0) / 3)
    assert scores.mean_class_accuracy == pytest.approx((3 / 5 + 1 / 2) / 2)
    assert scores.pixel_accuracy == pytest.approx(4 / 7)
    assert scores.pixels == 7
    written = json.loads(json.dumps(scores.to_json(["a", "b", "c", "d"]), allow_nan=False))
    assert written["classes"]["d"] == {"iou": None, "accuracy": None, "label_share": 0.0}
    assert written["classes"]["a"]["label_share"] == pytest.approx(5 / 7)


def test_counts_of_several_processes_add_up() -> None:
    generator = np.random.default_rng(0)
    pairs = [generator.integers(0, 3, (2, 9, 9), np.uint8) for _ in range(4)]
    whole, first, second = ConfusionMatrix(3), ConfusionMatrix(3), ConfusionMatrix(3)
    for index, (prediction, label) in enumerate(pairs):
        whole.add(prediction, label)
        (first if index % 2 else second).add(prediction, label)
    first.counts = first.counts + second.counts
    np.testing.assert_array_equal(first.counts, whole.counts)
    assert first.result().miou == whole.result().miou


def test_nothing_to_score_is_not_a_number() -> None:
    matrix = ConfusionMatrix(2)
    matrix.add(np.zeros((4, 4), np.uint8), np.full((4, 4), 255, np.uint8))
    scores = matrix.result()
    assert np.isnan([scores.miou, scores.pixel_accuracy, scores.mean_class_accuracy]).all()
    assert scores.to_json(["a", "b"])["classes"]["a"]["iou"] is None


def test_what_cannot_be_counted_is_refused() -> None:
    matrix = ConfusionMatrix(3)
    zeros = np.zeros((2, 2), np.uint8)
    with pytest.raises(ValueError, match="label has values from 0 to 7"):
        matrix.add(zeros, np.array([[0, 1], [2, 7]], np.uint8))
    with pytest.raises(ValueError, match="prediction has values from -1 to 0"):
        matrix.add(np.array([[0, -1], [0, 0]]), zeros)
    with pytest.raises(ValueError, match="differ in shape"):
        matrix.add(zeros, np.zeros((2, 3), np.uint8))
    assert matrix.counts.sum() == 0
