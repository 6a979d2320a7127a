"""Label Studio's JSON export (https://labelstud.io/guide/export#Label-Studio-JSON-format-of-annotated-tasks).

Regions: polygon, rectangle and ellipse in percent of the picture, brush (run lengths), bitmask (a PNG). A region's
label stands in it, or in a second result of the same id. Later regions lie over earlier ones. Skipped annotations do
not count. Where several people annotated a task, the ground truth counts, or `--annotator`, or else the majority. A
task's split is what its data call `split`, as `semseg data export` writes it: Label Studio itself has none.
"""

import base64
import binascii
from collections import Counter
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, NotRequired

import numpy as np
from PIL import Image
from pydantic import TypeAdapter, ValidationError
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
    some,
    unique,
)
from semseg_app.data.importers.cvat import rotated
from semseg_app.data.importers.json_files import files_of_kind, place, read_json, signature
from semseg_app.data.importers.label_studio_min import RECORDS, Annotation, Result, Task, tasks_of_min
from semseg_app.data.importers.photo_index import PhotoIndex, address_path, named_split, without_prefix
from semseg_app.data.listing import IMAGE_SUFFIXES
from semseg_app.errors import UserError, explain
from semseg_app.masks.brush import decode_brush_rle

AREAS = ("polygon", "rectangle", "ellipse", "brush", "bitmask")
NO_AREA = (
    "keypoint",
    "vector",
    "choices",
    "textarea",
    "rating",
    "number",
    "taxonomy",
    "datetime",
    "pairwise",
    "relation",
)


class Percent(TypedDict):
    x: float
    y: float
    width: NotRequired[float]
    height: NotRequired[float]
    radiusX: NotRequired[float]
    radiusY: NotRequired[float]
    rotation: NotRequired[float | None]


TASKS = TypeAdapter(list[Task])
POINTS = TypeAdapter(list[tuple[float, float]])
PERCENT = TypeAdapter(Percent)


def find(root: Path) -> list[Path]:
    """JSON files with a list of tasks."""
    return files_of_kind(root, ".json", _is_tasks, most=20)


def _is_tasks(path: Path) -> bool:
    is_list, keys = signature(path)
    return is_list and ({"data", "annotations"} <= keys or "annotation_id" in keys)


def read(files: list[Path], photos: PhotoIndex, options: ReadOptions) -> Export:
    """Read the tasks of all files."""
    items: list[Item] = []
    labels: list[str] = []
    people: list[str] = []
    for path in files:
        is_whole = {"data", "annotations"} <= signature(path).keys
        tasks = read_json(path, TASKS) if is_whole else tasks_of_min(read_json(path, RECORDS))
        for index, task in enumerate(tasks):
            at = place(path, index)
            labels += [label for annotation in task["annotations"] for label in _labels(annotation)]
            people += [person for annotation in task["annotations"] for person in _people(annotation)]
            names = list(_names(task, at))
            photo = next((photo for name in names if (photo := photos.find(name, path.parent))), None)
            name = names[0] if photo is None else photos.relative(photo)
            split = task["data"].get("split")
            named = named_split(split) if isinstance(split, str) else None
            folders = photos.split_by_folders(path) or photos.split_by_folders(photo)
            items.append(Item(name, photo, _reader(task, at, options), at, named or folders))
    if options.annotator is not None and options.annotator not in people:
        raise UserError(f"--annotator {options.annotator}: annotated nothing; choose one of {some(unique(people))}")
    return Export("Label Studio", sorted(set(labels)), items, overlap="last")


def _kind(result: Result) -> str:
    """ "polygonlabels" and "polygon" -> "polygon"."""
    return result["type"].removesuffix("labels") or "labels"


def _own_labels(result: Result) -> list[str]:
    value = result.get("value") or {}
    labels = value.get(result["type"] if result["type"].endswith("labels") else "labels") or []
    return [str(label) for label in labels] if isinstance(labels, list) else [str(labels)]


def _labels(annotation: Annotation) -> Iterator[str]:
    for result in annotation["result"]:
        if _kind(result) in (*AREAS, "labels") and not annotation.get("was_cancelled"):
            yield from _own_labels(result)


def _people(annotation: Annotation) -> list[str]:
    """What `--annotator` may say of whoever made it: id, email."""
    person = annotation.get("completed_by")
    known = [person.get("id"), person.get("email")] if isinstance(person, dict) else [person]
    return [str(name) for name in known if name is not None]


def _names(task: Task, at: str) -> Iterator[str]:
    """What the photo may be called, most exact first. Uploaded files get a prefix of eight digits."""
    values = [task.get("file_upload"), *task["data"].values()]
    addresses = [value for value in values if isinstance(value, str) and _is_photo(value)]
    if not addresses:
        raise UserError(f"{at}.data: no photo in it")
    if len({address_path(address).rsplit("/", 1)[-1] for address in addresses}) > 1:
        raise UserError(f"{at}.data: several photos in one task; export tasks of one photo each")
    for address in sorted(addresses, key=len, reverse=True):
        yield address_path(address)
    if (name := without_prefix(addresses[0])) != address_path(addresses[0]).rsplit("/", 1)[-1]:
        yield name


