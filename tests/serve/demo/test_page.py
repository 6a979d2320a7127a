import asyncio
import base64
import csv
import errno
import html
import io
import json
import re
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import httpx
import numpy as np
import pytest
import yaml
from fastapi import FastAPI
from gradio_client import Client, handle_file
from PIL import Image
from support.color_engine import ColorEngine

from semseg_app.data.dataset import open_folder
from semseg_app.errors import UserError
from semseg_app.inference.engines.base import Prediction
from semseg_app.labels import LabelSpace
from semseg_app.serve.answers.formats import FORMATS
from semseg_app.serve.app import create_app
from semseg_app.serve.config import ServeConfig
from semseg_app.serve.demo.flags import FlagFolder
from semseg_app.serve.model_facts import ModelFacts
from semseg_app.serve.scheduling.registry import Models
from semseg_app.serve.scheduling.served_model import ServedModel


@pytest.fixture(scope="module")
def example(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("examples") / "one.png"
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, :45, 0] = image[:, 45:, 2] = 255
    Image.fromarray(image).save(path)
    return path


class Contrary(ColorEngine):
    """Says green of what is red and blue, and the rest the same."""

    name, precision = "contrary", "int8"

    def infer(self, images: np.ndarray) -> Prediction:
        classes, confidence = super().infer(images)
        return Prediction(np.where(classes == 2, np.uint8(1), classes), confidence)


def test_a_folder_for_uploads_that_cannot_be_written_is_told_at_the_start(monkeypatch, tmp_path):
    (tmp_path / "taken").touch()
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "taken"))
    with pytest.raises(UserError, match=r"taken: the page keeps uploads there.*set GRADIO_TEMP_DIR to a folder of you"):
        create_app(ColorEngine())


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    """A dataset folder of the engine's classes, whose masks say 9 where they say nothing."""
    root = tmp_path_factory.mktemp("dataset")
    info = {"name": "flags", "classes": ColorEngine.labels.classes, "ignore_index": 9}
    (root / "dataset.yaml").write_text(yaml.safe_dump(info))
    for kind in ("images", "labels"):
        (root / kind / "train").mkdir(parents=True)
    return root


@pytest.fixture(scope="module")
def url(running, example, dataset):
    # Inside a loop, because Gradio makes (and never closes) one of its own for each lock that it creates outside.
    async def build() -> FastAPI:
        config = ServeConfig(examples=[example], max_pixels=1_000_000, max_bytes=300_000, flag_to=dataset)
        known = ServedModel(ColorEngine(), describe=lambda engine: ModelFacts(file_bytes=2_500_000, miou=0.615))
        models = Models([known, ServedModel(Contrary())], config)
        return create_app(models)

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
    """One of the pictures in the stage's HTML."""
    return Image.open(io.BytesIO(base64.b64decode(re.search(rf'class="{name}"[^>]*base64,([^"]*)"', page)[1])))


def drawing(values: np.ndarray, painted: np.ndarray) -> str:
    """What the page sends as a correction."""
    pixels = np.dstack([values, np.where(painted, 255, 0), np.zeros_like(values)]).astype(np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "PNG")
    return "data:image/png;base64," + base64.b64encode(encoded.getvalue()).decode()


def test_the_endpoint_answers_stage_legend_and_summary(client, example):
    stage, legend, summary = client.predict(handle_file(example), "colors", api_name="/segment")
    mask = np.repeat([[0] * 45 + [2] * 15], 40, axis=0)
    np.testing.assert_array_equal(np.asarray(layer(stage, "classes")), mask)
    np.testing.assert_array_equal(np.asarray(layer(stage, "confidence")), 255)
    assert json.loads(html.unescape(re.search('data-classes="([^"]*)"', stage)[1])) == ["red", "green", "<blue>"]
    assert json.loads(html.unescape(re.search('data-palette="([^"]*)"', stage)[1]))[2] == "#1e1ec8"
    np.testing.assert_allclose(
        np.asarray(layer(stage, "photo"))[:, ::59].reshape(-1, 3)[:2], [(255, 0, 0), (0, 0, 255)], atol=40
    )
    assert re.findall(r'class="name">(.*?)<.*?class="share">(.*?)<', legend) == [
        ("red", "75.0 %"),
        ("&lt;blue&gt;", "25.0 %"),
    ]
    assert "fake on cpu, fp32" in stage
    assert [entry["share"] for entry in summary["classes"]] == [0.75, 0.25]
    assert (summary["model"], summary["latency_ms"]["inference"] > 0) == ("colors", True)
    assert client.predict(handle_file(example), "contrary", api_name="/segment")[2]["classes"][1]["name"] == "green"


