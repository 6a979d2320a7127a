"""Annotation tools' exports, recognized so that the message can say what they are and what to do with them."""

import re
from pathlib import Path

from semseg_app.data.importers.formats import FORMATS, recognize_format
from semseg_app.data.importers.json_files import files_below, signature
from semseg_app.data.loose_folders import describe_loose


def recognize(root: Path) -> str | None:
    """What kind of export `root` holds, as a phrase with what to do; None where it looks like none of them."""
    known = recognize_format(root)
    if known and known[0] != "mask-folders":  # of which nothing says the classes: what follows knows more
        name, files = known
        if name == "voc":
            return (
                f"JPEGImages/ and masks without a class list: write the class names, one per line, into "
                f"{root / 'class_names.txt'}; or `semseg data import {root} --classes NAME,NAME -o FOLDER` makes a "
                "dataset of it"
            )
        title = f"{FORMATS[name].title} ({_shown(files[0], root)})"
        return f"{title}; `semseg data import {root} -o FOLDER` makes a dataset of it"
    for path in files_below(root, ".json", most=20):
        for tool, keys in JSON_FILES.items():
            if keys <= signature(path, frozenset(keys)).keys:
                return f"{tool} ({_shown(path, root)}); {NOT_READ}"
    if not root.is_dir():
        return None
    if table := next(filter(_holds_run_lengths, files_below(root, ".csv", most=20)), None):
        return f"run lengths ({_shown(table, root)}); they are not read: {WRITE}"
    for tool, names in FILES.items():
        for name in names:
            for path in sorted(root.glob(name))[:1]:
                return f"{tool} ({_shown(path, root)}); {NOT_READ}"
    if (labels := _yolo_labels(root)) is not None:
        return (
            f"YOLO labels ({labels.relative_to(root)}) without data.yaml; write {root / 'data.yaml'} (names: [...], "
            f"train: images/train), and `semseg data import {root} -o FOLDER` makes a dataset of it"
        )
    if inner := sorted(root.glob("*/dataset.yaml")):
        return f"the folder above a dataset; name {inner[0].parent}"
    return describe_loose(root)


def _shown(path: Path, root: Path) -> Path:
    """The file as the message names it."""
    return path.relative_to(root) if path != root else path


def _holds_run_lengths(path: Path) -> bool:
    """A table of Kaggle. Whether its numbers run down the columns or along the rows, it does not say."""
    try:
        with path.open("rb") as file:
            return bool(re.search(rb"(?i)encodedpixels|\brle\b|\brle_mask\b", file.readline(1000)))
    except OSError:  # a link that leads nowhere
        return False


def _yolo_labels(root: Path) -> Path | None:
    """The first labels/*.txt, directly or one folder down."""
    for pattern in ("labels/*.txt", "labels/*/*.txt", "*/labels/*.txt"):
        for path in sorted(root.glob(pattern))[:1]:
            return path
    return None


FILES = {
    "Pascal VOC boxes": ("Annotations/*.xml",),
    "a Labelbox export": ("*.ndjson",),
    "Label Studio's export of single brushes, all of which are in its JSON": ("task-*-annotation-*-by-*",),
}
"""Exports that are not imported, known by the names of their files."""
JSON_FILES = {
    "a VoTT export": {"regions", "asset"},
    "a Darwin (V7) export": {"slots", "annotations"},
    "a Datumaro dataset": {"items", "categories", "annotations"},
    "a SuperAnnotate export": {"instances", "metadata"},
    "a Segments.ai release": {"samples", "release"},
    "an Encord export": {"data_units", "object_answers"},
    "polygons of Cityscapes": {"imgHeight", "imgWidth", "objects"},
}
"""Exports that are not imported, known by the keys in their files."""
WRITE = "write PNG masks to labels/<split>/ beside images/<split>/"
NOT_READ = f"it is not read: export COCO, YOLO or masks from the tool, or {WRITE}"
