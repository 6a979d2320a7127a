"""Points in the plane, colored by class: what `semseg plot features` draws."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from semseg_app.plots.canvas import open_figure, save_figure

if TYPE_CHECKING:
    from semseg_app.data.dataset import DatasetInfo
    from semseg_app.plots.feature_points import Layout

SIDE = 3.4
"""Side of a panel, in inches."""


class Panel(NamedTuple):
    """One map of one model."""

    model: str
    map: str
    layout: "Layout"


def draw_panels(path: Path, panels: Sequence[Panel], point_classes: np.ndarray, info: "DatasetInfo") -> None:
    """Models side by side, their maps below one another; a legend of the classes that have a point.

    Args:
        path: the plot.
        panels: model by model, of each the same maps.
        point_classes: int `[N]`, the class of each point.
        info: names and colors of the classes.
    """
    maps = list(dict.fromkeys(panel.map for panel in panels))
    models = len(panels) // len(maps)
    figure = open_figure(path, SIDE * models + 1.4, SIDE * len(maps))
    grid = figure.subplots(len(maps), models, squeeze=False, gridspec_kw={"wspace": 0.05, "hspace": 0.16})
    colors = np.array(info.palette) / 255
    size = 2.0 if len(point_classes) > 4000 else 5.0
    # Drawn in random order, so that no class hides another because it comes later.
    order = np.random.default_rng(0).permutation(len(point_classes))
    for number, panel in enumerate(panels):
        column, row = divmod(number, len(maps))
        axes = grid[row, column]
        places = panel.layout.places[order]
        axes.scatter(*places.T, s=size, c=colors[point_classes[order]], linewidths=0)
        axes.set(xticks=[], yticks=[])
        if row == 0:
            axes.set_title(panel.model, fontsize=10)
        if column == 0:
            axes.set_ylabel(panel.map, fontsize=10)
        if panel.layout.silhouette is not None:
            axes.set_xlabel(f"silhouette {panel.layout.silhouette:.2f}", fontsize=9)
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], marker="o", linestyle="", color=colors[index], markersize=6, label=info.classes[index])
        for index in np.unique(point_classes).tolist()
    ]
    figure.legend(handles=handles, loc="center left", bbox_to_anchor=(0.91, 0.5), fontsize=8, frameon=False)
    save_figure(figure, path)