def _is_photo(address: str) -> bool:
    return address_path(address).lower().endswith(IMAGE_SUFFIXES)


def _reader(task: Task, at: str, options: ReadOptions) -> Callable[[Size], Drawing | None]:
    def read_task(size: Size) -> Drawing | None:
        chosen = [
            (index, annotation)
            for index, annotation in enumerate(task["annotations"])
            if not annotation.get("was_cancelled")
            and (options.annotator is None or options.annotator in _people(annotation))
        ]
        truth = [pair for pair in chosen if pair[1].get("ground_truth")]
        frame = _frame([result for _, annotation in chosen for result in annotation["result"]], at) or size
        drawings = [
            drawing_of(_objects(annotation, f"{at}.annotations.{index}", frame), frame)
            for index, annotation in truth or chosen
        ]
        versions = [version for drawing in drawings for version in drawing.versions]
        no_area = sum((drawing.no_area for drawing in drawings), Counter[str]())
        return Drawing(versions, size=frame, no_area=no_area) if versions else None

    return read_task


def _frame(results: list[Result], at: str) -> Size | None:
    """The size of the picture on which was drawn."""
    sizes = {(it.get("original_width"), it.get("original_height")) for it in results if _kind(it) in AREAS}
    known = [(width, height) for width, height in sizes if width and height]
    if len(known) > 1:
        raise UserError(f"{at}: regions on pictures of different sizes ({known[0]}, {known[1]})")
    if any((result.get("image_rotation") or 0) % 360 for result in results):
        raise UserError(f"{at}: the photo was rotated in Label Studio; rotate it back there, or the file itself")
    return known[0] if known else None


def _objects(annotation: Annotation, at: str, frame: Size) -> Iterator[Object | str]:
    elsewhere: dict[str, list[str]] = {}
    for result in annotation["result"]:
        if _kind(result) == "labels" and (name := result.get("id")):
            elsewhere.setdefault(name, []).extend(_own_labels(result))
    for index, result in enumerate(annotation["result"]):
        kind, where = _kind(result), f"{at}.result.{index}"
        if kind == "labels":
            continue
        if kind in NO_AREA:
            yield kind
            continue
        if kind not in AREAS:
            raise UserError(
                f"{where}: unknown kind of region {result['type']!r}; draw it as a polygon or with the brush"
            )
        names = unique(_own_labels(result) or elsewhere.get(result.get("id") or "", []))
        if len(names) > 1:
            raise UserError(f"{where}: has the labels {some(names)}; a pixel has one class, so leave one")
        shape = _shape(kind, result.get("value") or {}, where, frame)
        yield Object(names[0] if names else None, shape, where)


def _shape(kind: str, value: dict[str, Any], at: str, frame: Size) -> Shape:
    if kind == "brush":
        return _brush(value, at, frame)
    if kind == "bitmask":
        return _bitmask(value, at, frame)
    try:
        if kind == "polygon":
            points = np.array(POINTS.validate_python(value.get("points")), np.float64).reshape(-1, 2)
            return Polygons([points * frame / 100])
        box = PERCENT.validate_python(value)
    except ValidationError as error:
        raise explain(error, f"{at}.value") from None
    across, down = frame[0] / 100, frame[1] / 100
    x, y = box["x"] * across, box["y"] * down
    degrees = box.get("rotation") or 0.0
    try:
        if kind == "ellipse":
            return Ellipse((x, y), (box["radiusX"] * across, box["radiusY"] * down), degrees)
        width, height = box["width"] * across, box["height"] * down
    except KeyError as error:
        raise UserError(f"{at}.value: {error.args[0]} is missing") from None
    corners = np.array([(x, y), (x + width, y), (x + width, y + height), (x, y + height)])
    return Polygons([rotated(corners, (x, y), degrees)], centers=False)


def _brush(value: dict[str, Any], at: str, frame: Size) -> Bitmap:
    packed = value.get("rle")
    if not isinstance(packed, list):
        raise UserError(f"{at}.value.rle: must be a list of bytes")
    try:
        return Bitmap(decode_brush_rle(packed, frame[1], frame[0]))
    except (ValueError, TypeError) as error:
        raise UserError(f"{at}.value.rle: {error}") from None


def _bitmask(value: dict[str, Any], at: str, frame: Size) -> Bitmap:
    text = str(value.get("imageDataURL") or "")
    try:
        with Image.open(BytesIO(base64.b64decode(text.partition(",")[2]))) as image:
            if image.size != frame:
                raise UserError(
                    f"{at}.value.imageDataURL: is {image.size[0]}x{image.size[1]}, the picture {frame[0]}x{frame[1]}"
                )
            channel = "A" if image.has_transparency_data else "L"
            return Bitmap(np.asarray(image.convert("RGBA" if channel == "A" else "L").getchannel(channel)) > 0)
    except (binascii.Error, *DECODING_ERRORS) as error:
        raise UserError(f"{at}.value.imageDataURL: is not a PNG ({error})") from None
