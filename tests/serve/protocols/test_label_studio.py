"""Requests as Label Studio sends them (label_studio/ml/api_connector.py), answers as its own code reads them."""

import base64
import contextlib
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
import requests
from PIL import Image
from support.brush_bits import unpacked

from semseg_app.serve.app import create_app
from semseg_app.serve.config import ServeConfig
from semseg_app.serve.demo import urls

PERSONAL = "eyJhbGciOiJIUzI1NiJ9.eyJ0b2tlbl90eXBlIjoicmVmcmVzaCJ9.c2ln"
CONFIG = """<View>
  <Image name="img" value="$photo" zoom="true"/>
  <BrushLabels name="tag" toName="img">
    <Label value="Red"/><Label value="&lt;Blue&gt;"/><Label value="Sky"/>
  </BrushLabels>
</View>"""


class FakeLabelStudio(BaseHTTPRequestHandler):
    """Serves one photo to who has a good token; and what a bad one might serve."""

    photo = b""
    access = "first"
    """The only access token that counts; each is exchanged for a personal access token."""
    exchanges = 0

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        good = self.path == "/api/token/refresh" and body == {"refresh": PERSONAL}
        type(self).exchanges += 1
        self.send_response(200 if good else 401)
        self.end_headers()
        return self.wfile.write(json.dumps({"access": self.access} if good else {}).encode())

    def do_GET(self):
        if self.path == "/away":
            self.send_response(302)
            self.send_header("Location", "http://169.254.169.254/secret")
            return self.end_headers()
        if self.path.startswith("/bucket/"):
            assert self.headers["Authorization"] is None, "the token went to the storage"
            self.send_response(200)
            self.end_headers()
            return self.wfile.write(self.photo)
        if self.path.startswith("/tasks/7/presign/?fileuri="):
            assert self.headers["Authorization"] == "Token abc"
            return self.presign(base64.urlsafe_b64decode(self.path.partition("=")[2]).decode())
        good = (
            self.headers["Authorization"] in ("Token abc", f"Bearer {self.access}")
            and self.path == "/data/upload/1/photo.png"
        )
        self.send_response(200 if good else 401)
        self.end_headers()
        return self.wfile.write(self.photo if good else b"no")

    def presign(self, uri: str):
        """As io_storages/proxy_api.py: pass the file on, or redirect to the storage."""
        target = {
            "s3://redirected/a b.png": f"http://storage.example:{self.server.server_port}/bucket/photo.png?sig=x%2Fy",
            "gs://inside/photo.png": "http://127.0.0.1:1/bucket/photo.png",
            "s3://log-in/photo.png": "/user/login/",
            "azure-blob://metadata/photo.png": "http://169.254.169.254/secret",
        }.get(uri)
        found = uri == "s3://passed-on/photo.png"
        self.send_response(303 if target else 200 if found else 404)
        if target:
            self.send_header("Location", target)
        self.end_headers()
        return self.wfile.write(self.photo if found else b"")

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def label_studio(encoded):
    server = HTTPServer(("127.0.0.1", 0), FakeLabelStudio)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def url(running, label_studio):
    from support.color_engine import ColorEngine

    config = ServeConfig(demo=False, label_studio_url=label_studio, label_studio_token="abc")
    with running(create_app(ColorEngine(), config)) as url:
        yield url + "/label-studio"


def ask(url: str, *photos: object, config: str = CONFIG) -> requests.Response:
    tasks = [{"id": number, "data": {"photo": photo}, "meta": {}} for number, photo in enumerate(photos, 7)]
    body = {"tasks": tasks, "model_version": "", "project": "1.1", "label_config": config, "params": {"context": None}}
    return requests.post(f"{url}/predict", json=body, timeout=10)


