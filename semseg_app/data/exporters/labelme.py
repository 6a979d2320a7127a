"""LabelMe: a JSON file beside each photo (https://github.com/wkentaro/labelme).

Polygons are polygons; what has a hole, and every mask, is LabelMe's shape type `mask`: a PNG of a box, whose two
corners are pixels inside it.
"""

import base64
import io
import json
from pathlib import Path
from typing import Any

from PIL import Image

from semseg_app.data.exporters.picture import Picture
from semseg_app.data.exporters.shapes import Shape
from semseg_app.files import atomic_file
from semseg_app.labels import LabelSpace

VERSION = "5.5.0"
"""The first version of LabelMe that reads every field here."""


class LabelMeWriter:
    """<split>/x.jpg with <split>/x.json, and labels.txt for `labelme --labels`."""

    def __init__(self, folder: Path, labels: LabelSpace, url_prefix: str):
        self._folder = folder
        self._classes = labels.classes

    def photo_path(self, picture: Picture) -> Path:
        return Path(picture.below)

    def add(self, picture: Picture, shapes: list[Shape]) -> None:
        if picture.classes is None:
            return
        content: dict[str, Any] = {
            "version": VERSION,
            "flags": {},
            "shapes": [self._shape(shape) for shape in shapes],
            "imagePath": picture.below.name,
            "imageData": None,
            "imageHeight": picture.height,
            "imageWidth": picture.width,
        }
        with atomic_file(self._folder / picture.below.with_suffix(".json")) as part:
            part.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")

    def finish(self) -> None:
        with atomic_file(self._folder / "labels.txt") as part:
            part.write_text("".join(f"{name}\n" for name in self._classes), encoding="utf-8")

    def _shape(self, shape: Shape) -> dict[str, Any]:
        if shape.outline is not None and not shape.has_holes:
            points, kind, mask = shape.outline.exterior.tolist(), "polygon", None
        else:
            left, top, width, height = shape.box
            encoded = io.BytesIO()
            Image.fromarray(shape.pixels).save(encoded, "PNG")
            points, kind = [[left, top], [left + width - 1, top + height - 1]], "mask"
            mask = base64.b64encode(encoded.getvalue()).decode("ascii")
        return {
            "label": self._classes[shape.class_index],
            "points": points,
            "group_id": None,
            "description": "",
            "shape_type": kind,
            "flags": {},
            "mask": mask,
        }
