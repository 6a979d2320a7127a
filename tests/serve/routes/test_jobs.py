import errno
import io
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from support.color_engine import ColorEngine

from semseg_app.serve.app import create_app
from semseg_app.serve.config import ServeConfig
from semseg_app.serve.http.api_keys import Keys
from semseg_app.serve.storage import OwnedFolder

pytest.importorskip("pyvips")

LIMITS = ServeConfig(
    demo=False,
    max_bytes=100_000,
    max_pixels=1_000_000,
    max_job_bytes=5_000_000,
    max_job_pixels=20_000_000,
    max_jobs=2,
    max_job_results=2,
    keep_job_s=60,
    client_share=1,
)


class HeldEngine(ColorEngine):
    """Waits before each call while it is held."""

    def __init__(self):
        super().__init__()
        self.go = threading.Event()
        self.go.set()

    def infer(self, images):
        self.go.wait(20)
        return super().infer(images)


@pytest.fixture
def engine():
    return HeldEngine()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where the server keeps its files."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def client(engine, folder, running):
    app = create_app(engine, LIMITS)
    with running(app) as url, httpx.Client(base_url=url, timeout=20) as client:
        yield client
    assert list(folder.iterdir()) == []  # nothing is left behind


@pytest.fixture
def large():
    """uint8 RGB [1100, 1500, 3], above the request's limit: stripes of the three colors and their shades."""
    y, x = np.mgrid[:1100, :1500]
    image = np.zeros((1100, 1500, 3), np.uint8)
    np.put_along_axis(
        image, ((x // 170 + y // 230) % 3)[..., None], (128 + y % 128)[..., None].astype(np.uint8), axis=2
    )
    return image


def hand_in(client: httpx.Client, data: bytes, query: str = "", media_type: str = "image/png") -> httpx.Response:
    return client.post(f"/v1/jobs{query}", content=data, headers={"Content-Type": media_type})


def finished(client: httpx.Client, location: str) -> dict:
    deadline = time.monotonic() + 20
    while (status := client.get(location).json())["status"] in ("waiting", "running"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return status


def test_an_image_beyond_the_request_limit(client, encoded, large, folder):
    data = encoded(large)
    assert client.post("/v1/segment", content=data, headers={"Content-Type": "image/png"}).status_code == 413
    answer = hand_in(client, data)
    assert answer.status_code == 202, answer.text
    location = answer.headers["location"]
    assert location == f"/v1/jobs/{answer.json()['id']}"
    status = finished(client, location)
    assert (status["status"], status["progress"], status["width"], status["height"]) == ("done", 1, 1500, 1100)
    assert 0 < status["expires_in_s"] <= 60

    expected = large.argmax(axis=2)
    result = client.get(f"{location}/result")
    assert result.headers["content-type"] == "image/png"
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(result.content))), expected)
    summary = client.get(f"{location}/result", headers={"Accept": "application/json"}).json()
    assert [one["area"] for one in summary["classes"]] == sorted(np.bincount(expected.ravel()).tolist(), reverse=True)
    assert summary["confidence"] == pytest.approx(large.max(axis=2).mean() / 255, abs=1e-4)
    assert not list(folder.rglob("image"))

    assert client.delete(location).status_code == 204
    assert client.get(location).status_code == client.get(f"{location}/result").status_code == 404


@pytest.mark.parametrize("media_type", ["image/jpg", "image/tif", "image/x-png", "application/octet-stream"])
def test_the_content_decides_not_its_type(client, encoded, large, media_type):
    data = encoded(large[:50, :50])
    answer = hand_in(client, data, media_type=media_type)
    assert answer.status_code == 202, answer.text
    assert finished(client, answer.headers["location"])["status"] == "done"
    headers = {"Content-Type": media_type}
    assert client.post("/v1/segment", content=data, headers=headers).status_code == 200


def test_classes_and_threshold(client, encoded, large):
    location = hand_in(client, encoded(large), "?classes=red,green&threshold=0.75").headers["location"]
    finished(client, location)
    found = np.asarray(Image.open(io.BytesIO(client.get(f"{location}/result").content)))
    expected = large.argmax(axis=2)
    np.testing.assert_array_equal(found, np.where((expected == 2) | (large.max(axis=2) < 0.75 * 255), 255, expected))
    summary = client.get(f"{location}/result", headers={"Accept": "application/json"}).json()
    assert summary["unknown"] == pytest.approx((found == 255).mean(), abs=1e-6)


