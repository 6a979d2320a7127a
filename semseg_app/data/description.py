"""dataset.yaml: what the classes of a dataset are called, and what the numbers or colors of its masks mean."""

import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from semseg_app.data.mask_pixels import HIGHEST, LOWEST
from semseg_app.errors import UserError
from semseg_app.labels import IGNORE, Color, require_color_per_class, require_unique_classes
from semseg_app.yaml_text import RepeatedKey, load_yaml

HEX = re.compile("#[0-9a-fA-F]{6}")
FOREIGN_KEYS = {
    "names": "write classes",
    "labels": "write classes",
    **dict.fromkeys(("nc", "num_classes"), "leave it out, the classes are counted"),
    **dict.fromkeys(("path", "train", "val", "test"), "leave it out, photos lie in images/<split>/"),
    "masks_dir": "leave it out, masks lie in labels/<split>/",
    "reduce_zero_label": "write label_map: {0: 255, 1: 0, 2: 1, ...}",
    **dict.fromkeys(("ignore_label", "ignore_value", "ignore"), "write ignore_index"),
    "colors": "write palette",
}
"""Keys of Ultralytics' data.yaml, mmsegmentation and others -> what to write instead."""


class DatasetInfo(BaseModel):
    """The contents of dataset.yaml."""

    model_config = ConfigDict(extra="forbid")

    name: str
    classes: list[str] = Field(min_length=1, max_length=255)
    palette: list[Color] = Field(default_factory=list)
    ignore_index: int = IGNORE
    label_map: dict[int, int] | None = None
    """Value in the file -> class index (or ignore_index). Values that it does not name are errors."""
    color_map: dict[str, int] | None = Field(default=None, min_length=1)
    """ "#rrggbb" -> class index (or ignore_index), for masks that are pictures. Other colors are errors."""
    license: str | None = None
    """License of the data: an identifier (cc-by-4.0) or a few words. It travels into the card of a model."""
    source: str | None = None
    """Where the data comes from: an address, or its id on the Hub (user/dataset)."""
    splits: dict[str, int] | None = None
    """Expected number of images per split, for the record; `semseg check` compares."""

    @model_validator(mode="before")
    @classmethod
    def _keys_of_others(cls, content: dict[str, Any]) -> dict[str, Any]:
        """Say what the keys of other projects are called here."""
        for key, instead in FOREIGN_KEYS.items():
            if key in content and key not in cls.model_fields:
                raise ValueError(f"{key} is no key of dataset.yaml: {instead}")
        return content

    @field_validator("classes", mode="before")
    @classmethod
    def _classes_by_number(cls, classes: object) -> object:
        """{0: ground, 1: plant} is a list of names, too, as data.yaml and id2label have it."""
        if isinstance(classes, str):
            raise ValueError(f"write a list, in brackets: [{classes}]")
        if not isinstance(classes, dict):
            return classes
        if all(isinstance(number, int) for number in classes.values()):  # {ground: 0, plant: 1}
            classes = {number: name for name, number in classes.items()}
        if sorted(classes, key=str) == sorted(range(len(classes)), key=str):
            return [classes[number] for number in range(len(classes))]
        mapping = ", ".join(f"{number}: {index}" for index, number in enumerate(classes))
        names = ", ".join(f"{name}" for name in classes.values())
        raise ValueError(
            f"the numbers of classes go from 0 to {len(classes) - 1}; for masks that hold others write classes: "
            f"[{names}] and label_map: {{{mapping}, 255: 255}}"
        )

    @field_validator("palette", mode="before")
    @classmethod
    def _hex_palette(cls, palette: object) -> object:
        """Colors may be "#rrggbb", as in a color_map."""
        if not isinstance(palette, list):
            return palette
        return [
            tuple(bytes.fromhex(color[1:])) if isinstance(color, str) and HEX.fullmatch(color) else color
            for color in palette
        ]

    @field_validator("color_map", mode="before")
    @classmethod
    def _colors_come_first(cls, colors: object) -> object:
        if isinstance(colors, dict) and any(isinstance(value, list) for value in colors.values()):
            raise ValueError('the color comes first, then the number of its class: {"#3ca03c": 1}')
        return colors

    @field_validator("classes")
    @classmethod
    def _unique_classes(cls, classes: list[str]) -> list[str]:
        if any(not name.strip() for name in classes):
            raise ValueError(f"class {[bool(name.strip()) for name in classes].index(False)} has no name")
        require_unique_classes(classes)
        return classes

    @model_validator(mode="after")
    def _palette_fits(self) -> "DatasetInfo":
        if not self.palette:
            self.palette = default_palette(len(self.classes))
        require_color_per_class(self.classes, self.palette)
        if any(not 0 <= value <= 255 for color in self.palette for value in color):
            raise ValueError("palette colors are three numbers from 0 to 255")
        if not 0 <= self.ignore_index <= 255:
            raise ValueError(
                f"ignore_index {self.ignore_index} is no value of a mask, which holds 0 to 255 ({self.ignore_index} is "
                f"saved as {self.ignore_index % 256}); leave ignore_index out for 255, or map the values: "
                f"{self._example({self.ignore_index % 256: 255})}"
            )
        if self.ignore_index < len(self.classes):
            raise ValueError(
                f"ignore_index {self.ignore_index} is also a class; to ignore the value {self.ignore_index} of the "
                f"masks, leave ignore_index out and write {self._example({self.ignore_index: 255})}"
            )
        return self

    def _example(self, ignored: dict[int, int]) -> str:
        """A label_map that ignores some values, and gives the others to the first classes in turn."""
        free = (value for value in range(256) if value not in ignored)
        mapping = ignored | {next(free): index for index in range(min(3, len(self.classes)))}
        more = ", ..." if len(self.classes) > 3 else ""
        return f"label_map: {{{', '.join(f'{value}: {target}' for value, target in mapping.items())}{more}}}"

    @model_validator(mode="after")
    def _maps_fit(self) -> "DatasetInfo":
        if self.label_map is not None and self.color_map is not None:
            raise ValueError("give label_map (masks of numbers) or color_map (masks of colors), not both")
        for raw in self.label_map or {}:
            if not LOWEST <= raw <= HIGHEST:
                raise ValueError(f"label_map: {raw} is no value of a mask; they go from {LOWEST} to {HIGHEST}")
        for color in self.color_map or {}:
            if not HEX.fullmatch(color):
                raise ValueError(f"color_map: {color!r} is no color; write it as '#rrggbb'")
        for target in (*(self.label_map or {}).values(), *(self.color_map or {}).values()):
            if not 0 <= target < len(self.classes) and target != self.ignore_index:
                raise ValueError(
                    f"{'label_map' if self.label_map else 'color_map'}: {target} is neither a class "
                    f"(0 to {len(self.classes) - 1}) nor ignore_index ({self.ignore_index})"
                )
        return self


def default_palette(count: int) -> list[Color]:
    """`count` distinct colors by the bit-reversal rule of the VOC devkit, without its black first entry."""
    colors = []
    for index in range(1, count + 1):
        red = green = blue = 0
        for bit in range(8):
            red |= (index >> (3 * bit) & 1) << (7 - bit)
            green |= (index >> (3 * bit + 1) & 1) << (7 - bit)
            blue |= (index >> (3 * bit + 2) & 1) << (7 - bit)
        colors.append((red, green, blue))
    return colors


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping, or a UserError that names the file and the line."""
    try:
        content = load_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text file in UTF-8; save it as UTF-8") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        if isinstance(error, RepeatedKey):
            raise UserError(f"{where}: {error.problem}") from None
        problem = getattr(error, "problem", None) or str(error)
        fix = "; indent with spaces, not with tabs" if r"'\t'" in problem else ""
        raise UserError(f"{where}: not valid YAML ({problem}){fix}") from None
    if content is None:
        raise UserError(f"{path}: is empty; expected `key: value` lines")
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected `key: value` lines at the top, found {type(content).__name__}")
    return content
