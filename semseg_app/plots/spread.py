"""Distances as points beside their distribution: what `semseg plot distances` draws."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from semseg_app.plots.canvas import open_figure, save_figure

BINS = 80
SHOWN = 0.999
"""Quantile at which the axis ends: single far pairs would press all others together."""


def draw_distances(
    path: Path, samples: Mapping[str, Mapping[str, np.ndarray]], means: Mapping[str, Mapping[str, float]], unit: str
) -> None:
    """Points on the left and their distribution on the right, a panel for each split, a color for each run.

    Args:
        path: the plot.
        samples: split -> run -> float `[N]`.
        means: split -> run -> the mean that stands below the points.
        unit: label of the axis.
    """
    largest = max(float(np.quantile(values, SHOWN)) for runs in samples.values() for values in runs.values())
    largest = largest or 1.0  # all distances are 0
    edges = np.linspace(0, largest, BINS + 1)
    figure = open_figure(path, 5.4 * len(samples), 3.6)
    grid = figure.subplots(
        1,
        2 * len(samples),
        squeeze=False,
        sharey=True,
        gridspec_kw={"width_ratios": [3, 2] * len(samples), "wspace": 0.06},
    )[0]
    for number, (split, runs) in enumerate(samples.items()):
        points, distribution = grid[2 * number], grid[2 * number + 1]
        for color, values in enumerate(runs.values()):
            strip = color + np.linspace(0.05, 0.95, len(values))  # side by side: no run hides another
            points.scatter(strip, values, s=2, alpha=0.4, color=f"C{color}", linewidths=0)
            heights = np.histogram(values, edges)[0] / len(values)
            distribution.stairs(heights, edges, orientation="horizontal", color=f"C{color}", fill=True, alpha=0.35)
            distribution.stairs(heights, edges, orientation="horizontal", color=f"C{color}")
        names = [f"{run}\nmean {means[split][run]:.3g}" for run in runs]
        points.set_xticks(np.arange(len(runs)) + 0.5, names, fontsize=8)
        points.set(title=split, xlim=(0, len(runs)), ylim=(0, largest))
        distribution.set_xlabel("fraction of pairs")
        distribution.locator_params(axis="x", nbins=3)
        distribution.margins(x=0.04)
    grid[0].set_ylabel(unit)
    save_figure(figure, path)
