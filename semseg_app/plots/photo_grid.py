"""Rows of pictures with a title over every column, boxes and marks in them, and the classes as a legend below."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from semseg_app.labels import IGNORE, LabelSpace, hex_color
from semseg_app.masks import colorize
from semseg_app.plots.canvas import open_figure, save_figure

WIDTH = 2.6
"""Width of a picture, in inches."""
GAINED, LOST = (0, 90, 200), (214, 39, 40)
"""Blue and red, which color-blind people tell apart too."""
UNLABELED = (255, 255, 255)
"""Color of pixels without a class."""


class Box(NamedTuple):
    """A rectangle in pixels of the picture; `left` and `top` are its first column and row."""

    left: int
    top: int
    width: int
    height: int


class Picture(NamedTuple):
    """One cell of the grid."""

    pixels: np.ndarray
    """uint8 RGB `[H, W, 3]`."""
    boxes: Sequence[Box] = ()
    mark: tuple[int, int] | None = None
    """Column and row of a pixel that a cross marks."""
    caption: str = ""
    """Below the picture."""


class Row(NamedTuple):
    """Pictures of one photo, all of one shape; None leaves a cell empty."""

    name: str
    pictures: Sequence[Picture | None]


def class_picture(classes: np.ndarray, labels: LabelSpace) -> np.ndarray:
    """A class map uint8 `[H, W]` in the colors of the classes, IGNORE in white: uint8 RGB `[H, W, 3]`."""
    colors = colorize(np.where(classes == IGNORE, 0, classes).astype(np.uint8), labels.palette)
    picture: np.ndarray = np.where((classes == IGNORE)[..., None], np.uint8(UNLABELED[0]), colors)
    return picture


def heat_picture(photo: np.ndarray, heat: np.ndarray, opacity: float = 0.7) -> np.ndarray:
    """Heat over a gray photo: uint8 RGB `[H, W, 3]` and float `[H, W]`, of which the largest value is brightest.

    Returns:
        uint8 RGB `[H, W, 3]`.
    """
    from matplotlib import colormaps

    colors = colormaps["inferno"](heat / max(float(heat.max()), 1e-12))[..., :3] * 255
    blended: np.ndarray = (opacity * colors + (1 - opacity) * _gray(photo)).round().astype(np.uint8)
    return blended


def change_picture(photo: np.ndarray, gained: np.ndarray, lost: np.ndarray) -> np.ndarray:
    """A gray photo with gained pixels in blue and lost ones in red; both bool `[H, W]`. uint8 RGB `[H, W, 3]`."""
    picture = (128 + _gray(photo) / 2).round().astype(np.uint8)
    picture[gained] = GAINED
    picture[lost] = LOST
    return picture


def draw_photo_grid(path: Path, titles: Sequence[str], rows: Sequence[Row], labels: LabelSpace | None = None) -> None:
    """Draw the grid. With `labels`, their classes stand below with their colors."""
    shapes = [next(picture.pixels.shape for picture in row.pictures if picture) for row in rows]
    heights = [WIDTH * shape[0] / shape[1] for shape in shapes]
    figure = open_figure(path, WIDTH * len(titles), sum(heights) + 0.3 * len(rows))
    grid = figure.subplots(
        len(rows), len(titles), squeeze=False, gridspec_kw={"height_ratios": heights, "wspace": 0.04, "hspace": 0.16}
    )
    for row, cells in zip(rows, grid, strict=True):
        for column, (picture, axes) in enumerate(zip(row.pictures, cells, strict=True)):
            axes.set(xticks=[], yticks=[])
            if row is rows[0]:
                axes.set_title(titles[column], fontsize=9)
            if column == 0:
                axes.set_ylabel(row.name, fontsize=8)
            if picture is None:
                axes.spines[:].set_visible(False)
            else:
                _draw(axes, picture)
    if labels is not None:
        from matplotlib.patches import Patch

        patches = [
            Patch(facecolor=hex_color(color), edgecolor="black", linewidth=0.4, label=name)
            for name, color in zip(labels.classes, labels.palette, strict=True)
        ]
        columns = min(len(patches), max(2, round(WIDTH * len(titles) / 1.1)))
        figure.legend(
            handles=patches, loc="upper center", bbox_to_anchor=(0.5, 0.09), ncols=columns, fontsize=8, frameon=False
        )
    save_figure(figure, path)


def _draw(axes: Any, picture: Picture) -> None:
    from matplotlib.patches import Rectangle

    axes.imshow(picture.pixels, interpolation="nearest")
    for left, top, width, height in picture.boxes:
        for color, line in (("black", 2.6), ("white", 1.4)):  # seen on light and on dark ground
            corner = left - 0.5, top - 0.5
            axes.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=color, linewidth=line))
    if picture.mark is not None:
        for color, line in (("black", 3.2), ("yellow", 1.8)):
            axes.plot(*picture.mark, marker="x", markersize=9, markeredgewidth=line, color=color)
    if picture.caption:
        axes.set_xlabel(picture.caption, fontsize=8)


def _gray(photo: np.ndarray) -> np.ndarray:
    """Luma (ITU-R BT.601) of uint8 RGB `[H, W, 3]`, three times over: float `[H, W, 3]`."""
    gray: np.ndarray = np.repeat((photo @ np.array([0.299, 0.587, 0.114]))[..., None], 3, axis=2)
    return gray
