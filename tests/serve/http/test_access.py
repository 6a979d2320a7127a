"""Keys, allowances, other sites, slow clients, headers, logs."""

import gzip
import hashlib
import json
import logging
import socket
import sys
import time

import httpx
import pytest
from starlette.testclient import TestClient
from support.color_engine import ColorEngine

from semseg_app.errors import UserError
from semseg_app.serve.app import create_app
from semseg_app.serve.config import ServeConfig, check_origin, check_root_path
from semseg_app.serve.http.api_keys import Keys
from semseg_app.serve.http.logs import JsonLines

KEY = "correct-horse-battery-staple"
OTHER = "another-key-of-some-length"


def app(**options):
    return create_app(ColorEngine(), ServeConfig(demo=False, **options))


@pytest.fixture
def keys(tmp_path):
    hashes = [f"{hashlib.sha256(key.encode()).hexdigest()}  {name}\n" for key, name in ((KEY, "alice"), (OTHER, "bob"))]
    (tmp_path / "keys.txt").write_text("# who may ask\n\n" + "".join(hashes))
    return Keys.read(tmp_path / "keys.txt")


@pytest.mark.parametrize(
    "given",
    [{"headers": {"Authorization": f"Bearer {KEY}"}}, {"headers": {"X-API-Key": OTHER}}, {"auth": ("anyone", KEY)}],
    ids=["bearer", "header", "basic"],
)
def test_a_key_opens_every_route(keys, encoded, photo, given):
    with TestClient(app(keys=keys)) as client:
        for path in ("/v1/segment", "/hf"):
            assert client.post(path, content=encoded(photo), headers={"Content-Type": "image/png"}).status_code == 401
            assert client.post(path, files={"image": encoded(photo)}, **given).status_code in (200, 415)
        assert client.get("/v2/models/colors", **given).status_code == 200


def test_without_a_known_key_nothing_but_probes(keys):
    with TestClient(app(keys=keys)) as client:
        for path in ("/health/live", "/v2/health/live"):
            assert client.get(path).status_code == 200
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic !"}, {"X-API-Key": ""}):
            for path in ("/v1/models", "/metrics", "/docs", "/openapi.json", "/nothing", "/health/live/x"):
                answer = client.get(path, headers=headers)
                assert (answer.status_code, list(answer.json())) == (401, ["error"]), path
        assert client.get("/v1/models").headers["www-authenticate"] == "Bearer"
        assert client.get("/docs").headers["www-authenticate"].startswith("Basic")


def test_an_allowance_is_of_one_key_and_comes_back(encoded, photo):
    now = [100.0]
    hashes = {name: hashlib.sha256(key.encode()).digest() for name, key in (("alice", KEY), ("bob", OTHER))}
    keys = Keys(hashes, per_minute=3, clock=lambda: now[0])

    def status(key: str) -> int:
        return client.get("/v1/models", headers={"X-API-Key": key}).status_code

    with TestClient(app(keys=keys)) as client:
        assert [status(KEY) for _ in range(5)] == [200, 200, 200, 429, 429]
        answer = client.get("/v1/models", headers={"X-API-Key": KEY})
        assert (answer.headers["retry-after"], "try again in 20 s" in answer.json()["error"]) == ("20", True)
        assert status(OTHER) == 200
        now[0] += 20
        assert [status(KEY) for _ in range(2)] == [200, 429]
        now[0] += 3600
        assert [status(KEY) for _ in range(4)] == [200, 200, 200, 429]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no key"),
        ("secret alice", "line 1: not a key's SHA-256"),
        ("a" * 64, "line 1: not a key's SHA-256"),
        (f"{'a' * 64} x\n{'b' * 64} x", "line 2: a second key named 'x'"),
    ],
)
def test_files_that_hold_no_keys(tmp_path, text, words):
    (tmp_path / "keys.txt").write_text(text)
    with pytest.raises(UserError, match=words):
        Keys.read(tmp_path / "keys.txt")
    with pytest.raises(UserError, match="cannot be read"):
        Keys.read(tmp_path / "none.txt")


def test_a_file_of_keys_as_windows_writes_it(tmp_path):
    digest = hashlib.sha256(KEY.encode()).hexdigest().upper()
    (tmp_path / "keys.txt").write_bytes(f"\ufeff{digest}  alice\r\n".encode())
    assert Keys.read(tmp_path / "keys.txt").name_of(KEY) == "alice"