def inline(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def test_connects(url):
    assert requests.get(f"{url}/health", timeout=10).json() == {"status": "UP", "model_class": "colors"}
    body = {"project": "1.1", "schema": CONFIG, "hostname": "http://localhost:8080", "access_token": "x"}
    for address in (url, f"{url}/colors"):
        assert requests.post(f"{address}/setup", json=body, timeout=10).json() == {"model_version": "colors-fp32"}


def test_predicts_brush_masks(url, encoded, photo, mask):
    FakeLabelStudio.photo = encoded(photo[:, ::-1])
    answer = ask(url, inline(encoded(photo)), "/data/upload/1/photo.png")
    assert answer.status_code == 200, answer.text
    first, second = answer.json()["results"]
    for predicted, expected in ((first, mask), (second, mask[:, ::-1])):
        assert predicted["model_version"] == "colors-fp32"
        assert [one["value"]["brushlabels"] for one in predicted["result"]] == [["Red"], ["<Blue>"]]
        for one, index in zip(predicted["result"], (0, 2), strict=True):
            assert (one["from_name"], one["to_name"], one["type"]) == ("tag", "img", "brushlabels")
            assert (one["original_width"], one["original_height"], one["image_rotation"]) == (60, 40, 0)
            alpha = unpacked(one["value"]["rle"]).reshape(40, 60, 4)[:, :, 3]
            np.testing.assert_array_equal(alpha, np.where(expected == index, 255, 0))


def test_tasks_with_many_brushed_regions(url, encoded, photo):
    """As Label Studio sends a hundred tasks: with earlier predictions, six million numbers here."""
    expected = ask(url, inline(encoded(photo))).json()["results"]
    task = {"id": 7, "data": {"photo": inline(encoded(photo))}, "predictions": [{"result": []}]}
    region = b'{"type": "brushlabels", "value": {"format": "rle", "rle": [' + b"7, " * 300_000 + b'255], "x": "]"}}'
    body = json.dumps({"label_config": CONFIG, "tasks": [task]}).encode()
    body = body.replace(b'"result": []', b'"result": [' + b", ".join([region] * 20) + b"]")
    headers = {"Content-Type": "application/json"}
    answer = requests.post(f"{url}/predict", data=body, headers=headers, timeout=10)
    assert (answer.status_code, answer.json().get("results")) == (200, expected)
    odd = json.dumps({"label_config": CONFIG, "tasks": [task | {"predictions": {"rle": ["]", {"rle": [[1], "}"]}]}}]})
    assert requests.post(f"{url}/predict", data=odd, headers=headers, timeout=10).json()["results"] == expected


def test_a_task_that_fails_leaves_the_others_their_masks(url, encoded, photo, caplog):
    good = inline(encoded(photo))
    answer = ask(url, good, inline(b"no image"), "/data/upload/1/other.png", good)
    assert answer.status_code == 200, answer.text
    results = answer.json()["results"]
    assert [len(predicted["result"]) for predicted in results] == [2, 0, 0, 2]
    assert results[1] == results[2] == {"model_version": "colors-fp32", "score": 0, "result": []}
    lines = [record.getMessage() for record in caplog.records if record.name == "semseg.serve"]
    assert [line.partition("task ")[2][:3] for line in lines] == ["8: ", "9: "]
    assert "answered 401" in lines[1]
    answer = ask(url, inline(b"no image"), "/data/upload/1/other.png")
    assert (answer.status_code, answer.json()["error"][:8]) == (415, "task 7: ")


@pytest.mark.parametrize("uri", ["s3://passed-on/photo.png", "s3://redirected/a b.png"])
def test_a_file_of_a_storage_comes_from_label_studio_or_where_it_redirects(url, encoded, photo, monkeypatch, uri):
    FakeLabelStudio.photo = encoded(photo)
    look_up = urls._public_address
    monkeypatch.setattr(
        urls, "_public_address", lambda host, port: "127.0.0.1" if host == "storage.example" else look_up(host, port)
    )
    answer = ask(url, uri)
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["results"][0]["result"]) == 2


@pytest.fixture
def serving(running, label_studio):
    """A server with that token -> its Label Studio address."""
    from support.color_engine import ColorEngine

    with contextlib.ExitStack() as stack:

        def start(token: str | None) -> str:
            config = ServeConfig(demo=False, label_studio_url=label_studio, label_studio_token=token)
            return stack.enter_context(running(create_app(ColorEngine(), config))) + "/label-studio"

        yield start


def test_a_personal_access_token_is_exchanged_once_and_again_when_it_has_expired(serving, encoded, photo, monkeypatch):
    FakeLabelStudio.photo = encoded(photo)
    monkeypatch.setattr(FakeLabelStudio, "exchanges", 0)
    url = serving(PERSONAL + "\n")
    for _ in range(3):
        assert ask(url, "/data/upload/1/photo.png").status_code == 200
    assert FakeLabelStudio.exchanges == 1
    monkeypatch.setattr(FakeLabelStudio, "access", "second")
    assert ask(url, "/data/upload/1/photo.png", "/data/upload/1/photo.png").status_code == 200
    assert FakeLabelStudio.exchanges == 2


@pytest.mark.parametrize(
    ("token", "words"),
    [
        (None, "answered 401 for the image; set LABEL_STUDIO_API_KEY to a personal access token"),
        ("0123456789abcdef", "holds a legacy token: use a personal access token"),
        ("eyJhbGciOiJIUzI1NiJ9.e30.b3RoZXI", "answered 401 when the personal access token"),
    ],
)
def test_a_refused_token_is_explained(serving, token, words):
    answer = ask(serving(token), "/data/upload/1/photo.png")
    assert (answer.status_code, words in answer.json()["error"]) == (502, True), answer.text
    assert token is None or token not in answer.text


