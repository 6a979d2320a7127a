"""The one exception that means: the user can fix this; and what pydantic found, as one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # `semseg doctor` speaks where pydantic cannot be imported
    from pydantic import ValidationError


class UserError(Exception):
    """A mistake in what was given to us. The message is one line: what is wrong, in which file, and the fix.

    The command line prints it without a traceback and exits with 2; the HTTP API answers 4xx with it.
    """


def explain(error: ValidationError, source: Path | str) -> UserError:
    """The first problem that pydantic found, as one line that names the key."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    context = first.get("ctx", {})
    match first["type"]:
        case "union_tag_invalid":
            known = context["expected_tags"].replace("'", "").split(", ")
            tag = str(context["tag"])
            message = f"unknown {_key_of(context)} {tag!r}; choose one of {', '.join(known)}{did_you_mean(tag, known)}"
        case "union_tag_not_found":
            message = f"{_key_of(context)} is missing"
        case "literal_error":
            known = context["expected"].replace("'", "").replace(" or ", ", ").split(", ")
            given = first["input"]
            message = f"unknown value {given!r}; choose one of {', '.join(known)}{did_you_mean(str(given), known)}"
        case "extra_forbidden":
            message = "unknown key"
        case "missing":
            message = "is missing"
        case _:
            message = plain(first["msg"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return UserError(f"{source}: {key + ': ' if key else ''}{message}{more}")


def plain(message: str) -> str:
    """A message of pydantic in plain words: "must be ..." for "Input should be ..."."""
    message = message.replace("Value error, ", "").replace("Assertion failed, ", "").replace("Input should", "must")
    return message.split(", unable to parse")[0]


def _key_of(context: Mapping[str, Any]) -> str:
    """The key that tells the members of a union apart; pydantic quotes it."""
    return str(context["discriminator"]).strip("'")


def did_you_mean(name: str, known: Iterable[str], count: int = 1) -> str:
    """The end of a message about an unknown name: "; did you mean ...?", or nothing where no known name is near."""
    near = difflib.get_close_matches(name, list(known), n=count, cutoff=0.5)
    return f"; did you mean {' or '.join(near)}?" if near else ""


OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "failed to allocate memory",
    "bad_alloc",
)
"""What torch, CUDA and ONNX Runtime write when memory runs out, in lower case."""


@contextmanager
def memory_advice(doing: str, fix: str) -> Iterator[None]:
    """Inside, running out of memory, on a CPU or a GPU, becomes a UserError: what was being done, and the fix."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or any(text in str(error).lower() for text in OUT_OF_MEMORY):
            raise UserError(f"{doing}: out of memory; {fix}") from None
        raise
