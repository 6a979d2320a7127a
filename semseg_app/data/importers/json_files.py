"""Reading the JSON of annotation tools: what a file is, and what it says, checked."""

import mmap
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, TypeVar

from pydantic import TypeAdapter, ValidationError

from semseg_app.data.listing import imported_into
from semseg_app.errors import UserError, explain

Content = TypeVar("Content")

KEYS = frozenset(
    {
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
        "filename",
        "file_attributes",
    }
)
"""Keys by which the formats are told apart."""


class Signature(NamedTuple):
    """What a JSON file looks like; also a damaged one, so that the message can say where it is damaged."""

    is_list: bool
    keys: frozenset[str]
    """Those that stand somewhere in the file."""


def signature(path: Path, keys: frozenset[str] = KEYS) -> Signature:
    """Look at a file without parsing it; `keys` are those to look for."""
    try:
        status = path.stat()
    except OSError:
        return Signature(False, frozenset())
    return _signature(path, status.st_mtime_ns, status.st_size, keys)


@lru_cache(maxsize=4096)  # every format asks for it
def _signature(path: Path, changed: int, size: int, keys: frozenset[str]) -> Signature:
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            start = text[:64].removeprefix(b"\xef\xbb\xbf").lstrip()
            return Signature(
                start.startswith(b"["), frozenset(key for key in keys if text.find(f'"{key}"'.encode()) >= 0)
            )
    except (OSError, ValueError):  # an empty file cannot be mapped
        return Signature(False, frozenset())


def files_below(root: Path, suffix: str, most: int | None = None) -> list[Path]:
    """`root` itself where it is such a file; else the files below it, nearest first, sorted.

    Hidden ones are left out, and those of datasets that were imported there.
    """
    if root.is_file():
        return [root] if root.suffix.lower() == suffix else []
    found: list[Path] = []
    level = [root]
    visited = {os.path.realpath(folder) for folder in imported_into(root)}
    while level and (most is None or len(found) < most):
        entries = [entry for folder in level if _is_new(folder, visited) for entry in os.scandir(folder)]
        shown = [entry for entry in entries if not entry.name.startswith(".")]
        level = sorted(Path(entry.path) for entry in shown if entry.is_dir())
        found += sorted(
            Path(entry.path) for entry in shown if entry.name.lower().endswith(suffix) and not entry.is_dir()
        )
    return found[:most]


def _is_new(folder: Path, visited: set[str]) -> bool:
    """Whether a folder was not visited before; a symlink may lead back up."""
    real = os.path.realpath(folder)
    if real in visited:
        return False
    visited.add(real)
    return True


def files_of_kind(root: Path, suffix: str, is_kind: Callable[[Path], bool], most: int) -> list[Path]:
    """All files of a kind below `root`, hidden ones left out, where one of `most` files is of it: the nearest ones, and
    the largest, since many photos may have a small file of something else beside them."""
    files = files_below(root, suffix)
    largest = sorted(files, key=lambda path: -_size(path))[:most] if len(files) > most else []
    if not any(is_kind(path) for path in (*files[:most], *largest)):
        return []
    return [path for path in files if is_kind(path)]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # a link that leads nowhere


def read_json(path: Path, kind: TypeAdapter[Content]) -> Content:
    """The content of a file, checked. UserError names the file and the place in it."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        return kind.validate_json(content.removeprefix(b"\xef\xbb\xbf"))
    except ValidationError as error:
        try:
            content.decode()
        except UnicodeDecodeError:
            raise UserError(f"{path}: not a text file in UTF-8; save it as UTF-8") from None
        raise explain(error, path) from None


def place(path: Path, *keys: str | int) -> str:
    """ "file: annotations.3.segmentation", as `read_json` names places."""
    return f"{path}: {'.'.join(map(str, keys))}"
