"""What a request may look like: how many files, in what shape, how slowly."""

import asyncio
from typing import NamedTuple

from fastapi import Request
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from semseg_app.serve.answers.body import harmless_name
from semseg_app.serve.http.multipart import read_form

MAX_IMAGES = 16
"""Images in one request. More go into more requests, or a server is held up by one caller."""
MAX_TEXTS = 8
FIELDS = ("image", "file")
BODY_TIMEOUT_S = 20.0
SLOWEST_BYTES_PER_S = 50_000
"""A body that arrives at this rate at least is never too slow."""


class Upload(NamedTuple):
    """One encoded image as it came."""

    name: str
    """Harmless; may be empty."""
    data: bytes


async def read_uploads(request: Request) -> list[Upload]:
    """The encoded images in a request's body, multipart or raw; at least one, at most MAX_IMAGES.

    HTTPException: 400 a broken form or too many parts, 415 another content type, 422 no image or something else in it.
    """
    content_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if content_type.startswith("image/"):
        return [Upload("", await request.body())]
    if content_type != "multipart/form-data":
        raise HTTPException(
            415, f"content type {content_type or 'missing'}: send multipart/form-data with a field 'image', or image/*"
        )
    uploads = []
    for part in await read_form(request.headers["content-type"], request.stream(), MAX_IMAGES, MAX_TEXTS):
        if part.name in FIELDS:
            if part.filename is None:
                raise HTTPException(
                    422, f"the field '{part.name}' holds text, not a file; with curl: -F {part.name}=@photo.jpg"
                )
            uploads.append(Upload(harmless_name(part.filename), part.data))
        elif part.filename is None:
            raise HTTPException(
                422, f"the form has a field {part.name[:40]!r}; options go into the address: /v1/segment?format=rle"
            )
    if not uploads:
        raise HTTPException(422, "no image: send it in the multipart field 'image'; with curl: -F image=@photo.jpg")
    return uploads


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