def test_keys_from_the_environment():
    keys = Keys.from_environment(f" {KEY},{OTHER}\n")
    assert [keys.name_of(key) for key in (KEY, OTHER, "", KEY[:-1])] == ["key-1", "key-2", None, None]
    with pytest.raises(UserError, match="key 2 is shorter than 16 characters"):
        Keys.from_environment(f"{KEY} short")


def test_other_sites_only_where_they_are_named(encoded, photo):
    preflight = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    with TestClient(app()) as client:
        answer = client.post("/v1/segment", files={"image": encoded(photo)}, headers={"Origin": "https://app.example"})
        assert not [name for name in answer.headers if name.startswith("access-control")]
        assert client.options("/v1/segment", headers=preflight).status_code == 405
    hashes = {"alice": hashlib.sha256(KEY.encode()).digest()}
    with TestClient(app(cors_origins=("https://app.example",), keys=Keys(hashes))) as client:
        answer = client.options("/v1/segment", headers=preflight)  # a preflight carries no key
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "https://app.example")
        assert client.options("/v1/segment", headers=preflight | {"Origin": "https://evil.example"}).status_code == 400
        refused = client.get("/v1/models", headers={"Origin": "https://app.example"})
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "https://app.example")
        assert "X-Request-ID" in refused.headers["access-control-expose-headers"]
        # Upload widgets and tracers add headers; browsers ask before they let a public site call a private network.
        more = {
            "Access-Control-Request-Headers": "traceparent, x-requested-with",
            "Access-Control-Request-Private-Network": "true",
        }
        answer = client.options("/v1/segment", headers=preflight | more)
        assert (answer.status_code, answer.headers["access-control-allow-private-network"]) == (200, "true")
        assert answer.headers["access-control-allow-headers"] == "traceparent, x-requested-with"


@pytest.mark.parametrize("path", ["/predict", "/v1/predict", "/V1/segment", "/predictions/colors"])
def test_an_unknown_address_says_where_the_known_ones_are(path):
    with TestClient(app()) as client:
        answer = client.post(path)
        assert (answer.status_code, answer.json()) == (404, {"error": "no such address; /docs lists them"})


@pytest.mark.parametrize(
    "origin", ["app.example", "https://app.example/", "https://*.example", "ftp://a", "https://", "https://me@a"]
)
def test_origins_that_are_none(origin):
    with pytest.raises(UserError, match=r"^--cors-origin "):
        check_origin(origin)


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("https://App.Example", "https://app.example"),
        ("https://app.example:443", "https://app.example"),
        ("http://localhost:5173", "http://localhost:5173"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
    ],
)
def test_origins_are_compared_as_browsers_send_them(given, sent):
    with TestClient(app(cors_origins=(given,))) as client:
        assert client.get("/v1/models", headers={"Origin": sent}).headers["access-control-allow-origin"] == sent


def test_paths_of_proxies():
    assert [check_root_path(path) for path in ("", "/", "/a/", "/a/b")] == ["", "", "/a", "/a/b"]
    for path in ("a", "/a b", "/a?b"):
        with pytest.raises(UserError, match=r"^--root-path "):
            check_root_path(path)


def test_every_answer_has_security_headers(encoded, photo, monkeypatch):
    with TestClient(app()) as client:
        answers = [
            client.post("/v1/segment", files={"image": encoded(photo)}),
            client.get("/v1/nothing"),
            client.get("/docs"),
        ]
        monkeypatch.setattr("semseg_app.serve.answers.schemas.model_info", lambda *_: 1 / 0)
        answers.append(client.get("/v1/models"))
    assert [answer.status_code for answer in answers] == [200, 404, 200, 500]
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert "server" not in answer.headers
    assert "content-security-policy" not in answers[2].headers  # a page with scripts
    for answer in (*answers[:2], answers[3]):
        assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert answer.headers["cache-control"] == "no-store"


