"""One segmented image in every form that the API answers with."""

import io
import json
import re
import zipfile
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from semseg_app.errors import UserError
from semseg_app.inference.engines.base import Engine
from semseg_app.masks import color_png, gray_png, indexed_png
from semseg_app.masks.geojson import features
from semseg_app.masks.polygons import Polygon, polygons
from semseg_app.masks.regions import Region, regions
from semseg_app.masks.run_lengths import coco_rle
from semseg_app.plots.overlays import overlay
from semseg_app.serve.answers.options import BadOption, Format, Options
from semseg_app.serve.answers.schemas import ClassInfo, class_infos, summarize
from semseg_app.serve.scheduling.segmenter import Segmentation

JPEG_QUALITY = 90
PNG, JPEG, JSON, GEOJSON, RAW, ZIP = (
    "image/png",
    "image/jpeg",
    "application/json",
    "application/geo+json",
    "application/octet-stream",
    "application/zip",
)
MEDIA_TYPES: dict[Format, str] = {
    "png": PNG,
    "color": PNG,
    "overlay": JPEG,
    "confidence": PNG,
    "json": JSON,
    "rle": JSON,
    "polygons": JSON,
    "geojson": GEOJSON,
    "raw": RAW,
}
BY_MEDIA_TYPE: dict[str, Format] = {PNG: "png", JSON: "json", JPEG: "overlay", GEOJSON: "geojson", RAW: "raw"}
"""What `Accept` chooses."""
_SUFFIXES = {PNG: ".png", JPEG: ".jpg", RAW: ".raw"}


class Answered(NamedTuple):
    """One image with its answer, in the form that was asked for."""

    name: str
    """The file's name as the caller gave it, harmless; may be empty."""
    height: int
    width: int
    content: Any
    """bytes of a picture or of raw classes; what becomes JSON otherwise."""


def render(form: Format, segmentation: Segmentation, engine: Engine, model: str, options: Options) -> Any:
    """bytes for pictures and raw classes, else what becomes JSON (of GeoJSON the features).

    Args:
        form: which one.
        segmentation: already filtered by `options`.
        engine: the one that answered.
        model: the name that it is served under.
        options: `transform` and `opacity` count here.

    BadOption when the outlines are too many.
    """
    classes, palette = segmentation.classes, engine.labels.palette
    match form:
        case "png":
            return indexed_png(classes, palette)
        case "color":
            return color_png(classes, palette)
        case "confidence":
            return gray_png(segmentation.confidence)
        case "overlay":
            return _overlay(segmentation, engine, options.opacity)
        case "raw":
            return classes.tobytes()
        case "json":
            return summarize(engine, segmentation, model).model_dump()
    height, width = classes.shape
    infos = class_infos(engine.labels)
    covered = [(infos[region.class_index], region) for region in regions(classes) if region.class_index < len(infos)]
    head = {"model": model, "width": width, "height": height}
    if form == "rle":
        counts = coco_rle(classes)
        return head | {
            "classes": [
                _about(info, region) | {"segmentation": {"size": [height, width], "counts": counts[info.index]}}
                for info, region in covered
            ]
        }
    shapes = _polygons(classes)
    if form == "polygons":
        return head | {
            "classes": [
                _about(info, region) | {"polygons": [_outline(polygon) for polygon in shapes[info.index]]}
                for info, region in covered
            ]
        }
    return [
        feature
        for info, _ in covered
        for feature in features(shapes[info.index], info.model_dump() | {"model": model}, options.affine())
    ]


def packed(form: Format, answered: Sequence[Answered]) -> tuple[bytes, str, dict[str, str]]:
    """The body of an answer, its media type and its headers: one image as it is, several as a list or as a ZIP."""
    media_type = MEDIA_TYPES[form]
    if form == "geojson":
        found = [
            feature | {"properties": feature["properties"] | _which(index, one, len(answered))}
            for index, one in enumerate(answered)
            for feature in one.content
        ]
        return _json({"type": "FeatureCollection", "features": found}), media_type, {}
    if media_type == JSON:
        if len(answered) == 1:
            return _json(answered[0].content), media_type, {}
        return _json({"images": [{"file": one.name} | one.content for one in answered]}), media_type, {}
    if len(answered) == 1:
        one = answered[0]
        size = {"X-Image-Height": str(one.height), "X-Image-Width": str(one.width)}
        return one.content, media_type, size if form == "raw" else {}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:  # stored: pictures do not get smaller
        for index, one in enumerate(answered):
            stem = one.name.rsplit(".", 1)[0]
            size_of_raw = f"-{one.width}x{one.height}" if form == "raw" else ""
            archive.writestr(f"{index:03}{'-' + stem if stem else ''}{size_of_raw}{_SUFFIXES[media_type]}", one.content)
    return buffer.getvalue(), ZIP, {}


def harmless_name(given: str | None) -> str:
    """A file's name from a stranger: its last part, of letters, digits, dot, dash and underscore, at most 80."""
    last = re.split(r"[\\/]", given or "")[-1]
    return re.sub(r"[^\w.-]+", "_", last).lstrip(".")[:80]


def _overlay(segmentation: Segmentation, engine: Engine, opacity: float) -> bytes:
    """The photo under the class colors, as a JPEG; where the class is unknown, the photo alone."""
    classes, image = segmentation.classes, segmentation.image
    picture = overlay(image, classes, engine.labels.palette, opacity)
    unknown = classes >= len(engine.labels.classes)
    if unknown.any():
        picture = np.where(unknown[..., None], image, picture)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def _polygons(classes: np.ndarray) -> dict[int, list[Polygon]]:
    try:
        return polygons(classes)
    except UserError as error:
        raise BadOption(str(error)) from None


def _about(info: ClassInfo, region: Region) -> dict[str, Any]:
    box = [region.left, region.top, region.width, region.height]
    return info.model_dump() | {"area": region.area, "box": box}


def _outline(polygon: Polygon) -> dict[str, Any]:
    return {"exterior": polygon.exterior.tolist(), "holes": [hole.tolist() for hole in polygon.holes]}


def _which(index: int, one: Answered, count: int) -> dict[str, Any]:
    """Which image a feature belongs to, where there are several."""
    return {"image": index, "file": one.name} if count > 1 else {}


def _json(content: Any) -> bytes:
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
