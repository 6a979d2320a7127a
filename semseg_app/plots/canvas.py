"""A matplotlib figure without a screen: how it is opened, and how it is written with its numbers beside it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from semseg_app.errors import UserError
from semseg_app.files import atomic_file, require_writable

FORMATS = {".png": {}, ".pdf": {"CreationDate": None}}
"""Suffix of a plot -> what matplotlib is told to leave out of its metadata, so that equal plots are equal files."""


def check_plot_file(path: Path) -> None:
    """UserError, before anything is computed, where the plot could not be written: suffix, folder, or no matplotlib."""
    if path.suffix not in FORMATS:
        raise UserError(f"{path}: plots are written as PNG or PDF; end the name in .png or .pdf")
    require_writable(path.parent)
    open_figure(path, 1, 1)


def open_figure(path: Path, width: float, height: float) -> Any:
    """An empty figure, sizes in inches. UserError, with `path` as what cannot be drawn, without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError(f"{path}: drawing it needs matplotlib ({error}): pip install 'semseg-app[plot]'") from error
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure in the format of its suffix, whole or not at all."""
    with atomic_file(path) as part:
        figure.savefig(part, format=path.suffix[1:], dpi=120, bbox_inches="tight", metadata=FORMATS[path.suffix])


def save_numbers(numbers: Mapping[str, Any], path: Path) -> Path:
    """Write what a plot shows beside it, as JSON; the name of that file."""
    beside = path.with_suffix(".json")
    with atomic_file(beside) as part:
        part.write_text(json.dumps(numbers, allow_nan=False) + "\n", encoding="utf-8")
    return beside