def drip(url: str, path: str, pause_s: float, pieces: int) -> str:
    """Send a body a byte at a time; the answer's first line."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall(
            f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 999\r\n\r\n".encode()
        )
        try:
            for _ in range(pieces):
                client.sendall(b"x")
                time.sleep(pause_s)
        except OSError:
            pass
        return client.recv(1000).decode().split("\r\n")[0]


def test_a_slow_body_is_408_and_frees_its_place(running, encoded, photo):
    with running(app(body_timeout_s=0.3)) as url:
        start = time.monotonic()
        for path in ("/v1/segment", "/hf", "/v2/models/colors/infer", "/v1/jobs"):
            assert drip(url, path, 0.05, 12) == "HTTP/1.1 408 Request Timeout", path
        assert time.monotonic() - start < 6
        assert httpx.post(f"{url}/v1/segment", files={"image": encoded(photo)}).status_code == 200
        assert 'semseg_requests_inside{model="colors"} 0.0' in httpx.get(f"{url}/metrics").text


def test_a_slow_answer_is_not_a_slow_body(running, encoded, photo):
    slow = create_app(ColorEngine(seconds=0.25), ServeConfig(demo=False, body_timeout_s=0.1))
    with running(slow) as url:
        assert httpx.post(f"{url}/v1/segment", files={"image": encoded(photo)}).status_code == 200


def test_log_lines_are_json_with_the_id_and_nothing_of_the_image(keys, encoded, photo, caplog):
    with caplog.at_level(logging.INFO, "semseg.access"), TestClient(app(keys=keys)) as client:
        sent = encoded(photo)
        headers = {"X-API-Key": KEY, "X-Request-ID": "mine-1", "Content-Type": "image/png"}
        answer = client.post("/v1/segment?classes=red", content=sent, headers=headers)
        client.get("/v1/models")
    lines = [json.loads(JsonLines().format(record)) for record in caplog.records if record.name == "semseg.access"]
    first, second = lines
    assert first.pop("ms") > 0
    assert first.pop("time").endswith("+00:00")
    assert first == {
        "level": "INFO",
        "logger": "semseg.access",
        "message": "POST /v1/segment 200",
        "request_id": "mine-1",
        "method": "POST",
        "path": "/v1/segment",
        "status": 200,
        "bytes_in": len(sent),
        "bytes_out": len(answer.content),
        "client": "testclient",
        "key": "alice",
    }
    assert (second["status"], second["key"]) == (401, None)
    assert KEY not in caplog.text


def test_an_exception_is_one_line_too():
    try:
        raise ValueError("two\nlines")
    except ValueError:
        record = logging.LogRecord("semseg", logging.ERROR, "x.py", 1, "%s failed", ("it",), sys.exc_info())
    text = JsonLines().format(record)
    assert "\n" not in text
    assert "ValueError: two\nlines" in json.loads(text)["exception"]


@pytest.mark.parametrize(
    "path", ["/health/live", "/v2/health/live", "/v1/models", "/metrics", "/docs", "/openapi.json"]
)
def test_head_is_get_without_the_body(keys, running, path):
    """As `wget --spider`, uptime monitors and load balancers ask."""
    with running(app()) as url, httpx.Client(base_url=url) as client:
        got, head = client.get(path), client.head(path)
        assert (head.status_code, head.content) == (got.status_code, b"") == (200, b"")
        assert head.headers["content-type"] == got.headers["content-type"]
        if path != "/metrics":  # it counts the request itself
            assert head.headers["content-length"] == got.headers["content-length"]
        assert client.head(path).status_code == 200  # over the same connection


def test_head_runs_no_post_route_and_is_counted_and_logged_as_itself(caplog):
    with TestClient(app()) as client, caplog.at_level(logging.INFO, "semseg.access"):
        assert (client.head("/v1/segment").status_code, client.head("/nothing").status_code) == (405, 404)
        assert client.head("/v1/models").status_code == 200
        assert 'semseg_requests_total{route="/v1/models",status="200"} 1.0' in client.get("/metrics").text
        assert "semseg_admitted_total{" not in client.get("/metrics").text
    assert [record.getMessage() for record in caplog.records if "HEAD" in record.getMessage()] == [
        "HEAD /v1/segment 405",
        "HEAD /nothing 404",
        "HEAD /v1/models 200",
    ]


@pytest.mark.parametrize("path", ["/v1/segment", "/v1/jobs", "/hf", "/label-studio/predict", "/v2/models/colors/infer"])
def test_a_compressed_body_is_refused_with_the_fix(path, encoded, photo):
    body = gzip.compress(encoded(photo))
    headers = {"Content-Type": "image/png", "Content-Encoding": "gzip"}
    with TestClient(app()) as client:
        answer = client.post(path, content=body, headers=headers)
        problem = {"error": "compressed bodies are not supported; send the body without Content-Encoding"}
        assert (answer.status_code, answer.json()) == (415, problem)
        headers["Content-Encoding"] = "identity"
        assert client.post("/v1/segment", content=encoded(photo), headers=headers).status_code == 200
