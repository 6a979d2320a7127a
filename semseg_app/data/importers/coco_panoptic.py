"""COCO panoptic: a PNG per photo whose colors are the numbers of segments, and a JSON that gives each its category.

https://cocodataset.org/#format-data: the number is red + 256 green + 65536 blue; 0 is no segment and becomes 255, as
crowd segments do. The PNGs lie in the folder that is called like the JSON.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NotRequired

import numpy as np
from pydantic import TypeAdapter
from typing_extensions import TypedDict

from semseg_app.data.dataset import read_color_mask
from semseg_app.data.importers.annotated import Drawing, Export, Item, PixelMap, ReadOptions, Size, unique
from semseg_app.data.importers.coco import Category, Id, Image
from semseg_app.data.importers.json_files import files_of_kind, place, read_json, signature
from semseg_app.data.importers.photo_index import PhotoIndex, split_of
from semseg_app.errors import UserError


class Segment(TypedDict):
    id: int
    category_id: Id
    iscrowd: NotRequired[int | bool | None]


class Annotation(TypedDict):
    image_id: Id
    file_name: str
    segments_info: list[Segment]


class Panoptic(TypedDict):
    images: list[Image]
    categories: list[Category]
    annotations: list[Annotation]


PANOPTIC = TypeAdapter(Panoptic)


def find(root: Path) -> list[Path]:
    """JSON files with segments."""
    return files_of_kind(root, ".json", lambda path: "segments_info" in signature(path).keys, most=100)


def read(files: list[Path], photos: PhotoIndex, options: ReadOptions) -> Export:
    """Read files of segments; photos and PNGs are found when they are named."""
    items: list[Item] = []
    classes: list[str] = []
    for path in files:
        content = read_json(path, PANOPTIC)
        names = {category["id"]: category["name"] for category in content["categories"]}
        classes += names.values()
        images = {image["id"]: image for image in content["images"]}
        said, around = split_of(path.stem) or photos.split_by_folders(path), split_of(path.parent.name)
        annotated = set()
        for index, annotation in enumerate(content["annotations"]):
            at = place(path, "annotations", index)
            image = images.get(annotation["image_id"])
            if image is None:
                raise UserError(f"{at}.image_id: no image has the id {annotation['image_id']}")
            annotated.add(annotation["image_id"])
            mask = _mask_of(path, annotation["file_name"], at)
            photo = photos.find(image["file_name"], path.parent, said or around)
            split = said or photos.split_by_folders(photo) or around
            items.append(Item(image["file_name"], photo, _reader(mask, annotation, names, at), at, split))
        for index, image in enumerate(content["images"]):
            if image["id"] not in annotated:
                photo = photos.find(image["file_name"], path.parent, said or around)
                split = said or photos.split_by_folders(photo) or around
                items.append(Item(image["file_name"], photo, lambda size: None, place(path, "images", index), split))
    return Export("COCO panoptic", unique(classes), items, overlap="last", background=None)


def _mask_of(path: Path, name: str, at: str) -> Path:
    folders = (path.with_suffix(""), path.parent / "annotations" / path.stem, path.parent)
    found = next((folder / name for folder in folders if (folder / name).is_file()), None)
    if found is None:
        raise UserError(f"{at}: no PNG {folders[0] / name}; unpack {path.stem}.zip beside {path.name}")
    return found


def _reader(mask: Path, annotation: Annotation, names: dict[Id, str], at: str) -> Callable[[Size], Drawing | None]:
    def read_mask(size: Size) -> Drawing | None:
        segments: dict[int, str | None] = {0: None}
        for index, segment in enumerate(annotation["segments_info"]):
            if segment["category_id"] not in names:
                where = f"{at}.segments_info.{index}.category_id"
                raise UserError(f"{where}: no category has the id {segment['category_id']}")
            segments[segment["id"]] = None if segment.get("iscrowd") else names[segment["category_id"]]
        colors = read_color_mask(mask)
        numbers: np.ndarray = (colors >> 16) | (colors & 0xFF00) | (colors & 0xFF) << 16
        return Drawing(pixels=PixelMap(numbers, segments), size=(numbers.shape[1], numbers.shape[0]))

    return read_mask
