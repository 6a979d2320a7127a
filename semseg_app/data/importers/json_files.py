"""Reading the JSON of annotation tools: what a file is, and what it says, checked."""

import contextlib
import json
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from semseg_app.errors import UserError, explain

Content = TypeVar("Content")

MOST_BYTES = 2**20
"""Larger files are recognized by the keys near their beginning alone."""
DEPTH = 3
"""Folders below the source that are searched for annotation files."""


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


def beginning(path: Path) -> object:
    """The file's JSON; of a large or damaged one the names of keys near its beginning; None where it cannot be read."""
    try:
        if path.stat().st_size <= MOST_BYTES:
            with contextlib.suppress(ValueError, RecursionError):
                content: object = json.loads(path.read_text(encoding="utf-8-sig"))
                return content
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            text = file.read(2**18)
    except OSError:
        return None
    keys: dict[str, list[object]] = {key: [] for key in KEYS if f'"{key}"' in text}
    return [keys] if text.lstrip().startswith("[") else keys


KEYS = ("images", "annotations", "categories", "segments_info", "shapes", "imagePath", "data", "classes", "tags")


def keys_of(content: object) -> set[str]:
    """The keys of an object, or of the first object in a list."""
    first = content[0] if isinstance(content, list) and content else content
    return set(first) if isinstance(first, dict) else set()


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
