import asyncio
import base64
import io
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from colour_engine import ColourEngine
from fastapi import FastAPI
from gradio_client import Client, handle_file
from PIL import Image

from semseg_app.serve.api import create_app


@pytest.fixture(scope="module")
def example(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("examples") / "one.png"
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, :45, 0] = image[:, 45:, 2] = 255
    Image.fromarray(image).save(path)
    return path


@pytest.fixture(scope="module")
def url(running, example):
    # Inside a loop, because Gradio makes (and never closes) one of its own for each lock that it creates outside.
    async def build() -> FastAPI:
        return create_app(ColourEngine(), [example], max_pixels=1_000_000)

    with running(asyncio.run(build())) as url:
        yield url


@pytest.fixture(scope="module")
def http(url):
    with httpx.Client(base_url=url, timeout=120) as http:
        yield http


@pytest.fixture(scope="module")
def client(url):
    client = Client(url, verbose=False, httpx_kwargs={"timeout": 120})
    yield client
    client.close()


def layer(page: str, name: str) -> Image.Image:
    """The image of one layer in the stage's HTML."""
    return Image.open(io.BytesIO(base64.b64decode(re.search(rf'class="{name}"[^>]*base64,([^"]*)"', page)[1])))


def test_the_endpoint_answers_picture_legend_and_summary(client, example):
    stage, legend, summary = client.predict(handle_file(example), api_name="/segment")
    mask = np.repeat([[0] * 45 + [2] * 15], 40, axis=0)
    np.testing.assert_array_equal(np.asarray(layer(stage, "layer classes")), mask)
    assert layer(stage, "layer classes").getpalette()[6:9] == [30, 30, 200]
    np.testing.assert_array_equal(np.asarray(layer(stage, "layer confidence")), 255)
    np.testing.assert_allclose(
        np.asarray(layer(stage, "photo"))[:, ::59].reshape(-1, 3)[:2], [(255, 0, 0), (0, 0, 255)], atol=40
    )
    assert re.findall(r'class="name">(.*?)<.*?class="share">(.*?)<', legend) == [
        ("red", "75.0 %"),
        ("&lt;blue&gt;", "25.0 %"),
    ]
    assert "fake on cpu, fp32" in stage
    assert [entry["share"] for entry in summary["classes"]] == [0.75, 0.25]
    assert summary["latency_ms"]["inference"] > 0


def test_large_photos_are_shown_smaller_and_segmented_whole(client, tmp_path):
    image = np.zeros((100, 3200, 3), np.uint8)
    image[:, :1600, 1] = image[:, 1600:, 0] = 255
    Image.fromarray(image).save(tmp_path / "wide.png")
    stage, _, summary = client.predict(handle_file(tmp_path / "wide.png"), api_name="/segment")
    assert (summary["width"], summary["height"]) == (3200, 100)
    assert [layer(stage, name).size for name in ("photo", "layer classes", "layer confidence")] == [(1600, 50)] * 3


def test_no_photo_and_bad_photos(client, tmp_path):
    stage, legend, summary = client.predict(None, api_name="/segment")
    assert "Drop a photo" in stage
    assert (legend, summary) == ("", None)
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff no photo")
    Image.new("1", (2000, 1000)).save(tmp_path / "large.png")
    for name, words in {
        "broken.jpg": "not an image that can be read",
        "large.png": "above the limit of 1 million",
    }.items():
        stage, legend, summary = client.predict(handle_file(tmp_path / name), api_name="/segment")
        assert words in stage
        assert legend == ""
        assert words in summary["error"]


@pytest.mark.parametrize("meta", [{"meta": {"_type": "gradio.FileData"}}, {}], ids=["marked as a file", "unmarked"])
def test_the_page_hands_out_no_file_of_the_server_and_fetches_none(http, url, example, tmp_path, meta):
    """Over plain HTTP: Gradio's own client would upload the file first."""

    def ask(path: object) -> str:
        call = http.post("/gradio_api/call/segment", json={"data": [{"path": path, **meta}]}).json()
        return http.get(f"/gradio_api/call/segment/{call['event_id']}").text

    secret = tmp_path / "secret.png"
    secret.write_bytes(example.read_bytes())
    outside = [str(secret), str(secret.relative_to("/")), f"/tmp/gradio/../{secret}", "", None]
    for path in outside:
        answer = ask(path)
        assert answer.startswith("event: error") or "not, or no longer, among the uploads" in answer, answer
        assert "base64" not in answer
        assert str(Path.cwd()) not in answer
    for path in (f"{url}/favicon.ico", "https://example.com/a.png"):
        assert ("send the photo itself, not its address" if meta else "not, or no longer, among the uploads") in ask(
            path
        )
    assert http.get(f"/gradio_api/file={secret}").status_code == 403


def test_uploads_are_deleted_and_examples_stay(running, example, monkeypatch):
    monkeypatch.setattr("semseg_app.serve.demo.KEEP_UPLOADS", (1, 1))

    async def build() -> FastAPI:
        return create_app(ColourEngine(), [example])

    with running(asyncio.run(build())) as url, httpx.Client(base_url=url, timeout=120) as http:
        page = http.get("/config").json()
        offered = next(part for part in page["components"] if part["type"] == "dataset")["props"]["samples"][0][0][
            "url"
        ]
        uploaded = http.post("/gradio_api/upload", files={"files": b"my photo"}).json()[0]
        while Path(uploaded).exists():
            time.sleep(0.1)
        assert http.get(offered).content == example.read_bytes()


def test_page_and_api_share_one_address(http, url, example):
    page = http.get("/")
    assert page.headers["content-type"].startswith("text/html")
    config = json.loads(re.search(r"window.gradio_config = (\{.*?\});</script>", page.text)[1])
    assert config["analytics_enabled"] is False
    # Nothing is fetched from elsewhere: every address in the page is relative or this server's.
    assert not [link for link in re.findall(r'(?:src|href)="(https?://[^"]*)"', page.text) if not link.startswith(url)]
    assert http.get("/health/live").json() == {"status": "live"}
    assert http.get("/docs").status_code == 200
    assert http.get("/v1/segment").status_code == 405
    answer = http.post("/v1/segment", files={"image": example.read_bytes()})
    assert answer.headers["content-type"] == "image/png"


def test_the_page_imports_without_torch():
    code = "import sys; sys.modules['torch'] = None; import semseg_app.serve.server, semseg_app.serve.demo"
    subprocess.run([sys.executable, "-c", code], check=True)
