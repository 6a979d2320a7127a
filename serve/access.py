"""Who may reach the server and how: everything that stands between the network and the routes."""

from collections.abc import Mapping
from typing import NamedTuple

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from semseg_app.errors import UserError
from semseg_app.serve.keys import Keys, KeysWanted
from semseg_app.serve.limits import BODY_TIMEOUT_S, BodyTimeout
from semseg_app.serve.logs import AccessLog
from semseg_app.serve.middleware import BodyLimit, RequestId
from semseg_app.serve.protocols.kserve_tensors import HEADER_LENGTH
from semseg_app.serve.protocols.label_studio_images import INLINE_ONLY, ImageSource

_NOT_A_PAGE = ("/v1", "/v2", "/hf", "/label-studio", "/health", "/metrics", "/openapi.json")


class Access(NamedTuple):
    """What a server allows; as it is, anyone who reaches its port, and no other site's scripts."""

    keys: Keys | None = None
    """Who may ask; None = everyone."""
    cors_origins: tuple[str, ...] = ()
    """Other sites whose scripts may ask: `https://app.example`, or `*`."""
    root_path: str = ""
    """The path under which a proxy offers this server: `/semseg`."""
    body_timeout_s: float = BODY_TIMEOUT_S
    """See `BodyTimeout`."""
    label_studio: ImageSource = INLINE_ONLY
    """Where the images of Label Studio's tasks may come from."""


OPEN = Access()


def check_origin(text: str) -> str:
    """An origin as browsers send it. UserError when it is none."""
    scheme, _, host = text.partition("://")
    if text != "*" and (scheme not in ("http", "https") or not host or "/" in host or "*" in host or " " in host):
        raise UserError(f"--cors-origin {text!r}: give an origin such as https://app.example, without a path, or *")
    return text


def check_root_path(text: str) -> str:
    """A path with a slash before and none behind. UserError when it is none."""
    path = text.rstrip("/")
    if path and (not path.startswith("/") or any(character in path for character in " ?#")):
        raise UserError(f"--root-path {text!r}: give the path under which the proxy offers the server, such as /semseg")
    return path


def guard(app: FastAPI, access: Access, max_bytes: int, elsewhere: Mapping[str, int]) -> None:
    """Put the gates before an application's routes. Those that are added later stand further outside.

    Args:
        app: the application.
        access: what is allowed.
        max_bytes: largest body.
        elsewhere: path -> its own largest body.
    """
    app.add_middleware(BodyTimeout, seconds=access.body_timeout_s)
    app.add_middleware(BodyLimit, max_bytes=max_bytes, elsewhere=elsewhere)
    if access.keys is not None:
        app.add_middleware(KeysWanted, keys=access.keys)
    app.add_middleware(RequestId)
    if access.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=access.cors_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=[
                "Authorization",
                "Content-Type",
                "Inference-Header-Content-Length",
                "X-API-Key",
                "X-Request-ID",
            ],
            expose_headers=[
                HEADER_LENGTH,
                "Location",
                "Retry-After",
                "X-Image-Height",
                "X-Image-Width",
                "X-Request-ID",
            ],
        )
    app.add_middleware(SecurityHeaders)
    app.add_middleware(AccessLog)


class SecurityHeaders:
    """Tells browsers to take answers for what they are said to be, and to run and show nothing of the API's."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        is_page = not scope["path"].removeprefix(scope.get("root_path", "")).startswith(_NOT_A_PAGE)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "same-origin"
                if not is_page:
                    headers["Content-Security-Policy"] = "default-src 'none'; frame-ancestors 'none'"
                    headers["Cache-Control"] = "no-store"
            await send(message)

        await self.app(scope, receive, send_with_headers)
