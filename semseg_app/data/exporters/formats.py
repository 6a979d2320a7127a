"""The annotation tools that labels can be exported to. A new one is a file beside this one and a row here."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from semseg_app.data.exporters.coco import CocoWriter
from semseg_app.data.exporters.cvat import CvatWriter
from semseg_app.data.exporters.label_studio import LabelStudioWriter
from semseg_app.data.exporters.labelme import LabelMeWriter
from semseg_app.data.exporters.picture import Picture
from semseg_app.data.exporters.shapes import Shape
from semseg_app.data.exporters.yolo import YoloWriter
from semseg_app.labels import LabelSpace


class Writer(Protocol):
    """Writes one tool's files into a folder that is still its own."""

    def photo_path(self, picture: Picture) -> Path:
        """Where the photo goes, relative to the folder."""
        ...

    def add(self, picture: Picture, shapes: list[Shape]) -> None:
        """Add a photo with its shapes, which a tool must draw in this order. Without classes it is not annotated."""
        ...

    def finish(self) -> None:
        """Write what is written once."""
        ...


@dataclass(frozen=True)
class Format:
    """One tool."""

    title: str
    writer: Callable[[Path, LabelSpace, str], Writer]
    """(folder, classes and colors, prefix of the photos' addresses) -> writer."""
    next_step: str
    """What to do in the tool."""
    has_masks: bool = True


FORMATS = {
    "coco": Format("COCO instances", CocoWriter, "import annotations/instances_<split>.json with images/<split>"),
    "cvat": Format(
        "CVAT for images 1.1",
        CvatWriter,
        "paste labels.json into the project's labels (Raw), make a task of the folder images, and upload "
        "annotations.xml (CVAT 1.1)",
    ),
    "label-studio": Format(
        "Label Studio",
        LabelStudioWriter,
        "paste label_config.xml into the project's labeling interface (Code), and import tasks.json; "
        "--url-prefix says where Label Studio finds the photos",
    ),
    "labelme": Format("LabelMe", LabelMeWriter, "run `labelme SPLIT --labels labels.txt` in the folder"),
    "yolo": Format("Ultralytics YOLO segmentation", YoloWriter, "name data.yaml", has_masks=False),
}
"""Name for --to -> the tool."""