def test_large_photos_are_shown_smaller_and_segmented_whole(client, tmp_path):
    image = np.zeros((100, 3200, 3), np.uint8)
    image[:, :1600, 1] = image[:, 1600:, 0] = 255
    Image.fromarray(image).save(tmp_path / "wide.png")
    stage, _, summary = client.predict(handle_file(tmp_path / "wide.png"), "colors", api_name="/segment")
    assert (summary["width"], summary["height"]) == (3200, 100)
    assert [layer(stage, name).size for name in ("photo", "classes", "confidence")] == [(1600, 50)] * 3


def test_no_photo_and_bad_photos(client, encoded, tmp_path):
    stage, legend, summary = client.predict(None, "colors", api_name="/segment")
    assert "Drop a photo" in stage
    assert (legend, summary) == ("", None)
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8))
    (tmp_path / "broken.jpg").write_bytes(encoded(photo, "JPEG")[:2000])
    (tmp_path / "text.jpg").write_bytes(b"\xff\xd8\xff no photo")
    Image.new("1", (2000, 1000)).save(tmp_path / "large.png")
    for name, words, cause in (
        ("broken.jpg", "This photo is damaged or incomplete", "truncated or damaged"),
        ("text.jpg", "This file is not a photo that can be read here", "not an image that can be read"),
        ("large.png", "This photo is too large", "above the limit of 1 million"),
    ):
        stage, legend, summary = client.predict(handle_file(tmp_path / name), "colors", api_name="/segment")
        assert words in stage
        assert "struct" not in stage
        assert legend == ""
        assert cause in summary["error"], "the JSON answer is for programmers"


def test_models_side_by_side(client, example):
    cards = client.predict(handle_file(example), api_name="/compare")
    assert re.findall("<h2>(.*?)</h2>", cards) == ["colors", "contrary"]
    assert "<b>75.0 %</b> of the pixels agree with colors" in cards
    assert re.findall(r"<dt>precision</dt><dd>(\w+)<", cards) == ["fp32", "int8"]
    assert re.findall(r"<dt>mIoU</dt><dd>(.*?)<", cards) == ["61.5 %"], "known of one model only"
    assert re.findall(r"<dt>size</dt><dd>(.*?)<", cards) == ["2.5 MB"]
    differs = re.search(r'class="differences" alt="([^"]*)" src="data:image/png;base64,([^"]*)"', cards)
    assert differs[1] == "where contrary differs from colors"
    mask = np.asarray(Image.open(io.BytesIO(base64.b64decode(differs[2]))))
    np.testing.assert_array_equal(mask, np.repeat([[0] * 45 + [1] * 15], 40, axis=0))
    assert len(re.findall(r"<b>\d+ ms</b>", cards)) == 2


@pytest.mark.parametrize("form", FORMATS)
def test_a_download_is_what_the_api_answers(client, http, example, form):
    path = Path(client.predict(handle_file(example), "contrary", form, api_name="/download"))
    files = {"image": example.read_bytes()}
    answer = http.post("/v1/segment", params={"format": form, "model": "contrary"}, files=files)
    assert path.name == FORMATS[form].file
    if form == "json":
        summaries = [json.loads(content) for content in (path.read_bytes(), answer.content)]
        assert summaries[0].pop("latency_ms").keys() == summaries[1].pop("latency_ms").keys()
        assert summaries[0] == summaries[1]
    else:
        assert path.read_bytes() == answer.content


