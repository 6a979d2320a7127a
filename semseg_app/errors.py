"""The one exception that means: the user can fix this; and what pydantic found, as one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # `semseg doctor` speaks where pydantic cannot be imported
    from pydantic import ValidationError


class UserError(Exception):
    """A mistake in what was given to us. The message is one line: what is wrong, in which file, and the fix.

    The command line prints it without a traceback and exits with 2; the HTTP API answers 4xx with it.
    """


def explain(error: ValidationError, source: Path | str) -> UserError:
    """The first problem that pydantic found, as one line that names its place."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return UserError(f"{source}: {place + ': ' if place else ''}{message}{more}")
