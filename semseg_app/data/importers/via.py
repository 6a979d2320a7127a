"""VGG Image Annotator 1 and 2 (https://www.robots.ox.ac.uk/~vgg/software/via/): annotations as JSON or CSV, projects.

makesense.ai writes the same JSON. Regions: polygon, rect, circle, ellipse (`theta` in radians); points and lines cover
no area. The class is a region's attribute: the only one, or the one that `--attribute` names. Later regions lie over
earlier ones.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NotRequired

import numpy as np
from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from semseg_app.data.importers.annotated import (
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
from semseg_app.data.importers.json_files import files_of_kind, place, read_json, signature
from semseg_app.data.importers.photo_index import PhotoIndex
from semseg_app.errors import UserError, explain

NO_AREA = ("point", "polyline")
NAMELESS = "object"
"""The class of regions of which none has an attribute."""
MOST_CSV_FIELD = 2**24
"""Longest field of a CSV, in letters; Python's own limit is shorter than long outlines."""


class Region(TypedDict):
    shape_attributes: dict[str, Any]
    region_attributes: NotRequired[dict[str, Any]]


class File(TypedDict):
    filename: str
    regions: list[Region] | dict[str, Region]


FILES = TypeAdapter(dict[str, File])
PROJECT = TypeAdapter(dict[str, Any])
POINTS = TypeAdapter(list[float])


class Photo(NamedTuple):
    """A photo of an export, and where its regions stand."""

    name: str
    regions: list[tuple[str, Region]]


def find(root: Path) -> list[Path]:
    """JSON and CSV files with regions of photos."""
    return [*files_of_kind(root, ".json", _is_json, most=20), *files_of_kind(root, ".csv", _is_csv, most=20)]


def _is_json(path: Path) -> bool:
    is_list, keys = signature(path)
    return not is_list and {"filename", "regions", "file_attributes"} <= keys


