"""The JSON answers of the API as types. OpenAPI describes them; the web page shows the same answer."""

from typing import Any, Literal

import numpy as np
from pydantic import BaseModel

from semseg_app.inference.engines.base import Engine
from semseg_app.labels import LabelSpace, hex_color
from semseg_app.masks.regions import regions
from semseg_app.serve.scheduling.segmentation import Segmentation


class Problem(BaseModel):
    """Every answer that is not 2xx."""

    error: str


class EngineInfo(BaseModel):
    """The engine that really runs; it may differ from the one asked for with `auto`."""

    kind: str
    device: str
    precision: str


class ClassInfo(BaseModel):
    """One class of a model. `index` is its value in the mask."""

    index: int
    name: str
    color: str


class ClassShare(ClassInfo):
    """One class that was found in an image."""

    area: int
    """Pixels."""
    share: float
    """Fraction of the image's pixels, 0 to 1."""
    box: tuple[int, int, int, int]
    """Left, top, width, height of the smallest box around all of them, pixels."""
    confidence: float
    """Mean confidence over the class's pixels, 0 to 1."""


class Latency(BaseModel):
    """Milliseconds spent on this image, without waiting in the queue."""

    decode: float
    inference: float


class Summary(BaseModel):
    """The JSON answer about one image."""

    model: str
    engine: EngineInfo
    width: int
    height: int
    confidence: float
    """Mean over all pixels, 0 to 1."""
    classes: list[ClassShare]
    """The classes that occur, the largest first."""
    unknown: float
    """Fraction of the pixels that are 255: classes that were not asked for, or below the threshold."""
    latency_ms: Latency


class RunLengths(BaseModel):
    """A mask in COCO's compressed run lengths, as pycocotools reads it."""

    size: tuple[int, int]
    """Height, width."""
    counts: str


class ClassMask(ClassInfo):
    """One class of an image as run lengths."""

    area: int
    box: tuple[int, int, int, int]
    segmentation: RunLengths


class RunLengthMasks(BaseModel):
    """The answer `format=rle` about one image."""

    model: str
    width: int
    height: int
    classes: list[ClassMask]


class Outline(BaseModel):
    """One connected part: rings of (x, y) on the corners of pixels, the first vertex not repeated at the end."""

    exterior: list[tuple[int, int]]
    holes: list[list[tuple[int, int]]]


class ClassOutlines(ClassInfo):
    """One class of an image as polygons."""

    area: int
    box: tuple[int, int, int, int]
    polygons: list[Outline]


class Outlines(BaseModel):
    """The answer `format=polygons` about one image."""

    model: str
    width: int
    height: int
    classes: list[ClassOutlines]


class Feature(BaseModel):
    """One polygon of a class."""

    type: Literal["Feature"]
    properties: dict[str, Any]
    """index, name, color, model; with several images also `image` and `file`."""
    geometry: dict[str, Any]
    """A GeoJSON Polygon."""


class FeatureCollection(BaseModel):
    """The answer `format=geojson`."""

    type: Literal["FeatureCollection"]
    features: list[Feature]


class ModelInfo(BaseModel):
    """One served model."""

    name: str
    engine: EngineInfo
    classes: list[ClassInfo]


class Models(BaseModel):
    """The answer of /v1/models."""

    models: list[ModelInfo]


class Ready(BaseModel):
    """The answer of /health/ready once the warm-up has passed."""

    status: str
    model: str
    engine: EngineInfo


class Live(BaseModel):
    """The answer of /health/live."""

    status: str


def engine_info(engine: Engine) -> EngineInfo:
    return EngineInfo(kind=engine.kind, device=engine.device, precision=engine.precision)


def class_infos(labels: LabelSpace) -> list[ClassInfo]:
    pairs = zip(labels.classes, labels.palette, strict=True)
    return [ClassInfo(index=index, name=name, color=hex_color(rgb)) for index, (name, rgb) in enumerate(pairs)]


def model_info(name: str, engine: Engine) -> ModelInfo:
    return ModelInfo(name=name, engine=engine_info(engine), classes=class_infos(engine.labels))


def summarize(engine: Engine, segmentation: Segmentation, name: str | None = None) -> Summary:
    """Sizes, shares and confidences of one segmented image. `name` is the name under which the model is served."""
    classes, confidence = segmentation.classes, segmentation.confidence
    infos = class_infos(engine.labels)
    sums = np.bincount(classes.ravel(), weights=confidence.ravel(), minlength=len(infos))
    covered = regions(classes)
    shares = [
        ClassShare(
            **infos[region.class_index].model_dump(),
            area=region.area,
            share=round(region.area / classes.size, 6),
            confidence=round(float(sums[region.class_index] / region.area / 255), 4),
            box=(region.left, region.top, region.width, region.height),
        )
        for region in covered
        if region.class_index < len(infos)
    ]
    height, width = classes.shape
    return Summary(
        model=name or engine.name,
        engine=engine_info(engine),
        width=width,
        height=height,
        confidence=round(float(confidence.mean() / 255), 4),
        classes=sorted(shares, key=lambda entry: -entry.share),
        unknown=round(sum(region.area for region in covered if region.class_index >= len(infos)) / classes.size, 6),
        latency_ms=Latency(decode=round(segmentation.decode_ms, 2), inference=round(segmentation.inference_ms, 2)),
    )
