"""LabelMe: one JSON per photo (https://github.com/wkentaro/labelme, versions 4 to 7).

Shapes: polygon, rectangle, oriented_rectangle, circle (center, a point on it), mask (PNG in base64 with its box).
X-AnyLabeling writes the same files, its rectangles with four corners and turned ones as "rotation".
Lines and points cover no area. Later shapes lie over earlier ones, as in labelme's own converters. The label
`__ignore__` (or `_ignore_`) becomes 255. Where the photo is not there, the copy in the file (imageData) is taken.
"""

import base64
import binascii
import re
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import NotRequired

import numpy as np
from PIL import Image
from pydantic import TypeAdapter
from typing_extensions import TypedDict

from semseg_app.data.dataset import DECODING_ERRORS
from semseg_app.data.importers.annotated import (
    Bitmap,
    Drawing,
    Ellipse,
    Export,
    Item,
    Object,
    Polygons,
    ReadOptions,
    Shape,
    Size,
    drawing_of,
    unique,
)
from semseg_app.data.importers.json_files import files_below, place, read_json, signature
from semseg_app.data.importers.photo_index import PhotoIndex, split_of
from semseg_app.data.listing import IMAGE_SUFFIXES
from semseg_app.errors import UserError

IGNORED = ("__ignore__", "_ignore_")
NO_AREA = ("line", "linestrip", "point", "points")
Point = tuple[float, float]


class LabelmeShape(TypedDict):
    label: str
    points: list[Point]
    shape_type: NotRequired[str | None]
    mask: NotRequired[str | None]


class LabelmeFile(TypedDict):
    shapes: list[LabelmeShape]
    imagePath: str
    imageWidth: NotRequired[int | None]
    imageHeight: NotRequired[int | None]


class LabelmePhoto(TypedDict):
    imageData: NotRequired[str | None]


FILE = TypeAdapter(LabelmeFile)
PHOTO = TypeAdapter(LabelmePhoto)


def find(root: Path) -> list[Path]:
    """All JSON files, where one of the first is LabelMe's."""
    if any({"shapes", "imagePath"} <= signature(path).keys for path in files_below(root, ".json", most=20)):
        return files_below(root, ".json")
    return []


def read(files: list[Path], photos: PhotoIndex, options: ReadOptions) -> Export:
    """Read all files once for their labels; each is read again when it is drawn."""
    items = []
    labels: list[str] = []
    photos.whole = True  # the files lie beside the photos; a sub-folder without any is one that is still to be labeled
    for path in files:
        try:
            content = read_json(path, FILE)
        except UserError:
            if {"shapes", "imagePath"} & signature(path).keys:
                raise
            raise UserError(
                f"{path}: lies among LabelMe's files and is none; move it elsewhere, or restore it"
            ) from None
        labels += [shape["label"] for shape in content["shapes"] if _has_area(shape)]
        photo = _photo(path, content["imagePath"], photos)
        file = photo if isinstance(photo, Path) else None
        name = photos.relative(file or path.with_suffix(Path(content["imagePath"]).suffix))
        folders = photos.split_by_folders(path) or photos.split_by_folders(file)
        split = folders or split_of(path.parent.name)
        items.append(Item(name, photo, _reader(path), f"{path}", split))
    known = sorted(set(labels) - set(IGNORED), key=lambda label: (label.strip("_ ").lower() != "background", label))
    return Export("LabelMe", unique(known), items, overlap="last")


def _photo(path: Path, name: str, photos: PhotoIndex) -> Path | bytes | None:
    """The photo of a file: the one that it names; after both were renamed, the one of its own name beside it; the one
    that it holds; or one of its own name in a folder of the same name, as in json/val/ and images/val/.

    A name without folders means the folder of the file.
    """
    here = path.parent.name
    if photo := photos.find(name if re.search(r"[/\\]", name) else f"{here}/{name}", path.parent):
        return photo
    beside = (path.with_suffix(case) for suffix in IMAGE_SUFFIXES for case in (suffix, suffix.upper()))
    if photo := next(filter(Path.is_file, beside), None):
        photos.taken.add(photo)
        return photo
    if content := _inside(path):
        return content
    renamed = (photos.find(f"{here}/{path.stem}{suffix}", path.parent) for suffix in IMAGE_SUFFIXES)
    return next((photo for photo in renamed if photo and photo.parent.name == here), None)


def _has_area(shape: LabelmeShape) -> bool:
    return (shape.get("shape_type") or "polygon") not in NO_AREA


def _inside(path: Path) -> bytes | None:
    """The photo that the file holds."""
    data = read_json(path, PHOTO).get("imageData")
    return _decoded(data, place(path, "imageData")) if data else None


def _decoded(text: str, at: str) -> bytes:
    try:
        return base64.b64decode(text, validate=False)
    except (binascii.Error, ValueError):
        raise UserError(f"{at}: is not base64") from None


def _reader(path: Path) -> Callable[[Size], Drawing | None]:
    def read_shapes(size: Size) -> Drawing | None:
        content = read_json(path, FILE)
        frame = (content.get("imageWidth") or size[0], content.get("imageHeight") or size[1])
        return drawing_of(_objects(content["shapes"], path), frame)

    return read_shapes


def _objects(shapes: list[LabelmeShape], path: Path) -> Iterator[Object | str]:
    for index, shape in enumerate(shapes):
        if _has_area(shape):
            at = place(path, "shapes", index)
            yield Object(None if shape["label"] in IGNORED else shape["label"], _shape(shape, at), at)
        else:
            yield shape.get("shape_type") or ""


def _shape(shape: LabelmeShape, at: str) -> Shape:
    kind = shape.get("shape_type") or "polygon"
    points = np.array(shape["points"], np.float64).reshape(-1, 2)
    if kind in ("polygon", "oriented_rectangle"):
        return Polygons([points])
    if len(points) == 4 and kind in ("rectangle", "rotation"):
        return Polygons([points], centers=False)
    if kind not in ("rectangle", "rotation", "circle", "mask"):
        raise UserError(f"{at}.shape_type: unknown kind {kind!r}; draw it as a polygon")
    if len(points) != 2 or kind == "rotation":
        count = {"rectangle": "2 or 4", "rotation": "4"}.get(kind, "2")
        raise UserError(f"{at}.points: a {kind} has {count} points, this one {len(points)}")
    (x1, y1), (x2, y2) = points.tolist()
    if kind == "rectangle":
        return Polygons([np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)])], centers=False)
    if kind == "circle":
        radius = float(np.hypot(x2 - x1, y2 - y1))
        return Ellipse((x1, y1), (radius, radius))
    return _mask(shape, at, int(min(x1, x2)), int(min(y1, y2)))


def _mask(shape: LabelmeShape, at: str, left: int, top: int) -> Bitmap:
    try:
        with Image.open(BytesIO(_decoded(shape.get("mask") or "", f"{at}.mask"))) as image:
            return Bitmap(np.asarray(image.convert("L")) > 0, left, top)
    except DECODING_ERRORS as error:
        raise UserError(f"{at}.mask: is not a PNG ({error})") from None
