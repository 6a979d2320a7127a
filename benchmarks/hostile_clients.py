"""What one hostile or clumsy client costs the others: three figures of `semseg serve`, each against its own server.

    python benchmarks/hostile_clients.py [--graph GRAPH.onnx] [--json RESULT.json]

1. Memory over 3,000 requests of mixed sizes and formats, a third of them damaged: growth after the first 300.
2. Another client's p99 while 64 connections have sent a head and no body and 64 more send their body slowly, against
   the p99 without them, in turn.
3. Statuses and latencies under 24 clients that never rest, with images from 0.01 to 6 megapixels.

Memory is measured around a graph that computes nearly nothing, so that it is the server's; the others around --graph,
or DeepLabV3+ on ResNet-18 with random weights (needs the extra `export`). All images are sound, or sound ones cut short
or with bytes replaced.
"""

import argparse
import http.client
import io
import json
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from PIL import Image
from serving import make_deeplab, make_nearly_empty, make_photo, p99, resident_mib, running

from semseg_app.machine import hardware

REQUESTS, FIRST = 3000, 300
CONNECTIONS = 64
ROUNDS, REQUESTS_PER_ROUND = 5, 40
CLIENTS, OVERLOAD_S = 24, 30.0
SIZES = ((100, 100), (640, 480), (1200, 800), (3000, 2000))
FORMATS = ("JPEG", "PNG", "WEBP")


def encode(photo: Image.Image, size: tuple[int, int], form: str) -> bytes:
    """The photo at another size."""
    buffer = io.BytesIO()
    photo.resize(size).save(buffer, form)
    return buffer.getvalue()


def damage(data: bytes, choose: random.Random) -> bytes:
    """Cut short, or with a few bytes replaced."""
    if choose.random() < 0.5:
        return data[: choose.randrange(len(data))]
    damaged = bytearray(data)
    for _ in range(choose.randrange(1, 20)):
        damaged[choose.randrange(len(damaged))] = choose.randrange(256)
    return bytes(damaged)


class Sender:
    """One kept connection to the server."""

    def __init__(self, url: str):
        self._url = urlsplit(url)
        self._connection: http.client.HTTPConnection | None = None

    def send(self, data: bytes) -> tuple[int, float]:
        """Status (0 = the connection failed) and milliseconds."""
        began = time.perf_counter()
        if self._connection is None:
            self._connection = http.client.HTTPConnection(self._url.hostname or "", self._url.port, timeout=120)
        try:
            self._connection.request("POST", self._url.path, data, {"Content-Type": "image/jpeg"})
            answer = self._connection.getresponse()
            answer.read()
            status = answer.status
        except OSError:
            self._connection = None
            status = 0
        return status, (time.perf_counter() - began) * 1000


def memory(url: str, process: int, photos: dict[tuple[int, int], list[bytes]]) -> dict[str, Any]:
    """Resident memory over REQUESTS mixed requests, four at a time."""
    choose = random.Random(0)
    small = [data for size, all_forms in photos.items() if size != SIZES[-1] for data in all_forms]
    bodies = []
    for number in range(REQUESTS):
        data = choose.choice(photos[SIZES[-1]] if number % 50 == 0 else small)
        bodies.append(damage(data, choose) if number % 3 == 0 else data)
    statuses: Counter[int] = Counter()
    local = threading.local()

    def send(data: bytes) -> int:
        if not hasattr(local, "sender"):
            local.sender = Sender(url)
        return local.sender.send(data)[0]

    after_first, most = 0.0, 0.0
    with ThreadPoolExecutor(4) as pool:
        for start in range(0, REQUESTS, FIRST):
            statuses.update(pool.map(send, bodies[start : start + FIRST]))
            time.sleep(0.5)
            resident = resident_mib(process)
            after_first = after_first or resident
            most = max(most, resident)
    return {
        "requests": REQUESTS,
        "statuses": dict(sorted(statuses.items())),
        "MiB after the first 300": round(after_first, 1),
        "MiB at the end": round(resident, 1),
        "growth MiB": round(most - after_first, 1),
    }


