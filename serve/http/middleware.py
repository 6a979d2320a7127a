"""Pure ASGI middleware: a request id on every answer, and a bound on every body."""

import logging
import random
import re
from collections.abc import Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("semseg.serve")

_ids = random.Random()  # seeded by the system; to ask that for each id hands Python's lock to another thread
_PLAIN_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)


def problem(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """The body of every answer that is not 2xx: `{"error": "one line"}`."""
    return JSONResponse({"error": message}, status, headers)


class RequestId:
    """Echoes the caller's X-Request-ID, or makes one. An exception that nobody expected is logged under it: 500."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        given = Headers(scope=scope).get("x-request-id", "")
        # Only plain ids are echoed: the value ends up in logs and headers.
        request_id = given if _PLAIN_ID.fullmatch(given) else f"{_ids.getrandbits(128):032x}"
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except ClientDisconnect:
            log.info("request %s: the client went away", request_id)
        except Exception:
            log.exception("request %s: %s %s failed", request_id, scope["method"], scope["path"])
            if started:
                raise
            answer = problem(500, f"internal error; the server's log has the details under request {request_id}")
            await answer(scope, receive, send_with_id)


class BodyLimit:
    """Answers 413 to a body above `max_bytes`, declared or counted while it arrives; never holds more than that.

    The connection stays open: uvicorn throws away what still arrives. Closing it at once would reset it under a client
    that is still sending, and that client would never read the answer.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, elsewhere: Mapping[str, int] | None = None):
        self.app = app
        self.max_bytes = max_bytes
        self.elsewhere = elsewhere or {}
        """Path -> its own limit."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        max_bytes = self.elsewhere.get(path, self.max_bytes)
        message = f"the upload is above the limit of {max_bytes / 2**20:g} MiB"
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdecimal() and int(declared) > max_bytes:
            return await problem(413, message)(scope, receive, send)
        arrived = 0

        async def receive_counted() -> Message:
            nonlocal arrived
            part = await receive()
            arrived += len(part.get("body", b""))
            if arrived > max_bytes:
                raise HTTPException(413, message)
            return part

        return await self.app(scope, receive_counted, send)
