"""What a caller may ask for beside the image: the query parameters of /v1/segment and /v1/jobs."""

from collections.abc import Callable
from typing import Annotated, Literal, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from semseg_app.errors import UserError
from semseg_app.inference.engines.base import Prediction
from semseg_app.labels import LabelSpace
from semseg_app.masks.geojson import Transform, parse_transform

UNKNOWN = 255
"""What a mask says where the answer was not wanted, or not certain enough."""

Format = Literal["png", "color", "overlay", "confidence", "json", "rle", "polygons", "geojson", "raw"]
FORMATS: tuple[Format, ...] = get_args(Format)


class BadOption(UserError):
    """A query parameter that this model or this image cannot satisfy. The HTTP API answers 422."""


class Options(BaseModel):
    """The query. Anything else in it is refused, so that a misspelt option is not silently ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Annotated[
        Format | None, Field(description="Kind of answer; wins over `Accept`.", examples=["rle", "geojson"])
    ] = None
    model: Annotated[
        str | None, Field(description="One of those that /v1/models names; the first unless told.", max_length=200)
    ] = None
    classes: Annotated[
        str | None,
        Field(
            description="Names or indices, separated by commas: every other pixel becomes unknown (255).",
            examples=["0,1"],
            max_length=10_000,
        ),
    ] = None
    threshold: Annotated[
        float, Field(ge=0, le=1, description="Pixels of a lower confidence become unknown (255).", examples=[0.5])
    ] = 0.0
    size: Annotated[
        str | None,
        Field(
            pattern=r"^[1-9][0-9]{0,4}(x[1-9][0-9]{0,4})?$",
            description="Longest side, or WIDTHxHEIGHT to fit into: a larger photo is reduced before it is segmented, "
            "its proportions kept, and the answer has that size. It never grows.",
            examples=["512", "640x480"],
        ),
    ] = None
    transform: Annotated[
        str | None,
        Field(
            description="For GeoJSON, a,b,c,d,e,f: X = ax + by + c, Y = dx + ey + f, of the corners of the answer's "
            "pixels; rasterio's order.",
            examples=["0.5,0,100,0,-0.5,200"],
            max_length=400,
        ),
    ] = None
    opacity: Annotated[float, Field(ge=0, le=1, description="Of the colors in an overlay.")] = 0.5

    def resize(self) -> Callable[[int, int], tuple[int, int]] | None:
        """Upright height and width of a photo -> those of its answer; None = they stay."""
        if self.size is None:
            return None
        width, _, height = self.size.partition("x")
        most_wide, most_high = int(width), int(height or width)

        def fit(height: int, width: int) -> tuple[int, int]:
            scale = min(1.0, most_wide / width, most_high / height)
            return max(1, round(height * scale)), max(1, round(width * scale))

        return fit

    def check(self, labels: LabelSpace) -> None:
        """BadOption when these options cannot go with that model: known before an image is read."""
        self.wanted(labels)
        self.affine()

    def affine(self) -> Transform | None:
        """`transform` as numbers."""
        try:
            return None if self.transform is None else parse_transform(self.transform)
        except UserError as error:
            raise BadOption(str(error)) from None

    def wanted(self, labels: LabelSpace) -> list[int] | None:
        """The indices of the classes asked for; None = all. BadOption when the model lacks one."""
        if self.classes is None:
            return None
        return sorted({_index(part.strip(), labels) for part in self.classes.split(",")})

    def filtered(self, prediction: Prediction, labels: LabelSpace) -> Prediction:
        """What was asked for of a prediction: every other pixel is UNKNOWN. The confidence stays as it is.

        BadOption when no value is left for it: with 256 classes, 255 is one of them.
        """
        wanted = self.wanted(labels)
        if wanted is None and self.threshold == 0:
            return prediction
        if len(labels.classes) > UNKNOWN:
            raise BadOption("classes and threshold need the value 255 for unknown, and this model has 256 classes")
        classes, confidence = prediction
        if wanted is not None:
            table = np.full(256, UNKNOWN, np.uint8)
            table[wanted] = wanted
            classes = table[classes]
        if self.threshold:
            classes = np.where(confidence >= np.ceil(self.threshold * 255), classes, np.uint8(UNKNOWN))
        return Prediction(classes, confidence)


def _index(text: str, labels: LabelSpace) -> int:
    """A class by name or, where no class has that name, by index."""
    if text in labels.classes:
        return labels.classes.index(text)
    if text.isascii() and text.isdigit() and int(text) < len(labels.classes):
        return int(text)
    raise BadOption(f"classes: the model has no {text!r}; it has {', '.join(labels.classes)}")
