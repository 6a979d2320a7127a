"""CVAT for images 1.1: annotations.xml (https://docs.cvat.ai/docs/dataset_management/formats/format-cvat/).

Polygons are polygons; what has a hole, and every mask, is a `mask`: run lengths along the rows of a box, zeros first.
Smaller shapes have a higher z_order. labels.json is for the "Raw" field of a new CVAT project.
"""

import json
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from semseg_app.data.exporters.picture import Picture
from semseg_app.data.exporters.shapes import Shape
from semseg_app.files import atomic_file
from semseg_app.labels import LabelSpace, hex_color


class CvatWriter:
    """annotations.xml, labels.json and images/<split>/."""

    def __init__(self, folder: Path, labels: LabelSpace, url_prefix: str):
        self._folder = folder
        self._labels = labels
        self._count = 0
        self._path = folder / "annotations.xml"
        declared = "".join(
            f"<label><name>{escape(name)}</name><color>{hex_color(color)}</color><type>any</type>"
            "<attributes></attributes></label>\n"
            for name, color in zip(labels.classes, labels.palette, strict=True)
        )
        self._path.write_text(
            '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n'
            f"<meta><task><labels>\n{declared}</labels></task></meta>\n",
            encoding="utf-8",
        )

    def photo_path(self, picture: Picture) -> Path:
        return Path("images", picture.below)

    def add(self, picture: Picture, shapes: list[Shape]) -> None:
        lines = [
            f'<image id="{self._count}" name={quoteattr(picture.below.as_posix())} subset={quoteattr(picture.split)} '
            f'width="{picture.width}" height="{picture.height}">',
            *(self._element(level, shape) for level, shape in enumerate(shapes)),
            "</image>",
        ]
        self._count += 1
        self._append("\n".join(lines) + "\n")

    def finish(self) -> None:
        self._append("</annotations>\n")
        labels = [
            {"name": name, "color": hex_color(color), "type": "any", "attributes": []}
            for name, color in zip(self._labels.classes, self._labels.palette, strict=True)
        ]
        with atomic_file(self._folder / "labels.json") as part:
            part.write_text(json.dumps(labels, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")

    def _append(self, text: str) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(text)

    def _element(self, level: int, shape: Shape) -> str:
        label = quoteattr(self._labels.classes[shape.class_index])
        source = "manual" if shape.score is None else "auto"
        end = f'occluded="0" source="{source}" z_order="{level}"'
        if shape.outline is not None and not shape.has_holes:
            points = ";".join(f"{x:.2f},{y:.2f}" for x, y in shape.outline.exterior.tolist())
            return f'<polygon label={label} points="{points}" {end}></polygon>'
        left, top, width, height = shape.box
        runs = ", ".join(map(str, row_run_lengths(shape.pixels)))
        box = f'left="{left}" top="{top}" width="{width}" height="{height}"'
        return f'<mask label={label} rle="{runs}" {box} {end}></mask>'


def row_run_lengths(pixels: np.ndarray) -> list[int]:
    """bool `[h, w]` -> lengths of zeros, ones, zeros, ... row by row; 0 first where the mask begins with a one."""
    flat = pixels.ravel()
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    lengths: list[int] = np.diff(edges, prepend=0, append=flat.size).tolist()
    return [0, *lengths] if flat[0] else lengths
