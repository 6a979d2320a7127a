"""Clients that are slow, greedy, silent or strange: they get a clear answer, and the others do not notice them."""

import asyncio
import contextlib
import gc
import http.client as http_client
import io
import logging
import random
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from support.color_engine import ColorEngine

from semseg_app.inference.decode import BrokenImage
from semseg_app.serve.app import create_app
from semseg_app.serve.config import ServeConfig
from semseg_app.serve.http import bodies, protocol, upload_quota
from semseg_app.serve.http.api_keys import Keys
from semseg_app.serve.scheduling.image_task import ImageTask

ALICE, BOB = {"X-API-Key": "first-key-of-alice"}, {"X-API-Key": "second-key-of-bob-"}
PNG = {"Content-Type": "image/png"}
WEBSOCKET = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
HTTP2 = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"


@pytest.fixture
def keys() -> Keys:
    return Keys.from_environment("first-key-of-alice second-key-of-bob-")


class GatedEngine(ColorEngine):
    """Waits before each call while it is held."""

    def __init__(self):
        super().__init__()
        self.go = threading.Event()
        self.go.set()

    def infer(self, images):
        self.go.wait(20)
        return super().infer(images)


def metric(url: str, name: str, **labels: str) -> float:
    for family in text_string_to_metric_families(httpx.get(f"{url}/metrics").text):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                return sample.value
    return 0


def wait_until(true, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def connect(url: str) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=10)


def head(size: int, more: str = "", path: str = "/v1/segment") -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: {size}\r\n{more}\r\n".encode()
    )


