"""Packages of the extra `plot`, asked for where they are used."""

from collections.abc import Iterator
from contextlib import contextmanager

from semseg_app.errors import UserError


@contextmanager
def plot_extra(what: str) -> Iterator[None]:
    """Inside, a package that cannot be imported becomes a UserError that names the extra."""
    try:
        yield
    except ImportError as error:
        raise UserError(f"{what} needs the extra `plot` ({error}): pip install 'semseg-app[plot]'") from None
