"""Under a path of a proxy, which may take the path off or leave it on."""

import asyncio
import contextlib
import getpass
import json
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from starlette.testclient import TestClient
from support.color_engine import ColorEngine

from semseg_app.serve.app import create_app
from semseg_app.serve.config import ServeConfig
from semseg_app.serve.http.api_keys import Keys
from semseg_app.serve.http.requester import client_of
from semseg_app.serve.server import uvicorn_config


class Prefix:
    """A proxy in one class: passes on what comes under a path, with or without the path."""

    def __init__(self, app, path: str, strip: bool):
        self.app, self.path, self.strip = app, path, strip

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http":
            assert scope["path"] == self.path or scope["path"].startswith(self.path + "/")
            if self.strip:
                scope = scope | {"path": scope["path"].removeprefix(self.path), "raw_path": b""}
        await self.app(scope, receive, send)


def use_every_kind_of_route(client: httpx.Client, data: bytes, path: str) -> None:
    """Through a client whose addresses begin with the proxy's path."""
    assert client.get(f"{path}/health/ready").status_code in (200, 503)
    assert client.post(f"{path}/v1/segment", files={"image": data}).headers["content-type"] == "image/png"
    assert client.get(f"{path}/v1/segment").status_code == 405
    assert client.get(f"{path}/v1/nothing").status_code == 404
    assert client.get(f"{path}/v2/models/colors").json()["name"] == "colors"
    described = client.get(f"{path}/openapi.json").json()
    assert described["servers"] == [{"url": path}]
    page = client.get(f"{path}/docs").text
    assert f"{path}/openapi.json" in page
    for address in re.findall(r'(?:src|href)="([^"]+)"', page):
        assert client.get(address).status_code == 200, address
    large = client.post(f"{path}/v1/jobs", content=data, headers={"Content-Type": "image/png"})
    assert large.headers["location"].startswith(f"{path}/v1/jobs/")
    deadline = time.monotonic() + 10
    while client.get(large.headers["location"]).json()["status"] != "done":
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("strip", [True, False], ids=["taken off", "left on"])
def test_under_a_path(encoded, photo, strip):
    app = create_app(ColorEngine(), ServeConfig(demo=False, root_path="/vision/semseg"))
    with TestClient(Prefix(app, "/vision/semseg", strip)) as client:
        use_every_kind_of_route(client, encoded(photo), "/vision/semseg")
        root = client.get("/vision/semseg/", follow_redirects=False)
        assert (root.status_code, root.headers["location"]) == (307, "docs")
        if not strip:
            root = client.get("/vision/semseg?__theme=dark", follow_redirects=False)
            assert (root.status_code, root.headers["location"]) == (307, "/vision/semseg/?__theme=dark")
        metrics = client.get("/vision/semseg/metrics").text
        assert 'semseg_requests_total{route="/v1/segment",status="200"}' in metrics


@pytest.mark.parametrize("proxy", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def test_a_server_on_both_internets_tells_ipv4_clients_apart(proxy):
    """A server that listens on :: sees IPv4 addresses inside IPv6 ones, that of a proxy beside it too."""
    assert client_of({"client": ("::ffff:10.0.0.1", 1)}) == client_of({"client": ("10.0.0.1", 1)}) == "10.0.0.1"
    assert client_of({"client": ("2001:db8::1", 1)}) == client_of({"client": ("2001:db8::2", 1)})
    seen = []

    async def app(scope, receive, send):
        seen.append(client_of(scope))

    config = uvicorn_config(app, 1.0)
    config.load()
    scope = {"type": "http", "client": (proxy, 1), "headers": [(b"x-forwarded-for", b"10.0.0.2")]}
    asyncio.run(config.loaded_app(scope, None, None))
    assert seen == ["10.0.0.2"]


@pytest.mark.parametrize("root_path", ["", "/semseg"])
def test_a_slash_too_many_changes_nothing(encoded, photo, root_path):
    keys = Keys.from_environment("first-key-of-alice")
    app = create_app(ColorEngine(), ServeConfig(demo=False, root_path=root_path, keys=keys))
    with TestClient(app, headers={"X-API-Key": "first-key-of-alice"}) as client:
        for path in ("/v1/segment", "/hf", "/hf/colors"):
            plain, slash, doubled = (
                client.post(f"http://x{root_path}{form}", content=encoded(photo), headers={"Content-Type": "image/png"})
                for form in (path, f"{path}/", f"/{path.replace('/', '//')}")
            )
            assert (slash.status_code, slash.content) == (200, plain.content)
            assert (doubled.status_code, doubled.content) == (200, plain.content)
        for path in (
            "/v1/models/",
            "/v2/",
            "/v2/models/colors/",
            "/label-studio/health/",
            "/health/live/",
            "/metrics/",
        ):
            assert client.get(root_path + path).status_code == 200, path
        assert client.get(root_path + "/v1/models/", headers={"X-API-Key": "another-key-of-bob"}).status_code == 401
        assert client.get(root_path + "/v1/").status_code == 404


NGINX = """
daemon off; user {user}; pid {folder}/pid; error_log stderr;
events {{}}
http {{
  access_log off; client_max_body_size 40m;
  client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
  uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
  server {{
    listen 127.0.0.1:{port};
    location /semseg/ {{ proxy_pass {url}/; proxy_set_header Host $http_host; proxy_http_version 1.1; }}
  }}
}}
"""


@contextlib.contextmanager
def nginx_before(url: str, folder: Path):
    """A real nginx that offers `url` under /semseg/. Yields its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=port, url=url, user=getpass.getuser()))
    process = subprocess.Popen(["nginx", "-c", folder / "nginx.conf", "-p", folder], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
def test_behind_a_real_nginx(running, encoded, photo, tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (1200, 1200, 3), np.uint8)
    with (
        running(create_app(ColorEngine(), ServeConfig(demo=False, root_path="/semseg"))) as url,
        nginx_before(url, tmp_path) as front,
        httpx.Client(base_url=front, timeout=20) as client,
    ):
        use_every_kind_of_route(client, encoded(photo), "/semseg")
        answer = client.post("/semseg/v1/segment?format=raw", files={"image": encoded(noise)})  # spooled by nginx
        assert answer.content == noise.argmax(axis=2).astype(np.uint8).tobytes()


PROGRAM = """
import sys
sys.path.insert(0, {folder!r})
from support.color_engine import ColorEngine
from semseg_app.serve.config import ServeConfig
from semseg_app.serve.server import claim_address, run_server
run_server(ColorEngine(), claim_address("127.0.0.1", 0), ServeConfig(demo=False, json_logs=True))
"""


def test_a_server_with_json_logs_writes_nothing_else(encoded, photo):
    program = PROGRAM.format(folder=str(Path(__file__).parents[2]))
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)
    try:
        assert "colors: fake on cpu, fp32" in json.loads(process.stderr.readline())["message"]
        url = json.loads(process.stderr.readline())["message"].split("API: ")[1].split("/docs")[0]
        with httpx.Client(base_url=url, transport=httpx.HTTPTransport(retries=9)) as client:
            client.post("/v1/segment", files={"image": encoded(photo)}, headers={"X-Request-ID": "mine"})
    finally:
        process.terminate()
        rest = [json.loads(line) for line in process.communicate(timeout=20)[1].splitlines()]
    assert [line["request_id"] for line in rest if line["logger"] == "semseg.access"] == ["mine"]
