"""Pure ASGI middleware: API-key authentication."""

import base64
import binascii
import re

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from semseg_app.serve.http.api_keys import Keys
from semseg_app.serve.http.errors import problem

OPEN = re.compile(r"/(health|v2/health)/(live|ready)")
"""Probes need no key."""


class RequireApiKey:
    """Answers 401 without a known key and 429 beyond its rate limit; the name of a known key is scope["api_key"]."""

    def __init__(self, app: ASGIApp, keys: Keys):
        self.app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if OPEN.fullmatch(path):
            await self.app(scope, receive, send)
            return
        given = _given(Headers(scope=scope))
        name = None if given is None else self._keys.name_of(given)
        if name is not None:
            scope["api_key"] = name
        if name is not None and not (wait := self._keys.take(name)):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        elif name is not None:
            message = f"rate limit of this API key reached; try again in {wait} s"
            await problem(429, message, {"Retry-After": str(wait)})(scope, receive, send)
        else:
            await _refusal(path, given)(scope, receive, send)


def _refusal(path: str, given: str | None) -> Response:
    """401: a browser then asks for the page's key by itself, programs are told how to send it."""
    programs = path.startswith(("/v1", "/v2", "/hf", "/label-studio"))
    challenge = {"WWW-Authenticate": "Bearer" if programs else 'Basic realm="semseg", charset="UTF-8"'}
    missing = "API key required: send `Authorization: Bearer KEY`"
    return problem(401, missing if given is None else "unknown API key", challenge)


def _given(headers: Headers) -> str | None:
    """The key in `Authorization: Bearer KEY`, `X-API-Key: KEY`, or as the password of basic authentication."""
    kind, _, value = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return value.strip()
    if kind.lower() == "basic":
        try:
            return base64.b64decode(value.strip(), validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError, ValueError):
            return ""
    return headers.get("x-api-key")
