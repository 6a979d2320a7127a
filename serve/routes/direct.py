"""A route that goes straight to its function: FastAPI describes it, and stays out of the way when it is called.

FastAPI looks anew at what a function wants for each request, which takes longer than all that the server itself does
with a small image. What a function of this kind wants is always the same: the request, and the query's options.
"""

from collections.abc import Callable, Coroutine
from functools import lru_cache
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import APIRoute
from pydantic import ValidationError
from starlette.datastructures import QueryParams

from semseg_app.serve.answers.options import Options

MOST_REMEMBERED = 500
"""Characters of a query that is worth remembering."""


class DirectRoute(APIRoute):
    """For functions `async (request, options) -> Response`; OpenAPI has their parameters as for any other."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """See `APIRoute`."""
        answer: Callable[[Request, Options], Coroutine[Any, Any, Response]] = self.endpoint

        async def handle(request: Request) -> Response:
            return await answer(request, read_options(request.scope["query_string"]))

        return handle


def read_options(query: bytes) -> Options:
    """The options of a query. RequestValidationError as FastAPI raises it, when it has others or they are not right."""
    return (_remembered if len(query) <= MOST_REMEMBERED else _read)(query)


def _read(query: bytes) -> Options:
    try:
        return Options.model_validate(dict(QueryParams(query)))
    except ValidationError as error:
        raise RequestValidationError(
            [problem | {"loc": ("query", *problem["loc"])} for problem in error.errors(include_url=False)]
        ) from None


_remembered = lru_cache(maxsize=256)(_read)
