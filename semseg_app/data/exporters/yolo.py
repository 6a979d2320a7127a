"""Ultralytics YOLO segmentation: data.yaml, and a text file per photo (https://docs.ultralytics.com/datasets/segment/).

A line is a class number and the corners of one polygon, as fractions of width and height. The format has no holes: a
bridge of no width leads from the outline to each hole and back, as Ultralytics' own converter connects parts.
"""

from pathlib import Path

import numpy as np
import yaml

from semseg_app.data.exporters.picture import Picture
from semseg_app.data.exporters.shapes import Shape, with_bridges
from semseg_app.errors import UserError
from semseg_app.files import atomic_file
from semseg_app.labels import LabelSpace


class YoloWriter:
    """images/<split>/x.jpg, labels/<split>/x.txt and data.yaml."""

    def __init__(self, folder: Path, labels: LabelSpace, url_prefix: str):
        self._folder = folder
        self._classes = labels.classes
        self._splits: list[str] = []

    def photo_path(self, picture: Picture) -> Path:
        return Path("images", picture.below)

    def add(self, picture: Picture, shapes: list[Shape]) -> None:
        if picture.split not in self._splits:
            self._splits.append(picture.split)
        if picture.classes is None:
            return  # a text file, even an empty one, would say that the photo was annotated
        lines = []
        for shape in shapes:
            if shape.outline is None:
                raise UserError("YOLO has polygons only; leave --shapes masks out")
            corners = with_bridges(shape.outline) / np.array([picture.width, picture.height])
            lines.append(" ".join([str(shape.class_index), *(f"{value:.7g}" for value in corners.ravel().tolist())]))
        with atomic_file(self._folder / "labels" / picture.below.with_suffix(".txt")) as part:
            part.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    def finish(self) -> None:
        content: dict[str, object] = {split: f"images/{split}" for split in self._splits}
        content["names"] = dict(enumerate(self._classes))
        with atomic_file(self._folder / "data.yaml") as part:
            part.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
