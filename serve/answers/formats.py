"""The output formats of the API: one table. A new format is one row in FORMATS and one function that renders it.

Everything else follows from the table: the `format` option, what `Accept` chooses, the OpenAPI schema, and the names
and files on the web page. docs/api.md repeats `name` and `answer` of every row, and a test compares them.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from pydantic import BaseModel

from semseg_app.errors import UserError
from semseg_app.inference.engines.base import Engine
from semseg_app.masks import color_png, gray_png, indexed_png
from semseg_app.masks.geojson import Transform, features
from semseg_app.masks.polygons import Polygon, polygons
from semseg_app.masks.regions import Region, regions
from semseg_app.masks.run_lengths import coco_rle
from semseg_app.masks.simplify import simplified
from semseg_app.plots.overlays import overlay
from semseg_app.serve.answers import examples
from semseg_app.serve.answers.schemas import (
    ClassInfo,
    FeatureCollection,
    Outlines,
    RunLengthMasks,
    Summary,
    class_infos,
    summarize,
)
from semseg_app.serve.scheduling.segmentation import Segmentation

JPEG_QUALITY = 90
MOST_TO_SIMPLIFY = 200_000
"""Corners of outlines that are simplified on request: 35 microseconds each on one core, 7 s at this limit."""
MASK_OPTIONS = ("classes", "threshold")
"""Options that decide which pixels are unknown: for every answer that shows classes."""
PNG, JPEG, JSON, GEOJSON, RAW, ZIP = (
    "image/png",
    "image/jpeg",
    "application/json",
    "application/geo+json",
    "application/octet-stream",
    "application/zip",
)


class Rendering(NamedTuple):
    """What a format's function gets."""

    segmentation: Segmentation
    """Pixels that the caller did not ask for are 255 already."""
    engine: Engine
    """The engine that answered; it knows the class names and their palette."""
    model: str
    """The name under which the model is served."""
    opacity: float
    """Opacity of the class colors in an overlay, 0 to 1."""
    transform: Transform | None
    """Pixel corners to world coordinates; None = coordinates stay in pixels."""
    simplify: float
    """Largest distance, in pixels, of a polygon's left-out corners from its new outline; 0 leaves none out."""


class Answered(NamedTuple):
    """One image with its answer in the format that was asked for."""

    name: str
    """The file's name as the caller gave it, made harmless; may be empty."""
    height: int
    width: int
    content: Any
    """What the format's `render` returned."""


class Format(NamedTuple):
    """One row of FORMATS."""

    media_type: str
    """The first row of a media type is the one that `Accept` chooses."""
    file: str
    """Name of a downloaded file; its suffix also names the files of a ZIP."""
    title: str
    """Name on the web page."""
    answer: str
    """What the answer holds, in one sentence, for OpenAPI and docs/api.md."""
    quick: bool
    """A small image takes about a millisecond; the others may take long."""
    render: Callable[[Rendering], Any]
    """Returns bytes, or what becomes JSON, arrays as lists. UserError when this image cannot be answered so."""
    options: tuple[str, ...] = MASK_OPTIONS
    """Options that change this answer, and not every one, as `size` and `model` do."""
    confidence: bool = False
    """Whether `render` reads it. Where no one does, the engine is spared the work."""
    several: Callable[[Sequence[Answered]], Any] | None = None
    """One JSON document from the answers about one or more images; None = `render` returns bytes, and several make a
    ZIP."""
    size_beside: bool = False
    """The bytes do not tell the image's size: headers, and the names in a ZIP, do."""
    schema: type[BaseModel] | None = None
    """The JSON answer about one image."""
    example: Mapping[str, Any] | None = None
    """An answer that OpenAPI shows."""

    @property
    def suffix(self) -> str:
        """Such as ".png"."""
        return PurePath(self.file).suffix


def by_media_type() -> dict[str, str]:
    """Media type -> name of the format that `Accept` chooses; earlier ones win ties."""
    chosen: dict[str, str] = {}
    for name, row in FORMATS.items():
        chosen.setdefault(row.media_type, name)
    return chosen


def _indexed(asked: Rendering) -> bytes:
    return indexed_png(asked.segmentation.classes, asked.engine.labels.palette)


def _color(asked: Rendering) -> bytes:
    return color_png(asked.segmentation.classes, asked.engine.labels.palette)


def _confidence(asked: Rendering) -> bytes:
    return gray_png(asked.segmentation.confidence)


def _raw(asked: Rendering) -> bytes:
    return asked.segmentation.classes.tobytes()


def _overlay(asked: Rendering) -> bytes:
    """The photo under the class colors; where the class is unknown, the photo alone."""
    classes, image = asked.segmentation.classes, asked.segmentation.image
    picture = overlay(image, classes, asked.engine.labels.palette, asked.opacity)
    unknown = classes >= len(asked.engine.labels.classes)
    if unknown.any():
        picture = np.where(unknown[..., None], image, picture)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def _summary(asked: Rendering) -> dict[str, Any]:
    return summarize(asked.engine, asked.segmentation, asked.model).model_dump()


def _run_lengths(asked: Rendering) -> dict[str, Any]:
    classes = asked.segmentation.classes
    counts = coco_rle(classes)
    return _image(asked) | {
        "classes": [
            _about(info, region) | {"segmentation": {"size": list(classes.shape), "counts": counts[info.index]}}
            for info, region in _covered(asked)
        ]
    }


