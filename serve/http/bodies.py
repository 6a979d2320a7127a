"""Pure ASGI middleware: bounds on the size of a body and on the time that it takes to arrive."""

import asyncio
from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from semseg_app.serve.http.errors import problem

SLOWEST_BYTES_PER_S = 50_000
"""A body that arrives at this rate at least is not too slow."""


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


class BodyTimeout:
    """Answers 408 to a body that takes longer than `seconds` and arrives slower than SLOWEST_BYTES_PER_S.

    A client that sends a byte now and then would else keep a place, and a connection, for ever.
    """

    def __init__(self, app: ASGIApp, seconds: float):
        self.app = app
        self.seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _has_body(scope):
            return await self.app(scope, receive, send)
        deadline = asyncio.get_running_loop().time() + self.seconds
        whole = False

        async def receive_in_time() -> Message:
            nonlocal deadline, whole
            if whole:  # what comes now is "the client went away", and may take as long as the answer
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(
                    408, f"the body did not arrive within {self.seconds:g} s", {"Connection": "close"}
                ) from None
            deadline += len(message.get("body", b"")) / SLOWEST_BYTES_PER_S
            whole = not message.get("more_body", False)
            return message

        return await self.app(scope, receive_in_time, send)


def _has_body(scope: Scope) -> bool:
    headers = Headers(scope=scope)
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
