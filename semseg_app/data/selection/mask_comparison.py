"""One mask beside what a model says of its photo: a score, and facts from which `mask_verdicts` tells what is wrong."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from semseg_app.data.selection.extra import labels_extra
from semseg_app.labels import IGNORE

TEMPERATURE = 0.2
"""Of cleanlab's softmin over the pixels. Its default, 0.1, looks at the worst few pixels, which lie along outlines in
every photo; at 1 a small wrong region is averaged away. Of 8 draws of 6 masks planted among 60 of CamVid, shifted or
with two classes swapped, 46 of 48 were among the lowest 10 at 0.2, 42 at 0.1, and 41 at 1."""
LONGEST_SHIFT = 1 / 8
"""Of the shorter side."""
COARSE_SIDE = 240
"""Longest side, in pixels, of the maps on which shifts are searched; the best one is refined in full."""
SMALLEST_OBJECT = 0.002
"""Fraction of the photo's pixels."""
SURE = 0.8
"""Mean probability of the model's classes within an object."""
FARTHEST_OUTLINE = 0.05
"""Of the shorter side; an outline that has no partner counts with this distance."""


class Shift(NamedTuple):
    """Where a mask would have to be moved to agree best."""

    down: int
    right: int
    before: float
    """Fraction of the pixels that agree without moving, of those under the moved mask."""
    after: float


class Confusion(NamedTuple):
    """Pixels of one class of the mask that the model takes for another one."""

    label: int
    predicted: int
    pixels: int
    of: int
    """Pixels of that class in the mask."""


class Object(NamedTuple):
    """A connected region that only one of the two has."""

    missing: bool
    """Whether it is missing in the mask; otherwise the model does not see it."""
    class_index: int
    other: int
    """The class that the other one has there mostly."""
    left: int
    top: int
    width: int
    height: int


class Comparison(NamedTuple):
    """Facts on one mask; a few hundred bytes."""

    score: float
    """cleanlab's label quality, 0 to 1; low is suspicious. NaN where the mask is ignored as a whole."""
    agreement: float
    """Fraction of the labeled pixels whose class the model would give too."""
    shift: Shift | None
    confusions: list[Confusion]
    """For each class of the mask, the wrong class that the model sees most of, from half of its pixels on."""
    objects: list[Object]
    outline: float
    """Mean distance of the mask's outlines to the model's, fraction of the shorter side; NaN without outlines."""


def compare(label: np.ndarray, probabilities: np.ndarray) -> tuple[Comparison, np.ndarray]:
    """Facts on a mask, and int64 `[C, C]`: pixels of each class of the mask (rows) by the model's class.

    Args:
        label: uint8 `[H, W]`, class or IGNORE.
        probabilities: float32 `[C, H, W]`.
    """
    classes = len(probabilities)
    predicted = probabilities.argmax(axis=0).astype(np.uint8)
    valid = label != IGNORE
    counts = np.bincount(label[valid].astype(np.int64) * classes + predicted[valid], minlength=classes * classes)
    matrix = counts.reshape(classes, classes)
    if not valid.any():
        return Comparison(float("nan"), float("nan"), None, [], [], float("nan")), matrix
    return Comparison(
        label_quality(label, probabilities),
        float(matrix.trace() / matrix.sum()),
        best_shift(label, predicted),
        list(_confusions(matrix)),
        list(_objects(label, predicted, probabilities)),
        outline_distance(label, predicted),
    ), matrix


def label_quality(label: np.ndarray, probabilities: np.ndarray) -> float:
    """cleanlab's score of a mask with at least one labeled pixel, 0 to 1.

    cleanlab takes no ignored pixels, so the others go to it as a picture of one row.
    """
    with labels_extra("--model"):
        from cleanlab.segmentation.rank import get_label_quality_scores

    valid = label != IGNORE
    row, chances = label[valid].astype(np.int64)[None, None], probabilities[:, valid][None, :, None]
    scores, _ = get_label_quality_scores(row, chances, method="softmin", temperature=TEMPERATURE, verbose=False)
    return float(scores[0])