def _polygons(asked: Rendering) -> dict[str, Any]:
    shapes = _shapes(asked)
    return _image(asked) | {
        "classes": [
            _about(info, region) | {"polygons": [_outline(polygon) for polygon in shapes[info.index]]}
            for info, region in _covered(asked)
        ]
    }


def _shapes(asked: Rendering) -> dict[int, list[Polygon]]:
    classes = asked.segmentation.classes
    exact = polygons(classes)
    if asked.simplify == 0:
        return exact
    corners = sum(len(ring) for parts in exact.values() for part in parts for ring in (part.exterior, *part.holes))
    if corners > MOST_TO_SIMPLIFY:
        raise UserError(
            f"the outlines have {corners} corners, and at most {MOST_TO_SIMPLIFY} are simplified; "
            "reduce the photo with size=, or leave simplify= out"
        )
    return simplified(classes, exact, asked.simplify)


def _geojson(asked: Rendering) -> list[dict[str, Any]]:
    shapes = _shapes(asked)
    return [
        feature
        for info, _ in _covered(asked)
        for feature in features(shapes[info.index], info.model_dump() | {"model": asked.model}, asked.transform)
    ]


def _listed(answered: Sequence[Answered]) -> Any:
    """The answer itself, or a list of them with the names of their files."""
    if len(answered) == 1:
        return answered[0].content
    return {"images": [{"file": image.name} | image.content for image in answered]}


def _feature_collection(answered: Sequence[Answered]) -> dict[str, Any]:
    """All features; those of several images say which image they belong to."""
    collected = []
    for index, image in enumerate(answered):
        source = {"image": index, "file": image.name} if len(answered) > 1 else {}
        collected += [feature | {"properties": feature["properties"] | source} for feature in image.content]
    return {"type": "FeatureCollection", "features": collected}


def _covered(asked: Rendering) -> list[tuple[ClassInfo, Region]]:
    """The classes that occur in the image, without the unknown pixels."""
    infos = class_infos(asked.engine.labels)
    occurring = regions(asked.segmentation.classes)
    return [(infos[region.class_index], region) for region in occurring if region.class_index < len(infos)]


def _image(asked: Rendering) -> dict[str, Any]:
    height, width = asked.segmentation.classes.shape
    return {"model": asked.model, "width": width, "height": height}


def _about(info: ClassInfo, region: Region) -> dict[str, Any]:
    box = [region.left, region.top, region.width, region.height]
    return info.model_dump() | {"area": region.area, "box": box}


def _outline(polygon: Polygon) -> dict[str, Any]:
    return {"exterior": polygon.exterior, "holes": list(polygon.holes)}  # arrays: see `_json` in body.py


FORMATS: dict[str, Format] = {
    "png": Format(
        PNG,
        "mask.png",
        "Mask: indexed PNG",
        "indexed PNG: the value of a pixel is its class index, viewers show the palette",
        quick=True,
        render=_indexed,
    ),
    "color": Format(
        PNG, "colors.png", "Mask in colors: PNG", "RGB PNG in the palette's colors", quick=True, render=_color
    ),
    "confidence": Format(
        PNG,
        "confidence.png",
        "Confidence: gray PNG",
        "gray PNG: the probability of the pixel's class, times 255",
        quick=True,
        render=_confidence,
        options=(),
        confidence=True,
    ),
    "json": Format(
        JSON,
        "summary.json",
        "Summary: JSON",
        "size and mean confidence; area, share, confidence and bounding box of each class found; milliseconds",
        quick=True,
        render=_summary,
        confidence=True,
        several=_listed,
        schema=Summary,
        example=examples.SUMMARY,
    ),
    "rle": Format(
        JSON,
        "masks.rle.json",
        "COCO run lengths: JSON",
        "each class as COCO's compressed run lengths, which `pycocotools` reads",
        quick=False,
        render=_run_lengths,
        several=_listed,
        schema=RunLengthMasks,
        example=examples.RUN_LENGTHS,
    ),
    "polygons": Format(
        JSON,
        "polygons.json",
        "Polygons with holes: JSON",
        "each class as polygons with holes; `simplify=1` leaves out corners",
        quick=False,
        render=_polygons,
        options=(*MASK_OPTIONS, "simplify"),
        several=_listed,
        schema=Outlines,
        example=examples.POLYGONS,
    ),
    "overlay": Format(
        JPEG,
        "overlay.jpg",
        "Overlay: JPEG",
        "the photo under the class colors, JPEG; `opacity=0.5`",
        quick=False,
        render=_overlay,
        options=(*MASK_OPTIONS, "opacity"),
    ),
    "geojson": Format(
        GEOJSON,
        "classes.geojson",
        "Polygons: GeoJSON",
        "the polygons as a FeatureCollection; `transform=a,b,c,d,e,f` converts them to world coordinates, `simplify=1` "
        "leaves out corners",
        quick=False,
        render=_geojson,
        options=(*MASK_OPTIONS, "simplify", "transform"),
        several=_feature_collection,
        schema=FeatureCollection,
        example=examples.GEOJSON,
    ),
    "raw": Format(
        RAW,
        "classes.raw",
        "Raw class bytes",
        "one byte per pixel, row by row; the headers `X-Image-Height` and `X-Image-Width` give the size",
        quick=True,
        render=_raw,
        size_beside=True,
    ),
}
"""Name -> format, in the order of docs and page."""
