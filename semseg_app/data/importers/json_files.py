"""Reading the JSON of annotation tools: what a file is, and what it says, checked."""

import mmap
from pathlib import Path
from typing import NamedTuple, TypeVar

from pydantic import TypeAdapter, ValidationError

from semseg_app.errors import UserError, explain

Content = TypeVar("Content")

DEPTH = 3
"""Folders below the source that are searched for annotation files."""
KEYS = (
    "images",
    "annotations",
    "categories",
    "segments_info",
    "shapes",
    "imagePath",
    "data",
    "annotation_id",
    "classes",
    "tags",
    "regions",
)
"""Keys by which the formats are told apart."""


class Signature(NamedTuple):
    """What a JSON file looks like; also a damaged one, so that the message can say where it is damaged."""

    is_list: bool
    keys: frozenset[str]
    """Those of KEYS that stand somewhere in the file."""


def signature(path: Path) -> Signature:
    """Look at a file without parsing it."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            start = text[:64].removeprefix(b"\xef\xbb\xbf").lstrip()
            return Signature(
                start.startswith(b"["), frozenset(key for key in KEYS if text.find(f'"{key}"'.encode()) >= 0)
            )
    except (OSError, ValueError):  # an empty file cannot be mapped
        return Signature(False, frozenset())


def files_below(root: Path, suffix: str, most: int | None = None) -> list[Path]:
    """`root` itself where it is such a file; else the files below it, hidden ones left out, nearest first, sorted."""
    if root.is_file():
        return [root] if root.suffix.lower() == suffix else []
    found: list[Path] = []
    for depth in range(DEPTH + 1):
        level = sorted(root.glob("/".join(["*"] * depth + [f"*{suffix}"])))
        found += [path for path in level if not any(part.startswith(".") for part in path.relative_to(root).parts)]
        if most is not None and len(found) >= most:
            return found[:most]
    return found


def read_json(path: Path, kind: TypeAdapter[Content]) -> Content:
    """The content of a file, checked. UserError names the file and the place in it."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        return kind.validate_json(content.removeprefix(b"\xef\xbb\xbf"))
    except ValidationError as error:
        raise explain(error, path) from None


def place(path: Path, *keys: str | int) -> str:
    """ "file: annotations.3.segmentation", as `read_json` names places."""
    return f"{path}: {'.'.join(map(str, keys))}"
