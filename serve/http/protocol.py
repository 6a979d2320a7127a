"""HTTP/1.1 over one connection: uvicorn's protocol, which bounds a request's head, ignores offers to upgrade, and can
break a connection off.

uvicorn with httptools holds a head of any size in memory, and waits for its end for ever.

uvicorn 0.54 with httptools 0.9 loses the body of a request that offers an upgrade (curl sends one with `--http2`), and
never answers a POST that asks for a websocket. A server may ignore such offers (RFC 9110, section 7.8).
"""

import asyncio
import json
import socket
import struct

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

ABORT = "semseg.abort"
"""Key in scope["extensions"]: a function that breaks the connection off, with all that was not sent yet."""
MOST_HEAD_BYTES = 2**16
"""Largest request line and headers; more is 431."""
MOST_HEAD_S = 20.0
"""How long the head of a request may take to arrive; then 408."""
_OFFER = (b"connection", b"upgrade", b"http2-settings")


class Http(HttpToolsProtocol):
    """One connection."""

    _head_bytes = 0
    """Bytes that have arrived of a head which is not complete."""
    _in_head = True
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See HttpToolsProtocol."""
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(MOST_HEAD_S, self._end_slow_head)

    def connection_lost(self, exc: Exception | None) -> None:
        """See HttpToolsProtocol."""
        self._stop_timer()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """See HttpToolsProtocol."""
        self._in_head = True
        super().on_message_begin()
        self.scope["extensions"] = {ABORT: {"call": self._abort}}

    def on_headers_complete(self) -> None:
        """See HttpToolsProtocol. A request that offers an upgrade begins later, without the offer."""
        self._in_head, self._head_bytes = False, 0
        if not self.parser.should_upgrade():
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        """See HttpToolsProtocol."""
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        """See HttpToolsProtocol."""
        self._unset_keepalive_if_required()
        if self._in_head:
            self._head_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")
            return
        except httptools.HttpParserUpgrade as offer:
            if self.parser.get_method() == b"CONNECT":
                self.send_400_response("This server is no proxy.")
            else:
                self._read_without_offer(data[offer.args[0] :])
            return
        if not self._in_head:
            self._stop_timer()
        elif self._head_bytes > MOST_HEAD_BYTES:
            self._refuse("431 Request Header Fields Too Large", f"the head is above {MOST_HEAD_BYTES >> 10} KiB")
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(MOST_HEAD_S, self._end_slow_head)

    def _abort(self) -> None:
        connection = self.transport.get_extra_info("socket")
        if connection is not None:  # else the system goes on sending what it holds: megabytes
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _end_slow_head(self) -> None:
        if self._is_answering():
            self._head_timer = self.loop.call_later(MOST_HEAD_S, self._end_slow_head)
        elif self._head_bytes:
            self._refuse("408 Request Timeout", f"the head did not arrive within {MOST_HEAD_S:g} s")
        else:
            self.transport.close()  # nothing was asked

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _refuse(self, status: str, message: str) -> None:
        if self._is_answering():  # the refusal would end up inside that answer
            self._abort()
            return
        body = json.dumps({"error": message})
        head = (
            f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {len(body)}"
        )
        self.transport.write(f"{head}\r\nConnection: close\r\n\r\n{body}".encode())
        self.transport.close()

    def _read_without_offer(self, rest: bytes) -> None:
        """The parser has stopped after the head: have a new one read it again, and the body after it."""
        version = self.parser.get_http_version().encode()
        lines = [b" ".join((self.parser.get_method(), self.url, b"HTTP/" + version))]
        lines += [name + b": " + value for name, value in self.headers if name not in _OFFER]
        if any(name == b"connection" and b"close" in value.lower() for name, value in self.headers):
            lines.append(b"connection: close")
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(b"\r\n".join(lines) + b"\r\n\r\n" + rest)
