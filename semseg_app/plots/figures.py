"""Figures of scores, drawn with matplotlib: the confusion matrix, the reliability diagram."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from semseg_app.metrics.calibration import BINS, Bin
from semseg_app.plots.canvas import open_figure, save_figure


def plot_confusion_matrix(counts: np.ndarray, names: Sequence[str], path: Path) -> None:
    """Draw `counts` (int `[C, C]`, rows labels) as a PNG, each row in percent of its label pixels."""
    percent = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = 3 + 0.45 * min(len(names), 60)
    figure = open_figure(path, side + 1, side)
    axes = figure.add_subplot()
    picture = axes.imshow(percent, cmap="viridis", vmin=0, vmax=100)
    axes.set(xlabel="prediction", ylabel="label")
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
    if len(names) <= 30:  # beyond that the numbers are too small to read
        for row, column in np.argwhere(percent >= 0.5):
            value = percent[row, column]
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", color="black" if value > 60 else "white")
    figure.colorbar(picture, label="% of the label's pixels", shrink=0.8)
    save_figure(figure, path)


def plot_reliability(bins: Sequence[Bin], path: Path) -> None:
    """Draw a reliability diagram as a PNG: how often pixels of each confidence are right, beside the ideal diagonal.

    Source: Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks", ICML 2017, figure 1.
    """
    figure = open_figure(path, 5, 5)
    draw_reliability(figure.add_subplot(), bins)
    save_figure(figure, path)


def draw_reliability(axes: Any, bins: Sequence[Bin]) -> None:
    """Draw a reliability diagram into `axes` of matplotlib."""
    confidence, accuracy = [each.confidence for each in bins], [each.accuracy for each in bins]
    total = max(sum(each.pixels for each in bins), 1)
    axes.bar(confidence, accuracy, width=0.9 / BINS, color="tab:blue", label="fraction of right pixels")
    axes.plot([0, 1], [0, 1], color="black", linestyle="--", label="perfect calibration")
    axes.step(confidence, [each.pixels / total for each in bins], where="mid", color="gray", label="fraction of pixels")
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    axes.legend(loc="upper left")


def plot_reliabilities(diagrams: Sequence[Sequence[tuple[str, Sequence[Bin]]]], path: Path) -> None:
    """Draw reliability diagrams as a grid: rows of (title, bins)."""
    columns = max(len(row) for row in diagrams)
    figure = open_figure(path, 2.9 * columns, 3.1 * len(diagrams))
    grid = figure.subplots(len(diagrams), columns, squeeze=False, sharex=True, sharey=True)
    for row, cells in zip(diagrams, grid, strict=True):
        for number, axes in enumerate(cells):
            if number >= len(row):
                axes.set_axis_off()
                continue
            title, bins = row[number]
            draw_reliability(axes, bins)
            axes.set_title(title, fontsize=9)
            axes.get_legend().remove()
            axes.set_xticks([0, 0.5, 1])
            axes.label_outer()
    figure.subplots_adjust(wspace=0.12, hspace=0.25)
    handles, names = grid[0, 0].get_legend_handles_labels()
    below = 0.06 / len(diagrams) - 0.08
    figure.legend(handles, names, loc="upper center", bbox_to_anchor=(0.5, below), ncols=3, fontsize=8, frameon=False)
    save_figure(figure, path)
