"""What the optional packages of this folder have in common."""

from collections.abc import Iterator
from contextlib import contextmanager

from semseg_app.errors import UserError


@contextmanager
def labels_extra(what: str) -> Iterator[None]:
    """Inside, a package that cannot be imported becomes a UserError that names the extra."""
    try:
        yield
    except ImportError as error:
        raise UserError(f"{what} needs the extra `labels` ({error}): pip install 'semseg-app[labels]'") from None