def _is_csv(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return b"region_shape_attributes" in file.read(1000)
    except OSError:
        return False


def read(files: list[Path], photos: PhotoIndex, options: ReadOptions) -> Export:
    """Read all files."""
    listed = {path: _csv(path) if path.suffix.lower() == ".csv" else _json(path) for path in files}
    regions = [region for found in listed.values() for photo in found for region in photo.regions]
    key = _class_attribute(regions, options.attribute, files[0])
    names = [_name(region, key, at) for at, region in regions]
    notes = [f"no region has an attribute; all of them are the class {NAMELESS}"] if regions and key is None else []
    items = []
    for path, found in listed.items():
        for photo in found:
            file = photos.find(photo.name, path.parent)
            split = photos.split_by_folders(path) or photos.split_by_folders(file)
            items.append(Item(photo.name, file, _reader(photo, key), f"{path}: {photo.name}", split))
    classes = sorted({name for name in names if name is not None})
    return Export("VGG Image Annotator", classes, items, overlap="last", notes=notes)


def _json(path: Path) -> list[Photo]:
    content = read_json(path, PROJECT)
    images = content.get("_via_img_metadata", content)
    try:
        files = FILES.validate_python(images)
    except ValidationError as error:
        raise explain(error, path) from None
    photos = []
    for key, file in files.items():
        regions = file["regions"]
        pairs = regions.items() if isinstance(regions, dict) else enumerate(regions)
        photos.append(Photo(file["filename"], [(place(path, key, "regions", number), it) for number, it in pairs]))
    return photos


def _csv(path: Path) -> list[Photo]:
    """A row for each region, or for a photo without any."""
    photos: dict[str, Photo] = {}
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text file in UTF-8; save it as UTF-8") from None
    csv.field_size_limit(MOST_CSV_FIELD)
    try:
        for row in (rows := csv.DictReader(io.StringIO(text.removeprefix("#")), strict=True)):
            at = f"{path}:{rows.line_num}"
            photo = photos.setdefault(f"{row['filename']} {row.get('file_size')}", Photo(row["filename"], []))
            shape, attributes = (json.loads(row[f"region_{kind}attributes"]) for kind in ("shape_", ""))
            if not isinstance(shape, dict) or not isinstance(attributes, dict):
                raise UserError(f"{at}: expected attributes in braces")
            if shape:
                photo.regions.append((at, {"shape_attributes": shape, "region_attributes": attributes}))
    except (csv.Error, KeyError, TypeError, ValueError):
        raise UserError(f"{path}:{rows.line_num}: not a row of VGG Image Annotator; export it again") from None
    return list(photos.values())


def _values(region: Region) -> Mapping[str, Any]:
    """The attributes that say something."""
    values = region.get("region_attributes", {}).items()
    plain = {key: value.strip() if isinstance(value, str) else value for key, value in values}
    return {key: value for key, value in plain.items() if value not in ("", None, {})}


def _class_attribute(regions: list[tuple[str, Region]], wanted: str | None, path: Path) -> str | None:
    """The attribute that is the class; None where no region has any."""
    keys = unique([key for _, region in regions for key in _values(region)])
    if wanted is not None and wanted not in keys:
        raise UserError(f"--attribute {wanted}: no region has it; choose one of {some(keys) or '(none has any)'}")
    if wanted is None and len(keys) > 1:
        raise UserError(f"{path}: regions have the attributes {some(keys)}; name that of the class with --attribute")
    return wanted or next(iter(keys), None)


def _name(region: Region, key: str | None, at: str) -> str | None:
    """The class of a region; None where it has none."""
    if key is None:
        return NAMELESS
    value = _values(region).get(key)
    if isinstance(value, dict):  # of check boxes
        chosen = [name for name, checked in value.items() if checked]
        if len(chosen) > 1:
            raise UserError(f"{at}: {key} is {some(chosen)}; a pixel has one class, so leave one")
        value = chosen[0] if chosen else None
    return None if value is None else str(value).strip()


def _reader(photo: Photo, key: str | None) -> Callable[[Size], Drawing | None]:
    def read_regions(size: Size) -> Drawing | None:
        # It lists every photo that was opened, annotated or not.
        return drawing_of(_objects(photo, key), size).unless_empty()

    return read_regions


def _objects(photo: Photo, key: str | None) -> Iterator[Object | str]:
    for at, region in photo.regions:
        kind = str(region["shape_attributes"].get("name"))
        if kind in NO_AREA:
            yield kind
        else:
            yield Object(_name(region, key, at), _shape(kind, region["shape_attributes"], at), at)


def _shape(kind: str, shape: dict[str, Any], at: str) -> Shape:
    if kind == "polygon":
        x, y = _numbers(shape, at, "all_points_x"), _numbers(shape, at, "all_points_y")
        if len(x) != len(y):
            raise UserError(f"{at}: {len(x)} all_points_x, but {len(y)} all_points_y")
        return Polygons([np.stack([x, y], axis=1)])
    if kind == "rect":
        left, top, width, height = (_number(shape, at, key) for key in ("x", "y", "width", "height"))
        right, bottom = left + width, top + height
        return Polygons([np.array([(left, top), (right, top), (right, bottom), (left, bottom)])], centers=False)
    if kind not in ("circle", "ellipse"):
        raise UserError(f"{at}: unknown kind of region {kind!r}; draw it as a polygon")
    center = _number(shape, at, "cx"), _number(shape, at, "cy")
    if kind == "circle":
        radius = _number(shape, at, "r")
        return Ellipse(center, (radius, radius))
    turn = np.rad2deg(_number({"theta": 0.0} | shape, at, "theta"))
    return Ellipse(center, (_number(shape, at, "rx"), _number(shape, at, "ry")), float(turn))


def _number(shape: dict[str, Any], at: str, key: str) -> float:
    return float(_numbers({key: [shape.get(key)]}, at, key)[0])


def _numbers(shape: dict[str, Any], at: str, key: str) -> np.ndarray:
    """float64 `[N]`."""
    try:
        return np.array(POINTS.validate_python(shape.get(key)), np.float64)
    except ValidationError:
        raise UserError(f"{at}: {key} must be numbers") from None
