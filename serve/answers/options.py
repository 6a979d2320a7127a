"""What a caller may ask for beside the image: `MaskOptions` in the query of /v1/jobs, `Options` in /v1/segment's."""

import re
from collections.abc import Callable, Collection, Iterable
from typing import Annotated, Any, Self

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

LISTS = ("classes", "transform")
"""Options whose value is a list, separated by commas."""

_SIZE = r"[1-9][0-9]{0,4}(x[1-9][0-9]{0,4})?"


class BadOption(UserError):
    """A query parameter that this model or this image cannot satisfy. The HTTP API answers 422."""


def _known_format(name: str) -> str:
    if name not in FORMATS:
        known = {"names": ", ".join(FORMATS), "near": did_you_mean(name, FORMATS)}
        raise PydanticCustomError("format", "choose one of {names}{near}", known)
    return name


def _known_size(text: str | None) -> str | None:
    if text is not None and not re.fullmatch(_SIZE, text):
        raise PydanticCustomError("size", "must be a number of pixels such as 512, or WIDTHxHEIGHT such as 640x480")
    return text


class _FormatNames:
    """Lists the formats in the JSON schema: those of the table when the schema is made."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return handler(schema) | {"enum": list(FORMATS)}


FormatName = Annotated[str, AfterValidator(_known_format), _FormatNames()]
"""A name in FORMATS."""


def one_value_each(items: Iterable[tuple[str, str]], takes: Collection[str], elsewhere: str = "") -> dict[str, str]:
    """The names and values of a query as a mapping. A list may be one value with commas, or several of the same name,
    as many clients write lists.

    BadOption for a name that is not among those that the address takes, with `elsewhere`, which says where other
    options belong; and for two different values of one name.
    """
    given: dict[str, str] = {}
    for name, value in items:
        if name not in takes:
            shown, here = name[:LONGEST_QUOTE], ", ".join(takes) or "no options"
            more = "; " + elsewhere if elsewhere else ""
            raise BadOption(f"unknown parameter {shown!r}; this address takes {here}{did_you_mean(shown, takes)}{more}")
        if name in given and name in LISTS:
            value = f"{given[name]},{value}"
        elif given.get(name, value) != value:
            both = " and ".join(repr(text[:LONGEST_QUOTE]) for text in (given[name], value))
            raise BadOption(f"{name}: given twice, as {both}; give it once")
        given[name] = value
    return given


class MaskOptions(BaseModel):
    """Options of every route that answers with a mask. Any other is refused, so that none is silently ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)

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

    @classmethod
    def from_query(cls, items: Iterable[tuple[str, str]]) -> Self:
        """From the names and values of a query. BadOption, or pydantic's ValidationError, for what cannot be."""
        return cls.model_validate(one_value_each(items, cls.model_fields))

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


class Options(MaskOptions):
    """Options of /v1/segment."""

    format: Annotated[
        FormatName | None, Field(description="Format of the answer; wins over `Accept`.", examples=["rle", "geojson"])
    ] = None
    size: Annotated[
        str | None,
        AfterValidator(_known_size),
        Field(
            json_schema_extra={"pattern": f"^{_SIZE}$"},
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

    def check(self, form: str, labels: LabelSpace) -> None:
        """BadOption when these options do not fit that format or that model. Call it before an image is read.

        Clients made from OpenAPI send options that were not chosen with their default: that asks for nothing.
        """
        for name in sorted(self.model_fields_set):
            takers = [other for other, row in FORMATS.items() if name in row.options]
            if takers and form not in takers and getattr(self, name) != type(self).model_fields[name].default:
                formats = " or ".join(f"format={taker}" for taker in takers)
                raise BadOption(f"{name}: has no effect on format={form}; leave it out, or choose {formats}")
        self.selected(labels)
        self.affine()

    def affine(self) -> Transform | None:
        """`transform` as six numbers; None when it was not given. BadOption when it is wrong."""
        try:
            return None if self.transform is None else parse_transform(self.transform)
        except UserError as error:
            raise BadOption(str(error)) from None


def _index(text: str, labels: LabelSpace) -> int:
    """A class by name or, where no class has that name, by index."""
    if text in labels.classes:
        return labels.classes.index(text)
    # A class map has at most 256 classes. Python refuses to read numbers of thousands of digits.
    if text.isascii() and text.isdigit() and len(text) <= 3 and int(text) < len(labels.classes):
        return int(text)
    raise BadOption(f"classes: the model has no {text[:LONGEST_QUOTE]!r}; it has {', '.join(labels.classes)}")
