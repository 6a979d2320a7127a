"""What the numbers of a class map mean: class names, colors, and the one number that means no class."""

from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

IGNORE = 255
"""The label of pixels that belong to no class: never trained on, never scored."""

Color = tuple[int, int, int]


def hex_color(color: Sequence[int]) -> str:
    """(red, green, blue), 0 to 255 each -> "#rrggbb"."""
    red, green, blue = color
    return f"#{red:02x}{green:02x}{blue:02x}"


def require_color_per_class(classes: Sequence[str], palette: Sequence[Color]) -> None:
    """ValueError, for pydantic's validators, where a palette has more or fewer colors than there are classes."""
    if len(palette) != len(classes):
        raise ValueError(f"{len(classes)} classes but {len(palette)} palette colors; give one color per class")


def require_unique_classes(classes: Sequence[str]) -> None:
    """ValueError, for pydantic's validators, where two classes have one name: tables by class would lose one."""
    twice = sorted({name for name in classes if classes.count(name) > 1})
    if twice:
        raise ValueError(f"class names must be unique; given twice: {', '.join(twice)}")


Byte = Annotated[int, Field(ge=0, le=255)]


class LabelSpace(BaseModel):
    """What the numbers of a class map mean."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    classes: list[str] = Field(min_length=1, max_length=256)
    palette: list[tuple[Byte, Byte, Byte]]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        require_color_per_class(self.classes, self.palette)
        require_unique_classes(self.classes)
        return self
