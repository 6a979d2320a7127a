"""COCO instances: polygons, run lengths, crowd regions (https://cocodataset.org/#format-data).

COCO has no z-order: a later annotation of a photo lies over an earlier one. Crowd regions (`iscrowd`) become 255
beneath the other objects, except in files of tools that mark every run-length mask as a crowd. An annotation with a box
and no outline says only that something is there: its box becomes 255 too.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, NotRequired

import numpy as np
from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict

from semseg_app.data.importers.annotated import (
    Drawing,
    Export,
    Item,
    Object,
    Polygons,
    ReadOptions,
    Runs,
    Shape,
    Size,
    drawing_of,
    unique,
)
from semseg_app.data.importers.json_files import files_of_kind, place, read_json, signature
from semseg_app.data.importers.photo_index import PhotoIndex, split_of, without_prefix
from semseg_app.errors import UserError

Id = Annotated[str, Field(coerce_numbers_to_str=True)]
"""Some tools write a number here and its text there."""


class Image(TypedDict):
    id: Id
    file_name: str
    width: NotRequired[int | None]
    height: NotRequired[int | None]


class Category(TypedDict):
    id: Id
    name: str
    supercategory: NotRequired[str | None]


class Annotation(TypedDict):
    image_id: Id
    category_id: Id
    segmentation: NotRequired[Any]
    """Polygons or run lengths; checked when it is drawn."""
    bbox: NotRequired[list[float] | None]
    iscrowd: NotRequired[int | bool | None]
    ignore: NotRequired[int | bool | None]


class Instances(TypedDict):
    images: list[Image]
    categories: list[Category]
    annotations: list[Annotation]
    info: NotRequired[Any]
    licenses: NotRequired[Any]


class Photos(TypedDict):
    images: list[Image]


INSTANCES = TypeAdapter(Instances)
PHOTOS = TypeAdapter(Photos)
INEXACT_BRUSHES = (
    "Label Studio outlines brushes through the middles of pixels, and polygons along their edges; its JSON is exact"
)


def find(root: Path) -> list[Path]:
    """Files with images and annotations."""
    return files_of_kind(root, ".json", _is_instances, most=100)


def _is_instances(path: Path) -> bool:
    is_list, keys = signature(path)
    return not is_list and {"images", "annotations", "categories"} <= keys and "segments_info" not in keys


def read(files: list[Path], photos: PhotoIndex, options: ReadOptions) -> Export:
    """Read files of instances; photos are found when they are named."""
    items: list[Item] = []
    classes: list[str] = []
    notes: list[str] = []
    outlines = boxes = 0
    for path in files:
        instances = _instances_beside(path)
        if instances != path and instances in files and _names(path) <= _names(instances):
            notes.append(f"{path.name}: left out; {instances.name} has the same photos")
            continue
        content = read_json(path, INSTANCES)
        names = {category["id"]: category["name"] for category in content["categories"]}
        if dummy := _roboflow_project(content):
            del names[dummy["id"]]
            notes.append(
                f"{path.name}: the category {dummy['name']!r} is Roboflow's name for the project; it is no class"
            )
        classes += names.values()
        by_image = _by_image(path, content, names)
        crowds = sum(bool(it.get("iscrowd")) for it in content["annotations"])
        if crowds and (writer := _writer_without_crowds(content)):
            notes.append(f"{path.name}: {writer} marks objects as crowds; {crowds:,} are drawn as objects")
            crowds = 0
        outlines += sum(bool(it.get("segmentation")) for it in content["annotations"])
        boxes += sum(not it.get("segmentation") for it in content["annotations"])
        info = content.get("info")
        contributor = str(info.get("contributor")) if isinstance(info, dict) else ""
        if contributor == "Label Studio Converter":
            notes.append(f"{path.name}: {INEXACT_BRUSHES}")
        for index, image, name, photo, split in _photos(path, content, photos, contributor.startswith("Label Studio")):
            members = by_image.get(image["id"], [])
            source = place(path, "images", index)
            items.append(Item(name, photo, _reader(path, image, members, names, crowds > 0), source, split))
    if boxes and not outlines:
        raise UserError(f"{files[0]}: holds {boxes:,} boxes and no outline; a mask cannot be made of boxes alone")
    if boxes:
        notes.append(f"annotations without an outline: {boxes:,}; their boxes are ignored (255)")
    return Export("COCO instances", unique(classes), items, overlap="last", notes=notes)


def _instances_beside(path: Path) -> Path:
    """The file of the instances of the same photos, as the official archive and CVAT name it."""
    return path.with_name(re.sub("^(person_keypoints|stuff|labels)_", "instances_", path.name))


def _names(path: Path) -> set[str]:
    return {image["file_name"] for image in read_json(path, PHOTOS)["images"]}


def _photos(
    path: Path, content: Instances, photos: PhotoIndex, uploaded: bool
) -> Iterator[tuple[int, Image, str, Path | None, str | None]]:
    """Each image with its index, name, photo and split; `uploaded`: the name may have Label Studio's prefix."""
    # CVAT names its photos without the folder: those of instances_north.json lie in images/north/.
    subset = path.stem.removeprefix("instances_")
    folder = f"{subset}/" if subset != path.stem and photos.has_folder(subset) else ""
    said, around = split_of(path.stem) or photos.split_by_folders(path), split_of(path.parent.name)
    for index, image in enumerate(content["images"]):
        name = image["file_name"]
        tried = [name] + [without_prefix(name)] * uploaded
        found = (photos.find(f"{folder}{it}", path.parent, said or around) for it in tried)
        photo = next(filter(None, found), None)
        if uploaded and photo:
            name = photos.relative(photo)
        yield index, image, name, photo, said or photos.split_by_folders(photo) or around


