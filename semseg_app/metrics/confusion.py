"""Scores of class maps, all from one confusion matrix: counts add up over images, batches and processes. Pure numpy."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from semseg_app.labels import IGNORE


@dataclass(frozen=True)
class ClassScores:
    """What a confusion matrix says; NaN where nothing was there to be scored."""

    miou: float
    """Mean of `iou` over the classes that occur in labels or predictions."""
    pixel_accuracy: float
    mean_class_accuracy: float
    """Mean of `accuracy` over the classes that occur in labels."""
    iou: np.ndarray
    """float64 [C], intersection over union; NaN for a class in neither labels nor predictions."""
    accuracy: np.ndarray
    """float64 [C], share of a class's label pixels that were found; NaN for a class in no label."""
    label_share: np.ndarray
    """float64 [C], share of a class among the label pixels."""
    pixels: int
    """Labeled pixels, ignored ones left out."""

    def to_json(self, classes: Sequence[str]) -> dict[str, Any]:
        """Plain numbers, classes by name, None in place of NaN."""
        return {
            "pixels": self.pixels,
            "classes": {
                name: {"iou": _number(iou), "accuracy": _number(accuracy), "label_share": _number(share)}
                for name, iou, accuracy, share in zip(classes, self.iou, self.accuracy, self.label_share, strict=True)
            },
        }


class ConfusionMatrix:
    """Counts of (label, prediction) pairs.

    `counts` is int64 [C, C], rows labels, columns predictions; those of several processes may be summed into it.
    """

    def __init__(self, num_classes: int):
        self.num_classes = num_classes
        self.counts = np.zeros((num_classes, num_classes), np.int64)

    def add(self, prediction: np.ndarray, label: np.ndarray, confidence: np.ndarray | None = None) -> None:
        """Count one class map or a batch, integers of any width; pixels whose label is IGNORE (255) are left out.

        ValueError for arrays of different shapes and for values that are no class. `confidence` is not read.
        """
        if prediction.shape != label.shape:
            raise ValueError(f"prediction {list(prediction.shape)} and label {list(label.shape)} differ in shape")
        valid = label != IGNORE
        labels = label[valid].astype(np.int64)
        predictions = prediction[valid].astype(np.int64)
        for name, values in (("label", labels), ("prediction", predictions)):
            if values.size and not (values.min() >= 0 and values.max() < self.num_classes):
                raise ValueError(
                    f"{name} has values from {values.min()} to {values.max()}; {self.num_classes} classes exist"
                )
        pairs = np.bincount(labels * self.num_classes + predictions, minlength=self.num_classes**2)
        self.counts += pairs.reshape(self.num_classes, self.num_classes)

    def result(self) -> ClassScores:
        """The scores of everything counted so far."""
        hits = np.diag(self.counts)
        labeled, predicted = self.counts.sum(axis=1), self.counts.sum(axis=0)
        pixels = int(labeled.sum())
        iou = _ratio(hits, labeled + predicted - hits)
        accuracy = _ratio(hits, labeled)
        return ClassScores(
            miou=_mean(iou),
            pixel_accuracy=int(hits.sum()) / pixels if pixels else float("nan"),
            mean_class_accuracy=_mean(accuracy),
            iou=iou,
            accuracy=accuracy,
            label_share=_ratio(labeled, np.full_like(labeled, pixels)),
            pixels=pixels,
        )


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    ratio: np.ndarray = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
    return ratio


def _mean(values: np.ndarray) -> float:
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else float("nan")


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
