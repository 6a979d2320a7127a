"""Boundary IoU: how well the outlines of classes agree, which mIoU hardly notices on large regions. Pure numpy."""

import math

import numpy as np

from semseg_app.labels import IGNORE

DILATION_RATIO = 0.02
"""Width of the boundary as a share of the image's diagonal, as in the paper (section 4)."""


class BoundaryIoU:
    """Boundary IoU of class maps, counted over images like mIoU.

    Of a class with label pixels G and predicted pixels P, with G_d those of G that are within d pixels of its contour
    (here: whose square of side 2d+1 leaves G or the image) and P_d likewise,

        boundary IoU = |G_d ∩ P_d| / |G_d ∪ P_d|.

    d is 2 % of the image's diagonal, at least 1. The counts are summed over images, the ratios averaged over the
    classes that have a boundary in labels or predictions. Pixels whose label is IGNORE are of no class in both maps.

    Source: Cheng, Girshick, Dollár, Berg, Kirillov, "Boundary IoU: Improving Object-Centric Image Segmentation
    Evaluation", CVPR 2021, equation 2.
    """

    def __init__(self, num_classes: int):
        self.counts = np.zeros((2, num_classes), np.int64)
        """Boundary pixels of each class that are common, and that are in either."""

    def add(self, prediction: np.ndarray, label: np.ndarray, confidence: np.ndarray | None = None) -> None:
        """Count one image: class maps uint8 `[H, W]`. `confidence` is not read."""
        predicted = np.where(label == IGNORE, np.uint8(IGNORE), prediction)
        width = boundary_width(*label.shape)
        in_label, in_prediction = on_boundary(label, width), on_boundary(predicted, width)
        classes = self.counts.shape[1]
        of_label, of_prediction = (
            np.bincount(values[inside], minlength=IGNORE + 1)[:classes]
            for values, inside in ((label, in_label), (predicted, in_prediction))
        )
        both = in_label & in_prediction & (label == predicted)
        common = np.bincount(label[both], minlength=IGNORE + 1)[:classes]
        self.counts += np.stack([common, of_label + of_prediction - common])

    def result(self) -> float:
        """Mean over classes, of 1; NaN when nothing had a boundary."""
        common, either = self.counts
        present = either > 0
        return float((common[present] / either[present]).mean()) if present.any() else float("nan")


def boundary_width(height: int, width: int) -> int:
    """d in pixels."""
    return max(1, round(DILATION_RATIO * math.hypot(height, width)))


def on_boundary(classes: np.ndarray, width: int) -> np.ndarray:
    """bool `[H, W]`: pixels whose square of side 2 * width + 1 holds another class or leaves the image.

    A square of one class is one whose smallest and largest value are equal, so one pass serves all classes. Outside
    the image lies 0 for the smallest and 255 for the largest: they differ there.
    """
    smallest = _in_squares(np.pad(classes, width, constant_values=0), width, np.minimum)
    largest = _in_squares(np.pad(classes, width, constant_values=255), width, np.maximum)
    boundary: np.ndarray = smallest != largest
    return boundary


def _in_squares(padded: np.ndarray, width: int, extreme: np.ufunc) -> np.ndarray:
    """The extreme value of each square of side 2 * width + 1: along rows, then along columns, in doubling steps."""
    side = 2 * width + 1
    for axis in (0, 1):
        values = np.moveaxis(padded, axis, 0)
        reach = 1  # every entry is the extreme of this many
        while reach < side:
            step = min(reach, side - reach)
            values = extreme(values[:-step], values[step:])
            reach += step
        padded = np.moveaxis(values, 0, axis)
    return padded
