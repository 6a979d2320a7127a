"""Label Studio: tasks.json to import, label_config.xml for the project (https://labelstud.io/guide/tasks).

A model's predictions become `predictions`, from which an annotator starts; a person's masks become `annotations`.
Polygons are polygon labels; what has a hole, and every mask, is a brush.
"""

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from semseg_app.data.exporters.picture import Picture
from semseg_app.data.exporters.shapes import Shape
from semseg_app.files import atomic_file
from semseg_app.labels import LabelSpace, hex_color
from semseg_app.masks.brush import brush_rle

POLYGONS, BRUSH = "polygons", "brush"
"""Names of the two controls in the labeling configuration."""


class LabelStudioWriter:
    """tasks.json, label_config.xml and images/<split>/.

    Args:
        url_prefix: goes before images/<split>/x.jpg in the tasks: where Label Studio finds the photos.
    """

    def __init__(self, folder: Path, labels: LabelSpace, url_prefix: str):
        self._folder = folder
        self._labels = labels
        self._prefix = url_prefix
        self._count = 0
        self._path = folder / "tasks.json"
        self._path.write_text("[", encoding="utf-8")

    def photo_path(self, picture: Picture) -> Path:
        return Path("images", picture.below)

    def add(self, picture: Picture, shapes: list[Shape]) -> None:
        address = self._prefix + quote(self.photo_path(picture).as_posix())
        # Label Studio has no splits, but gives a task's data back as they came.
        task: dict[str, Any] = {"data": {"image": address, "split": picture.split}}
        result = [self._region(number, shape, picture) for number, shape in enumerate(shapes)]
        scores = [shape.score for shape in shapes if shape.score is not None]
        if picture.confidence is not None:
            score = sum(scores) / len(scores) if scores else 0.0
            task["predictions"] = [{"model_version": "semseg", "score": round(score, 4), "result": result}]
        elif picture.classes is not None:
            task["annotations"] = [{"result": result}]
        self._append(("," if self._count else "") + "\n" + json.dumps(task, ensure_ascii=False))
        self._count += 1

    def finish(self) -> None:
        self._append("\n]\n")
        with atomic_file(self._folder / "label_config.xml") as part:
            part.write_text(self._config(), encoding="utf-8")

    def _append(self, text: str) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(text)

    def _region(self, number: int, shape: Shape, picture: Picture) -> dict[str, Any]:
        name = self._labels.classes[shape.class_index]
        value: dict[str, Any]
        if shape.outline is not None and not shape.has_holes:
            control, kind = POLYGONS, "polygonlabels"
            corners = [[100 * x / picture.width, 100 * y / picture.height] for x, y in shape.outline.exterior.tolist()]
            value = {"points": corners, "closed": True, kind: [name]}
        else:
            control, kind = BRUSH, "brushlabels"
            value = {"format": "rle", "rle": brush_rle(shape.in_picture(picture.height, picture.width)), kind: [name]}
        region = {
            "id": f"part{number}",
            "from_name": control,
            "to_name": "image",
            "type": kind,
            "original_width": picture.width,
            "original_height": picture.height,
            "image_rotation": 0,
            "value": value,
        }
        return region if shape.score is None else region | {"score": shape.score}

    def _config(self) -> str:
        labels = "".join(
            f"    <Label value={quoteattr(name)} background={quoteattr(hex_color(color))}/>\n"
            for name, color in zip(self._labels.classes, self._labels.palette, strict=True)
        )
        return (
            '<View>\n  <Image name="image" value="$image" zoom="true"/>\n'
            f'  <PolygonLabels name="{POLYGONS}" toName="image">\n{labels}  </PolygonLabels>\n'
            f'  <BrushLabels name="{BRUSH}" toName="image">\n{labels}  </BrushLabels>\n</View>\n'
        )
