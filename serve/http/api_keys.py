"""Who may ask, and how often: API keys, of which the server knows the hashes alone."""

import base64
import binascii
import hashlib
import hmac
import math
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from semseg_app.errors import UserError
from semseg_app.serve.http.middleware import problem

ENVIRONMENT = "SEMSEG_API_KEYS"
SHORTEST = 16
"""Characters of a key. SHA-256 is quick: only keys that nobody can guess are safe behind it."""
OPEN = re.compile(r"/(health|v2/health)/(live|ready)")
"""Probes need no key."""
_LINE = re.compile(r"([0-9a-f]{64})\s+(\S{1,64})")


class Keys:
    """Keys with a name each, and how much of its allowance each has left.

    Args:
        hashes: name -> SHA-256 of the key.
        per_minute: requests a minute that a key has, all of them at once if it likes; None = any number.
        clock: seconds.
    """

    def __init__(
        self,
        hashes: Mapping[str, bytes],
        per_minute: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._hashes = dict(hashes)
        self._per_minute = per_minute
        self._clock = clock
        self._left: dict[str, tuple[float, float]] = {}
        """Name -> requests left, and when that was."""

    @classmethod
    def read(cls, path: Path, per_minute: int | None = None) -> Self:
        """From a file with a line `SHA-256 NAME` for each key; # begins a comment. UserError when it is none."""
        hashes: dict[str, bytes] = {}
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: cannot be read ({error}); give a file with a line `SHA-256 NAME` a key") from None
        for number, line in enumerate(lines, 1):
            text = line.partition("#")[0].strip()
            if not text:
                continue
            match = _LINE.fullmatch(text)
            if match is None:
                raise UserError(
                    f"{path}, line {number}: not a key's SHA-256 and its name; make one with "
                    "`printf %s KEY | sha256sum`, and write the name for the dash"
                )
            if match[2] in hashes:
                raise UserError(f"{path}, line {number}: a second key named {match[2]!r}; give each its own name")
            hashes[match[2]] = bytes.fromhex(match[1])
        if not hashes:
            raise UserError(f"{path}: holds no key; add a line `SHA-256 NAME`")
        return cls(hashes, per_minute)

    @classmethod
    def from_environment(cls, text: str, per_minute: int | None = None) -> Self:
        """From keys in plain text, separated by spaces or commas; they are called key-1, key-2, ..."""
        keys = re.split(r"[\s,]+", text.strip(" \t\n,"))
        for number, key in enumerate(keys, 1):
            if len(key) < SHORTEST:
                raise UserError(f"{ENVIRONMENT}: key {number} is shorter than {SHORTEST} characters; make a longer one")
        return cls({f"key-{number}": _hash(key) for number, key in enumerate(keys, 1)}, per_minute)

    def name_of(self, key: str) -> str | None:
        """Whose key it is; None = nobody's. Takes as long for a wrong one as for a right one."""
        digest = _hash(key)
        found = None
        for name, known in self._hashes.items():
            if hmac.compare_digest(known, digest):
                found = name
        return found

    def take(self, name: str) -> int:
        """Count one request. 0 = it may go on, else the seconds after which it may come again."""
        if self._per_minute is None:
            return 0
        now = self._clock()
        left, when = self._left.get(name, (float(self._per_minute), now))
        left = min(float(self._per_minute), left + (now - when) * self._per_minute / 60)
        if left < 1:
            self._left[name] = left, now
            return math.ceil((1 - left) * 60 / self._per_minute)
        self._left[name] = left - 1, now
        return 0


class RequireApiKey:
    """Answers 401 without a known key and 429 beyond its allowance; the name of a good one is scope["api_key"]."""

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
        if name is not None and not (wait := self._keys.take(name)):
            scope["api_key"] = name
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        elif name is not None:
            message = f"this key has used up its requests for now; try again in {wait} s"
            await problem(429, message, {"Retry-After": str(wait)})(scope, receive, send)
        else:
            await _refusal(path, given)(scope, receive, send)


def _refusal(path: str, given: str | None) -> Response:
    """401: a browser then asks for the page's key by itself, programs are told how to send it."""
    programs = path.startswith(("/v1", "/v2", "/hf", "/label-studio"))
    challenge = {"WWW-Authenticate": "Bearer" if programs else 'Basic realm="semseg", charset="UTF-8"'}
    wanted = "an API key is wanted: send Authorization: Bearer KEY"
    return problem(401, wanted if given is None else "this API key is not known", challenge)


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


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
