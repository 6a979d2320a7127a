"""What the doctor says of one thing."""

from typing import Literal, NamedTuple


class Check(NamedTuple):
    """One thing that was looked at, in one line."""

    name: str
    status: Literal["ok", "warning", "error"]
    """A warning leaves something slower or unavailable that only some uses need; an error does not."""
    message: str
    fix: str | None = None
    """What to do; None where there is nothing to do, or the message says it."""
