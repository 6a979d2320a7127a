"""The images of Label Studio's tasks: inside the task, or fetched from the one Label Studio that the owner names.

An address in a task comes from a stranger: a server that fetched any address would give strangers its place in the
network. A file of a cloud storage (s3://bucket/photo.jpg) comes from Label Studio, too, which has the keys: it passes
the file on or, where its storage has pre-signed URLs, redirects to the storage (label_studio/io_storages/proxy_api.py).
"""

import asyncio
import base64
import http.client
import json
import re
import threading
import urllib.error
import urllib.request
from email.message import Message
from typing import IO, Any, NamedTuple
from urllib.parse import urljoin, urlsplit

from starlette.exceptions import HTTPException

from semseg_app.errors import UserError
from semseg_app.serve.demo.urls import fetch_photo
from semseg_app.serve.protocols.json_body import decode_base64

SECONDS = 15.0
"""Time for one read from Label Studio."""
MAX_TOKEN_BYTES = 64 * 2**10
REDIRECTS = (301, 302, 303, 307, 308)
STORAGES = ("s3://", "gs://", "azure-blob://")
PRESIGNED_OFF = "switch off pre-signed URLs in the storage's settings in Label Studio, which then passes the files on"


class ImageSource(NamedTuple):
    """Where images may come from."""

    url: str | None = None
    """Address of the Label Studio, such as http://labels.example:8080; None = images must be inside the tasks."""
    token: str | None = None
    """A personal access token (a JWT, which begins with "eyJ"), or a legacy token."""
    max_bytes: int = 32 * 2**20
    """Largest encoded image."""


INLINE_ONLY = ImageSource()


class TaskImages:
    """Reads the images of tasks. Keeps the short-lived access token that a personal access token is exchanged for."""

    def __init__(self, source: ImageSource):
        token = (source.token or "").strip()  # an environment variable read from a file may end with a newline
        self._source = source._replace(token=token or None)
        self._access: str | None = None
        self._exchange = threading.Lock()

    async def read(self, value: Any, task_id: int | str | None) -> bytes:
        """The encoded image that a field of that task names.

        HTTPException 422 when the field names no image that may be read, 413 when the image is too large, 502 when
        Label Studio does not give it.
        """
        if not isinstance(value, str) or not value:
            raise HTTPException(422, "no image in the field that the labeling configuration names")
        if value.startswith("data:"):
            return _inline(value)
        url = self._source.url
        if url is None:
            raise HTTPException(
                422, "the image is an address; start the server with --label-studio-url, or send data:image/...;base64,"
            )
        if value.startswith(STORAGES):
            return await asyncio.to_thread(self._fetch, _address_in_storage(value, task_id, url), url, True)
        address = urljoin(url.rstrip("/") + "/", value)
        if _origin(address) != _origin(url):
            raise HTTPException(422, "the image lies on another host than --label-studio-url")
        return await asyncio.to_thread(self._fetch, address, url)

    def _fetch(self, address: str, url: str, in_storage: bool = False) -> bytes:
        token = self._source.token
        try:
            if not _is_personal(token):
                data = self._get(address, f"Token {token}" if token else None)
            else:
                data = self._get_with_access(address, url)
        except urllib.error.HTTPError as error:
            error.close()
            target = error.headers.get("Location") or ""  # a path is Label Studio's own: a page to log in
            if in_storage and error.code in REDIRECTS and "://" in target and _origin(target) != _origin(url):
                return self._from_storage(target)
            why = f"; {_what_token_is_needed(token)}" if error.code in (401, 403) else ""
            if in_storage and error.code == 404:
                why = "; the task's project needs a source storage that holds it"
            raise HTTPException(502, f"Label Studio answered {error.code} for the image{why}") from None
        except (OSError, ValueError, http.client.HTTPException):
            raise HTTPException(502, "Label Studio did not answer for the image") from None
        limit = self._source.max_bytes
        if len(data) > limit:
            raise HTTPException(413, f"the image is above the limit of {limit / 2**20:g} MiB")
        return data

    def _from_storage(self, presigned: str) -> bytes:
        """What Label Studio redirects to. Its token stays here, and the address has to be a public one."""
        try:
            return fetch_photo(presigned, self._source.max_bytes)
        except UserError as error:
            reason = str(error).partition(";")[0]  # what follows is a fix for visitors of the page
            raise HTTPException(502, f"Label Studio redirects to the storage, and {reason}; {PRESIGNED_OFF}") from None

    def _get_with_access(self, address: str, url: str) -> bytes:
        """Access tokens last for minutes: a refused one is exchanged once more."""
        access = self._access
        if access is not None:
            try:
                return self._get(address, f"Bearer {access}")
            except urllib.error.HTTPError as error:
                error.close()
                if error.code != 401:
                    raise
        return self._get(address, f"Bearer {self._new_access(url, access)}")

    def _new_access(self, url: str, refused: str | None) -> str:
        """Exchange the personal access token, unless another thread has just done so."""
        with self._exchange:
            if self._access is None or self._access == refused:
                body = json.dumps({"refresh": self._source.token}).encode()
                request = urllib.request.Request(
                    url.rstrip("/") + "/api/token/refresh", body, {"Content-Type": "application/json"}
                )
                try:
                    with _opener().open(request, timeout=SECONDS) as answer:
                        exchanged = json.loads(answer.read(MAX_TOKEN_BYTES))
                except urllib.error.HTTPError as error:
                    error.close()
                    raise HTTPException(
                        502,
                        f"Label Studio answered {error.code} when the personal access token in LABEL_STUDIO_API_KEY "
                        "was exchanged; if it has expired or was revoked, create a new one",
                    ) from None
                access = exchanged.get("access") if isinstance(exchanged, dict) else None
                if not isinstance(access, str) or not access:
                    raise HTTPException(502, "Label Studio gave no access token for the personal access token")
                self._access = access
            return self._access

    def _get(self, address: str, authorization: str | None) -> bytes:
        headers = {"Authorization": authorization} if authorization else {}
        with _opener().open(urllib.request.Request(address, headers=headers), timeout=SECONDS) as answer:
            data: bytes = answer.read(self._source.max_bytes + 1)
        return data