def test_many_photos_in_and_a_zip_out(client, encoded, tmp_path):
    red, blue = np.zeros((2, 20, 30, 3), np.uint8)
    red[..., 0] = blue[..., 2] = 255
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.writestr("trip/day1/a.png", encoded(blue))
        archive.writestr("../../a.png", encoded(red))
        archive.writestr("trip/notes.txt", "no photo")
        archive.writestr("trip/heavy.png", bytes(400_000), zipfile.ZIP_DEFLATED)
        archive.writestr("__MACOSX/trip/a.png", b"not one either")
        archive.writestr("trip/phone.HEIC", b"\0\0\0\x18ftypheic")
    (tmp_path / "a.png").write_bytes(encoded(red))
    (tmp_path / "broken.jpg").write_bytes(b"no photo")
    Image.fromarray(red).save(tmp_path / "raw.dng", "TIFF")  # as the preview in one
    files = [handle_file(tmp_path / name) for name in ("a.png", "more.zip", "broken.jpg", "raw.dng")]
    table, answered = client.predict(files, "colors", api_name="/many")
    path = answered["value"] if isinstance(answered, dict) else answered
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        masks = {name: np.asarray(Image.open(io.BytesIO(archive.read(name)))) for name in names if "masks" in name}
        shares = list(csv.DictReader(archive.read("shares.csv").decode().splitlines()))
    assert {name: int(mask[0, 0]) for name, mask in masks.items()} == {
        "masks/a.png": 0,
        "masks/more/a.png": 0,
        "masks/more/trip/day1/a.png": 2,
    }
    assert {mask.shape for mask in masks.values()} == {(20, 30)}
    assert sorted(row["file"] for row in shares) == ["a.png", "more/a.png", "more/trip/day1/a.png"]
    assert re.findall("failed'><th scope='row'>(.*?)<", table) == [
        "more/trip/heavy.png",
        "more/trip/phone.HEIC",
        "broken.jpg",
        "raw.dng",
    ]
    assert ">.dng is not read; convert it to JPEG or PNG.<" in table
    assert str(tmp_path.parent) not in table

    with zipfile.ZipFile(tmp_path / "long.zip", "w") as archive:  # names that Windows takes: 255 characters, not bytes
        for name in ("写" * 200, "真" * 200):
            archive.writestr(f"{'夏' * 200}/{name}.png", encoded(red))
    table, answered = client.predict([handle_file(tmp_path / "long.zip")], "colors", api_name="/many")
    path = answered["value"] if isinstance(answered, dict) else answered
    assert len([name for name in zipfile.ZipFile(path).namelist() if name.startswith("masks/")]) == 2, table

    (tmp_path / "none.txt").write_text("text")
    (tmp_path / "cut.zip").write_bytes((tmp_path / "more.zip").read_bytes()[50:])
    for bad, words in (
        ([], "Pick photos"),
        (["none.txt"], "The uploads hold no photos"),
        (["cut.zip"], "The ZIP file is damaged"),
    ):
        said, _ = client.predict([handle_file(tmp_path / name) for name in bad], "colors", api_name="/many")
        assert words in said


def test_flagged_photos_land_in_the_dataset(client, dataset, example, encoded, tmp_path):
    said = client.predict(handle_file(example), "colors", "", api_name="/flag")
    kept = dataset / re.search(r"kept as (\S+?),", said)[1]
    assert (kept.parent, kept.suffix) == (dataset / "unlabeled", ".png")
    client.predict(handle_file(example), "colors", "", api_name="/flag")
    assert len(list(kept.parent.iterdir())) == 1, "the same photo twice"
    assert len(open_folder(dataset).samples("unlabeled")) == 1

    # Corrected at half the size: the left half is green now, a corner says nothing.
    values, painted = np.zeros((20, 30), np.uint8), np.zeros((20, 30), bool)
    values[:, :15], painted[:, :15] = 1, True
    values[:2, :2] = 255
    said = client.predict(handle_file(example), "colors", drawing(values, painted), api_name="/flag")
    assert "corrected mask" in said
    data = open_folder(dataset)
    (sample,) = data.samples("train")
    np.testing.assert_array_equal(data.read_image(sample), np.asarray(Image.open(example)))
    expected = np.repeat([[1] * 30 + [0] * 15 + [2] * 15], 40, axis=0)
    expected[:4, :4] = 255
    np.testing.assert_array_equal(data.read_label(sample), expected)

    values[5, 5] = 3
    for wrong, words in (
        (drawing(values, painted), "names class 3"),
        ("data:image/png;base64,AAAA", "not a drawing"),
        ("https://example.com/a.png", "not a drawing"),
        (drawing(np.zeros((1, 1601), np.uint8), np.ones((1, 1601), bool)), "larger than the displayed photo"),
    ):
        assert words in client.predict(handle_file(example), "colors", wrong, api_name="/flag")


