"""Photos with class maps -> a folder for an annotation tool."""

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from semseg_app.data.exporters.formats import FORMATS
from semseg_app.data.exporters.picture import Picture
from semseg_app.data.exporters.shapes import Shape, mask_shapes, merge_specks, polygon_shapes
from semseg_app.errors import UserError, did_you_mean
from semseg_app.files import atomic_folder
from semseg_app.labels import IGNORE, LabelSpace

LOCAL_FILES = "/data/local-files/?d="
"""How Label Studio names files of its own machine (LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED)."""


@dataclass(frozen=True)
class ExportOptions:
    """How class maps become shapes."""

    shapes: Literal["polygons", "masks"] = "polygons"
    tolerance: float = 1.0
    """Pixels by which a polygon may leave out corners; 0 keeps every pixel's corner."""
    min_area: int = 0
    """Connected parts of fewer pixels are given to the class around them."""
    leave_out: tuple[str, ...] = ()
    """Classes that get no shapes."""
    link: bool = False
    """Symbolic links to the photos instead of copies."""
    url_prefix: str = LOCAL_FILES

    def check(self, name: str, labels: LabelSpace) -> None:
        """UserError for what does not go together, or does not exist."""
        if name not in FORMATS:
            raise UserError(f"unknown format {name!r}; choose one of {', '.join(FORMATS)}{did_you_mean(name, FORMATS)}")
        if self.shapes == "masks" and not FORMATS[name].has_masks:
            raise UserError(f"{FORMATS[name].title} has polygons only; leave --shapes masks out")
        if self.tolerance < 0 or self.min_area < 0:
            raise UserError("--tolerance and --min-area are 0 or more pixels")
        for left_out in self.leave_out:
            if left_out not in labels.classes:
                near = did_you_mean(left_out, labels.classes)
                raise UserError(f"--leave-out {left_out}: choose one of {', '.join(labels.classes)}{near}")


@dataclass
class ExportReport:
    """What was written."""

    photos: int = 0
    labeled: int = 0
    """Photos with a mask or a prediction."""
    polygons: int = 0
    masks: int = 0
    """Shapes written as masks: asked for, or because of holes."""
    bridged: int = 0
    """Polygons with holes that a bridge connects, where the tool has no masks."""
    merged: int = 0
    """Parts smaller than min_area, given to the class around them."""
    ignored: int = 0
    """Photos that have pixels of no class; these are in no shape."""


def export_labels(
    pictures: Iterable[Picture],
    labels: LabelSpace,
    name: str,
    out: Path,
    options: ExportOptions = ExportOptions(),
    on_picture: Callable[[], None] | None = None,
) -> ExportReport:
    """Write a folder for an annotation tool, whole or not at all.

    Args:
        pictures: photos with class maps; one is in memory at a time.
        labels: the classes of the maps.
        name: a key of FORMATS.
        out: the folder; must not exist yet.
        options: how class maps become shapes.
        on_picture: called after each.

    Raises:
        UserError: `out` exists, options that do not fit, two photos of one name.
    """
    options.check(name, labels)
    if out.exists():
        raise UserError(f"{out}: exists; name a new folder")
    report = ExportReport()
    left_out = [labels.classes.index(left_out) for left_out in options.leave_out]
    taken: dict[Path, Path] = {}
    with atomic_folder(out) as folder:
        writer = FORMATS[name].writer(folder, labels, options.url_prefix)
        for picture in pictures:
            target = writer.photo_path(picture)
            # Annotation files have the photo's name without its suffix.
            if (other := taken.setdefault(target.with_suffix(""), picture.photo)) is not picture.photo:
                raise UserError(f"{picture.photo}: has the same name as {other}; rename one of the two")
            shapes = _shapes(picture, options, left_out, report)
            report.photos += 1
            report.labeled += picture.classes is not None
            with_holes = sum(shape.has_holes for shape in shapes)
            as_masks = (with_holes if FORMATS[name].has_masks else 0) + sum(shape.outline is None for shape in shapes)
            report.masks += as_masks
            report.bridged += with_holes - min(with_holes, as_masks)
            report.polygons += len(shapes) - as_masks
            writer.add(picture, shapes)
            _place_photo(picture.photo, folder / target, options.link)
            if on_picture:
                on_picture()
        if not report.photos:
            raise UserError("no photos to export; choose another split")
        writer.finish()
    return report


def _shapes(picture: Picture, options: ExportOptions, left_out: list[int], report: ExportReport) -> list[Shape]:
    if picture.classes is None:
        return []
    classes = picture.classes
    report.ignored += bool((classes == IGNORE).any())
    try:
        if options.min_area > 1:
            classes, merged = merge_specks(classes, options.min_area)
            report.merged += merged
        if left_out:
            classes = np.where(np.isin(classes, left_out), np.uint8(IGNORE), classes)
        if options.shapes == "masks":
            return mask_shapes(classes, picture.confidence)
        return polygon_shapes(classes, options.tolerance, picture.confidence)
    except UserError as error:
        raise UserError(f"{picture.photo}: {error}; or use --min-area 20 or --shapes masks") from None


def _place_photo(photo: Path, target: Path, link: bool) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if link:
        target.symlink_to(photo.resolve())
    else:
        shutil.copyfile(photo, target)
