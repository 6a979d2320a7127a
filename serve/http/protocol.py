"""HTTP/1.1 over one connection: uvicorn's protocol, which ignores offers to upgrade, and can break a connection off.

uvicorn 0.54 with httptools 0.9 loses the body of a request that offers an upgrade (curl sends one with `--http2`), and
never answers a POST that asks for a websocket. A server may ignore such offers (RFC 9110, section 7.8).
"""

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

ABORT = "semseg.abort"
"""Key in scope["extensions"]: a function that breaks the connection off, with all that was not sent yet."""
_OFFER = (b"connection", b"upgrade", b"http2-settings")


class Http(HttpToolsProtocol):
    """One connection."""

    def on_message_begin(self) -> None:
        """See HttpToolsProtocol."""
        super().on_message_begin()
        self.scope["extensions"] = {ABORT: {"call": self.transport.abort}}

    def on_headers_complete(self) -> None:
        """See HttpToolsProtocol. A request that offers an upgrade begins later, without the offer."""
        if not self.parser.should_upgrade():
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        """See HttpToolsProtocol."""
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        """See HttpToolsProtocol."""
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")
        except httptools.HttpParserUpgrade as offer:
            if self.parser.get_method() == b"CONNECT":
                self.send_400_response("This server is no proxy.")
            else:
                self._read_without_offer(data[offer.args[0] :])

    def _read_without_offer(self, rest: bytes) -> None:
        """The parser has stopped after the head: have a new one read it again, and the body after it."""
        version = self.parser.get_http_version().encode()
        lines = [b" ".join((self.parser.get_method(), self.url, b"HTTP/" + version))]
        lines += [name + b": " + value for name, value in self.headers if name not in _OFFER]
        if any(name == b"connection" and b"close" in value.lower() for name, value in self.headers):
            lines.append(b"connection: close")
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(b"\r\n".join(lines) + b"\r\n\r\n" + rest)
