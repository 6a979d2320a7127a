"""What a caller may ask for beside the image: the query parameters of /v1/segment and /v1/jobs."""

from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError

from semseg_app.errors import UserError, did_you_mean
from semseg_app.labels import LabelSpace
from semseg_app.masks.geojson import Transform, parse_transform
from semseg_app.serve.answers.formats import FORMATS

UNKNOWN = 255
"""Value in a mask of the pixels that the caller did not ask for, or whose confidence is too low."""

LONGEST_QUOTE = 60
"""Characters of a wrong value that an error repeats."""


class BadOption(UserError):
    """A query parameter that this model or this image cannot satisfy. The HTTP API answers 422."""


def _known_format(name: str) -> str:
    if name not in FORMATS:
        known = {"names": ", ".join(FORMATS), "near": did_you_mean(name, FORMATS)}
        raise PydanticCustomError("format", "choose one of {names}{near}", known)
    return name


class _FormatNames:
    """Lists the formats in the JSON schema: those of the table when the schema is made."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return handler(schema) | {"enum": list(FORMATS)}


FormatName = Annotated[str, AfterValidator(_known_format), _FormatNames()]
"""A name in FORMATS."""


class Options(BaseModel):
    """The query. Any other parameter is refused, so that a misspelled option is not silently ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Annotated[
        FormatName | None, Field(description="Format of the answer; wins over `Accept`.", examples=["rle", "geojson"])
    ] = None
    model: Annotated[
        str | None, Field(description="A name that /v1/models lists; the first model is the default.", max_length=200)
    ] = None
    classes: Annotated[
        str | None,
        Field(
            description="Class names or indices, separated by commas: pixels of other classes become unknown (255).",
            examples=["0,1"],
            max_length=10_000,
        ),
    ] = None
    threshold: Annotated[
        float, Field(ge=0, le=1, description="Pixels with a lower confidence become unknown (255).", examples=[0.5])
    ] = 0.0
    size: Annotated[
        str | None,
        Field(
            pattern=r"^[1-9][0-9]{0,4}(x[1-9][0-9]{0,4})?$",
            description="Longest side, or WIDTHxHEIGHT to fit into: a larger photo is reduced before it is segmented, "
            "its proportions kept, and the answer has that size. A photo is never enlarged.",
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
    simplify: Annotated[
        float,
        Field(
            ge=0,
            le=100,
            description="For polygons and GeoJSON: corners may be left out where the new outline passes them within so "
            "many pixels; neighbors keep one border.",
            examples=[1],
        ),
    ] = 0.0
    opacity: Annotated[float, Field(ge=0, le=1, description="Opacity of the colors in an overlay.")] = 0.5

    def resize(self) -> Callable[[int, int], tuple[int, int]] | None:
        """A function from a photo's upright height and width to those of its answer; None = the photo's own size."""
        if self.size is None:
            return None
        width, _, height = self.size.partition("x")
        most_wide, most_high = int(width), int(height or width)

        def fit(height: int, width: int) -> tuple[int, int]:
            scale = min(1.0, most_wide / width, most_high / height)
            return max(1, round(height * scale)), max(1, round(width * scale))

        return fit

    def check(self, labels: LabelSpace) -> None:
        """BadOption when these options do not fit that model. Call it before an image is read."""
        self.selected(labels)
        self.affine()

    def affine(self) -> Transform | None:
        """`transform` as six numbers; None when it was not given. BadOption when it is wrong."""
        try:
            return None if self.transform is None else parse_transform(self.transform)
        except UserError as error:
            raise BadOption(str(error)) from None

    def selected(self, labels: LabelSpace) -> list[int] | None:
        """The indices of the classes asked for; None = all. BadOption when the model lacks one."""
        if self.classes is None:
            return None
        return sorted({_index(part.strip(), labels) for part in self.classes.split(",")})

    @property
    def needs_confidence(self) -> bool:
        """Whether `filtered` reads it."""
        return self.threshold > 0

    def filtered(self, classes: np.ndarray, confidence: np.ndarray | None, labels: LabelSpace) -> np.ndarray:
        """The class map uint8 `[...]` with every pixel UNKNOWN that was not asked for.

        `confidence`, of the same shape, may be None unless `needs_confidence`. BadOption for a model with 256 classes:
        there 255 is a class and cannot mean unknown.
        """
        selected = self.selected(labels)
        if selected is None and not self.needs_confidence:
            return classes
        if len(labels.classes) > UNKNOWN:
            raise BadOption("classes and threshold need the value 255 for unknown, and this model has 256 classes")
        if selected is not None:
            table = np.full(256, UNKNOWN, np.uint8)
            table[selected] = selected
            classes = table[classes]
        if self.needs_confidence:
            assert confidence is not None
            classes = np.where(confidence >= np.ceil(self.threshold * 255), classes, np.uint8(UNKNOWN))
        return classes


def _index(text: str, labels: LabelSpace) -> int:
    """A class by name or, where no class has that name, by index."""
    if text in labels.classes:
        return labels.classes.index(text)
    # A class map has at most 256 classes. Python refuses to read numbers of thousands of digits.
    if text.isascii() and text.isdigit() and len(text) <= 3 and int(text) < len(labels.classes):
        return int(text)
    raise BadOption(f"classes: the model has no {text[:LONGEST_QUOTE]!r}; it has {', '.join(labels.classes)}")
