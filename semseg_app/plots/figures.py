"""Figures of scores, drawn with matplotlib: the confusion matrix, the reliability diagram."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from semseg_app.errors import UserError
from semseg_app.files import atomic_file
from semseg_app.metrics.calibration import BINS, Bin


def plot_confusion_matrix(counts: np.ndarray, names: Sequence[str], path: Path) -> None:
    """Draw `counts` (int `[C, C]`, rows labels) as a PNG, each row in percent of its label pixels."""
    percent = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = 3 + 0.45 * min(len(names), 60)
    figure, axes = _figure(path, side + 1, side)
    picture = axes.imshow(percent, cmap="viridis", vmin=0, vmax=100)
    axes.set(xlabel="prediction", ylabel="label")
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
    if len(names) <= 30:  # beyond that the numbers are too small to read
        for row, column in np.argwhere(percent >= 0.5):
            value = percent[row, column]
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", color="black" if value > 60 else "white")
    figure.colorbar(picture, label="% of the label's pixels", shrink=0.8)
    _save(figure, path)


def plot_reliability(bins: Sequence[Bin], path: Path) -> None:
    """Draw a reliability diagram as a PNG: how often pixels of each confidence are right, beside the ideal diagonal.

    Source: Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks", ICML 2017, figure 1.
    """
    figure, axes = _figure(path, 5, 5)
    confidence, accuracy = [each.confidence for each in bins], [each.accuracy for each in bins]
    total = max(sum(each.pixels for each in bins), 1)
    axes.bar(confidence, accuracy, width=0.9 / BINS, color="tab:blue", label="fraction of right pixels")
    axes.plot([0, 1], [0, 1], color="black", linestyle="--", label="perfect calibration")
    axes.step(confidence, [each.pixels / total for each in bins], where="mid", color="gray", label="fraction of pixels")
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    axes.legend(loc="upper left")
    _save(figure, path)


def _figure(path: Path, width: float, height: float) -> tuple[Any, Any]:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError(f"{path}: drawing it needs matplotlib ({error}): pip install matplotlib") from error
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _save(figure: Any, path: Path) -> None:
    with atomic_file(path) as part:
        figure.savefig(part, format="png", dpi=120, bbox_inches="tight")
