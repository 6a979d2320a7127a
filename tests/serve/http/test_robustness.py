"""Thousands of nearly right requests: documented refusals or right answers, in bounded memory."""

import gc
import io
import itertools
import random
import struct
import time
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from starlette.testclient import TestClient
from support import mutations
from support.color_engine import ColorEngine

from semseg_app.serve.app import create_app
from semseg_app.serve.config import ServeConfig

REFUSALS = {400, 404, 406, 413, 415, 422}
PLACES = [str(Path(__file__).parents[3]), "site-packages", "/tmp", "/usr/", "Traceback", "BytesIO"]
"""What no answer may contain: where the server keeps its files, how it is made."""


@pytest.fixture
def client():
    app = create_app(ColorEngine(), ServeConfig(demo=False, max_bytes=300_000, max_pixels=300_000))
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def memory_mb() -> float:
    """Of this process, resident."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def check_refusal(answer, sent: dict[str, object]) -> None:
    assert answer.status_code in REFUSALS, (answer.status_code, answer.text, sent)
    problem = answer.json()
    assert list(problem) == ["error"]
    assert problem["error"]
    assert "\n" not in problem["error"]
    assert not [place for place in PLACES if place in answer.text], answer.text


def check_mask(data: bytes, content: bytes) -> None:
    """Against Pillow and arithmetic, where Pillow reads the image without loss."""
    shown = np.asarray(Image.open(io.BytesIO(content)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damaged metadata
        with Image.open(io.BytesIO(data)) as image:
            lossless = image.format in ("PNG", "BMP") and image.mode in ("RGB", "P", "L") and not image.info
            upright = ImageOps.exif_transpose(image)
            assert shown.shape == (upright.height, upright.width)
            if lossless:
                np.testing.assert_array_equal(shown, np.asarray(upright.convert("RGB")).argmax(axis=2))


def try_mutations(client, count: int, seed: int) -> dict[int, int]:
    """Send `count` requests; status -> how often it came."""
    choose = random.Random(seed)
    good = mutations.seeds()
    seen: dict[int, int] = {}
    for _ in range(count):
        data = choose.choice(good)
        if choose.random() < 0.9:
            data = mutations.mutated(data, good, choose)
        sent = mutations.request(data, choose)
        answer = client.request("POST", choose.choice(["/v1/segment", "/v1/segment", "/hf"]), **sent)
        seen[answer.status_code] = seen.get(answer.status_code, 0) + 1
        if answer.status_code != 200:
            check_refusal(answer, sent)
        elif sent["content"] is data and sent["params"] == {"format": "png"} and "hf" not in str(answer.url.path):
            check_mask(data, answer.content)
    return seen


def test_mutated_images_and_requests(client):
    seen = try_mutations(client, 300, seed=1)
    assert seen[200] > 20  # some accidents do no harm
    assert {400, 413, 415, 422} <= set(seen)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_five_thousand_mutations_in_stable_memory(client):
    try_mutations(client, 500, seed=2)  # caches, pools, arenas
    before = memory_mb()
    seen = try_mutations(client, 5000, seed=3)
    grown = memory_mb() - before
    print(f"{seen}, {grown:.1f} MB more")
    assert grown < 50


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_with(kind: bytes, body: bytes, pixels: bytes = zlib.compress(bytes(4 * 13))) -> bytes:
    """A 4 x 4 PNG with one more chunk."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(kind, body) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def bombs() -> dict[str, bytes]:
    """Thirty megabytes of zeros, packed into thirty kilobytes, where a reader might unpack them."""
    packed = zlib.compress(bytes(30_000_000))
    return {
        "text": png_with(b"zTXt", b"key\0\0" + packed),
        "profile": png_with(b"iCCP", b"key\0\0" + packed),
        "pixels": png_with(b"tIME", b"", packed),
    }


@pytest.mark.parametrize("name", ["text", "profile", "pixels"])
def test_decompression_bombs_do_not_go_off(client, name):
    data = bombs()[name]
    client.post("/v1/segment", content=data, headers={"Content-Type": "image/png"})
    before, start = memory_mb(), time.monotonic()
    for _ in range(20):
        answer = client.post("/v1/segment", content=data, headers={"Content-Type": "image/png"})
        assert answer.status_code in (200, 400)
    assert time.monotonic() - start < 4
    assert memory_mb() - before < 20


def test_polyglots_give_nothing_of_their_other_half(client):
    """An image that is a ZIP, a page and a script too comes back as a mask alone."""
    photo = mutations.seeds()[0]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("evil.html", "<script>alert(1)</script>")
    for tail in (buffer.getvalue(), b"<html><script>alert(1)</script></html>", b"#!/bin/sh\nrm -rf /\n"):
        answer = client.post("/v1/segment", content=photo + tail, headers={"Content-Type": "text/html, image/jpeg"})
        assert answer.status_code == 415  # nobody says what it is
        answer = client.post("/v1/segment", content=photo + tail, headers={"Content-Type": "image/gif"})
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert b"alert" not in answer.content
        assert not zipfile.is_zipfile(io.BytesIO(answer.content))
    for data in (
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%PDF-1.4",
        b"%!PS-Adobe-3.0 EPSF-3.0",
        b"GIF89a" + bytes(99),
    ):
        answer = client.post("/v1/segment", content=data, headers={"Content-Type": "image/png"})
        assert answer.status_code == 415


@pytest.mark.parametrize(
    "body",
    [
        b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n\r\n' * 4000,
        b'--b\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n\r\n' * 4000,
        b"--b\r\n" + b"A: b\r\n" * 40_000,
        b"--b\r\n" + b"A" * 290_000 + b": b\r\n",
        b'--b\r\nContent-Disposition: form-data; name="image"; filename="' + b"x" * 290_000,
        b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\n' + b"x" * 290_000,
        b"\r\n" * 140_000,
        b"--b" * 90_000,
    ],
    ids=["fields", "files", "headers", "long header", "long name", "long text", "blank", "boundaries"],
)
def test_huge_multipart_bodies_are_refused_at_once(client, body):
    start = time.monotonic()
    pieces = [body[at : at + 1000] for at in range(0, len(body), 1000)]
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    answer = client.post("/v1/segment", content=itertools.chain(pieces), headers=headers)
    check_refusal(answer, headers)
    assert time.monotonic() - start < 2
