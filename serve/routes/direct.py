"""A route that goes straight to its function: FastAPI describes it, and stays out of the way when it is called.

FastAPI looks anew at what a function wants for each request, which takes longer than all that the server itself does
with a small image. What a function of this kind wants is always the same: the request, and the query's options.
"""

from collections.abc import Callable, Coroutine
from functools import lru_cache
from typing import Any, TypeVar, get_type_hints

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import APIRoute
from pydantic import ValidationError
from starlette.datastructures import QueryParams

from semseg_app.serve.answers.options import MaskOptions

T = TypeVar("T", bound=MaskOptions)
MOST_REMEMBERED = 500
"""Characters of a query that is worth remembering."""


class DirectRoute(APIRoute):
    """For functions `async (request, options) -> Response`; OpenAPI has their parameters as for any other."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """See `APIRoute`."""
        answer: Callable[[Request, MaskOptions], Coroutine[Any, Any, Response]] = self.endpoint
        kind: type[MaskOptions] = get_type_hints(self.endpoint)["options"]

        async def handle(request: Request) -> Response:
            return await answer(request, read_options(kind, request.scope["query_string"]))

        return handle


def read_options(kind: type[T], query: bytes) -> T:
    """The options of a query. BadOption, or RequestValidationError as FastAPI raises it, when they are not right."""
    options = (_remembered if len(query) <= MOST_REMEMBERED else _read)(kind, query)
    assert isinstance(options, kind)
    return options


def _read(kind: type[MaskOptions], query: bytes) -> MaskOptions:
    try:
        return kind.from_query(QueryParams(query).multi_items())
    except ValidationError as error:
        raise RequestValidationError(
            [problem | {"loc": ("query", *problem["loc"])} for problem in error.errors(include_url=False)]
        ) from None


_remembered = lru_cache(maxsize=256)(_read)
