import http.server
import threading
from collections.abc import Iterator

import pytest

from semseg_app.errors import UserError
from semseg_app.serve.demo import urls as demo_urls
from semseg_app.serve.demo.urls import fetch_photo

PHOTO = b"\xff\xd8" + bytes(5000)


class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
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


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/none", "no photo that can be fetched"),
        ("/round", "too many redirects"),
        ("/inside", "not on the public internet"),
        ("/file", "begins with http"),
    ],
)
def test_what_a_site_may_not_do(site: str, path: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        fetch_photo(site + path, 10_000)


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
    ],
)
def test_addresses_inside_are_not_asked(url: str) -> None:
    with pytest.raises(UserError, match="not on the public internet"):
        fetch_photo(url, 10_000)


@pytest.mark.parametrize("url", ["", "photo.jpg", "file:///etc/passwd", "ftp://example.com/a", "http://", "http://[::"])
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(UserError, match=r"begins with http|no photo that can be fetched"):
        fetch_photo(url, 10_000)