def best_shift(label: np.ndarray, predicted: np.ndarray) -> Shift | None:
    """The shift of at most LONGEST_SHIFT after which the mask agrees best; None where none is better than staying.

    Searched on reduced maps by cross-correlation of the classes (a product of Fourier transforms), then pixel by pixel
    around the best one.
    """
    height, width = label.shape
    step = -(-max(height, width) // COARSE_SIDE)
    reach = int(min(height, width) * LONGEST_SHIFT)
    small_label, small_predicted = label[::step, ::step], predicted[::step, ::step]
    limit = reach // step
    shape = small_label.shape[0] + limit, small_label.shape[1] + limit  # room, so that nothing wraps around
    total = np.zeros((shape[0], shape[1] // 2 + 1), np.complex128)
    for index in np.unique(small_label[small_label != IGNORE]):
        own, seen = (np.fft.rfft2((part == index).astype(np.float64), shape) for part in (small_label, small_predicted))
        total += seen * own.conj()
    agreeing = np.fft.irfft2(total, shape)
    inside = np.fft.rfft2(np.ones(small_label.shape), shape)
    overlap = np.fft.irfft2(inside * np.fft.rfft2((small_label != IGNORE).astype(np.float64), shape).conj(), shape)
    steps = np.arange(-limit, limit + 1)
    fractions = agreeing[np.ix_(steps, steps)] / np.maximum(overlap[np.ix_(steps, steps)], 1)
    row, column = divmod(int(fractions.argmax()), len(steps))
    near_rows = range(max((steps[row] - 1) * step, -reach), min((steps[row] + 1) * step, reach) + 1)
    near_columns = range(max((steps[column] - 1) * step, -reach), min((steps[column] + 1) * step, reach) + 1)
    down, right = max(
        ((down, right) for down in near_rows for right in near_columns),
        key=lambda shift: (_moved(label, predicted, *shift)[1], -abs(shift[0]) - abs(shift[1])),
    )
    before, after = _moved(label, predicted, down, right)
    return Shift(down, right, before, after) if (down, right) != (0, 0) and after > before else None


def _moved(label: np.ndarray, predicted: np.ndarray, down: int, right: int) -> tuple[float, float]:
    """Fraction of the pixels under the moved mask that agree with the mask where it was, and where it is moved to."""
    height, width = label.shape
    target = slice(max(down, 0), height + min(down, 0)), slice(max(right, 0), width + min(right, 0))
    source = slice(max(-down, 0), height - max(down, 0)), slice(max(-right, 0), width - max(right, 0))
    seen = predicted[target]
    fractions = []
    for mask in (label[target], label[source]):
        count = int((mask != IGNORE).sum())
        fractions.append(float((mask == seen).sum() / count) if count else 0.0)
    return fractions[0], fractions[1]


def _confusions(matrix: np.ndarray) -> Iterator[Confusion]:
    off = matrix.copy()
    np.fill_diagonal(off, 0)
    for index in np.flatnonzero(matrix.sum(axis=1)).tolist():
        predicted, of = int(off[index].argmax()), int(matrix[index].sum())
        if 2 * off[index, predicted] >= of:
            yield Confusion(index, predicted, int(off[index, predicted]), of)


def _objects(label: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray, most: int = 3) -> Iterator[Object]:
    """The largest regions of a class that the other map has nowhere near, where the model is sure."""
    with labels_extra("--model"):
        from scipy import ndimage

    valid = label != IGNORE
    sure = np.take_along_axis(probabilities, predicted[None].astype(np.int64), axis=0)[0]
    found: list[tuple[int, Object]] = []
    for missing, own, other in ((True, predicted, label), (False, label, predicted)):
        for index in np.unique(own[(own != other) & valid]).tolist():
            regions, _ = ndimage.label((own == index) & valid)
            sizes = np.bincount(regions.ravel())
            sizes[0] = 0
            for number in np.flatnonzero(sizes >= max(SMALLEST_OBJECT * label.size, 16)).tolist():
                box = ndimage.find_objects(regions, number)[number - 1]
                region = regions[box] == number
                if (other[box][region] == index).mean() > 0.05 or sure[box][region].mean() < SURE:
                    continue
                rows, columns = box
                there = np.bincount(other[box][region], minlength=256).argmax()
                size = rows.stop - rows.start, columns.stop - columns.start
                found.append(
                    (
                        int(sizes[number]),
                        Object(missing, index, int(there), columns.start, rows.start, size[1], size[0]),
                    )
                )
    for _, thing in sorted(found, key=lambda pair: -pair[0])[:most]:
        yield thing


def outline_distance(label: np.ndarray, predicted: np.ndarray) -> float:
    """Mean distance from an outline pixel of the mask to the nearest one of the model, as `Comparison.outline`."""
    with labels_extra("--model"):
        from scipy import ndimage

    shorter = min(label.shape)
    own, seen = _outlines(label), _outlines(predicted)
    if not own.any():
        return float("nan")
    farthest = FARTHEST_OUTLINE * shorter
    if not seen.any():
        return FARTHEST_OUTLINE
    distances = ndimage.distance_transform_edt(~seen)[own]
    return float(np.minimum(distances, farthest).mean() / shorter)


def _outlines(classes: np.ndarray) -> np.ndarray:
    """bool `[H, W]`: pixels whose right or lower neighbor is of another class; borders of ignored regions are none."""
    edges = np.zeros(classes.shape, bool)
    for axis in (0, 1):
        first = classes[:-1] if axis == 0 else classes[:, :-1]
        second = classes[1:] if axis == 0 else classes[:, 1:]
        edges[: first.shape[0], : first.shape[1]] |= (first != second) & (first != IGNORE) & (second != IGNORE)
    return edges
