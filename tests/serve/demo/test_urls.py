import gzip
import http.server
import threading
import time
import zlib
from collections.abc import Iterator

import pytest

from semseg_app.errors import UserError
from semseg_app.serve.demo import urls as demo_urls
from semseg_app.serve.demo.urls import fetch_photo

PHOTO = b"\xff\xd8" + bytes(5000)
ENCODED = {
    "/gzip": ("gzip", gzip.compress(PHOTO)),
    "/large": ("gzip", gzip.compress(bytes(20_000))),
    "/cut": ("gzip", gzip.compress(PHOTO)[:-12]),
    "/twice": ("gzip, gzip", gzip.compress(gzip.compress(PHOTO))),
    "/brotli": ("br", b"any"),
}


class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/slow":
            self.drip()
        elif self.path in ENCODED:
            self.compressed()
        else:
            self.plain()

    def plain(self) -> None:
        target = {
            "/moved": "/photo.jpg",
            "/round": "/round",
            "/inside": f"http://127.0.0.1:{self.server.server_port}/photo.jpg",
            "/file": "file:///etc/passwd",
        }.get(self.path)
        found = self.path == "/photo.jpg"
        self.send_response(302 if target else 200 if found else 404)
        if target:
            self.send_header("Location", target)
        self.end_headers()
        if found:
            assert self.headers["Host"] == f"photos.example:{self.server.server_port}"
            self.wfile.write(PHOTO)

    def compressed(self) -> None:
        self.send_response(200)
        encoding, body = ENCODED[self.path]
        self.send_header("Content-Encoding", encoding)
        self.end_headers()
        self.wfile.write(body)

    def drip(self) -> None:
        """Bytes that always come before any timeout of a single read."""
        self.send_response(200)
        self.end_headers()
        try:
            for _ in range(100):
                self.wfile.write(b"x")
                time.sleep(0.05)
        except OSError:
            pass  # the client has gone

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A web site under a public name. Every other name is looked up and judged as ever."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    look_up = demo_urls._public_address
    monkeypatch.setattr(
        demo_urls,
        "_public_address",
        lambda host, port: "127.0.0.1" if host == "photos.example" else look_up(host, port),
    )
    yield f"http://photos.example:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_photo_is_fetched_also_where_it_has_moved(site: str) -> None:
    assert fetch_photo(f" {site}/photo.jpg ", 10_000) == PHOTO
    assert fetch_photo(f"{site}/moved", 10_000) == PHOTO
    assert fetch_photo(f"{site}/gzip", 10_000) == PHOTO


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/none", "no photo that can be fetched"),
        ("/round", "too many redirects"),
        ("/inside", "not on the public internet"),
        ("/file", "begins with http"),
        ("/large", "more than 0"),
        ("/cut", "no photo that can be fetched"),
        ("/twice", "compressed form"),
        ("/brotli", "compressed form"),
    ],
)
def test_what_a_site_may_not_do(site: str, path: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        fetch_photo(site + path, 10_000)


def test_no_more_is_decompressed_than_allowed(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk must not be expanded whole either: of its 20,000 bytes at most 11 are made, one above the limit."""
    made: list[bytes] = []
    real = zlib.decompressobj

    class Counting:
        def __init__(self, wbits: int) -> None:
            self.inner = real(wbits)

        def decompress(self, data: bytes, most: int) -> bytes:
            made.append(self.inner.decompress(data, most))
            return made[-1]

    monkeypatch.setattr(demo_urls.zlib, "decompressobj", Counting)
    with pytest.raises(UserError, match="the photo has more than"):
        fetch_photo(f"{site}/large", 10)
    assert sum(map(len, made)) <= 11


def test_the_total_time_is_bounded(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_urls, "TOTAL_SECONDS", 0.5)
    start = time.monotonic()
    with pytest.raises(UserError, match=r"within 0\.5 seconds"):
        fetch_photo(f"{site}/slow", 10_000)
    assert time.monotonic() - start < 3


def test_too_many_bytes(site: str) -> None:
    with pytest.raises(UserError, match="more than 0"):
        fetch_photo(f"{site}/photo.jpg", 5001)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/a.png",
        "http://localhost:8000/a.png",
        "http://[::1]/a.png",
        "http://0.0.0.0/",
        "http://10.1.2.3/a.png",
        "http://169.254.169.254/latest/meta-data",
        "http://2130706433/",
        "http://[::ffff:127.0.0.1]/",
        "http://100.64.0.1/",
        "http://224.0.0.1/",
        "http://239.255.255.250/",
        "http://255.255.255.255/",
        "http://[ff0e::1]/",
        "http://[fec0::1]/",
        "http://[fd00::1]/",
        "http://[2002:7f00:1::]/",
        "http://[2002:808:808::1]/",
        "http://[64:ff9b::7f00:1]/",
        "http://[64:ff9b::808:808]/",
        "http://[64:ff9b:1::808:808]/",
        "http://[::127.0.0.1]/",
        "http://[::8.8.8.8]/",
        "http://[2001:0:7f00:1::]/",
    ],
)
def test_addresses_inside_are_not_asked(url: str) -> None:
    with pytest.raises(UserError, match="not on the public internet"):
        fetch_photo(url, 10_000)


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.216.34", "2606:4700:4700::1111", "2a00:1450:4001:81b::200e"])
def test_public_addresses_may_be_asked(address: str) -> None:
    assert demo_urls._is_public(address)


@pytest.mark.parametrize("url", ["", "photo.jpg", "file:///etc/passwd", "ftp://example.com/a", "http://", "http://[::"])
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(UserError, match=r"begins with http|no photo that can be fetched"):
        fetch_photo(url, 10_000)
