"""CVAT's XML: "CVAT for images 1.1" and "CVAT for video 1.1" (https://docs.cvat.ai/docs/dataset_management/formats/).

Shapes: polygon, box (rotated, too), ellipse, mask (run lengths along the rows of its box, zeros first). The object with
the higher z_order is seen, as in CVAT. Tracks give one shape per frame; a frame's photo is frame_000012, in a project
SUBSET/frame_000012. Polylines, points, skeletons, cuboids and tags cover no area.
"""

import re
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import NamedTuple
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
from semseg_app.data.importers.json_files import files_of_kind
from semseg_app.data.importers.photo_index import PhotoIndex, named_split, split_of
from semseg_app.data.listing import IMAGE_SUFFIXES
from semseg_app.errors import UserError
from semseg_app.labels import Color

NO_AREA = ("polyline", "points", "skeleton", "cuboid", "tag")
MOST_MASK_PIXELS = 2**29
"""Largest box of one mask, width x height."""


def find(root: Path) -> list[Path]:
    """XML files whose top element is `annotations`."""
    return files_of_kind(root, ".xml", _is_cvat, most=100)


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
            said = named_split(image.get("subset") or "") or split_of(path.stem) or photos.split_by_folders(path)
            at = f"{path}: image {name!r}"
            frame = _size(image.get("width"), image.get("height"), at)
            photo = photos.find(name, path.parent, said)
            split = said or photos.split_by_folders(photo)
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


class _Task(NamedTuple):
    """What a file of tracks says of a task; that of a project has several."""

    subset: str
    frames: Container[int]
    """Those whose photos are called by number."""


def _tasks(root: Element) -> dict[str, _Task]:
    """Id -> task; of a file that names none, the id is empty."""
    tasks = {}
    for task in root.iterfind("meta//task"):
        start, stop = (task.findtext(name) or "" for name in ("start_frame", "stop_frame"))
        of_video = task.findtext("mode") != "annotation" and start.isdigit() and stop.isdigit()
        frames = range(int(start), int(stop) + 1) if of_video else ()
        tasks[task.findtext("id") or ""] = _Task(task.findtext("subset") or "", frames)
    for track in root.iterfind("track[@task_id]"):  # whose subset is the name of the folder
        task_id, subset = track.attrib["task_id"], track.get("subset")
        before = tasks.get(task_id, _Task("", ()))
        tasks[task_id] = before._replace(subset=subset or before.subset)
    return tasks or {"": _Task("", ())}


Shown = dict[tuple[str, int], list[Element]]
"""(task, frame) -> the shapes on it."""


def _frames(path: Path, root: Element, photos: PhotoIndex, known: set[str]) -> list[Item]:
    """One item per frame on which a track shows something."""
    tasks = _tasks(root)
    shown: Shown = {}
    for number, track in enumerate(root.iterfind("track")):
        task = track.get("task_id") or next(iter(tasks))
        for shape in track:
            if shape.get("outside") == "1":
                continue
            text = shape.get("frame") or ""
            if not text.isdigit():
                raise UserError(f"{path}: track {number}: {shape.tag} without a frame")
            shape.set("label", track.get("label") or "")
            shown.setdefault((task, int(text)), []).append(shape)
    original = root.find("meta//original_size") if len(tasks) == 1 else None
    at = f"{path}: original_size"
    size = None if original is None else _size(original.findtext("width"), original.findtext("height"), at)
    items = []
    for (task, frame), shapes in sorted(shown.items()):
        said = named_split(tasks[task].subset) or split_of(path.stem) or photos.split_by_folders(path)
        photo = _photo(path, task, frame, tasks, shown, photos, said)
        at = f"{path}: frame {frame}"
        split = said or photos.split_by_folders(photo)
        name = photo.name if photo else f"frame_{frame:06d}"
        items.append(Item(name, photo, _reader(shapes, at, size, known), at, split))
    if items and all(item.photo is None for item in items):
        raise UserError(
            f"{path}: its tracks give frames by number, and no photo is called {items[0].name}; name the folder of the "
            'frames with --images, or export "CVAT for images 1.1", which has the names of the photos'
        )
    return items


def _photo(
    path: Path, task: str, frame: int, tasks: dict[str, _Task], shown: Shown, photos: PhotoIndex, split: str | None
) -> Path | None:
    """The photo of a frame. CVAT writes those of a project to images/SUBSET/, where two tasks may want one name."""
    subset = tasks[task].subset
    names = (f"{subset}/frame_{frame:06d}{suffix}" for suffix in IMAGE_SUFFIXES)
    photo = next((photo for name in names if (photo := photos.find(name, path.parent, split))), None)
    if photo is None:
        return None
    folder = photo.parent.name
    told_apart = folder in {other.subset for other in tasks.values()}
    if told_apart and folder != subset:
        return None  # it is another task's
    for other, (other_subset, frames) in tasks.items():
        may_be_there = other_subset == subset or not told_apart
        if other != task and may_be_there and (frame in frames or (other, frame) in shown):
            raise UserError(
                f"{path}: the tasks {task} and {other} both have a frame {frame}, and {photo} may be of either; export "
                "the tasks one by one, or put each into a subset of its own"
            )
    return photo


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