@pytest.mark.parametrize("kind", ["CMYK JPEG", "turned JPEG", "16-bit PNG", "RGBA PNG", "TIFF", "GIF"])
def test_flagged_photos_are_kept_as_8_bit_rgb_png_or_refused(client, http, dataset, tmp_path, kind):
    """Whatever visitors send, the folder can be trained on, and the server's own decoding decides the pixels."""
    colors = np.random.default_rng(len(kind)).integers(0, 256, (30, 40, 3), np.uint8)
    rgb = Image.fromarray(colors)
    path = tmp_path / f"photo.{kind.split()[-1].lower()}"
    before = set(dataset.rglob("flagged-*"))
    match kind:
        case "CMYK JPEG":
            rgb.convert("CMYK").save(path, "JPEG")
        case "turned JPEG":
            exif = Image.Exif()
            exif[0x0112], exif[0x010F] = 6, "a camera"
            rgb.save(path, "JPEG", exif=exif)
        case "16-bit PNG":
            Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50).save(path)
        case "RGBA PNG":
            rgb.convert("RGBA").save(path)
        case "TIFF":
            rgb.save(path, "TIFF", compression="tiff_lzw")
        case "GIF":
            rgb.save(path, "GIF")
    sent = np.dstack([np.ones((30, 40)), np.full((30, 40), 255), np.zeros((30, 40))]).astype(np.uint8)
    green = drawing(sent[..., 0], sent[..., 1] == 255)
    said = [client.predict(handle_file(path), "colors", correction, api_name="/flag") for correction in ("", green)]
    kept = set(dataset.rglob("flagged-*")) - before
    if "Not kept" in said[0]:
        assert kind in ("16-bit PNG", "GIF")
        assert "Not kept" in said[1]
        assert not kept
        return
    assert len(kept) == 3
    photos = [file for file in kept if file.parent != dataset / "labels" / "train"]
    shown = http.post("/v1/segment?format=png", files={"image": path.read_bytes()})
    height, width = np.asarray(Image.open(io.BytesIO(shown.content))).shape
    for photo in photos:
        with Image.open(photo) as image:
            assert (image.format, image.mode, image.size, image.n_frames) == ("PNG", "RGB", (width, height), 1)
            assert not image.getexif()
            if kind in ("RGBA PNG", "TIFF"):
                np.testing.assert_array_equal(np.asarray(image), colors)
    data = open_folder(dataset)
    for sample in data.samples("train"):
        assert data.read_image(sample).shape[:2] == data.read_label(sample).shape


def test_a_full_disk_is_said_without_paths(client, dataset, encoded, tmp_path, monkeypatch):
    def full(path: Path):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("semseg_app.serve.demo.flags.atomic_file", full)
    (tmp_path / "new.png").write_bytes(encoded(np.full((5, 5, 3), 77, np.uint8)))
    said = client.predict(handle_file(tmp_path / "new.png"), "colors", "", api_name="/flag")
    assert "the server could not write the photo" in said
    assert str(dataset) not in said


