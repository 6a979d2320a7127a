"""The images in a request's body: how many, and in what shape."""

import codecs
import re
from typing import NamedTuple

from fastapi import Request
from starlette.exceptions import HTTPException

from semseg_app.serve.answers.body import harmless_name
from semseg_app.serve.http.multipart import read_form

MAX_IMAGES = 16
"""Images in one request. More go into more requests, or a server is held up by one caller."""
MAX_TEXTS = 8
HEAD = 64
"""Bytes that show whether a field holds text."""
FIELDS = ("image", "file", "photo")
"""What the field may be called, also in the plural, and with brackets, `[]` or `[0]`, which some libraries add."""
RAW = ("image/*", "application/octet-stream")
"""Content types of a body that is one image; which of the formats it is, its bytes say."""


class Upload(NamedTuple):
    """One encoded image as it came."""

    name: str
    """Harmless; may be empty."""
    data: bytes


def content_type_of(request: Request) -> str:
    """A request's content type in lower case, without parameters; empty where it has none."""
    return request.headers.get("content-type", "").split(";")[0].strip().lower()


def is_raw(content_type: str) -> bool:
    """Whether the body is one image, by its content type."""
    return content_type.startswith("image/") or content_type == "application/octet-stream"


async def read_uploads(request: Request) -> list[Upload]:
    """The encoded images in a request's body, multipart or raw; at least one, at most MAX_IMAGES.

    HTTPException: 400 a broken form or too many parts, 415 another content type, 422 no image or something else in it.
    """
    content_type = content_type_of(request)
    if is_raw(content_type):
        return [Upload("", await request.body())]
    if content_type != "multipart/form-data":
        raise HTTPException(
            415,
            f"content type {content_type or 'missing'}: send multipart/form-data with a field 'image', "
            f"or {' or '.join(RAW)}",
        )
    uploads = []
    for part in await read_form(request.headers["content-type"], request.stream(), MAX_IMAGES, MAX_TEXTS, _is_photo):
        if _is_photo(part.name):
            if part.filename is None and _is_text(part.data):
                raise HTTPException(
                    422, f"the field '{part.name}' holds text, not a file; with curl: -F {part.name}=@photo.jpg"
                )
            uploads.append(Upload(harmless_name(part.filename), part.data))
        elif part.filename is None:
            raise HTTPException(
                422, f"the form has a field {part.name[:40]!r}; options go into the address: /v1/segment?format=rle"
            )
        else:
            raise HTTPException(422, f"the form has a file in a field {part.name[:40]!r}; photos go into 'image'")
    if not uploads:
        raise HTTPException(422, "no image: send it in the multipart field 'image'; with curl: -F image=@photo.jpg")
    return uploads


def _is_photo(field: str) -> bool:
    return re.sub(r"\[[0-9]*\]$", "", field).removesuffix("s") in FIELDS


def _is_text(data: bytes) -> bool:
    """Whether a field holds a photo's name or data URL, say, and not the photo, which some clients send without a name.

    The first bytes of every photo include some that are no characters.
    """
    try:
        return codecs.getincrementaldecoder("utf-8")().decode(data[:HEAD]).isprintable()
    except UnicodeDecodeError:
        return False
