"""The one place where class maps are scored: a table of metrics, and what counts them.

Training, `semseg evaluate`, `compare`, `benchmark` and the export gate all fill a `Scorer`; they differ in how they
walk over images and in which rows of the table they ask for. Adding a metric is one row here, and one file where its
counting is new.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from semseg_app.metrics.boundary_iou import BoundaryIoU
from semseg_app.metrics.calibration import Bin, CalibrationError
from semseg_app.metrics.confusion import ClassScores, ConfusionMatrix


class Counter(Protocol):
    """Counts over images; those of several processes add up."""

    counts: np.ndarray
    """Integers, of one shape for one number of classes."""

    def add(self, classes: np.ndarray, label: np.ndarray, confidence: np.ndarray | None = None) -> None:
        """Count one image: class map, label and confidence uint8 `[H, W]`; 255 in the label = ignore."""
        ...


@dataclass(frozen=True)
class Metric:
    """One number, of 1."""

    title: str
    description: str
    counter: Callable[[int], Counter]
    """Number of classes -> what counts for it; metrics that share a counter count once."""
    value: Callable[[Any], float]
    """The counter -> the number; NaN where nothing was there to be scored."""


METRICS: dict[str, Metric] = {
    "miou": Metric(
        "mIoU",
        "mean IoU over the classes that occur in labels or predictions",
        ConfusionMatrix,
        lambda matrix: matrix.result().miou,
    ),
    "pixel_accuracy": Metric(
        "pixel accuracy", "all hits / all label pixels", ConfusionMatrix, lambda matrix: matrix.result().pixel_accuracy
    ),
    "mean_class_accuracy": Metric(
        "mean class accuracy",
        "mean accuracy over the classes that occur in labels",
        ConfusionMatrix,
        lambda matrix: matrix.result().mean_class_accuracy,
    ),
    "boundary_iou": Metric(
        "boundary IoU",
        "mIoU of the pixels within 2 % of the diagonal from an outline (Cheng et al., 2021)",
        BoundaryIoU,
        lambda boundary: boundary.result(),
    ),
    "calibration_error": Metric(
        "calibration error",
        "mean difference between confidence and the fraction of right pixels (Guo et al., 2017)",
        CalibrationError,
        lambda calibration: calibration.result(),
    ),
}
WHILE_TRAINING = ("miou", "pixel_accuracy")
"""What every evaluation of a run computes: both from one confusion matrix, at no cost beside the network's."""


class Scorer:
    """Counts what the chosen metrics need.

    Args:
        num_classes: C.
        metrics: names of `METRICS`.
    """

    def __init__(self, num_classes: int, metrics: Collection[str] = ("miou",)):
        self.metrics = tuple(metrics)
        self.confusion = ConfusionMatrix(num_classes)
        made: dict[Callable[[int], Counter], Counter] = {ConfusionMatrix: self.confusion}
        for name in self.metrics:
            make = METRICS[name].counter
            if make not in made:
                made[make] = make(num_classes)
        self._counters = made

    def add(self, classes: np.ndarray, label: np.ndarray, confidence: np.ndarray | None = None) -> None:
        """Count one image: class map, label and confidence uint8 `[H, W]`; 255 in the label = ignore."""
        for counter in self._counters.values():
            counter.add(classes, label, confidence)

    @property
    def needs_confidence(self) -> bool:
        """Whether `add` must be given the confidence."""
        return CalibrationError in self._counters

    @property
    def counts(self) -> list[np.ndarray]:
        """Everything counted so far, to be added up over processes."""
        return [counter.counts for counter in self._counters.values()]

    def set_counts(self, counts: Sequence[np.ndarray]) -> None:
        """Replace what was counted, by the sum over processes."""
        for counter, array in zip(self._counters.values(), counts, strict=True):
            counter.counts = array

    def result(self) -> "Scores":
        """The scores of everything counted so far."""
        values = {name: METRICS[name].value(self._counters[METRICS[name].counter]) for name in self.metrics}
        calibration = self._counters.get(CalibrationError)
        reliability = calibration.bins() if isinstance(calibration, CalibrationError) else []
        return Scores(values, self.confusion.result(), self.confusion.counts, reliability)


@dataclass(frozen=True)
class Scores:
    """What a `Scorer` found."""

    values: dict[str, float]
    """Metric name -> number, of 1; NaN where nothing was there to be scored."""
    by_class: ClassScores
    confusion: np.ndarray
    """int64 `[C, C]`, rows labels, columns predictions."""
    reliability: list[Bin]
    """Bins of a reliability diagram, by rising confidence; empty without the calibration error."""

    @property
    def pixels(self) -> int:
        """Labeled pixels, ignored ones left out."""
        return self.by_class.pixels

    def to_json(self, classes: Sequence[str]) -> dict[str, Any]:
        """Plain numbers, classes by name, None in place of NaN."""
        values = {name: None if np.isnan(value) else float(value) for name, value in self.values.items()}
        bins = [found._asdict() for found in self.reliability]
        return values | self.by_class.to_json(classes) | ({"reliability": bins} if bins else {})


def class_iou(scores: Scores, classes: Sequence[str]) -> dict[str, float | None]:
    """The IoU of each class by name; None where a class occurs in neither labels nor predictions."""
    return {
        name: None if np.isnan(iou) else round(float(iou), 6)
        for name, iou in zip(classes, scores.by_class.iou, strict=True)
    }
