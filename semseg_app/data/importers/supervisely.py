"""Supervisely: meta.json, and per photo DATASET/ann/NAME.json beside DATASET/img/NAME (docs.supervisely.com).

Polygons (with holes), rectangles and bitmaps (a deflated PNG in base64 at its origin). Whole numbers name pixels, and
the outline belongs to the object; with fractions they are edges, as in newer projects. Later objects lie over earlier
ones. Lines and points cover no area.
"""

import base64
import binascii
import zlib
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
from semseg_app.data.importers.json_files import place, read_json, signature
from semseg_app.data.importers.photo_index import PhotoIndex, split_of
from semseg_app.errors import UserError
from semseg_app.labels import Color

NO_AREA = ("point", "line", "graph", "cuboid", "cuboid_2d")
MOST_BITMAP_BYTES = 2**26
"""Largest PNG of one unpacked bitmap, in bytes."""
Points = list[tuple[float, float]]


class SuperviselyClass(TypedDict):
    title: str
    color: NotRequired[str | None]


class Meta(TypedDict):
    classes: list[SuperviselyClass]


class Outline(TypedDict):
    exterior: Points
    interior: NotRequired[list[Points]]


class PackedBitmap(TypedDict):
    data: str
    origin: tuple[int, int]


class Figure(TypedDict):
    classTitle: str
    geometryType: NotRequired[str]
    points: NotRequired[Outline]
    bitmap: NotRequired[PackedBitmap | None]


class Side(TypedDict):
    width: int
    height: int


class PhotoAnnotation(TypedDict):
    size: Side
    objects: list[Figure]


META = TypeAdapter(Meta)
ANNOTATION = TypeAdapter(PhotoAnnotation)


def find(root: Path) -> list[Path]:
    """The meta.json of a project, of `root` or of the folders in it."""
    if root.is_file():
        return [root] if root.name == "meta.json" else []
    candidates = [root / "meta.json", *sorted(root.glob("*/meta.json"))]
    found = [path for path in candidates if path.is_file() and {"classes", "tags"} <= signature(path).keys]
    return found[:1] if found[:1] == candidates[:1] else found  # it speaks for all that is below it


def read(files: list[Path], photos: PhotoIndex, options: ReadOptions) -> Export:
    """Read projects; each photo's file is read when it is drawn."""
    classes: list[str] = []
    colors: dict[str, Color] = {}
    items: list[Item] = []
    for file in files:
        meta = read_json(file, META)["classes"]
        classes += [it["title"] for it in meta]
        colors |= {it["title"]: color for it in meta if (color := _color(it.get("color") or ""))}
        items += _items(file, {it["title"] for it in meta}, photos)
    return Export("Supervisely", unique(classes), items, overlap="last", colors=colors)


def _items(meta: Path, classes: set[str], photos: PhotoIndex) -> list[Item]:
    """The photos of one project."""
    project = meta.parent
    items = []
    for path in sorted(project.glob("**/ann/*.json")):
        if path.name.startswith("."):
            continue
        name = path.name.removesuffix(".json")  # older projects leave the photo's suffix out
        dataset = path.parent.parent
        photo = next(iter(sorted((dataset / "img").glob(f"{_literal(name)}*"))), None)
        if photo is not None and photo.name not in (name, f"{name}{photo.suffix}"):
            photo = None
        if photo is not None:
            photos.taken.add(photo)
        whole = (dataset / (photo.name if photo else name)).relative_to(project).as_posix()
        split = split_of(dataset.name) or photos.split_by_folders(path)
        items.append(Item(whole, photo, _reader(path, classes), f"{path}", split))
    if not items:
        raise UserError(f"{meta}: no ann/ folder with annotations beside it")
    return items


def _literal(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _color(text: str) -> Color | None:
    digits = text.removeprefix("#")
    try:
        red, green, blue = bytes.fromhex(digits)
    except ValueError:
        return None
    return red, green, blue


def _reader(path: Path, known: set[str]) -> Callable[[Size], Drawing | None]:
    def read_objects(size: Size) -> Drawing | None:
        content = read_json(path, ANNOTATION)
        frame = (content["size"]["width"], content["size"]["height"])
        # Supervisely writes a file for every photo, annotated or not.
        return drawing_of(_objects(content["objects"], path, known), frame).unless_empty()

    return read_objects


def _objects(figures: list[Figure], path: Path, known: set[str]) -> Iterator[Object | str]:
    for index, figure in enumerate(figures):
        at = place(path, "objects", index)
        if figure["classTitle"] not in known:
            raise UserError(f"{at}.classTitle: {figure['classTitle']!r} is not in meta.json")
        shape = _shape(figure, at)
        if shape is None:
            yield figure.get("geometryType") or "without geometryType"
        else:
            yield Object(figure["classTitle"], shape, at)


def _shape(figure: Figure, at: str) -> Shape | None:
    """None for what covers no area."""
    if packed := figure.get("bitmap"):
        return _bitmap(packed, at)
    kind = figure.get("geometryType") or "polygon"
    if kind in NO_AREA:
        return None
    if kind not in ("polygon", "rectangle"):
        raise UserError(f"{at}.geometryType: unknown kind {kind!r}; convert it to a polygon or a bitmap")
    if "points" not in figure:
        raise UserError(f"{at}.points: is missing")
    rings = [figure["points"]["exterior"], *figure["points"].get("interior", [])]
    arrays = [np.array(ring, np.float64).reshape(-1, 2) for ring in rings]
    whole = all((array == np.rint(array)).all() for array in arrays)
    if kind == "rectangle":
        if len(arrays[0]) != 2:
            raise UserError(f"{at}.points.exterior: a rectangle has 2 points, this one {len(arrays[0])}")
        (x1, y1), (x2, y2) = arrays[0].tolist()
        arrays = [np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)])]
    return Polygons(arrays[:1], arrays[1:], centers=whole)


def _bitmap(packed: PackedBitmap, at: str) -> Bitmap:
    try:
        unpacker = zlib.decompressobj()
        png = unpacker.decompress(base64.b64decode(packed["data"]), MOST_BITMAP_BYTES)
        if unpacker.unconsumed_tail:
            raise UserError(f"{at}.bitmap.data: is larger than {MOST_BITMAP_BYTES:,} bytes")
        with Image.open(BytesIO(png)) as image:
            has_alpha = image.mode == "RGBA"
            pixels = np.asarray(image.getchannel("A") if has_alpha else image.convert("L")) > 0
    except (binascii.Error, zlib.error, *DECODING_ERRORS) as error:
        raise UserError(f"{at}.bitmap.data: is no deflated PNG ({error})") from None
    return Bitmap(pixels, *packed["origin"])
