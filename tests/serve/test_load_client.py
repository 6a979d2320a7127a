"""The client that the benchmark of serving measures with, against a server that counts for itself."""

import importlib.util
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

LOAD = Path(__file__).parents[2] / "benchmarks" / "load.py"
GOOD_S = 0.03


@pytest.fixture
def counting():
    """(address, Counter of what it answered, bodies that came): 200 after GOOD_S, but every third is 429 at once.

    Some answers close their connection, and one that nothing comes over for a second is closed without a word.
    """
    answered: Counter[int] = Counter()
    lock = threading.Lock()
    bodies = set()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 1

        def do_POST(self):
            bodies.add(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                number = sum(answered.values())
                status = 429 if number % 3 == 2 else 200
                answered[status] += 1
            if status == 200:
                time.sleep(GOOD_S)
            self.send_response(status)
            self.send_header("Content-Length", "300000")
            if number % 5 == 1:
                self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(b"a" * 300_000)  # more than one read

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/there", answered, bodies
        server.shutdown()


@pytest.mark.parametrize(
    "options", [["--concurrency", "3"], ["--rate", "40"], ["--rate", "300", "--concurrency", "4"]], ids=" ".join
)
def test_it_sees_what_the_server_did(counting, tmp_path, options):
    url, answered, bodies = counting
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(bytes(range(256)) * 4000)
    start = time.perf_counter()
    command = [sys.executable, LOAD, url, photo, "--seconds", "1.5", *options]
    seen = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout)
    elapsed = time.perf_counter() - start
    assert {int(status): count for status, count in seen["statuses"].items()} == dict(answered)
    assert len(bodies) == 1
    assert photo.read_bytes() in bodies.pop()
    assert answered[200] / elapsed <= seen["per_second"] <= answered[200] / 1.45
    assert 1000 * GOOD_S <= seen["p50_ms"] <= seen["p99_ms"] <= seen["max_ms"] < 1000
    assert 0 < seen["refused"]["p50_ms"] < seen["p50_ms"]
    if options == ["--rate", "40"]:
        assert 58 <= sum(answered.values()) <= 61


def test_a_connection_that_was_closed_while_it_was_idle_is_no_failure(counting):
    url, answered, _ = counting
    spec = importlib.util.spec_from_file_location("load", LOAD)
    load = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(load)
    client = load.Client(url, *load.multipart(b"photo"))
    for pause_s in (0, 1.5, 0):
        time.sleep(pause_s)
        client.wait(0)
        client.ask()
        while client.under_way:
            client.wait(5)
    client.close()
    assert [status for status, _ in client.seen] == [200, 200, 429]
    assert dict(answered) == {200: 2, 429: 1}
