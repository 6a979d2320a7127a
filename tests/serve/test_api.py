import io
import itertools
import logging
import re
import struct
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient
from support.color_engine import ColorEngine

from semseg_app.inference.engines.base import Prediction
from semseg_app.serve.app import create_app
from semseg_app.serve.config import ServeConfig

JSON = {"Accept": "application/json"}
RED = {"index": 0, "name": "red", "color": "#c81e1e"}
GREEN = {"index": 1, "name": "green", "color": "#1ec81e"}
BLUE = {"index": 2, "name": "<blue>", "color": "#1e1ec8"}


@pytest.fixture
def client(engine):
    with TestClient(create_app(engine, ServeConfig(demo=False, max_bytes=200_000, max_pixels=1_000_000))) as client:
        yield client


def png_header(width: int, height: int) -> bytes:
    """A PNG of a hundred bytes that claims to be width x height."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("field", ["image", "file"])
def test_multipart_gives_an_indexed_png(client, encoded, photo, mask, field):
    answer = client.post("/v1/segment", files={field: ("a.png", encoded(photo), "image/png")})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    png = Image.open(io.BytesIO(answer.content))
    assert png.mode == "P"
    assert png.getpalette()[:9] == [200, 30, 30, 30, 200, 30, 30, 30, 200]
    np.testing.assert_array_equal(np.asarray(png), mask)


def test_raw_body_gives_json(client, encoded, photo):
    answer = client.post("/v1/segment", content=encoded(photo), headers={**JSON, "Content-Type": "image/png"})
    summary = answer.json()
    latency = summary.pop("latency_ms")
    assert latency["decode"] > 0
    assert latency["inference"] > 0
    assert summary == {
        "model": "colors",
        "engine": {"kind": "fake", "device": "cpu", "precision": "fp32"},
        "width": 60,
        "height": 40,
        # 3/8 of the pixels at 255, 3/8 at 200, 1/4 at 128.
        "confidence": round((3 * 255 + 3 * 200 + 2 * 128) / 8 / 255, 4),
        "classes": [
            RED | {"area": 900, "share": 0.375, "confidence": 1.0, "box": [0, 0, 30, 30]},
            GREEN | {"area": 900, "share": 0.375, "confidence": round(200 / 255, 4), "box": [30, 0, 30, 30]},
            BLUE | {"area": 600, "share": 0.25, "confidence": round(128 / 255, 4), "box": [0, 30, 60, 10]},
        ],
        "unknown": 0.0,
    }


def test_exif_orientation_turns_the_mask(client, encoded, photo, mask):
    turned = Image.fromarray(photo).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # a viewer turns it by 90 degrees clockwise, back to upright
    answer = client.post("/v1/segment", files={"image": encoded(turned, exif=exif)})
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(answer.content))), mask)


def test_accept_chooses_the_answer(client, encoded, photo):
    def answered(accept: str) -> str:
        answer = client.post("/v1/segment", files={"image": encoded(photo)}, headers={"Accept": accept})
        assert answer.headers["vary"] == "Accept"
        return answer.headers["content-type"]

    assert answered("*/*") == "image/png"
    assert answered("image/*;q=0.1, application/json") == "application/json"


def noise_jpeg(encoded) -> bytes:
    return encoded(np.random.default_rng(0).integers(0, 255, (200, 300, 3), np.uint8), "JPEG")


@pytest.mark.parametrize(
    ("make", "content_type", "status", "words"),
    [
        (lambda encoded: noise_jpeg(encoded)[:9000], "image/jpeg", 400, "truncated or damaged"),
        (lambda encoded: b"", "image/jpeg", 400, "the image is empty"),
        (lambda encoded: b"#!/bin/sh\necho no image\n", "image/jpeg", 415, "not an image that can be read"),
        (lambda encoded: noise_jpeg(encoded)[:3], "image/jpeg", 415, "not an image that can be read"),
        (lambda encoded: encoded(Image.new("RGB", (9, 9)), "GIF"), "image/gif", 415, "send JPEG, PNG"),
        (lambda encoded: encoded(Image.new("F", (9, 9)), "TIFF"), "image/tiff", 415, "32 bits per channel"),
        (lambda encoded: png_header(1001, 1000), "image/png", 413, "1001 x 1000 pixels, above the limit of 1 million"),
        (lambda encoded: png_header(10_000, 10_000), "image/png", 413, "above the limit of 1 million"),
        (lambda encoded: png_header(2**31 - 1, 2**31 - 1), "image/png", 413, "above the limit of 1 million"),
        (lambda encoded: bytes(200_001), "image/png", 413, "above the limit of 0.190"),
        (lambda encoded: itertools.repeat(bytes(10_000), 30), "image/png", 413, "above the limit of 0.190"),
        (lambda encoded: b"{}", "application/json", 415, "multipart/form-data with a field 'image', or image/*"),
        (lambda encoded: b"image=x", "application/x-www-form-urlencoded", 415, "multipart/form-data"),
        (lambda encoded: b"{}", "", 415, "content type missing"),
        (lambda encoded: b"--x\r\nno header\r\n", "multipart/form-data; boundary=x", 400, ""),
        (lambda encoded: b"--x--\r\n", "multipart/form-data", 400, "boundary"),
    ],
)
def test_bad_bodies_get_one_clear_line(client, encoded, make, content_type, status, words):
    answer = client.post("/v1/segment", content=make(encoded), headers={"Content-Type": content_type})
    assert answer.status_code == status, answer.text
    problem = answer.json()
    assert list(problem) == ["error"]
    assert words in problem["error"]
    assert "\n" not in problem["error"]


def test_bad_forms_get_one_clear_line(client, encoded, photo):
    def problem(status: int, **form) -> str:
        answer = client.post("/v1/segment", **form)
        assert answer.status_code == status
        return answer.json()["error"]

    good = encoded(photo)
    assert "'scan'; photos go into 'image'" in problem(422, files={"scan": good})
    assert "no image" in problem(422, content=b"--x--", headers={"Content-Type": "multipart/form-data; boundary=x"})
    assert "-F image=@photo.jpg" in problem(422, files={"image": (None, "photo.jpg")})
    assert "more than 16 files" in problem(400, files=[("image", good)] * 17)
    assert "options go into the address" in problem(422, files={"image": good}, data={"format": "rle"})


def test_accept_that_cannot_be_served_is_406_whatever_the_body(client):
    answer = client.post("/v1/segment", content=b"", headers={"Accept": "text/html"})
    assert answer.status_code == 406
    assert "image/png or application/json or" in answer.json()["error"]


def test_wrong_method_and_wrong_address_are_json(client):
    answer = client.get("/v1/segment")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert "takes POST" in answer.json()["error"]
    for path in ("/v1/nothing", "/health/nothing"):
        assert (client.get(path).status_code, list(client.get(path).json())) == (404, ["error"])


def test_models_docs_and_schema(client):
    assert client.get("/v1/models").json() == {
        "models": [
            {
                "name": "colors",
                "engine": {"kind": "fake", "device": "cpu", "precision": "fp32"},
                "classes": [
                    RED,
                    GREEN,
                    BLUE,
                ],
            }
        ]
    }
    operation = client.get("/openapi.json").json()["paths"]["/v1/segment"]["post"]
    assert {"multipart/form-data", "image/jpeg"} <= set(operation["requestBody"]["content"])
    kinds = {f"image/{kind}" for kind in ("png", "jpeg")} | {
        f"application/{kind}" for kind in ("json", "geo+json", "octet-stream", "zip")
    }
    assert set(operation["responses"]["200"]["content"]) == kinds
    assert {"400", "406", "413", "415", "422"} <= set(operation["responses"])
    root = client.get("/", follow_redirects=False)
    assert (root.status_code, root.headers["location"]) == (307, "docs")


def test_the_docs_page_needs_no_other_host(client):
    page = client.get("/docs").text
    addresses = re.findall(r"""(?:src|href)="([^"]+)"|url: '([^']+)'""", page)
    given = {first or second: client.get(first or second) for first, second in addresses}
    assert {address: answer.status_code for address, answer in given.items()} == dict.fromkeys(given, 200)
    assert "/openapi.json" in given
    (script,) = (answer.text for address, answer in given.items() if address.endswith(".js"))
    assert "SwaggerUIBundle" in script


