"""Opening the dataset that a command line names, aloud."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from semseg_app.data.dataset import SegmentationData


def open_aloud(path: Path, layout: str = "auto") -> "SegmentationData":
    """The dataset at `path`; the first line on stderr says what it was taken for."""
    from semseg_app.data.layouts import open_dataset

    data = open_dataset(path, layout)
    print(data.describe(), file=sys.stderr)
    return data