def test_labels_with_an_alias_several_controls_and_bitmasks(url, encoded, photo, mask):
    config = """<View>
      <Image name="img" value="$photo"/><Image name="other" value="$second"/>
      <BrushLabels name="brush" toName="img">
        <Label value="Rouge" alias="RED"/><Label value="Green" alias="g"/>
      </BrushLabels>
      <BitmaskLabels name="bits" toName="img"><Label value="green"/></BitmaskLabels>
      <BrushLabels name="far" toName="other"><Label value="red"/></BrushLabels>
    </View>"""
    task = {"id": 1, "data": {"photo": inline(encoded(photo)), "second": inline(encoded(photo[:, ::-1]))}}
    answer = requests.post(f"{url}/predict", json={"tasks": [task], "label_config": config}, timeout=10)
    assert answer.status_code == 200, answer.text
    regions = {region["id"]: region for region in answer.json()["results"][0]["result"]}
    assert {name: (region["from_name"], region["to_name"], region["type"]) for name, region in regions.items()} == {
        "brush-0": ("brush", "img", "brushlabels"),
        "brush-1": ("brush", "img", "brushlabels"),
        "bits-1": ("bits", "img", "bitmasklabels"),
        "far-0": ("far", "other", "brushlabels"),
    }
    assert regions["brush-0"]["value"]["brushlabels"] == ["RED"]
    assert regions["brush-1"]["value"]["brushlabels"] == ["g"]
    assert regions["bits-1"]["value"]["bitmasklabels"] == ["green"]
    head, _, data = regions["bits-1"]["value"]["imageDataURL"].partition(",")
    assert head == "data:image/png;base64"
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGBA"))
    np.testing.assert_array_equal(pixels[..., 3], np.where(mask == 1, 255, 0))
    assert not pixels[..., :3].any(), "black"
    far = unpacked(regions["far-0"]["value"]["rle"]).reshape(40, 60, 4)[:, :, 3]
    np.testing.assert_array_equal(far, np.where(mask[:, ::-1] == 0, 255, 0))


def test_labels_take_the_classes_that_their_predicted_values_name(url, encoded, photo):
    """https://github.com/HumanSignal/label-studio-ml-backend writes so which classes of a model are a label."""
    config = """<View><Image name="img" value="$photo"/><BrushLabels name="brush" toName="img">
      <Label value="green"/><Label value=" Leaf " predicted_values="Green, &lt;blue&gt;"/>
    </BrushLabels></View>"""
    answer = ask(url, inline(encoded(photo)), config=config)
    assert answer.status_code == 200, answer.text
    labels = {region["id"]: region["value"]["brushlabels"] for region in answer.json()["results"][0]["result"]}
    assert labels == {"brush-1": [" Leaf "], "brush-2": [" Leaf "]}


@pytest.mark.parametrize(
    ("photo", "status", "words"),
    [
        ("http://169.254.169.254/latest/meta-data", 422, "on another host than --label-studio-url"),
        ("//example.org/x.png", 422, "on another host"),
        ("file:///etc/passwd", 422, "on another host"),
        ("/away", 502, "answered 302"),
        ("/data/upload/1/other.png", 502, "answered 401"),
        (
            "gs://inside/photo.png",
            502,
            "not on the public internet; switch off pre-signed URLs in the storage's settings",
        ),
        ("azure-blob://metadata/photo.png", 502, "not on the public internet; switch off pre-signed URLs"),
        ("s3://log-in/photo.png", 502, "answered 303"),
        ("s3://nowhere/photo.png", 502, "answered 404 for the image; the task's project needs a source storage"),
        ("data:image/png,text", 422, "base64"),
        (None, 422, "no image in the field"),
        ({"a": 1}, 422, "no image in the field"),
    ],
)
def test_images_that_may_not_be_read(url, photo, status, words):
    answer = ask(url, photo)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"].startswith("task 7: ")
    assert words in answer.json()["error"]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("<View>", "not XML"),
        ("<View/>", "no BrushLabels"),
        (
            '<View><Image name="a" value="$b"/><BrushLabels name="c" toName="d"/></View>',
            "no BrushLabels or BitmaskLabels over",
        ),
        (CONFIG.replace("Red", "Cat").replace("&lt;Blue&gt;", "Dog"), "none of the labels (Cat, Dog, Sky) is a class"),
        ('<!DOCTYPE v [<!ENTITY a "aaaa">]><View>&a;</View>', "defines entities"),
    ],
)
def test_configurations_that_do_not_fit(url, config, words):
    answer = ask(url, config=config)
    assert (answer.status_code, words in answer.json()["error"]) == (422, True), answer.text
    assert requests.post(f"{url}/setup", json={"schema": config}, timeout=10).status_code == 422