def test_a_folder_that_does_not_fit_is_refused(dataset, tmp_path):
    labels = LabelSpace(classes=["cat", "dog"], palette=[(0, 0, 0), (1, 1, 1)])
    with pytest.raises(UserError, match="other classes than the model"):
        FlagFolder(dataset, labels)
    with pytest.raises(UserError, match=r"holds no dataset\.yaml; --flag-to takes a dataset folder"):
        FlagFolder(tmp_path, labels)
    with pytest.raises(UserError, match="none: no such folder; --flag-to takes a dataset folder"):
        FlagFolder(tmp_path / "none", labels)
    full = FlagFolder(dataset, ColorEngine.labels, most=0)
    with pytest.raises(UserError, match="holds 0 flagged photos already"):
        full.flag(b"\xff\xd8 another", np.zeros((1, 1, 3), np.uint8))
    masks = set((dataset / "labels" / "train").iterdir())
    photo, classes, painted = np.zeros((1, 1, 3), np.uint8), np.zeros((1, 1), np.uint8), drawing(*np.ones((2, 1, 1)))
    with pytest.raises(UserError, match="holds 0 flagged photos already"):
        full.correct(b"more", photo, classes, ColorEngine.labels, painted)
    with pytest.raises(UserError, match=r"this model has other classes than the photos that are kept here \(red, "):
        FlagFolder(dataset, ColorEngine.labels).correct(b"more", photo, classes, labels, painted)
    assert set((dataset / "labels" / "train").iterdir()) == masks, "no mask without its photo"


@pytest.mark.parametrize("meta", [{"meta": {"_type": "gradio.FileData"}}, {}], ids=["marked as a file", "unmarked"])
def test_the_page_hands_out_no_file_of_the_server_and_fetches_none(http, url, example, tmp_path, meta):
    """Over plain HTTP: Gradio's own client would upload the file first."""

    def ask(path: object, endpoint: str = "segment") -> str:
        file = {"path": path, **meta}
        data = {"segment": [file, "colors"], "compare": [file], "download": [file, "colors", "png"]} | {
            "flag": [file, "colors", ""],
            "many": [[file], "colors"],
        }
        call = http.post(f"/gradio_api/call/{endpoint}", json={"data": data[endpoint]}).json()
        return http.get(f"/gradio_api/call/{endpoint}/{call['event_id']}").text

    secret = tmp_path / "secret.png"
    secret.write_bytes(example.read_bytes())
    outside = [str(secret), str(secret.relative_to("/")), f"/tmp/gradio/../{secret}", "", None]
    for path in outside:
        answer = ask(path)
        assert answer.startswith("event: error") or "upload is not on the server" in answer, answer
        assert "base64" not in answer
        assert str(Path.cwd()) not in answer
    for endpoint in ("compare", "download", "flag", "many"):
        answer = ask(str(secret), endpoint)
        assert answer.startswith("event: error") or "upload is not on the server" in answer, answer
        assert "base64" not in answer
        assert "sent" not in answer
    for path in (f"{url}/favicon.ico", "https://example.com/a.png"):
        assert ("send the photo itself, not its address" if meta else "upload is not on the server") in ask(path)
    assert http.get(f"/gradio_api/file={secret}").status_code == 403


def test_uploads_are_deleted_and_examples_stay(running, example, monkeypatch):
    monkeypatch.setattr("semseg_app.serve.demo.page.KEEP_UPLOADS", (1, 1))

    async def build() -> FastAPI:
        return create_app(ColorEngine(), ServeConfig(examples=[example]))

    with running(asyncio.run(build())) as url, httpx.Client(base_url=url, timeout=120) as http:
        page = http.get("/config").json()
        offered = next(part for part in page["components"] if part["type"] == "dataset")["props"]["samples"][0][0][
            "url"
        ]
        uploaded = http.post("/gradio_api/upload", files={"files": example.read_bytes()}).json()[0]
        photo = {"path": uploaded, "meta": {"_type": "gradio.FileData"}}
        call = http.post("/gradio_api/call/download", json={"data": [photo, "colors", "png"]}).json()
        answer = http.get(f"/gradio_api/call/download/{call['event_id']}").text
        downloaded = json.loads(answer.split("data: ")[1])[0]["path"]
        assert Path(downloaded).name == "mask.png"
        while Path(uploaded).exists() or Path(downloaded).exists():
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
    code = "import sys; sys.modules['torch'] = None; import semseg_app.serve.server, semseg_app.serve.demo.page"
    subprocess.run([sys.executable, "-c", code], check=True)
