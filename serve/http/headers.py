"""Pure ASGI middleware: headers that every answer has, and the path under which a proxy offers the server."""

import logging
import random
import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from semseg_app.serve.http.bodies import AnswerNotRead
from semseg_app.serve.http.errors import NO_ADDRESS, problem

log = logging.getLogger("semseg.serve")

_ids = random.Random()  # seeded by the system; to ask that for each id hands Python's lock to another thread
_PLAIN_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)

_ON_PAGES = {b"x-content-type-options": b"nosniff", b"referrer-policy": b"same-origin"}
_ON_ANSWERS = _ON_PAGES | {
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
    b"cache-control": b"no-store",
}
_NOT_A_PAGE = ("/v1", "/v2", "/hf", "/label-studio", "/health", "/metrics", "/openapi.json")


def _is_api(scope: Scope, *more: str) -> bool:
    """Whether an address is not one of the page's, or begins like one of `more`."""
    path: str = scope["path"].removeprefix(scope.get("root_path", ""))
    return path.startswith((*_NOT_A_PAGE, *more))


class RootPath:
    """Tells the application under which path a proxy offers it, whether the proxy took the path off or left it on."""

    def __init__(self, app: ASGIApp, path: str):
        self.app = app
        self.path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            left_on = scope["path"] == self.path or scope["path"].startswith(self.path + "/")
            whole = scope["path"] if left_on else self.path + scope["path"]
            scope = {**scope, "root_path": self.path, "path": whole}
        await self.app(scope, receive, send)


class SlashAfterRoot:
    """Leads from a proxy's path to the page below it: without the slash, the page's addresses would miss the path."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != scope.get("root_path"):
            return await self.app(scope, receive, send)
        query = f"?{scope['query_string'].decode('latin-1')}" if scope["query_string"] else ""
        return await RedirectResponse(f"{scope['path']}/{query}")(scope, receive, send)


class PlainSlashes:
    """Takes doubled slashes, and one at the end, out of the API's addresses: programs that join addresses add them."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and ("//" in scope["path"] or scope["path"].endswith("/")):
            plain = {**scope, "path": re.sub("/+", "/", scope["path"]).rstrip("/")}
            if _is_api(plain, "/docs"):
                scope = plain
        await self.app(scope, receive, send)


class SecurityHeaders:
    """Tells browsers to take answers for what they are said to be, and to run and show nothing of the API's."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        wanted = _ON_ANSWERS if _is_api(scope) else _ON_PAGES

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(name, value) for name, value in message.get("headers", ()) if name not in wanted]
                message["headers"] = [*own, *wanted.items()]
            await send(message)

        await self.app(scope, receive, send_with_headers)


class RequestId:
    """Echoes the caller's X-Request-ID, or makes one. An unexpected exception is logged under it: 500."""

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
        except (ClientDisconnect, AnswerNotRead):
            log.info("request %s: the client went away, or did not read the answer", request_id)
        except Exception:
            log.exception("request %s: %s %s failed", request_id, scope["method"], scope["path"])
            if started:
                raise
            answer = problem(500, f"internal error; the server's log has the details under request {request_id}")
            await answer(scope, receive, send_with_id)


class OneLineErrors:
    """Answers `{"error": "one line"}` for unknown addresses that the page's framework would answer otherwise."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        held: Message | None = None

        async def send_own(message: Message) -> None:
            nonlocal held
            if message["type"] == "http.response.start" and message["status"] in (404, 405):
                held = message
            elif held is None:
                await send(message)
            elif message["type"] == "http.response.body":
                start, held = held, None
                if message.get("body", b"").startswith(b'{"error":'):
                    await send(start)
                    await send(message)
                else:
                    await problem(404, NO_ADDRESS)(scope, receive, send)

        return await self.app(scope, receive, send_own)
