"""Class map and confidence of a photo from the network's coarse logits, without a map of all classes at full size.

The portable graph enlarges the logits bilinearly and takes the largest class of every pixel: a third of a small
network's time, and `4 C H W` bytes. The same answer comes cheaper. Four neighboring logits are the corners of a cell of
the photo, and every bilinear value in the cell is a convex combination of the four. So

- where the corners have the same largest class, it is the largest in all of the cell;
- elsewhere, a class whose highest corner is below another one's lowest corner is nowhere the largest;
- a class that is far below another one at all corners adds nothing to the sum of the softmax.

Most cells are filled; in the others a few classes are enlarged, some cells at a time. The class map differs from the
portable graph's in pixels alone whose two best classes are equal within the error of float32, and the confidence by a
rounding at most.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from functools import partial
from typing import NamedTuple

import numpy as np

BAND_VALUES = 1 << 18
"""Logits that are looked at together. The arrays of a band, 1 MB each, bound the memory that decoding takes."""
PART_VALUES = 1 << 17
"""Enlarged logits that are held together: 512 KB stay in a core's cache."""
LEFT_OUT = 1e-6
"""Share of the softmax's sum that may be left out, ten roundings of float32."""
FAR = np.float32(-1e30)
"""A logit that neither wins nor adds to a sum."""
QUIETLY = np.errstate(invalid="ignore", over="ignore")
"""Where a network gives NaN or infinity, the class means nothing, in the portable graph too; numpy need not warn."""


class Grid(NamedTuple):
    """Where the pixels of a photo lie between its logits."""

    height: int
    width: int
    """Of the photo."""
    step_y: int
    step_x: int
    """Pixels from one logit to the next."""

    @property
    def rows(self) -> int:
        """Cells from top to bottom, as far as the photo reaches. The first begins half a step above it."""
        return (self.height - 1 + self._top) // self.step_y + 1

    @property
    def columns(self) -> int:
        """Cells from left to right, likewise."""
        return (self.width - 1 + self._left) // self.step_x + 1

    @property
    def _top(self) -> int:
        return self.step_y - self.step_y // 2

    @property
    def _left(self) -> int:
        return self.step_x - self.step_x // 2

    def picture(self, cells: np.ndarray) -> np.ndarray:
        """Cells with their pixels, `[rows * columns, step_y * step_x]` -> `[height, width]`."""
        parts = cells.reshape(self.rows, self.columns, self.step_y, self.step_x).transpose(0, 2, 1, 3)
        whole = parts.reshape(self.rows * self.step_y, self.columns * self.step_x)
        top, left = self._top, self._left
        return np.ascontiguousarray(whole[top : top + self.height, left : left + self.width])


