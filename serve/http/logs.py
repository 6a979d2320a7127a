"""Logs that machines read: one line of JSON an event. Never what is in an image, a body, a query or a key."""

import json
import logging
import time
from datetime import UTC, datetime
from typing import TextIO

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

access = logging.getLogger("semseg.access")

_FIELDS = ("request_id", "method", "path", "status", "ms", "bytes_in", "bytes_out", "client", "key")


class JsonLines(logging.Formatter):
    """time, level, logger, message; of requests their fields too, of exceptions the traceback."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: getattr(record, name) for name in _FIELDS if hasattr(record, name)}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def write_logs(stream: TextIO, as_json: bool) -> None:
    """Write warnings to `stream`, unless something has been set up already; as JSON, also what the server says."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        JsonLines() if as_json else logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    )
    logging.basicConfig(handlers=[handler])
    if as_json:
        logging.getLogger("semseg").setLevel(logging.INFO)


class AccessLog:
    """One event a request, once its answer is sent. Outermost: it sees the id that the answer carries."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not access.isEnabledFor(logging.INFO):
            return await self.app(scope, receive, send)
        start = time.perf_counter()
        status = bytes_in = bytes_out = 0
        request_id = ""

        async def receive_counted() -> Message:
            nonlocal bytes_in
            message = await receive()
            bytes_in += len(message.get("body", b""))
            return message

        async def send_counted(message: Message) -> None:
            nonlocal status, bytes_out, request_id
            if message["type"] == "http.response.start":
                status = message["status"]
                request_id = Headers(raw=message["headers"]).get("x-request-id", "")
            bytes_out += len(message.get("body", b""))
            await send(message)

        try:
            await self.app(scope, receive_counted, send_counted)
        finally:
            client = scope.get("client")
            access.info(
                "%s %s %s",
                scope["method"],
                scope["path"],
                status or "no answer",
                extra={
                    "request_id": request_id,
                    "method": scope["method"],
                    "path": scope["path"],
                    "status": status,
                    "ms": round((time.perf_counter() - start) * 1000, 2),
                    "bytes_in": bytes_in,
                    "bytes_out": bytes_out,
                    "client": client[0] if client else None,
                    "key": scope.get("api_key"),
                },
            )
