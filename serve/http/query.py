"""The query of an address: an option there that the route does not take is refused, not ignored."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from fastapi import Depends, Request

from semseg_app.serve.answers.options import BadOption, Options, one_value_each

NEAR = 0.75
"""Similarity from which a name counts as one of ours, misspelled."""
MOST_FOREIGN = 50
"""Options of others in one query: each one is compared with all of ours."""


def options_checked(elsewhere: str, ours: Iterable[str] | None = None) -> Any:
    """A dependency for routers. BadOption, so 422, for an option that a route does not take, or that has two values.

    Args:
        elsewhere: where options belong that a route does not take, for the error.
        ours: names that other routes take. Where they are given, only these and names near them are refused: clients
            of other protocols add what is for proxies or their own servers.
    """
    known = None if ours is None else [*Options.model_fields, *ours]

    async def check(request: Request) -> None:
        if request.scope["query_string"]:
            takes = [field.alias for field in request.scope["route"].dependant.query_params]
            items = request.query_params.multi_items()
            if known is not None:
                if len(items) > MOST_FOREIGN:
                    raise BadOption(f"the address has more than {MOST_FOREIGN} options")
                items = [item for item in items if get_close_matches(item[0], known, 1, NEAR)]
            one_value_each(items, takes, elsewhere)

    return Depends(check)
