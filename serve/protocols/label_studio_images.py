"""The images of Label Studio's tasks: inside the task, or fetched from that one Label Studio alone.

An address in a task is a stranger's: a server that fetched any would lend its place in the network to whoever asks.
"""

import asyncio
import base64
import binascii
import http.client
import urllib.error
import urllib.request
from email.message import Message
from typing import IO, Any, NamedTuple
from urllib.parse import urljoin, urlsplit

from starlette.exceptions import HTTPException

SECONDS = 15.0


class ImageSource(NamedTuple):
    """Where images may come from."""

    url: str | None = None
    """Of the Label Studio, such as http://labels.example:8080; None = images must be inside the tasks."""
    token: str | None = None
    """Its access token."""
    max_bytes: int = 32 * 2**20

    async def read(self, value: Any) -> bytes:
        """The encoded image that a task's field names. HTTPException 422 it may not be read, 502 it could not be."""
        if not isinstance(value, str) or not value:
            raise HTTPException(422, "there is no image in the field that the labeling configuration names")
        if value.startswith("data:"):
            return _inline(value)
        if self.url is None:
            raise HTTPException(
                422, "the image is an address; start the server with --label-studio-url, or send data:image/...;base64,"
            )
        address = urljoin(self.url.rstrip("/") + "/", value)
        if _origin(address) != _origin(self.url):
            raise HTTPException(422, "the image lies on another host than --label-studio-url")
        return await asyncio.to_thread(self._fetch, address)

    def _fetch(self, address: str) -> bytes:
        headers = {"Authorization": f"Token {self.token}"} if self.token else {}
        try:
            opener = urllib.request.build_opener(_StayHere)
            with opener.open(urllib.request.Request(address, headers=headers), timeout=SECONDS) as answer:
                data: bytes = answer.read(self.max_bytes + 1)
        except urllib.error.HTTPError as error:
            raise HTTPException(502, f"Label Studio answered {error.code} for the image") from None
        except (OSError, ValueError, http.client.HTTPException):
            raise HTTPException(502, "Label Studio did not answer for the image") from None
        if len(data) > self.max_bytes:
            raise HTTPException(413, f"the image is above the limit of {self.max_bytes / 2**20:g} MiB")
        return data


INLINE_ONLY = ImageSource()


def _inline(value: str) -> bytes:
    """ "data:image/png;base64,..." -> bytes."""
    head, _, text = value.partition(",")
    try:
        if not head.endswith(";base64"):
            raise ValueError
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise HTTPException(422, "the image is not data:image/...;base64, and base64") from None


def _origin(address: str) -> tuple[str, str | None, int | None]:
    try:
        parts = urlsplit(address)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        raise HTTPException(422, "the image's address is not one") from None
    return parts.scheme, parts.hostname, port


class _StayHere(urllib.request.HTTPRedirectHandler):
    """Redirects lead anywhere; none is followed."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        return None
