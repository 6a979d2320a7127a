"""What all sections of a recipe have in common."""

import os
from pathlib import Path
from types import NoneType
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator


class Section(BaseModel):
    """Unknown keys are errors, numbers are finite, and paths begin with `~` and hold $VARIABLES as in a shell."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _null_is_not_none(cls, value: Any, info: ValidationInfo) -> Any:
        nullable = NoneType in get_args(cls.model_fields[str(info.field_name)].annotation)
        if nullable and isinstance(value, str | Path) and str(value) == "None":
            raise ValueError("None is a word to YAML; write null")
        return value

    @field_validator("*")
    @classmethod
    def _expanded(cls, value: Any) -> Any:
        if not isinstance(value, Path):
            return value
        path = Path(os.path.expandvars(value))
        if str(path).startswith("$"):
            raise ValueError(f"{value}: no such variable is set")
        try:
            return path.expanduser()
        except RuntimeError:
            raise ValueError(f"{value}: no user of that name has a home folder here") from None
