"""Refusing requests that get no slot, at the least cost: under a flood that is nearly every request."""

from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from semseg_app.errors import UserError
from semseg_app.serve.answers.options import Options
from semseg_app.serve.http.errors import too_busy
from semseg_app.serve.http.requester import requester
from semseg_app.serve.routes.direct import read_options
from semseg_app.serve.scheduling.admission import Overloaded
from semseg_app.serve.scheduling.registry import Models


class ShedLoad:
    """Pure ASGI middleware: answers 429 before anything else is done for a request that would get no slot now.

    The route would answer the same, after all that is done for a request that goes well. Each request waits for the
    event loop, so what a refusal takes is what the next one waits, and what those inside lack.

    Args:
        app: what comes next.
        models: what is served.
        route: the requests that it looks at; their query is that of `Options`.
    """

    def __init__(self, app: ASGIApp, models: Models, route: APIRoute):
        self.app = app
        self._models = models
        self._route = route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            path = scope["path"].removeprefix(scope.get("root_path", ""))
            if path == self._route.path and (refusal := self._refusal(scope)):
                scope["route"] = self._route  # as a router does
                return await refusal(scope, receive, send)
        return await self.app(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        try:
            self._models.get(read_options(Options, scope["query_string"]).model).check(requester("api", scope))
        except Overloaded as error:
            return too_busy(error.retry_after_s)
        except (RequestValidationError, UserError):  # the route says what is wrong
            return None
        return None
