"""A client for HTTP servers that costs little itself: prepared requests over kept connections, no library.

    python benchmarks/load.py URL FILE --seconds 5 --concurrency 16        # as many as go, 16 at a time
    python benchmarks/load.py URL FILE --seconds 5 --rate 40 [--poisson]   # 40 a second, whatever comes back
    python benchmarks/load.py URL FILE --seconds 5 --rate 40 --concurrency 64   # no more than 64 at a time

Prints one line of JSON: answers per second, statuses, and the percentiles of milliseconds to the last byte of what is
200 and of what is not; from sending, or with --rate alone from when the request should have been sent.

It shares the machine with what it measures, so it is one thread that waits for all its sockets at once: asyncio takes
twice as long for the same.
"""

import argparse
import contextlib
import json
import random
import selectors
import socket
import time
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

BOUNDARY = "a-boundary-that-no-picture-holds"
AT_ONCE = 2**16
"""Bytes that one call reads."""


def multipart(image: bytes, field: str = "image") -> tuple[str, bytes]:
    """Content type and body of a form with one file."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"; filename="a.jpg"\r\n'
    body = f"{head}Content-Type: image/jpeg\r\n\r\n".encode() + image + f"\r\n--{BOUNDARY}--\r\n".encode()
    return f"multipart/form-data; boundary={BOUNDARY}", body


class Connection:
    """One socket, with one request under way at most."""

    def __init__(self, address: tuple[str, int]):
        self.socket = socket.create_connection(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.start = 0.0
        self.asked = False
        self.status = 0
        self.stays_open = True
        self._unsent = memoryview(b"")
        self._read = b""
        self._whole = 0
        """Bytes of the answer, head and all, once its head is there."""

    def begin(self, request: bytes, start: float) -> None:
        """A new request; `send` until that says that it is sent."""
        self.asked = True
        self.start, self._unsent, self._read, self._whole = start, memoryview(request), b"", 0

    def send(self) -> bool:
        """Send on, as far as the socket takes it; whether that was all."""
        if self._unsent:
            with contextlib.suppress(BlockingIOError):
                self._unsent = self._unsent[self.socket.send(self._unsent) :]
        return not self._unsent

    def receive(self) -> bool:
        """Read on; whether the whole answer is there. ConnectionError when none will be."""
        part = self.socket.recv(AT_ONCE)
        if not part:
            raise ConnectionResetError
        self._read += part
        if not self._whole and (end := self._read.find(b"\r\n\r\n")) >= 0:
            head = self._read[:end].lower()
            self.status = int(head[9:12])
            self.stays_open = b"connection: close" not in head
            self._whole = end + 4 + int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        return 0 < self._whole <= len(self._read)


class Client:
    """Kept connections to one address, and what was seen over them."""

    def __init__(self, url: str, content_type: str, body: bytes):
        parts = urlsplit(url)
        self._address = (parts.hostname or "localhost", parts.port or 80)
        head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: {content_type}\r\n"
        self._request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        self._sockets = selectors.DefaultSelector()
        self._idle: list[Connection] = []
        self.under_way = 0
        self.seen: list[tuple[int, float]] = []
        """Status (0 = the connection failed) and seconds."""

    def ask(self, due: float | None = None) -> None:
        """Send one request; `wait` takes its answer. It is timed from `due`, else from now."""
        start = time.perf_counter() if due is None else due
        self.under_way += 1
        try:
            connection = self._idle.pop() if self._idle else self._connect()
        except OSError:
            self._note(0, start)
            return
        connection.begin(self._request, start)
        self._go_on(connection, selectors.EVENT_WRITE)

    def wait(self, seconds: float | None) -> int:
        """Until something moves, for so long at most; how many requests came to their end."""
        before = self.under_way
        for key, events in self._sockets.select(seconds):
            self._go_on(key.data, events)
        return before - self.under_way

    def close(self) -> None:
        """Drop the connections."""
        for connection in self._idle:
            connection.socket.close()

    def _connect(self) -> Connection:
        connection = Connection(self._address)
        self._sockets.register(connection.socket, selectors.EVENT_READ, connection)
        return connection

    def _go_on(self, connection: Connection, events: int) -> None:
        if not connection.asked:  # so this is its end
            self._idle.remove(connection)
            self._drop(connection)
            return
        try:
            if events & selectors.EVENT_WRITE:
                rest = 0 if connection.send() else selectors.EVENT_WRITE
                if rest != self._sockets.get_key(connection.socket).events & selectors.EVENT_WRITE:
                    self._sockets.modify(connection.socket, selectors.EVENT_READ | rest, connection)
            if not events & selectors.EVENT_READ or not connection.receive():
                return
        except BlockingIOError:
            return
        except OSError:
            connection.status, connection.stays_open = 0, False
        connection.asked = False
        self._note(connection.status, connection.start)
        if connection.stays_open:
            self._idle.append(connection)
        else:
            self._drop(connection)

    def _drop(self, connection: Connection) -> None:
        self._sockets.unregister(connection.socket)
        connection.socket.close()

    def _note(self, status: int, start: float) -> None:
        self.under_way -= 1
        self.seen.append((status, time.perf_counter() - start))


def closed_loop(client: Client, concurrency: int, seconds: float) -> None:
    """`concurrency` requests under way; the next is sent when one has its answer."""
    end = time.perf_counter() + seconds
    for _ in range(concurrency):
        client.ask()
    while client.under_way:
        for _ in range(client.wait(None)):
            if time.perf_counter() < end:
                client.ask()


def open_loop(client: Client, rate: float, seconds: float, poisson: bool, most: int | None) -> None:
    """Send `rate` requests per second, evenly or as a Poisson process, whatever the server does."""
    due = time.perf_counter()
    end = due + seconds
    while due < end:
        if (early := due - time.perf_counter()) > 0:
            client.wait(early)
            continue
        client.wait(0)
        if most is None or client.under_way < most:
            client.ask(due if most is None else None)
        due += random.expovariate(rate) if poisson else 1 / rate
    while client.under_way:
        client.wait(None)


def percentiles(seconds: list[float]) -> dict[str, float]:
    """Percentiles in milliseconds."""
    ordered = sorted(seconds)
    return {
        name: round(1000 * ordered[min(len(ordered) - 1, int(part * len(ordered)))], 2) if ordered else 0.0
        for name, part in {"p50_ms": 0.5, "p99_ms": 0.99, "max_ms": 1.0}.items()
    }


def measure(arguments: argparse.Namespace) -> dict[str, object]:
    """What the command line asks for."""
    client = Client(arguments.url, *multipart(arguments.file.read_bytes(), arguments.field))
    start = time.perf_counter()
    if arguments.rate is None:
        closed_loop(client, arguments.concurrency or 1, arguments.seconds)
    else:
        open_loop(client, arguments.rate, arguments.seconds, arguments.poisson, arguments.concurrency)
    elapsed = time.perf_counter() - start
    client.close()
    good: list[float] = [seconds for status, seconds in client.seen if status == 200]
    refused = [seconds for status, seconds in client.seen if status != 200]
    return {
        "per_second": round(len(good) / elapsed, 2),
        "statuses": dict(Counter(status for status, _ in client.seen)),
        **percentiles(good),
        "refused": percentiles(refused),
    } | ({"each_ms": [round(1000 * seconds, 2) for seconds in good]} if arguments.each else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("file", type=Path)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--concurrency", type=int)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--poisson", action="store_true")
    parser.add_argument("--field", default="image")
    parser.add_argument("--each", action="store_true", help="also print every answer's milliseconds")
    print(json.dumps(measure(parser.parse_args())))


if __name__ == "__main__":
    main()
