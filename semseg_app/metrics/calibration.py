"""Expected calibration error: by how much confidence differs from the share of pixels that are right. Pure numpy."""

from typing import NamedTuple

import numpy as np

from semseg_app.labels import IGNORE

BINS = 15


class Bin(NamedTuple):
    """Pixels of similar confidence."""

    confidence: float
    """Their mean, of 1."""
    accuracy: float
    """The fraction of them that is right."""
    pixels: int


class CalibrationError:
    """Expected calibration error over labeled pixels, from uint8 confidence (255 is certain).

    Pixels are put into 15 bins of equal width by confidence, bin m holding those in ((m-1)/15, m/15]. With acc the
    share of right pixels of a bin and conf its mean confidence, the error is the sum over bins of
    (pixels / all pixels) * |acc - conf|.

    Source: Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks", ICML 2017, equation 3.
    """

    def __init__(self, num_classes: int = 0) -> None:
        self.counts = np.zeros((2, 256), np.int64)
        """Pixels of each value of confidence, and those of them that are right; whatever the number of classes."""

    def add(self, classes: np.ndarray, label: np.ndarray, confidence: np.ndarray | None = None) -> None:
        """Count one image or a batch: three uint8 arrays of one shape; pixels whose label is IGNORE are left out."""
        if confidence is None:
            raise ValueError("the calibration error needs the confidence of every pixel")
        valid = label != IGNORE
        values = confidence[valid]
        right = values[classes[valid] == label[valid]]
        self.counts += np.stack([np.bincount(values, minlength=256), np.bincount(right, minlength=256)])

    def result(self) -> float:
        """The error as a fraction of 1; NaN when no pixel was counted."""
        total = self.counts[0].sum()
        if not total:
            return float("nan")
        return float(sum(each.pixels * abs(each.accuracy - each.confidence) for each in self.bins()) / total)

    def bins(self) -> list[Bin]:
        """The reliability diagram: the bins that hold any pixel, by rising confidence."""
        # Whole numbers: 17 values of confidence in each bin, and 0 in the first.
        starts = np.concatenate([[0], np.arange(1, BINS) * (255 // BINS) + 1])
        pixels, right = np.add.reduceat(self.counts, starts, axis=1)
        confidence = np.add.reduceat(self.counts[0] * np.arange(256), starts) / 255
        return [
            Bin(float(sure / count), int(hits) / int(count), int(count))
            for count, hits, sure in zip(pixels, right, confidence, strict=True)
            if count
        ]
