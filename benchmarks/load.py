"""A client for HTTP servers that costs little itself: prepared requests over kept connections, no library.

    python benchmarks/load.py URL FILE --seconds 5 --concurrency 16        # as many as go, 16 at a time
    python benchmarks/load.py URL FILE --seconds 5 --rate 40 [--poisson]   # 40 a second, whatever comes back
    python benchmarks/load.py URL FILE --seconds 5 --rate 40 --concurrency 64   # no more than 64 at a time

Prints one line of JSON: answers a second, statuses, and the percentiles of milliseconds to the last byte of what is 200
and of what is not; from sending, or with --rate alone from when the request should have been sent.
"""

import argparse
import asyncio
import json
import random
import time
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

BOUNDARY = "a-boundary-that-no-picture-holds"


def multipart(image: bytes, field: str = "image") -> tuple[str, bytes]:
    """Content type and body of a form with one file."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"; filename="a.jpg"\r\n'
    body = f"{head}Content-Type: image/jpeg\r\n\r\n".encode() + image + f"\r\n--{BOUNDARY}--\r\n".encode()
    return f"multipart/form-data; boundary={BOUNDARY}", body


class Client:
    """Kept connections to one address, and what was seen over them."""

    def __init__(self, url: str, content_type: str, body: bytes):
        parts = urlsplit(url)
        self._address = parts.hostname, parts.port
        head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: {content_type}\r\n"
        self._request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.seen: list[tuple[int, float]] = []
        """Status (0 = the connection failed) and seconds."""

    async def ask(self, due: float | None = None) -> None:
        """Send one request and note what came of it."""
        start = time.perf_counter() if due is None else due
        status = 0
        try:
            reader, writer = self._idle.pop() if self._idle else await asyncio.open_connection(*self._address)
            writer.write(self._request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            status = int(head[9:12])
            length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
            if b"connection: close" in head:
                writer.close()
            else:
                self._idle.append((reader, writer))
        except (OSError, asyncio.IncompleteReadError):
            status = 0
        self.seen.append((status, time.perf_counter() - start))

    def close(self) -> None:
        """Drop the connections."""
        for _, writer in self._idle:
            writer.close()


async def closed_loop(client: Client, concurrency: int, seconds: float) -> None:
    """Each of `concurrency` sends its next request when it has its answer."""
    end = time.perf_counter() + seconds

    async def one() -> None:
        while time.perf_counter() < end:
            await client.ask()

    await asyncio.gather(*(one() for _ in range(concurrency)))


async def open_loop(client: Client, rate: float, seconds: float, poisson: bool, most: int | None) -> None:
    """`rate` requests a second, evenly or as they come in life, whatever the server does."""
    end = time.perf_counter() + seconds
    due = time.perf_counter()
    tasks: set[asyncio.Task[None]] = set()
    while due < end:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        if most is None or len(tasks) < most:
            tasks.add(task := asyncio.create_task(client.ask(due if most is None else None)))
            task.add_done_callback(tasks.discard)
        due += random.expovariate(rate) if poisson else 1 / rate
    await asyncio.gather(*tasks)


def percentiles(seconds: list[float]) -> dict[str, float]:
    """Of milliseconds."""
    ordered = sorted(seconds)
    return {
        name: round(1000 * ordered[min(len(ordered) - 1, int(part * len(ordered)))], 2) if ordered else 0.0
        for name, part in {"p50_ms": 0.5, "p99_ms": 0.99, "max_ms": 1.0}.items()
    }


async def measure(arguments: argparse.Namespace) -> dict[str, object]:
    """What the command line asks for."""
    client = Client(arguments.url, *multipart(arguments.file.read_bytes(), arguments.field))
    start = time.perf_counter()
    if arguments.rate is None:
        await closed_loop(client, arguments.concurrency or 1, arguments.seconds)
    else:
        await open_loop(client, arguments.rate, arguments.seconds, arguments.poisson, arguments.concurrency)
    elapsed = time.perf_counter() - start
    client.close()
    good = [seconds for status, seconds in client.seen if status == 200]
    refused = [seconds for status, seconds in client.seen if status != 200]
    return {
        "per_second": round(len(good) / elapsed, 2),
        "statuses": dict(Counter(status for status, _ in client.seen)),
        **percentiles(good),
        "refused": percentiles(refused),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("file", type=Path)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--concurrency", type=int)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--poisson", action="store_true")
    parser.add_argument("--field", default="image")
    print(json.dumps(asyncio.run(measure(parser.parse_args()))))


if __name__ == "__main__":
    main()
