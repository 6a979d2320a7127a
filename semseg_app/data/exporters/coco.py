"""COCO instances, one file per split (https://cocodataset.org/#format-data).

Polygons without holes are polygons; what has a hole, and every mask, is compressed RLE with `iscrowd` 0, which
pycocotools reads. Category ids begin at 1, as COCO's do.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from semseg_app.data.exporters.picture import Picture
from semseg_app.data.exporters.shapes import Shape
from semseg_app.files import atomic_file
from semseg_app.labels import LabelSpace
from semseg_app.masks.run_lengths import coco_rle


class CocoWriter:
    """annotations/instances_<split>.json beside images/<split>/."""

    def __init__(self, folder: Path, labels: LabelSpace, url_prefix: str):
        self._folder = folder
        self._categories = [{"id": number, "name": name} for number, name in enumerate(labels.classes, 1)]
        self._images: dict[str, list[dict[str, Any]]] = {}
        self._annotations: dict[str, list[str]] = {}  # already as text, which takes less memory

    def photo_path(self, picture: Picture) -> Path:
        return Path("images", picture.below)

    def add(self, picture: Picture, shapes: list[Shape]) -> None:
        images = self._images.setdefault(picture.split, [])
        annotations = self._annotations.setdefault(picture.split, [])
        size = {"width": picture.width, "height": picture.height}
        images.append({"id": len(images) + 1, "file_name": picture.below.as_posix(), **size})
        for shape in shapes:
            annotation: dict[str, Any] = {
                "id": len(annotations) + 1,
                "image_id": len(images),
                "category_id": shape.class_index + 1,
                "iscrowd": 0,
                "area": shape.area,
                "bbox": list(shape.box),
                "segmentation": _segmentation(shape, picture),
            }
            if shape.score is not None:
                annotation["score"] = shape.score
            annotations.append(json.dumps(annotation))

    def finish(self) -> None:
        for split, images in self._images.items():
            with (
                atomic_file(self._folder / "annotations" / f"instances_{split}.json") as part,
                part.open("w", encoding="utf-8") as file,
            ):
                file.write(f'{{"images": {json.dumps(images)},\n"categories": {json.dumps(self._categories)},\n')
                file.write('"annotations": [\n' + ",\n".join(self._annotations[split]) + "\n]}\n")


def _segmentation(shape: Shape, picture: Picture) -> Any:
    if shape.outline is not None and not shape.has_holes:
        return [shape.outline.exterior.ravel().tolist()]
    canvas = shape.in_picture(picture.height, picture.width).astype(np.uint8)
    return {"size": [picture.height, picture.width], "counts": coco_rle(canvas)[1]}
