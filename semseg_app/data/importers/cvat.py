"""CVAT's XML: "CVAT for images 1.1" and "CVAT for video 1.1" (https://docs.cvat.ai/docs/dataset_management/formats/).

Shapes: polygon, box (rotated, too), ellipse, mask (run lengths along the rows of its box, zeros first). The object with
the higher z_order is seen, as in CVAT. Tracks give one shape per frame; a frame's photo is frame_000012. Polylines,
points, skeletons, cuboids and tags cover no area.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import numpy as np

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
from semseg_app.data.importers.json_files import files_below
from semseg_app.data.importers.photo_index import PhotoIndex, named_split, split_of
from semseg_app.data.listing import IMAGE_SUFFIXES
from semseg_app.errors import UserError
from semseg_app.labels import Color

NO_AREA = ("polyline", "points", "skeleton", "cuboid", "tag")
MOST_MASK_PIXELS = 2**29
"""Largest box of one mask, width x height."""


def find(root: Path) -> list[Path]:
    """XML files whose top element is `annotations`."""
    return [path for path in files_below(root, ".xml", most=100) if _is_cvat(path)]


def _is_cvat(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            start = file.read(4096)
    except OSError:
        return False
    return b"<annotations" in start and b"<version" in start


def read(files: list[Path], photos: PhotoIndex, options: ReadOptions) -> Export:
    """Read one or more XML files."""
    items: list[Item] = []
    classes: list[str] = []
    colors: dict[str, Color] = {}
    for path in files:
        root = _parsed(path)
        for label in root.iterfind("meta//labels/label"):
            if not label.findtext("parent"):  # a point of a skeleton is no class
                classes.append(label.findtext("name") or "")
                if color := _color(label.findtext("color") or ""):
                    colors[classes[-1]] = color
        known = set(classes)
        for image in root.iterfind("image"):
            name = image.get("name") or ""
            # Datumaro names the subset in the file's name alone.
            split = named_split(image.get("subset") or "") or split_of(path.stem)
            at = f"{path}: image {name!r}"
            frame = _size(image.get("width"), image.get("height"), at)
            photo = photos.find(name, path.parent, split)
            items.append(Item(name, photo, _reader(list(image), at, frame, known), at, split))
        items += _frames(path, root, photos, known)
    if not items:
        raise UserError(f"{files[0]}: no image and no track in it")
    return Export("CVAT", unique(classes), items, overlap="z-order", has_z=True, colors=colors)


def _parsed(path: Path) -> Element:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if b"<!DOCTYPE" in content[:4096]:
        raise UserError(f"{path}: has a DOCTYPE, which CVAT does not write")
    try:
        return ElementTree.fromstring(content)
    except ElementTree.ParseError as error:
        line, column = error.position
        raise UserError(f"{path}:{line}:{column + 1}: not valid XML ({str(error).partition(':')[0]})") from None


def _color(text: str) -> Color | None:
    if not re.fullmatch("#[0-9a-fA-F]{6}", text):
        return None
    value = int(text[1:], 16)
    return value >> 16, value >> 8 & 255, value & 255


def _size(width: str | None, height: str | None, at: str) -> Size | None:
    if width is None or height is None:
        return None
    if not (width.isdigit() and height.isdigit()):
        raise UserError(f"{at}: width and height must be whole numbers")
    return int(width), int(height)


def _frames(path: Path, root: Element, photos: PhotoIndex, known: set[str]) -> list[Item]:
    """One item per frame on which a track shows something."""
    frames: dict[int, list[Element]] = {}
    for number, track in enumerate(root.iterfind("track")):
        for shape in track:
            if shape.get("outside") == "1":
                continue
            text = shape.get("frame") or ""
            if not text.isdigit():
                raise UserError(f"{path}: track {number}: {shape.tag} without a frame")
            shape.set("label", track.get("label") or "")
            frames.setdefault(int(text), []).append(shape)
    original = root.find("meta//original_size")
    at = f"{path}: original_size"
    size = None if original is None else _size(original.findtext("width"), original.findtext("height"), at)
    items = []
    for frame, shapes in sorted(frames.items()):
        name = f"frame_{frame:06d}"
        suffixes = [suffix for lower in IMAGE_SUFFIXES for suffix in (lower, lower.upper())]
        photo = next((photo for suffix in suffixes if (photo := photos.find(name + suffix, path.parent))), None)
        at = f"{path}: frame {frame}"
        items.append(Item(photo.name if photo else name, photo, _reader(shapes, at, size, known), at))
    if items and all(item.photo is None for item in items):
        raise UserError(
            f"{path}: its tracks give frames by number, and no photo is called {items[0].name}; name the folder of the "
            'frames with --images, or export "CVAT for images 1.1", which has the names of the photos'
        )
    return items


def _reader(shapes: list[Element], at: str, frame: Size | None, known: set[str]) -> Callable[[Size], Drawing | None]:
    def read_shapes(size: Size) -> Drawing | None:
        # CVAT lists every image of a task, annotated or not.
        return drawing_of(_objects(shapes, at, known), frame or size).unless_empty()

    return read_shapes


def _objects(shapes: list[Element], at: str, known: set[str]) -> Iterator[Object | str]:
    for number, shape in enumerate(shapes):
        where = f"{at}: {shape.tag} {number}"
        if shape.tag in NO_AREA:
            yield shape.tag
            continue
        label = shape.get("label") or ""
        if label not in known:
            raise UserError(f"{where}: its label {label!r} is not among the labels of the task")
        (z,) = _numbers(shape, where, "z_order")
        yield Object(label, _shape(shape, where), where, z=int(z))


def _shape(shape: Element, at: str) -> Shape:
    match shape.tag:
        case "polygon":
            points = _points(shape.get("points") or "", at)
            return Polygons([points])
        case "box":
            left, top, right, bottom, degrees = _numbers(shape, at, "xtl", "ytl", "xbr", "ybr", "rotation")
            corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
            return Polygons([rotated(corners, ((left + right) / 2, (top + bottom) / 2), degrees)], centers=False)
        case "ellipse":
            x, y, a, b, degrees = _numbers(shape, at, "cx", "cy", "rx", "ry", "rotation")
            return Ellipse((x, y), (a, b), degrees)
        case "mask":
            return _mask(shape, at)
    raise UserError(f"{at}: unknown kind of shape; draw it as a polygon")


def rotated(points: np.ndarray, center: tuple[float, float], degrees: float) -> np.ndarray:
    """Points `[N, 2]`, turned clockwise on the screen around the center."""
    turn = np.deg2rad(degrees)
    matrix = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    turned: np.ndarray = (points - center) @ matrix + center
    return turned if degrees else points


def _points(text: str, at: str) -> np.ndarray:
    """ "x,y;x,y" -> float64 `[N, 2]`."""
    try:
        return np.array([point.split(",") for point in text.split(";")], np.float64).reshape(-1, 2)
    except ValueError:
        raise UserError(f"{at}: points must be x,y;x,y;... in numbers") from None


def _numbers(shape: Element, at: str, *names: str) -> list[float]:
    """Attributes as numbers; rotation and z_order are 0 where they are missing."""
    values = []
    for name in names:
        text = shape.get(name, "0" if name in ("rotation", "z_order") else "")
        try:
            values.append(float(text))
        except ValueError:
            raise UserError(f"{at}: {name} must be a number, not {text!r}") from None
    if not np.isfinite(values).all():
        raise UserError(f"{at}: {', '.join(names)} must be finite numbers")
    return values


def _mask(shape: Element, at: str) -> Bitmap:
    left, top, width, height = (int(value) for value in _numbers(shape, at, "left", "top", "width", "height"))
    try:
        counts = np.array((shape.get("rle") or "").split(","), np.int64)
    except (ValueError, OverflowError):
        raise UserError(f"{at}: rle must be whole numbers, separated by commas") from None
    if not 0 < width * height <= MOST_MASK_PIXELS or (counts < 0).any() or counts.sum() != width * height:
        raise UserError(f"{at}: rle covers {counts.sum():,} pixels; its box has {width}x{height}")
    pixels = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return Bitmap(pixels.reshape(height, width), left, top)
