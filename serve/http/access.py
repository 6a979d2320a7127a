"""Who may reach the server and how: everything that stands between the network and the routes."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from semseg_app.errors import UserError
from semseg_app.serve.http.api_keys import ENVIRONMENT, Keys
from semseg_app.serve.http.uploads import BODY_TIMEOUT_S
from semseg_app.serve.protocols.label_studio_images import INLINE_ONLY, ImageSource

_ON_PAGES = {b"x-content-type-options": b"nosniff", b"referrer-policy": b"same-origin"}
_ON_ANSWERS = _ON_PAGES | {
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
    b"cache-control": b"no-store",
}
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


def access_from(
    api_keys: Path | None,
    rate_limit: int | None,
    cors_origins: Sequence[str],
    root_path: str,
    body_timeout_s: float,
    label_studio_url: str | None,
) -> Access:
    """What the command line and the environment say. UserError for what cannot be.

    Keys come from the file, else from SEMSEG_API_KEYS; Label Studio's access token from LABEL_STUDIO_API_KEY.
    """
    keys = None
    if api_keys is not None:
        keys = Keys.read(api_keys, rate_limit)
    elif text := os.environ.get(ENVIRONMENT, "").strip():
        keys = Keys.from_environment(text, rate_limit)
    elif rate_limit is not None:
        raise UserError(f"--rate-limit is for each API key; give --api-keys or {ENVIRONMENT} too")
    if label_studio_url is not None and not label_studio_url.startswith(("http://", "https://")):
        raise UserError(f"--label-studio-url {label_studio_url!r}: give an address such as http://localhost:8080")
    return Access(
        keys,
        tuple(map(check_origin, cors_origins)),
        check_root_path(root_path),
        body_timeout_s,
        ImageSource(label_studio_url, os.environ.get("LABEL_STUDIO_API_KEY")),
    )


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


class SecurityHeaders:
    """Tells browsers to take answers for what they are said to be, and to run and show nothing of the API's."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        is_page = not scope["path"].removeprefix(scope.get("root_path", "")).startswith(_NOT_A_PAGE)

        wanted = _ON_PAGES if is_page else _ON_ANSWERS

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(name, value) for name, value in message.get("headers", ()) if name not in wanted]
                message["headers"] = [*own, *wanted.items()]
            await send(message)

        await self.app(scope, receive, send_with_headers)