def _address_in_storage(value: str, task_id: int | str | None, url: str) -> str:
    """Where Label Studio gives a file of a storage to who may see the task."""
    if not re.fullmatch(r"[0-9]{1,20}", str(task_id), re.ASCII):
        raise HTTPException(422, "the image lies in a storage, which Label Studio opens for tasks with a number only")
    return f"{url.rstrip('/')}/tasks/{task_id}/presign/?fileuri={base64.urlsafe_b64encode(value.encode()).decode()}"


def _is_personal(token: str | None) -> bool:
    """Whether a token is a JWT: three parts, the first of which is JSON in base64. Legacy tokens are hexadecimal."""
    return token is not None and token.startswith("eyJ") and token.count(".") == 2


def _what_token_is_needed(token: str | None) -> str:
    if token is None:
        return "set LABEL_STUDIO_API_KEY to a personal access token (Label Studio: Account & Settings)"
    if _is_personal(token):
        return "the user of the personal access token in LABEL_STUDIO_API_KEY must be able to see the project"
    return (
        "LABEL_STUDIO_API_KEY holds a legacy token: use a personal access token (Account & Settings), which begins "
        "with eyJ, or enable legacy tokens for the organization"
    )


def _inline(value: str) -> bytes:
    """ "data:image/png;base64,..." -> bytes."""
    try:
        return decode_base64(value)
    except ValueError:
        raise HTTPException(422, "the image must be data:image/...;base64, followed by valid base64") from None


def _origin(address: str) -> tuple[str, str | None, int | None]:
    try:
        parts = urlsplit(address)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        raise HTTPException(422, "the image's address is not a valid URL") from None
    return parts.scheme, parts.hostname, port


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Redirects can lead anywhere, so none is followed with the token."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        return None


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_NoRedirects)