def test_jobs_are_bounded_and_requests_go_on(client, encoded, large, engine):
    data = encoded(large)
    engine.go.clear()
    first, second = (hand_in(client, data).headers["location"] for _ in range(2))
    third = hand_in(client, data)
    assert (third.status_code, third.headers["retry-after"]) == (429, "10")
    pending = client.get(f"{second}/result")
    assert (pending.status_code, pending.headers["retry-after"]) == (409, "1")
    assert client.delete(second).status_code == 204
    fourth = hand_in(client, data).headers["location"]
    engine.go.set()
    assert client.post("/v1/segment", files={"image": encoded(large[:50, :50])}).status_code == 200
    assert [finished(client, location)["status"] for location in (first, fourth)] == ["done", "done"]
    fifth = hand_in(client, data).headers["location"]
    finished(client, fifth)
    assert client.get(first).status_code == 404  # two results are kept
    assert client.get(fourth).status_code == 200


def test_what_is_dropped_while_it_runs_stops(client, encoded, large, engine, folder):
    engine.go.clear()
    location = hand_in(client, encoded(large)).headers["location"]
    while client.get(location).json()["status"] != "running":
        time.sleep(0.01)
    client.delete(location)
    engine.go.set()
    deadline = time.monotonic() + 10
    while [path for path in next(folder.iterdir()).iterdir() if path.is_dir()]:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_results_expire(engine, folder, running, encoded, large):
    app = create_app(engine, LIMITS.model_copy(update={"keep_job_s": 0.3}))
    with running(app) as url, httpx.Client(base_url=url) as client:
        location = hand_in(client, encoded(large[:100, :100])).headers["location"]
        deadline = time.monotonic() + 10
        while client.get(location).status_code == 200:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        while [path for path in next(folder.iterdir()).iterdir() if path.is_dir()]:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_bad_jobs_get_one_clear_line_without_a_path(client, encoded, large, folder):
    good = encoded(large[:100, :100])
    cut = encoded(large)[:-3000]
    wide = encoded(Image.new("1", (5000, 5000)))
    sixteen_bits = encoded(Image.fromarray(np.zeros((9, 9), np.uint16)))
    for status, words, answer in (
        (415, "not a JPEG, PNG, TIFF or WebP", hand_in(client, b"text")),
        (415, "a HEIC photo, whatever its name says", hand_in(client, b"\0\0\0\x18ftypheic")),
        (415, "", hand_in(client, b"")),
        (
            415,
            "ushort pixels; convert it to 8 bits",
            hand_in(client, sixteen_bits),
        ),
        (415, "not a JPEG, PNG, TIFF or WebP", hand_in(client, b"text", media_type="application/octet-stream")),
        (415, "content type text/plain: send the image as the body", hand_in(client, good, media_type="text/plain")),
        (413, "5000 x 5000 pixels, above the limit of 20 million of a job", hand_in(client, wide)),
        (413, "above the limit of 4.76", hand_in(client, bytes(5_000_001))),
        (
            422,
            "unknown parameter 'size'; this address takes model, classes, threshold",
            hand_in(client, good, "?size=10"),
        ),
        (422, "unknown parameter 'simplify'", hand_in(client, good, "?simplify=3")),
        (422, "unknown parameter 'opacity'", hand_in(client, good, "?opacity=0.1&threshold=0.5")),
        (422, "the model has no 'mauve'", hand_in(client, good, "?classes=mauve")),
        (422, "threshold: given twice", hand_in(client, good, "?threshold=0.5&threshold=0.6")),
        (404, "unknown model 'other'; available: colors", hand_in(client, good, "?model=other")),
        (404, "no such job", client.get("/v1/jobs/nothing")),
    ):
        assert answer.status_code == status, answer.text
        assert words in answer.json()["error"]
        assert str(folder) not in answer.text
    location = hand_in(client, cut).headers["location"]
    status = finished(client, location)
    assert status["status"] == "failed"
    assert "unreadable image" in status["error"]
    failed = client.get(f"{location}/result")
    assert (failed.status_code, failed.json()) == (422, {"error": status["error"]})
    assert str(folder) not in failed.text
    assert not list(Path(folder).rglob("image"))


def test_openapi_lists_the_options_of_a_job_and_no_others(client):
    described = client.get("/openapi.json").json()["paths"]["/v1/jobs"]["post"]["parameters"]
    assert {parameter["name"] for parameter in described} == {"model", "classes", "threshold"}


