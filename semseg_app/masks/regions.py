"""What each class of a class map covers: area and bounding box."""

from typing import NamedTuple

import numpy as np


class Region(NamedTuple):
    """All pixels of one class."""

    class_index: int
    """0 to 255."""
    area: int
    """Pixels."""
    left: int
    top: int
    width: int
    """Width of the smallest upright box around all of them, pixels; left, top and height likewise."""
    height: int


class RowRuns(NamedTuple):
    """Horizontal runs of equal pixels: one entry per run, row by row."""

    values: np.ndarray
    """uint8."""
    rows: np.ndarray
    starts: np.ndarray
    """First column."""
    ends: np.ndarray
    """Column after the last."""


def row_runs(classes: np.ndarray) -> RowRuns:
    """uint8 `[H, W]` -> its runs."""
    width = classes.shape[1]
    begins = np.ones(classes.shape, bool)
    np.not_equal(classes[:, 1:], classes[:, :-1], out=begins[:, 1:])
    starts = np.flatnonzero(begins)
    lengths = np.diff(starts, append=classes.size)
    columns = starts % width
    return RowRuns(classes.ravel()[starts], starts // width, columns, columns + lengths)


def regions(classes: np.ndarray) -> list[Region]:
    """The classes that occur in uint8 `[H, W]`, by index. Empty for an empty map."""
    if not classes.size:
        return []
    runs = row_runs(classes)
    order = np.argsort(runs.values, kind="stable")
    values, rows, starts, ends = (part[order] for part in runs)
    indices, first = np.unique(values, return_index=True)
    areas = np.add.reduceat(ends - starts, first)
    left, right = np.minimum.reduceat(starts, first), np.maximum.reduceat(ends, first)
    top, bottom = np.minimum.reduceat(rows, first), np.maximum.reduceat(rows, first) + 1
    table = np.stack([indices, areas, left, top, right - left, bottom - top], axis=1)
    return [Region(*map(int, row)) for row in table]
