"""The table of the classes in each image, written from masks; training/data/image_labels.py reads it.

So a published dataset gives runs with image-level labels: its masks say which classes a photo shows, and the run sees
no more of them than that.
"""

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from semseg_app.data.dataset import Sample, SegmentationData
from semseg_app.data.splits import class_presence, entry
from semseg_app.errors import UserError
from semseg_app.files import atomic_file

HEADER = ["image", "classes"]


def write_image_labels(
    data: SegmentationData,
    samples: Sequence[Sample],
    path: Path,
    force: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """One line for each sample: its name, and the classes of its mask with semicolons between them.

    Args:
        data: whose classes the lines name.
        samples: labeled samples.
        path: the table, CSV in UTF-8.
        force: replace a file that is there.
        on_progress: takes how many masks of how many have been read.

    UserError where a sample has no mask, or the file exists.
    """
    if path.exists() and not force:
        raise UserError(f"{path}: exists; add --force to replace it, or choose another file with --out")
    if without := [sample for sample in samples if sample.label is None]:
        raise UserError(f"{without[0].image}: has no mask to tell its classes from; choose another list")
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(HEADER)
    for sample, present in zip(samples, class_presence(data, samples, on_progress), strict=True):
        names = [data.info.classes[index] for index in np.flatnonzero(present)]
        lines.writerow([entry(data, sample), ";".join(names)])
    with atomic_file(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")