def grid_of(logits: np.ndarray, height: int, width: int, stride: int) -> Grid | None:
    """The grid of a photo that the network saw padded, right and bottom, to multiples of `stride`.

    None where the padded sides are no multiples of those of `logits` `[..., h, w]`: then there are no equal cells.
    """
    rows, columns = logits.shape[-2:]
    padded_height, padded_width = -(-height // stride) * stride, -(-width // stride) * stride
    if padded_height % rows or padded_width % columns:
        return None
    return Grid(height, width, padded_height // rows, padded_width // columns)


@QUIETLY
def class_map(logits: np.ndarray, grid: Grid) -> np.ndarray:
    """The largest class of every pixel, of equal ones the first: float32 `[C, h, w]` -> uint8 `[H, W]`."""
    cells = np.empty((grid.rows * grid.columns, grid.step_y * grid.step_x), np.uint8)
    weights = _weights(grid)
    for band in _bands(logits, grid):
        own = cells[band.cells]
        own[...] = band.winner[:, None]
        for part in band.parts(band.mixed, 0.0, len(weights)):
            if len(part.classes) == 2:
                second_wins = np.matmul(weights, part.corners[1] - part.corners[0]) > 0
                own[part.cells] = np.where(second_wins, part.classes[1], part.classes[0]).T
            else:
                own[part.cells] = _largest(np.matmul(weights, part.corners), part.classes)[0].T
    return grid.picture(cells)


def class_and_confidence_map(
    logits: np.ndarray, grid: Grid, executor: Executor | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """`class_map`, and its probability times 255, rounded: float32 `[C, h, w]` -> two uint8 `[H, W]`.

    The threads of `executor` share the work; the answer is the same with any number of them.
    """
    cells = np.empty((2, grid.rows * grid.columns, grid.step_y * grid.step_x), np.uint8)
    weights = _weights(grid)
    margin = float(np.log(len(logits) / LEFT_OUT))
    for band in _bands(logits, grid):
        own = cells[:, band.cells]
        own[0], own[1] = band.winner[:, None], 255
        pure = band.parts(~band.mixed, margin, len(weights))
        mixed = band.parts(band.mixed, margin, len(weights))
        _read_all(partial(_read_pure, band, weights, own[1]), pure, executor)
        _read_all(partial(_read_mixed, weights, own), mixed, executor)
    return grid.picture(cells[0]), grid.picture(cells[1])


class _Part(NamedTuple):
    """Cells in which K classes are enlarged."""

    cells: np.ndarray
    """Numbers of m cells of the band."""
    classes: np.ndarray
    """uint8 `[K, m]`, rising; some may repeat the last one, and are FAR."""
    corners: np.ndarray
    """Their logits, float32 `[K, 4, m]`."""


class _Band:
    """Some rows of cells with the logits at their corners.

    Args:
        logits: `[C, rows + 1, columns + 1]`.
        cells: which of the photo's cells these are.
    """

    def __init__(self, logits: np.ndarray, cells: slice):
        self.cells = cells
        self._logits = logits
        self._flat = logits.reshape(-1)
        self._line = logits.shape[2]
        numbers = np.arange(len(logits), dtype=np.uint8)[:, None, None]
        largest, _ = _largest(logits, numbers)
        first = largest[:-1, :-1]
        self.winner = first.reshape(-1)
        """The largest class at the first corner of every cell."""
        differs = (first != largest[:-1, 1:]) | (first != largest[1:, :-1]) | (first != largest[1:, 1:])
        self.mixed = differs.reshape(-1)
        """Whether it is another one at another corner."""

    def corners(self, classes: np.ndarray, cells: np.ndarray) -> np.ndarray:
        """Logits `[K, 4, m]` of classes `[K, m]` at the corners of m cells."""
        first = cells // (self._line - 1) * self._line + cells % (self._line - 1)
        offsets = np.array([0, 1, self._line, self._line + 1])[:, None]
        places = (classes.astype(np.intp) * self._logits[0].size + first)[:, None] + offsets
        corners: np.ndarray = self._flat.take(places)
        return corners

    def parts(self, chosen: np.ndarray, margin: float, pixels: int) -> Iterator[_Part]:
        """The chosen cells in parts that fit the cache, with `pixels` each and the classes that may count in them.

        These are the classes that come within `margin` of the largest one. A cell with one alone is left out.
        """
        cells = np.flatnonzero(chosen)
        total = len(self._logits)
        highest, lowest = (self._extreme(extreme)[:, cells] for extreme in (np.maximum, np.minimum))
        # "not below", so that a NaN is a candidate too.
        candidates = ~(highest < lowest.max(axis=0) - np.float32(margin))
        counts = candidates.sum(axis=0)
        fewer = 1
        for most in _sizes(total):
            members = np.flatnonzero((counts > fewer) & (counts <= most))
            fewer = most
            step = max(8, PART_VALUES // (most * pixels))
            for start in range(0, len(members), step):
                own = members[start : start + step]
                if most == total:
                    classes = np.broadcast_to(np.arange(total)[:, None], (total, len(own)))
                    corners = self.corners(classes, cells[own])
                else:
                    count, place = counts[own], np.arange(most)[:, None]
                    _, numbers = candidates[:, own].T.nonzero()
                    classes = numbers[np.cumsum(count) - count + np.minimum(place, count - 1)]
                    corners = self.corners(classes, cells[own])
                    np.copyto(corners, FAR, where=(place >= count)[:, None])
                yield _Part(cells[own], classes.astype(np.uint8), corners)

    def _extreme(self, extreme: np.ufunc) -> np.ndarray:
        """Largest or smallest corner of every class in every cell: `[C, rows * columns]`."""
        of_lines = extreme(self._logits[:, :-1], self._logits[:, 1:])
        values: np.ndarray = extreme(of_lines[:, :, :-1], of_lines[:, :, 1:]).reshape(len(self._logits), -1)
        return values


def _bands(logits: np.ndarray, grid: Grid) -> Iterator[_Band]:
    """The photo's cells from top to bottom. Beyond the outermost logits their values go on."""
    classes, height, width = logits.shape
    columns = np.arange(-1, grid.columns).clip(0, width - 1)
    most = max(1, BAND_VALUES // (classes * grid.columns))
    for start in range(0, grid.rows, most):
        end = min(start + most, grid.rows)
        lines = np.arange(start - 1, end).clip(0, height - 1)
        yield _Band(logits.take(lines, axis=1).take(columns, axis=2), slice(start * grid.columns, end * grid.columns))


def _sizes(classes: int) -> Iterator[int]:
    """Numbers of classes that cells are put together by, up to all: 2, 3, 4, 6, 9, 13 ..."""
    size = 2
    while 4 * size <= 3 * classes:  # to pick most of the classes costs more than to take all
        yield size
        size = max(size + 1, size * 3 // 2)
    yield classes


def _weights(grid: Grid) -> np.ndarray:
    """Weights of the four corners for each pixel of a cell: `[step_y * step_x, 4]`."""
    y, x = (_fractions(step) for step in (grid.step_y, grid.step_x))
    rows, columns = np.stack([1 - y, y], axis=1), np.stack([1 - x, x], axis=1)
    weights: np.ndarray = np.einsum("yi,xj->yxij", rows, columns).reshape(-1, 4).astype(np.float32)
    return weights


def _fractions(step: int) -> np.ndarray:
    """How far the pixels of a cell are on the way from its first corner to the next, 0 to 1 (half-pixel centers)."""
    fractions: np.ndarray = (np.arange(step) + 0.5 * (1 - step % 2)) / step
    return fractions


def _largest(values: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Along K of `[K, ...]`: the number of the largest value's class, of equal ones the first, and the value.

    `classes` `[K, ...]` are the numbers, rising.
    """
    best = values[0].copy()
    number = np.empty(best.shape, np.uint8)
    number[...] = classes[0]
    won = np.empty(best.shape, np.bool_)
    candidate = won.view(np.uint8)
    for value, own in zip(values[1:], classes[1:], strict=True):
        np.greater(value, best, out=won)
        # Numbers rise, so the largest that ever won is the last that did; this takes a quarter of a masked copy's time.
        np.multiply(candidate, own, out=candidate)
        np.maximum(number, candidate, out=number)
        np.maximum(best, value, out=best)
    return number, best


def _read_all(read: Callable[[_Part], None], parts: Iterator[_Part], executor: Executor | None) -> None:
    if executor is None:
        for part in parts:
            read(part)
    else:
        for _ in executor.map(read, parts):
            pass  # raises what a thread raised


@QUIETLY
def _read_pure(band: _Band, weights: np.ndarray, confidence: np.ndarray, part: _Part) -> None:
    """Confidence where the winner is known."""
    # Below the winner by how much: no more than 0, so exp cannot overflow.
    below = part.corners - band.corners(band.winner[part.cells][None], part.cells)
    confidence[part.cells] = _confidence(np.matmul(weights, below)).T


@QUIETLY
def _read_mixed(weights: np.ndarray, classes_and_confidence: np.ndarray, part: _Part) -> None:
    """Class and confidence where corners differ."""
    values = np.matmul(weights, part.corners)
    number, best = _largest(values, part.classes)
    values -= best
    classes_and_confidence[0, part.cells], classes_and_confidence[1, part.cells] = number.T, _confidence(values).T


def _confidence(below: np.ndarray) -> np.ndarray:
    """255 / sum exp of logits minus the largest, `[K, pixels, m]` -> uint8 `[pixels, m]`. Overwrites `below`."""
    np.exp(below, out=below)
    confidence: np.ndarray = np.rint(np.float32(255) / below.sum(axis=0)).astype(np.uint8)
    return confidence
