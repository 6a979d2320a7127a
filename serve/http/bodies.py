"""Pure ASGI middleware: bounds on the size of a body, and on the time that bodies and answers take on their way; no
compressed bodies."""

import asyncio
from collections import Counter
from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from semseg_app.serve.http.errors import problem
from semseg_app.serve.http.protocol import ABORT
from semseg_app.serve.http.requester import client_of
from semseg_app.serve.metrics import Metrics

SLOWEST_BYTES_PER_S = 50_000
"""A body that arrives at this rate at least is not too slow, nor an answer that is read at it."""
MOST_BODY_S = 300.0
"""However fast it arrives: the time for the body of a request."""
MOST_ANSWER_S = 600.0
"""The time that a connection may take nothing, over a whole answer."""
PIECE = 2**18
"""Answers are handed to the connection in pieces of this size: so the next one waits until this one is read."""


class RefuseCompressed:
    """Answers 415 to a compressed body, which may hold a thousand times its size."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            for name, value in scope["headers"]:
                if name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
                    message = "compressed bodies are not supported; send the body without Content-Encoding"
                    return await problem(415, message)(scope, receive, send)
        return await self.app(scope, receive, send)


class BodyLimit:
    """Answers 413 to a body above `max_bytes`, declared or counted while it arrives; never holds more than that.

    Also bounds what all bodies that have arrived in part hold together, and those of one client: 429 beyond.

    The connection stays open: uvicorn throws away what still arrives. Closing it at once would reset it under a client
    that is still sending, and that client would never read the answer.

    Args:
        app: what comes next.
        max_bytes: largest body.
        together: most bytes of all bodies that are held in memory.
        client_share: fraction of them that one client may have.
        elsewhere: path -> its own largest body, which is not held in memory.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, together: int, client_share: float, elsewhere: Mapping[str, int]):
        self.app = app
        self._max_bytes = max_bytes
        self._together = together
        self._of_client = max(max_bytes, round(together * client_share))
        self._elsewhere = elsewhere
        self._held: Counter[str] = Counter()
        self._all = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (declared := declared_body(scope)) == 0:
            return await self.app(scope, receive, send)
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        max_bytes = self._elsewhere.get(path, self._max_bytes)
        message = f"the upload is above the limit of {max_bytes / 2**20:g} MiB"
        if declared is not None and declared > max_bytes:
            return await problem(413, message)(scope, receive, send)
        client = client_of(scope)
        arrived = 0

        async def receive_counted() -> Message:
            nonlocal arrived
            part = await receive()
            size = len(part.get("body", b""))
            arrived += size
            if arrived > max_bytes:
                raise HTTPException(413, message)
            if size and path not in self._elsewhere:
                self._all += size
                self._held[client] += size
                if self._all > self._together or self._held[client] > self._of_client:
                    raise HTTPException(429, "too many uploads at once; try again in 5 s", {"Retry-After": "5"})
            return part

        try:
            return await self.app(scope, receive_counted, send)
        finally:
            if arrived and path not in self._elsewhere:
                self._all -= arrived
                self._held[client] -= arrived
                if not self._held[client]:
                    del self._held[client]


class BodyTimeout:
    """Answers 408 to a body that takes longer than `seconds` and arrives slower than SLOWEST_BYTES_PER_S.

    A client that sends a byte now and then would else keep a connection, and memory, for ever. However fast it
    arrives, a body has MOST_BODY_S at most, beside the paths of `elsewhere`, which have their own.
    """

    def __init__(self, app: ASGIApp, seconds: float, elsewhere: Mapping[str, float], most_s: float = MOST_BODY_S):
        self.app = app
        self.seconds = seconds
        self._most_s = most_s
        self._elsewhere = elsewhere

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or declared_body(scope) == 0:
            return await self.app(scope, receive, send)
        start = asyncio.get_running_loop().time()
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        last = start + self._elsewhere.get(path, self._most_s)
        deadline = start + self.seconds
        whole = False

        async def receive_in_time() -> Message:
            nonlocal deadline, whole
            if whole:  # what comes now is "the client went away", and may take as long as the answer
                return await receive()
            try:
                async with asyncio.timeout_at(min(deadline, last)):
                    message = await receive()
            except TimeoutError:
                seconds = min(deadline, last) - start
                raise HTTPException(
                    408, f"the body did not arrive within {seconds:.3g} s", {"Connection": "close"}
                ) from None
            deadline += len(message.get("body", b"")) / SLOWEST_BYTES_PER_S
            whole = not message.get("more_body", False)
            return message

        return await self.app(scope, receive_in_time, send)


class AnswerTimeout:
    """Breaks a connection off whose client does not read a large answer: a piece has `seconds`, and those that it needs
    at SLOWEST_BYTES_PER_S; all pieces together MOST_ANSWER_S.

    A client that does not read would else keep the answer in memory for ever. Only the time counts in which the
    connection takes nothing: a stream that has nothing to say may last. What is being sent is counted in /metrics.
    """

    def __init__(self, app: ASGIApp, seconds: float, metrics: Metrics):
        self.app = app
        self._seconds = seconds
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        left = MOST_ANSWER_S
        piece_s = self._seconds + PIECE / SLOWEST_BYTES_PER_S

        async def send_piece(message: Message) -> None:
            nonlocal left
            clock = asyncio.get_running_loop().time
            began = clock()
            try:
                async with asyncio.timeout(min(piece_s, max(0.0, left))):
                    await send(message)
            except TimeoutError:
                abort = scope.get("extensions", {}).get(ABORT)
                if abort is not None:
                    abort["call"]()
                raise AnswerNotRead from None
            left -= clock() - began

        async def send_in_time(message: Message) -> None:
            body = message.get("body", b"")
            if message["type"] != "http.response.body" or (len(body) <= PIECE and not message.get("more_body")):
                await send(message)
                return
            with self._metrics.sending():
                for start in range(0, len(body), PIECE):
                    piece = bytes(memoryview(body)[start : start + PIECE])
                    await send_piece({"type": message["type"], "body": piece, "more_body": True})
                if not message.get("more_body"):
                    await send_piece({"type": message["type"], "body": b"", "more_body": False})

        await self.app(scope, receive, send_in_time)


class AnswerNotRead(Exception):
    """The client did not read the answer; its connection is broken off."""


def declared_body(scope: Scope) -> int | None:
    """Bytes of the body that a request announces: 0 for none, None for a body of unknown length."""
    length: int | None = 0
    for name, value in scope["headers"]:  # names are lower case; `Headers` takes several times as long
        if name == b"transfer-encoding":
            return None
        if name == b"content-length":
            length = int(value) if value.isdigit() else None
    return length
