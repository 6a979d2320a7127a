"""Expected calibration error: by how much confidence differs from the share of pixels that are right. Pure numpy."""

import numpy as np

from semseg_app.labels import IGNORE

BINS = 15


class CalibrationError:
    """Expected calibration error over labeled pixels, from uint8 confidence (255 is certain).

    Pixels are put into 15 bins of equal width by confidence, bin m holding those in ((m-1)/15, m/15]. With acc the
    share of right pixels of a bin and conf its mean confidence, the error is the sum over bins of
    (pixels / all pixels) * |acc - conf|.

    Source: Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks", ICML 2017, equation 3.
    """

    def __init__(self) -> None:
        self._pixels = np.zeros(256, np.int64)
        self._right = np.zeros(256, np.int64)

    def add(self, classes: np.ndarray, confidence: np.ndarray, label: np.ndarray) -> None:
        """Count one image or a batch: three uint8 arrays of one shape; pixels whose label is IGNORE are left out."""
        valid = label != IGNORE
        values = confidence[valid]
        self._pixels += np.bincount(values, minlength=256)
        self._right += np.bincount(values[classes[valid] == label[valid]], minlength=256)

    def result(self) -> float:
        """Of 1; NaN when no pixel was counted."""
        total = self._pixels.sum()
        if not total:
            return float("nan")
        values = np.arange(256)
        # Whole numbers: 17 values of confidence a bin, and 0 with the first.
        starts = np.concatenate([[0], np.arange(1, BINS) * (255 // BINS) + 1])
        right = np.add.reduceat(self._right, starts)
        confidence = np.add.reduceat(self._pixels * values, starts) / 255
        return float(np.abs(right - confidence).sum() / total)