def _roboflow_project(content: Instances) -> Category | None:
    """Roboflow writes a category 0 that stands for the whole project: the supercategory of all others, never used."""
    categories = content["categories"]
    if len(categories) < 2 or categories[0].get("supercategory") != "none":
        return None
    used = {annotation["category_id"] for annotation in content["annotations"]}
    others = {category.get("supercategory") for category in categories[1:]}
    return categories[0] if others == {categories[0]["name"]} and categories[0]["id"] not in used else None


def _writer_without_crowds(content: Instances) -> str | None:
    """The tool that wrote the file, where it marks plain objects as crowds; else None.

    supervision (0.31.2) does so with every object that has holes or several parts, Datumaro (1.13.12), which also
    writes CVAT's COCO files, with every mask that was drawn with the brush.
    """
    categories = content["categories"]
    if categories and all(it.get("supercategory") == "common-objects" for it in categories):
        return "supervision"
    info, licenses = content.get("info"), content.get("licenses")
    empty_info = isinstance(info, dict) and "contributor" in info and not any(info.values())
    return "CVAT (Datumaro)" if empty_info and licenses == [{"name": "", "id": 0, "url": ""}] else None


Members = list[tuple[int, Annotation]]


def _by_image(path: Path, content: Instances, names: dict[Id, str]) -> dict[Id, Members]:
    """Image id -> (index, annotation) of its annotations. UserError where an id is given twice or leads nowhere."""
    by_image: dict[Id, Members] = {}
    for index, image in enumerate(content["images"]):
        if image["id"] in by_image:
            raise UserError(f"{place(path, 'images', index, 'id')}: {image['id']} is the id of two images")
        by_image[image["id"]] = []
    for index, annotation in enumerate(content["annotations"]):
        if annotation["image_id"] not in by_image:
            raise UserError(
                f"{place(path, 'annotations', index, 'image_id')}: no image has the id {annotation['image_id']}"
            )
        if annotation["category_id"] not in names:
            at = place(path, "annotations", index, "category_id")
            raise UserError(f"{at}: no category has the id {annotation['category_id']}")
        by_image[annotation["image_id"]].append((index, annotation))
    return by_image


def _reader(
    path: Path, image: Image, members: Members, names: dict[Id, str], crowds: bool
) -> Callable[[Size], Drawing | None]:
    def read_image(size: Size) -> Drawing | None:
        if not members:
            return None
        frame = (image.get("width") or size[0], image.get("height") or size[1])
        return drawing_of(_objects(path, members, names, crowds, frame), frame)

    return read_image


def _objects(path: Path, members: Members, names: dict[Id, str], crowds: bool, frame: Size) -> Iterator[Object | str]:
    for index, annotation in members:
        at = place(path, "annotations", index, "segmentation")
        known = not ((crowds and annotation.get("iscrowd")) or annotation.get("ignore"))
        shape = _shape(annotation.get("segmentation"), at, frame)
        if shape is None:
            shape, known = _box(annotation), False
        if shape is None:
            yield "annotation without outline and box"
        else:
            yield Object(names[annotation["category_id"]] if known else None, shape, at, beneath=not known)


def _shape(segmentation: Any, at: str, frame: Size) -> Shape | None:
    """None where there is no outline."""
    if not segmentation:
        return None
    if isinstance(segmentation, dict):
        return _runs(segmentation, at)
    if not isinstance(segmentation, list):
        raise UserError(f"{at}: is neither a list of polygons nor run lengths")
    rings = segmentation if isinstance(segmentation[0], list) else [segmentation]
    return Polygons([ring(numbers, at) for numbers in rings])


def _runs(segmentation: dict[str, Any], at: str) -> Runs:
    counts, size = segmentation.get("counts"), segmentation.get("size")
    if not isinstance(counts, str | list):
        raise UserError(f"{at}: run lengths without `counts`")
    if not (isinstance(size, list) and len(size) == 2 and all(isinstance(side, int) for side in size)):
        raise UserError(f"{at}: run lengths without `size` [height, width]")
    return Runs(counts, (size[1], size[0]))


def ring(numbers: Any, at: str) -> np.ndarray:
    """[x, y, x, y, ...] -> float64 `[N, 2]`. UserError for anything else."""
    try:
        flat = np.asarray(numbers, np.float64)
    except (TypeError, ValueError):
        raise UserError(f"{at}: a polygon must be a list of numbers x, y, x, y, ...") from None
    if flat.ndim != 1 or len(flat) % 2:
        raise UserError(f"{at}: a polygon must be a list of numbers x, y, x, y, ...; this one has {flat.size}")
    return flat.reshape(-1, 2)


def _box(annotation: Annotation) -> Polygons | None:
    box = annotation.get("bbox")
    if not box or len(box) != 4:
        return None
    left, top, width, height = box
    corners = [(left, top), (left + width, top), (left + width, top + height), (left, top + height)]
    return Polygons([np.array(corners, np.float64)], centers=False)