@pytest.mark.parametrize("offer", [HTTP2, WEBSOCKET], ids=["h2c", "websocket"])
@pytest.mark.parametrize("apart", [False, True], ids=["together", "head first"])
def test_an_offer_to_upgrade_is_ignored_and_the_body_is_read(running, encoded, photo, mask, offer, apart):
    data = encoded(photo)
    with running(create_app(ColorEngine(), ServeConfig(demo=False))) as url, connect(url) as client:
        wait_until(lambda: httpx.get(f"{url}/health/ready").status_code == 200)
        for _ in range(2):  # the connection lives on
            start = time.monotonic()
            client.sendall(head(len(data), offer) + (b"" if apart else data))
            if apart:
                time.sleep(0.05)
                client.sendall(data)
            answer = http_client.HTTPResponse(client)
            answer.begin()
            np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(answer.read()))), mask)
            assert time.monotonic() - start < 1
        client.sendall(b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 400 ")


def test_a_head_is_bounded_in_size_and_in_time(running, monkeypatch):
    monkeypatch.setattr(protocol, "MOST_HEAD_BYTES", 2000)
    monkeypatch.setattr(protocol, "MOST_HEAD_S", 0.5)
    with running(create_app(ColorEngine(), ServeConfig(demo=False))) as url:
        for more in ("X-Long: " + "x" * 5000, "".join(f"X-{number}: x\r\n" for number in range(500))):
            with connect(url) as client:
                client.sendall(head(0)[:-2] + more.encode())
                assert client.recv(1000).startswith(b"HTTP/1.1 431 ")
        with connect(url) as client:
            client.sendall(head(0)[:-2])
            assert client.recv(1000).startswith(b"HTTP/1.1 408 ")
        with connect(url) as client:  # nothing is asked
            assert client.recv(1000) == b""
        with httpx.Client(base_url=url) as http:  # kept connections and heads in two parts go on
            for _ in range(2):
                assert http.get("/health/live", headers={"X-Long": "x" * 1500}).status_code == 200
        with connect(url) as client:
            client.sendall(b"GET /health/live HTTP/1.1\r\n")
            time.sleep(0.2)
            client.sendall(b"Host: x\r\n\r\n")
            assert client.recv(1000).startswith(b"HTTP/1.1 200 ")


def test_idle_heads_and_slow_uploads_take_no_slot(running, encoded, photo):
    config = ServeConfig(demo=False, max_requests=2, client_share=1, body_timeout_s=5)
    data = encoded(photo)
    with running(create_app(ColorEngine(), config)) as url, ExitStack() as stack, httpx.Client(base_url=url) as http:
        wait_until(lambda: http.get("/health/ready").status_code == 200)
        for number in range(16):
            stack.enter_context(connect(url)).sendall(head(999) + b"x" * (number % 2))
        time.sleep(0.1)
        assert metric(url, "semseg_requests_inside") == 0
        for _ in range(20):
            start = time.monotonic()
            assert http.post("/v1/segment", content=data, headers=PNG).status_code == 200
            assert time.monotonic() - start < 0.5


def test_a_body_has_a_total_time_however_steadily_it_arrives(running):
    app = bodies.BodyTimeout(create_app(ColorEngine(), ServeConfig(demo=False)), 9, elsewhere={}, most_s=0.4)
    with running(app) as url, connect(url) as client:
        client.sendall(head(10**7))
        start = time.monotonic()
        answer = b""
        while not answer and time.monotonic() - start < 5:
            client.sendall(bytes(50_000))  # 2.5 MB per second: not slow
            time.sleep(0.02)
            client.settimeout(0.001)
            with contextlib.suppress(TimeoutError):
                answer = client.recv(1000)
            client.settimeout(5)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert time.monotonic() - start < 2


def test_uploads_in_progress_are_bounded_together(running):
    config = ServeConfig(demo=False, max_bytes=100_000, max_requests=2, client_share=1)
    with running(create_app(ColorEngine(), config)) as url, ExitStack() as stack:
        clients = [stack.enter_context(connect(url)) for _ in range(3)]
        for client in clients:
            client.sendall(head(99_000) + bytes(90_000))
            time.sleep(0.1)
        assert clients[2].recv(1000).startswith(b"HTTP/1.1 429 ")
        clients[0].close()
        clients[1].close()
        wait_until(lambda: httpx.post(f"{url}/v1/segment", content=bytes(90_000), headers=PNG).status_code == 415)


def test_one_key_leaves_slots_to_the_others(running, encoded, photo, keys, caplog):
    engine = GatedEngine()
    app = create_app(engine, ServeConfig(demo=False, max_requests=4, client_share=0.75, keys=keys))
    with caplog.at_level(logging.INFO, "semseg.access"), running(app) as url, ThreadPoolExecutor(5) as pool:
        wait_until(lambda: httpx.get(f"{url}/health/ready").status_code == 200)
        engine.go.clear()

        def ask(key: dict[str, str]) -> int:
            return httpx.post(f"{url}/v1/segment", content=encoded(photo), headers=PNG | key, timeout=30).status_code

        asked = [pool.submit(ask, ALICE) for _ in range(3)]
        wait_until(lambda: httpx.get(f"{url}/metrics", headers=BOB).text.count('inside{model="colors"} 3.0'))
        assert ask(ALICE) == 429
        bob = pool.submit(ask, BOB)
        wait_until(lambda: httpx.get(f"{url}/metrics", headers=BOB).text.count('inside{model="colors"} 4.0'))
        engine.go.set()
        assert [request.result() for request in (*asked, bob)] == [200] * 4
    (refused,) = (record for record in caplog.records if getattr(record, "status", 0) == 429)
    assert refused.key == "key-1"


def test_a_rate_limited_key_is_named_in_the_log(encoded, photo, caplog, running):
    keys = Keys.from_environment("first-key-of-alice", per_minute=1)
    app = create_app(ColorEngine(), ServeConfig(demo=False, keys=keys))
    with caplog.at_level(logging.INFO, "semseg.access"), running(app) as url:
        statuses = [httpx.get(f"{url}/v1/models", headers=ALICE).status_code for _ in range(2)]
    assert statuses == [200, 429]
    assert [record.key for record in caplog.records if record.name == "semseg.access"] == ["key-1"] * 2


def test_an_answer_that_is_not_read_is_counted_and_ends(running, encoded, monkeypatch):
    monkeypatch.setattr(bodies, "SLOWEST_BYTES_PER_S", 1e7)
    config = ServeConfig(demo=False, body_timeout_s=0.5)
    data = encoded(Image.new("1", (5000, 4000)))
    with running(create_app(ColorEngine(), config)) as url, connect(url) as client:
        wait_until(lambda: httpx.get(f"{url}/health/ready").status_code == 200)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(head(len(data), path="/v1/segment?format=raw") + data)
        wait_until(lambda: metric(url, "semseg_answers_sending") == 1)
        wait_until(lambda: metric(url, "semseg_answers_sending") == 0)
        received = 0
        try:
            while piece := client.recv(2**20):
                received += len(piece)
        except ConnectionResetError:
            pass
        assert received < 20_000_000
        # Who reads gets all of it.
        answer = httpx.post(f"{url}/v1/segment?format=raw", content=data, headers=PNG, timeout=30)
        assert len(answer.content) == 20_000_000


def failed_photos() -> list[object]:
    return [thing for thing in gc.get_objects() if issubclass(type(thing), BrokenImage | ImageTask)]


def test_failed_photos_leave_nothing_until_the_garbage_collector_comes(running, encoded):
    data = encoded(np.random.default_rng(0).integers(0, 255, (900, 1200, 3), np.uint8), "JPEG")
    config = ServeConfig(demo=False)
    with running(create_app(ColorEngine(), config)) as url, httpx.Client(base_url=url) as http:
        wait_until(lambda: http.get("/health/ready").status_code == 200)
        gc.collect()
        gc.disable()
        try:
            of_other_tests = failed_photos()
            for path in ("/v1/segment", "/hf"):
                for _ in range(8):
                    assert http.post(path, content=data[: len(data) // 2], headers=PNG).status_code == 400
            wait_until(lambda: len(failed_photos()) <= len(of_other_tests), 5)
        finally:
            gc.enable()


class SizedEngine(ColorEngine):
    """Takes 0.1 s per million pixels."""

    def infer(self, images):
        self.seconds = images.shape[0] * images.shape[1] * images.shape[2] * 1e-7
        return super().infer(images)


def test_under_mixed_overload_no_answer_is_late(running, encoded):
    """Ten times the load that it can take, of images from 0.01 to 6 million pixels: answered in time or refused."""
    config = ServeConfig(demo=False, timeout_s=4, client_share=1)
    sizes = [(100, 100), (640, 480), (1000, 1000), (3000, 2000)]
    data = [encoded(Image.new("1", size)) for size in sizes]
    end = time.monotonic() + 6
    with running(create_app(SizedEngine(), config)) as url, ThreadPoolExecutor(24) as pool:
        wait_until(lambda: httpx.get(f"{url}/health/ready").status_code == 200)

        def ask(seed: int) -> list[int]:
            choose = random.Random(seed)
            statuses = []
            with httpx.Client(base_url=url, timeout=30) as http:
                while time.monotonic() < end:
                    answer = http.post("/v1/segment", content=choose.choice(data), headers=PNG)
                    statuses.append(answer.status_code)
                    time.sleep(0.05 if answer.status_code == 429 else 0)
            return statuses

        statuses = [status for statuses in pool.map(ask, range(24)) for status in statuses]
    assert set(statuses) == {200, 429}
    assert statuses.count(200) > 20


@pytest.fixture
def page(running, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))

    # Inside a loop, because Gradio makes (and never closes) one of its own for each lock that it creates outside.
    async def build() -> FastAPI:
        return create_app(ColorEngine(), ServeConfig(max_bytes=100_000))

    with running(asyncio.run(build())) as url, httpx.Client(base_url=url, timeout=30) as http:
        yield http


def test_unknown_addresses_beside_the_page_answer_as_the_api_does(page):
    for method, path in (("GET", "/nothing"), ("POST", "/nothing/here"), ("GET", "/v1/nothing"), ("GET", "/hf/x/y")):
        answer = page.request(method, path)
        assert (answer.status_code, list(answer.json())) == (404, ["error"]), path
    assert "text/html" in page.get("/").headers["content-type"]


def test_a_visitor_has_a_quota_of_uploads_and_a_full_disk_is_507(page, monkeypatch, tmp_path):
    def upload() -> httpx.Response:
        return page.post("/gradio_api/upload", files={"files": ("a.png", bytes(90_000))})

    assert upload().status_code == 200
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 10_000}))
    answer = upload()
    assert (answer.status_code, list(answer.json())) == (507, ["error"])
    monkeypatch.undo()
    statuses = [upload().status_code for _ in range(40)]
    assert statuses.count(200) in range(25, 35)
    assert statuses[-1] == 429
    assert "try again in" in upload().json()["error"]
    now = time.monotonic()
    monkeypatch.setattr(upload_quota, "QUOTA_S", 0.0)
    assert upload().status_code == 200
    assert time.monotonic() - now < 5