def test_ready_waits_for_the_warm_up_and_live_does_not(engine, monkeypatch):
    go = threading.Event()
    infer = engine.infer
    monkeypatch.setattr(engine, "infer", lambda images: (go.wait(10), infer(images))[1])
    with TestClient(create_app(engine, ServeConfig(demo=False))) as client:
        assert client.get("/health/live").json() == {"status": "live"}
        early = client.get("/health/ready")
        assert (early.status_code, early.json()) == (503, {"error": "warming up"})
        go.set()
        while client.get("/health/ready").status_code != 200:
            time.sleep(0.005)
        assert client.get("/health/ready").json()["engine"]["device"] == "cpu"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda images: 1 / 0,
        lambda images: Prediction(images[:, ::2, ::2, 0], images[:, ::2, ::2, 0]),
        lambda images: Prediction(np.full(images.shape[:3], 3, np.uint8), images[..., 0]),
    ],
    ids=["raises", "half the size", "unknown class"],
)
def test_never_ready_after_a_failed_warm_up(engine, monkeypatch, caplog, wrong):
    monkeypatch.setattr(engine, "infer", wrong)
    with TestClient(create_app(engine, ServeConfig(demo=False))) as client:
        while (answer := client.get("/health/ready")).json() == {"error": "warming up"}:
            time.sleep(0.005)
        assert answer.status_code == 503
        assert "the warm-up failed" in answer.json()["error"]
        assert client.get("/health/live").status_code == 200
    assert "the warm-up failed" in caplog.text


