"""One photo and its annotation -> the PNG of its mask, the right way up, and what was drawn."""

from collections import Counter
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from semseg_app.data.dataset import DECODING_ERRORS
from semseg_app.data.importers.annotated import Drawing, Item, Overlap, PixelMap, Size, Vertices
from semseg_app.data.importers.labels import ClassTable
from semseg_app.data.importers.rasterize import looks_traced, majority, rasterize
from semseg_app.data.inspection import TURNED
from semseg_app.errors import UserError
from semseg_app.labels import IGNORE
from semseg_app.masks import indexed_png
from semseg_app.photos import TURNS, open_photo, orientation

SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "TIFF": ".tif"}
"""Pillow's name of a format -> suffix, for photos that lie in the annotation file itself."""


@dataclass
class PhotoMask:
    """One photo, drawn."""

    png: bytes | None
    """None: not annotated."""
    suffix: str
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    drawn: Counter[str] = field(default_factory=Counter)
    ignored: Counter[str] = field(default_factory=Counter)
    without_pixels: int = 0
    no_area: Counter[str] = field(default_factory=Counter)
    turned: bool = False
    voted: bool = False
    traced: bool = False
    """Corners were taken as middles of pixels, because the outlines look traced."""


def draw_mask(item: Item, table: ClassTable, overlap: Overlap, unlabeled: bool, vertices: Vertices) -> PhotoMask:
    """Draw what the annotation of one photo says.

    Args:
        item: the photo and its annotation.
        table: class numbers.
        overlap: which of two objects is seen.
        vertices: what a corner of a polygon means.
        unlabeled: whether a photo without an annotation is unlabeled; else it is background throughout.

    Raises:
        UserError: an unreadable photo, an annotation of another size, a shape that cannot be drawn.
    """
    size, turn, suffix = _header(item)
    drawing = item.read(size)
    if drawing is None and not unlabeled:
        drawing = Drawing(versions=([],))
    if drawing is None:
        return PhotoMask(None, suffix)
    mask = PhotoMask(None, suffix, voted=len(drawing.versions) > 1, no_area=drawing.no_area)
    frame = drawing.size or size
    if frame != size:
        if turn not in TURNED or frame != (size[1], size[0]):
            raise UserError(
                f"{item.source}: drawn on a picture of {frame[0]}x{frame[1]}, but {item.name} is {size[0]}x{size[1]}; "
                f"the export is of other photos, or of these in another size: resize them to {frame[0]}x{frame[1]}"
            )
        mask.turned = True
    if drawing.pixels is not None:
        classes = _numbered(drawing.pixels, table, item)
    else:
        maps = []
        everything = [it for objects in drawing.versions for it in objects]
        mask.traced = vertices == "auto" and looks_traced(everything)
        centers = mask.traced or vertices == "centers"
        for objects in drawing.versions:
            drawn, areas = rasterize(objects, frame, table.number, table.background, overlap, centers)
            maps.append(drawn)
            for it, area in zip(objects, areas, strict=True):
                if table.number(it.name) == IGNORE:
                    mask.ignored[it.name or "crowd or unknown"] += 1
                elif not area:
                    mask.without_pixels += 1
                else:
                    mask.drawn[it.name or ""] += 1
        classes = majority(maps)
    if mask.turned:
        classes = np.asarray(Image.fromarray(classes).transpose(TURNS[turn]))
    mask.pixels = np.array(Image.fromarray(classes).histogram())
    if mask.pixels[IGNORE] < classes.size:  # a mask without any class teaches nothing
        mask.png = indexed_png(classes, table.palette)
    return mask


def _header(item: Item) -> tuple[Size, int, str]:
    """(width, height) as a viewer shows the photo, its EXIF orientation, its suffix."""
    assert item.photo is not None
    source = BytesIO(item.photo) if isinstance(item.photo, bytes) else item.photo
    try:
        with open_photo(source) as image:
            turn = orientation(image)
            if image.format == "TIFF":
                image.load()  # Pillow turns a TIFF while it decodes
            size = image.size
            kind = image.format or ""
    except DECODING_ERRORS as error:
        raise UserError(
            f"{item.photo if isinstance(item.photo, Path) else item.source}: unreadable photo ({error})"
        ) from None
    if turn in TURNED and kind != "TIFF":
        size = size[::-1]
    suffix = item.photo.suffix if isinstance(item.photo, Path) else SUFFIXES.get(kind)
    if suffix is None:
        raise UserError(f"{item.source}: the photo in it is a {kind}, which is not read; save it as JPEG or PNG")
    return size, turn, suffix


def _numbered(pixels: PixelMap, table: ClassTable, item: Item) -> np.ndarray:
    """The values of a mask -> class map uint8 `[H, W]`."""
    if pixels.values.dtype == np.uint8:
        values, inverse = np.flatnonzero(np.bincount(pixels.values.ravel(), minlength=256)), None
    else:
        values, inverse = np.unique(pixels.values, return_inverse=True)
    if strange := [value for value in values.tolist() if value not in pixels.names]:
        raise UserError(f"{item.source}: the mask holds {strange[0]}, which the export does not name")
    numbers = np.array([table.number(pixels.names[value]) for value in values.tolist()], np.uint8)
    if inverse is None:
        lookup = np.zeros(256, np.uint8)
        lookup[values] = numbers
        inverse, numbers = pixels.values, lookup
    classes: np.ndarray = numbers[inverse].reshape(pixels.values.shape)
    return classes