@contextmanager
def standing_connections(url: str):
    """64 heads without a body and 64 bodies that arrive at a byte in a while, as long as the block lasts."""
    parts = urlsplit(url)
    head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Length: 1000000\r\n\r\n".encode()
    ended = threading.Event()
    opened = 0

    def keep(slow: bool) -> None:
        nonlocal opened
        while not ended.is_set():
            with socket.create_connection((parts.hostname, parts.port)) as connection:
                opened += 1
                connection.sendall(head)
                connection.settimeout(0.5)
                while not ended.is_set():
                    try:
                        if slow:
                            connection.sendall(b"x")
                        if not connection.recv(1000):
                            break
                    except TimeoutError:
                        continue
                    except OSError:
                        break

    threads = [threading.Thread(target=keep, args=(number % 2 == 0,)) for number in range(2 * CONNECTIONS)]
    for thread in threads:
        thread.start()
    while opened < len(threads):
        time.sleep(0.05)
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def latencies(url: str, data: bytes) -> list[float]:
    """Milliseconds of requests one after another; every one must be answered with 200."""
    sender = Sender(url)
    seen = [sender.send(data) for _ in range(REQUESTS_PER_ROUND)]
    if any(status != 200 for status, _ in seen):
        raise SystemExit(f"another client was turned away: {Counter(status for status, _ in seen)}")
    return [milliseconds for _, milliseconds in seen]


def idle_and_slow(url: str, data: bytes) -> dict[str, Any]:
    """p99 of another client, quiet and beside 128 standing connections, in turn."""
    quiet: list[float] = []
    beside: list[float] = []
    latencies(url, data)
    for _ in range(ROUNDS):
        quiet += latencies(url, data)
        with standing_connections(url):
            beside += latencies(url, data)
    return {
        "requests": len(quiet),
        "quiet p99 ms": round(p99(quiet), 1),
        "p99 ms beside 128 connections": round(p99(beside), 1),
        "ratio": round(p99(beside) / p99(quiet), 2),
    }


def overload(url: str, photos: dict[tuple[int, int], list[bytes]]) -> dict[str, Any]:
    """Statuses of mixed sizes from CLIENTS clients at once; a client that gets 429 waits for 50 ms."""
    end = time.monotonic() + OVERLOAD_S
    sizes = list(photos)

    def ask(seed: int) -> list[tuple[int, float]]:
        choose, sender, seen = random.Random(seed), Sender(url), []
        while time.monotonic() < end:
            seen.append(sender.send(choose.choice(photos[choose.choice(sizes)])))
            if seen[-1][0] == 429:
                time.sleep(0.05)
        return seen

    with ThreadPoolExecutor(CLIENTS) as pool:
        seen = [answer for answers in pool.map(ask, range(CLIENTS)) for answer in answers]
    answered = [milliseconds for status, milliseconds in seen if status == 200]
    refused = [milliseconds for status, milliseconds in seen if status == 429]
    return {
        "requests": len(seen),
        "statuses": dict(sorted(Counter(status for status, _ in seen).items())),
        "slowest 200 s": round(max(answered) / 1000, 1),
        "p99 ms of 429": round(p99(refused), 1) if refused else None,
    }


def main() -> None:
    """Measure the three, print and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graph", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        graph = arguments.graph or make_deeplab(folder)
        make_photo(folder / "photo.jpg")
        photo = Image.open(folder / "photo.jpg").convert("RGB")
        photos = {size: [encode(photo, size, form) for form in FORMATS] for size in SIZES}
        commit = subprocess.run(
            ["git", "describe", "--always", "--dirty"], capture_output=True, text=True
        ).stdout.strip()
        results: dict[str, Any] = {"command": sys.argv, "commit": commit, "hardware": hardware()}
        with running("ours", make_nearly_empty(folder / "empty.onnx")) as (url, process):
            results["memory"] = memory(url, process, photos)
        with running("ours", graph) as (url, _):
            results["standing connections"] = idle_and_slow(url, photos[640, 480][0])
        with running("ours", graph) as (url, _):
            results["mixed overload"] = overload(url, photos)
    print(json.dumps(results, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
