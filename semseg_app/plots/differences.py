"""Where two models differ on a photo: pixels that one has right and the other wrong, and boxes around them.

As in Pissas et al., "Multi-scale and Cross-scale Contrastive Learning", ECCV 2022, supplement, figures 2 to 4 (boxes),
and Fan et al., "Af-DCD", NeurIPS 2023, supplement, figure 5 (right here, wrong there).
"""

from typing import Any, NamedTuple

import numpy as np

from semseg_app.labels import IGNORE
from semseg_app.plots.extra import plot_extra
from semseg_app.plots.photo_grid import Box

MOST_BOXES = 3
SMALLEST = 0.002
"""Fraction of the photo that a region must cover to get a box: boxes around single pixels would hide the photo."""
THIN = 0.03
"""Fraction of the photo's shorter side; what is thinner, such as outlines, joins no regions and gets no box."""


class Differences(NamedTuple):
    """Two models on one photo."""

    gained: np.ndarray
    """bool `[H, W]`: labeled pixels that the last model has right and the first one wrong."""
    lost: np.ndarray
    """bool `[H, W]`: the reverse."""
    labeled: int
    """Pixels with a label."""
    boxes: list[Box]
    """Around the largest regions of both, the largest first, at most MOST_BOXES."""

    def to_json(self) -> dict[str, Any]:
        """Counts of pixels and the boxes as [left, top, width, height]."""
        return {
            "labeled_pixels": self.labeled,
            "gained_pixels": int(self.gained.sum()),
            "lost_pixels": int(self.lost.sum()),
            "boxes": [list(box) for box in self.boxes],
        }


def differences(label: np.ndarray, first: np.ndarray, last: np.ndarray) -> Differences:
    """Compare two class maps with the label, all uint8 `[H, W]`; pixels whose label is IGNORE count as neither."""
    labeled = label != IGNORE
    gained = labeled & (last == label) & (first != label)
    lost = labeled & (first == label) & (last != label)
    return Differences(gained, lost, int(labeled.sum()), regions(gained | lost))


def regions(changed: np.ndarray) -> list[Box]:
    """Boxes around the largest connected regions of bool `[H, W]`, after what is thin has been taken away.

    Outlines differ almost everywhere; with them, one box would surround the whole photo.
    """
    with plot_extra("finding connected regions"):
        from scipy import ndimage

    side = max(2, round(min(changed.shape) * THIN))
    solid = ndimage.binary_opening(changed, np.ones((side, side)))
    numbers, count = ndimage.label(solid, structure=np.ones((3, 3)))
    sizes = np.bincount(numbers.ravel(), minlength=count + 1)
    sizes[0] = 0
    order = np.argsort(-sizes, kind="stable")[:MOST_BOXES]
    slices = ndimage.find_objects(numbers)
    boxes = []
    for number in order.tolist():
        if sizes[number] >= max(SMALLEST * changed.size, 1):
            rows, columns = slices[number - 1]
            boxes.append(Box(columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start))
    return boxes
