"""Pure ASGI middleware: how much the visitors of the web page may upload."""

import math
import os
import tempfile
import time
from collections import deque
from pathlib import Path

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from semseg_app.serve.http.errors import problem
from semseg_app.serve.http.requester import client_of
from semseg_app.serve.storage import StorageFull, check_free

UPLOADS = "/gradio_api/upload"
"""Where the page's visitors upload; Gradio writes the files below `upload_folder`."""
QUOTA_S = 900.0
"""Uploads count in their visitor's quota as long as the page keeps them."""


class QuotaExceeded(Exception):
    """This visitor has uploaded too much."""

    def __init__(self, retry_after_s: int):
        super().__init__(f"too many uploads; try again in {retry_after_s} s")
        self.retry_after_s = retry_after_s


def upload_folder() -> Path:
    """A folder on the disk that takes the page's uploads."""
    folder = Path(os.environ.get("GRADIO_TEMP_DIR") or tempfile.gettempdir())
    return folder if folder.exists() else Path(tempfile.gettempdir())


class UploadQuota:
    """Pure ASGI middleware: bounds what one visitor of the page uploads, and keeps the disk from filling up.

    Args:
        app: what comes next.
        max_bytes: largest photo.
        photos: so many of the largest size may a visitor upload within QUOTA_S.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, photos: int):
        self.app = app
        self._max_bytes = max_bytes
        self._quota = max_bytes * photos
        self._uploads: dict[str, deque[tuple[float, int]]] = {}
        """Visitor -> when, and how many bytes; oldest first."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "").removeprefix(scope.get("root_path", ""))
        if scope["type"] != "http" or path != UPLOADS:
            return await self.app(scope, receive, send)
        visitor = client_of(scope)
        declared = Headers(scope=scope).get("content-length", "")
        expected = int(declared) if declared.isdecimal() else self._max_bytes
        try:
            self._check(visitor, expected)
            check_free(upload_folder(), expected)
        except QuotaExceeded as error:
            refusal = problem(429, str(error), {"Retry-After": str(error.retry_after_s)})
            return await refusal(scope, receive, send)
        except StorageFull as error:
            return await problem(507, str(error))(scope, receive, send)
        arrived = 0

        async def receive_counted() -> Message:
            nonlocal arrived
            part = await receive()
            arrived += len(part.get("body", b""))
            return part

        try:
            return await self.app(scope, receive_counted, send)
        finally:
            self._uploads.setdefault(visitor, deque()).append((time.monotonic(), arrived))

    def _check(self, visitor: str, size: int) -> None:
        """QuotaExceeded when `size` more bytes are too many."""
        now = time.monotonic()
        for name, uploads in list(self._uploads.items()):
            while uploads and uploads[0][0] < now - QUOTA_S:
                uploads.popleft()
            if not uploads:
                del self._uploads[name]
        kept = self._uploads.get(visitor, ())
        if kept and sum(bytes_ for _, bytes_ in kept) + size > self._quota:
            raise QuotaExceeded(math.ceil(kept[0][0] + QUOTA_S - now))