def test_request_id(client):
    assert client.get("/health/live", headers={"X-Request-ID": "abc-1.2"}).headers["x-request-id"] == "abc-1.2"
    made = [
        client.get("/health/live", headers={"X-Request-ID": value}).headers["x-request-id"] for value in ("", "a b")
    ]
    assert all(len(value) == 32 for value in made)
    assert made[0] != made[1]
    # On errors too, those of the middleware among them.
    assert (
        client.post("/v1/segment", content=bytes(300_000), headers={"X-Request-ID": "x"}).headers["x-request-id"] == "x"
    )


def test_unexpected_failure_is_500_with_the_id_that_the_log_names(client, engine, encoded, photo, monkeypatch, caplog):
    monkeypatch.setattr(engine, "infer", lambda images: 1 / 0)
    with caplog.at_level(logging.ERROR):
        answer = client.post("/v1/segment", files={"image": encoded(photo)}, headers={"X-Request-ID": "r-17"})
    assert answer.status_code == 500
    assert "r-17" in answer.json()["error"]
    assert answer.headers["x-request-id"] == "r-17"
    assert "r-17" in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_parallel_requests_each_get_their_own_answer_and_the_loop_stays_free(running, encoded):
    def ask(number: int) -> None:
        random = np.random.default_rng(number)
        image = random.integers(0, 255, (20 + number, 30, 3), np.uint8)
        answer = http.post("/v1/segment", content=encoded(image), headers={"Content-Type": "image/png"})
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(answer.content))), image.argmax(axis=2))

    # The engine raises when two calls meet.
    with (
        running(create_app(ColorEngine(seconds=0.05), ServeConfig(demo=False))) as url,
        httpx.Client(base_url=url, timeout=60) as http,
        ThreadPoolExecutor(16) as pool,
    ):
        asked = [pool.submit(ask, number) for number in range(32)]
        probes = 0
        while not all(request.done() for request in asked):
            assert http.get("/health/live").status_code == 200
            probes += 1
        for request in asked:
            request.result()
    assert probes > 10