def test_several_classes_of_one_name_and_the_format_of_the_result(client, encoded, large):
    location = hand_in(client, encoded(large[:50, :50]), "?classes=red&classes=green").headers["location"]
    finished(client, location)
    assert {entry["name"] for entry in client.get(f"{location}/result?format=json").json()["classes"]} <= {
        "red",
        "green",
    }
    summary = client.get(f"{location}/result", headers={"Accept": "application/json"}).json()
    assert client.get(f"{location}/result?format=json", headers={"Accept": "image/png"}).json() == summary
    png = client.get(f"{location}/result?format=png", headers={"Accept": "application/json"})
    assert png.headers["content-type"] == "image/png"
    for address, words in (
        ("/result?fromat=json", "unknown parameter 'fromat'; this address takes format; did you mean format?"),
        ("/result?format=json&threshold=0.5", "model, classes and threshold go with POST /v1/jobs"),
        ("/result?format=json&format=png", "format: given twice, as 'json' and 'png'"),
        ("?format=json", "this address takes no options"),
    ):
        refused = client.get(location + address)
        assert (refused.status_code, words in refused.json()["error"]) == (422, True), refused.text
    assert client.get(f"{location}/result?format=json&format=json").json() == summary
    refused = client.get(f"{location}/result?format=rle")
    assert (refused.status_code, refused.json()["error"]) == (422, "format: must be 'png' or 'json'")


def test_a_job_is_its_keys_own(engine, folder, running, encoded, large):
    keys = Keys.from_environment("first-key-of-alice second-key-of-bob-")
    app = create_app(engine, ServeConfig(demo=False, keys=keys))
    with running(app) as url, httpx.Client(base_url=url) as client:
        alice, bob = {"X-API-Key": "first-key-of-alice"}, {"X-API-Key": "second-key-of-bob-"}
        headers = alice | {"Content-Type": "image/png"}
        location = client.post("/v1/jobs", content=encoded(large[:9, :9]), headers=headers).headers["location"]
        assert client.get(location, headers=bob).status_code == 404
        assert client.delete(location, headers=bob).status_code == 404
        assert client.get(location, headers=alice).status_code == 200


def test_one_key_leaves_job_slots_to_the_others(engine, folder, running, encoded, large):
    keys = Keys.from_environment("first-key-of-alice second-key-of-bob-")
    config = LIMITS.model_copy(update={"keys": keys, "max_jobs": 4, "client_share": 0.5})
    with running(create_app(engine, config)) as url, httpx.Client(base_url=url) as client:
        alice, bob = {"X-API-Key": "first-key-of-alice"}, {"X-API-Key": "second-key-of-bob-"}
        engine.go.clear()

        def ask(key: dict[str, str]) -> int:
            headers = key | {"Content-Type": "image/png"}
            return client.post("/v1/jobs", content=encoded(large[:9, :9]), headers=headers).status_code

        assert [ask(alice) for _ in range(3)] == [202, 202, 429]
        assert ask(bob) == 202
        engine.go.set()


@pytest.mark.parametrize("when", ["before", "while it is written"])
def test_a_full_disk_is_507_and_leaves_nothing(client, encoded, large, folder, monkeypatch, when):
    if when == "before":
        monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    else:

        def mkdir(path: Path) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(Path, "mkdir", mkdir)
    answer = hand_in(client, encoded(large))
    monkeypatch.undo()
    assert answer.status_code == 507
    assert answer.json() == {"error": "the server's disk is full; try again later, or ask its owner to make room"}
    deadline = time.monotonic() + 10
    while any(path.is_dir() for path in next(folder.iterdir()).iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert "semseg_jobs_unfinished 0.0" in client.get("/metrics").text
    assert hand_in(client, encoded(large)).status_code == 202


def test_folders_of_killed_servers_are_deleted_at_start(folder, engine, running):
    """A process that dies without a word, one that lives, and a folder of somebody else's making."""
    program = (
        "import sys, tempfile, os; tempfile.tempdir = sys.argv[1]\n"
        "from semseg_app.serve.storage import OwnedFolder\n"
        "owned = OwnedFolder('semseg-jobs-'); (owned.path / 'image').write_bytes(b'x')\n"
        "os.kill(os.getpid(), 9)\n"
    )
    dead = subprocess.run([sys.executable, "-c", program, folder], check=False)
    assert dead.returncode == -9
    (killed,) = folder.iterdir()
    alive = OwnedFolder("semseg-other-")
    (folder / "semseg-jobs-foreign").mkdir()
    with running(create_app(engine, LIMITS)):
        assert not killed.exists()
        assert OwnedFolder("semseg-other-").path.exists()
        assert alive.path.exists()
    assert (folder / "semseg-jobs-foreign").exists()
