"""Which classes each image holds, without masks: a table of two columns, usually `image_labels.csv`.

    image,classes
    street_0001,car;person
    street_0002,

`image` is a stem, or split/stem where a stem is in several splits, as in splits/*.txt. `classes` are names of
dataset.yaml with semicolons between them; none means that the image holds no object. The background may be named or
left out. Lines for images that are not asked for are allowed.
"""

import csv
import difflib
from pathlib import Path

import torch
from torch import Tensor

from semseg_app.data.dataset import Sample, SegmentationData
from semseg_app.data.image_label_table import HEADER
from semseg_app.errors import UserError


def read_image_labels(
    path: Path, data: SegmentationData, samples: list[Sample], classes: list[str] | None = None
) -> Tensor:
    """bool `[len(samples), C]`, True where the image holds the class.

    Args:
        path: the table, UTF-8.
        data: whose images it names.
        samples: the images that need a line.
        classes: the classes that it names; None = those of `data`.

    UserError when the file is missing or no such table, names an unknown class or image, or an image twice or not.
    """
    known = data.info.classes if classes is None else classes
    found: dict[Sample, tuple[int, list[int]]] = {}
    for number, entry, names in _rows(path):
        matches = data.by_entry.get(entry, [])
        if len(matches) != 1:
            what = "is in several splits; write split/stem" if matches else "has no image; take the line out"
            raise UserError(f"{path}:{number}: {entry!r} {what}")
        before = found.get(matches[0])
        if before:
            raise UserError(f"{path}:{number}: {entry!r} is in line {before[0]} already; keep one of them")
        found[matches[0]] = number, [_class_index(name, known, f"{path}:{number}") for name in names]
    missing = [sample.stem for sample in samples if sample not in found]
    if missing:
        more = f" and {len(missing) - 1} more images" if len(missing) > 1 else ""
        raise UserError(f"{path}: no line for {missing[0]}{more}; add it, or take it out of data.unlabeled")
    table = torch.zeros(len(samples), len(known), dtype=torch.bool)
    for row, sample in enumerate(samples):
        table[row, found[sample][1]] = True
    return table


def _rows(path: Path) -> list[tuple[int, str, list[str]]]:
    """(line number, image, names of classes) of every line below the header."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            lines = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(row)]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; method.image_labels is relative to data.root") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a table in UTF-8 ({error}); its first line is {','.join(HEADER)}") from None
    first, header = lines[0] if lines else (1, [])
    if header != HEADER:
        raise UserError(f"{path}:{first}: expected the header {','.join(HEADER)}, found {','.join(header)!r}")
    for number, row in lines[1:]:
        if len(row) != 2:
            raise UserError(f"{path}:{number}: {len(row)} columns, not 2; write image,class;class")
    return [(number, row[0], [name.strip() for name in row[1].split(";") if name.strip()]) for number, row in lines[1:]]


def _class_index(name: str, classes: list[str], place: str) -> int:
    if name not in classes:
        near = difflib.get_close_matches(name, classes, n=1)
        hint = f"did you mean {near[0]}?" if near else f"the classes are {', '.join(classes)}"
        raise UserError(f"{place}: no class {name!r}; {hint}")
    return classes.index(name)
