"""`semseg_app.load` and what it gives, as a program uses them. The examples in the docstrings run, too."""

import doctest
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import shapely
from PIL import Image
from support.tiny_models import METADATA

import semseg_app
from semseg_app.errors import UserError
from semseg_app.inference import model as model_module
from semseg_app.inference import segmentation as segmentation_module

LABELS = {"classes": ["road", "car", "tree"], "palette": [[128, 64, 128], [0, 0, 142], [107, 142, 35]]}


@pytest.fixture
def street(make_graph: Callable[..., Path], network_folder: Path, tmp_path: Path, monkeypatch) -> Path:
    """A folder with runs/street/best, whose exported graph calls reddish pixels road and greenish ones car, and photos;
    it is the current one. The photo has a car in its lower right quarter."""
    folder = tmp_path / "reader"
    best = folder / "runs" / "street" / "best"
    shutil.copytree(network_folder, best)
    config = (best / "config.json").read_text()
    for old, new in zip(("red", "green", "blue"), LABELS["classes"], strict=True):
        config = config.replace(f'"{old}"', f'"{new}"')
    (best / "config.json").write_text(config.replace('"tiny"', '"street"'))
    make_graph(best / "onnx" / "model.onnx", metadata=METADATA | {"name": "street", "labels": LABELS})
    pixels = np.full((64, 80, 3), (60, 20, 20), np.uint8)
    pixels[32:, 40:] = 20, 60, 20
    Image.fromarray(pixels).save(folder / "photo.jpg", quality=100, subsampling=0)
    (folder / "photos").mkdir()
    shutil.copy(folder / "photo.jpg", folder / "photos" / "street.jpg")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def expected() -> np.ndarray:
    """The class map of the photo."""
    classes = np.zeros((64, 80), np.uint8)
    classes[32:, 40:] = 1
    return classes


@pytest.mark.parametrize("module", [semseg_app, model_module, segmentation_module])
def test_examples_of_the_docstrings(module, street):
    outcome = doctest.testmod(module)
    assert outcome.attempted > 0
    assert outcome.failed == 0


def test_every_kind_of_photo_and_of_model(street, expected):
    photo = Image.open("photo.jpg")
    sideways = photo.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a viewer
    sideways.save("sideways.png", exif=exif)
    for name in ("runs/street/best", Path("runs/street"), "runs/street/best/onnx/model.onnx"):
        model = semseg_app.load(name)
        results = model.predict(
            ["photo.jpg", Path("photo.jpg"), photo, np.asarray(photo), "sideways.png", Image.open("sideways.png")]
        )
        assert [result.source for result in results] == [Path("photo.jpg")] * 2 + [None] * 2 + [
            Path("sideways.png"),
            None,
        ]
        for result in results:
            np.testing.assert_array_equal(result.classes, expected)
    classes, confidence = model.predict(photo)
    np.testing.assert_array_equal(classes, expected)
    assert confidence.dtype == np.uint8
    assert confidence.shape == (64, 80)


def test_a_result_is_saved_and_shown(street, expected):
    result = semseg_app.load("runs/street/best").predict("photo.jpg")
    result.save("new/mask.png")
    mask = Image.open("new/mask.png")
    np.testing.assert_array_equal(np.asarray(mask), expected)
    assert mask.getpalette()[:6] == [128, 64, 128, 0, 0, 142]
    np.testing.assert_array_equal(np.asarray(result.overlay(0)), result.image)
    np.testing.assert_array_equal(np.asarray(result.overlay(1)), np.array(LABELS["palette"], np.uint8)[expected])
    assert result.shares == {"road": 0.75, "car": 0.25}
    with pytest.raises(UserError, match=r"mask.jpg: a mask is saved as .png; for a picture use .overlay\(\)"):
        result.save("mask.jpg")


def test_the_mask_of_a_photo_with_a_world_file_keeps_its_place(street):
    Path("photo.jgw").write_text("0.5\n0\n0\n-0.5\n1000\n2000\n")
    Path("photo.prj").write_text('PROJCS["a",GEOGCS["b"]]')
    model = semseg_app.load("runs/street/best")
    model.predict("photo.jpg").save("mask.png")
    assert [float(line) for line in Path("mask.pgw").read_text().split()] == [0.5, 0, 0, -0.5, 1000, 2000]
    assert Path("mask.png.aux.xml").is_file()
    model.predict(np.asarray(Image.open("photo.jpg"))).save("mask.png")  # lies nowhere, so its mask must not either
    assert not Path("mask.pgw").exists()
    assert not Path("mask.png.aux.xml").exists()


def test_polygons_fill_to_the_mask_and_simplify(street):
    y, x = np.mgrid[:90, :120]
    disc = (y - 45) ** 2 + (x - 60) ** 2 < 1200
    photo = np.where(disc[..., None], [10, 120, 10], [120, 10, 10]).astype(np.uint8)
    result = semseg_app.load("runs/street/best").predict(photo)
    exact, simple = result.polygons(), result.polygons(simplify=1)
    assert exact.keys() == simple.keys() == {"road", "car"}
    (car,) = exact["car"]
    inside = shapely.contains_xy(shapely.Polygon(car.exterior, car.holes), x + 0.5, y + 0.5)
    np.testing.assert_array_equal(inside, disc)
    (simpler,) = simple["car"]
    assert len(simpler.exterior) < len(car.exterior) / 2
    assert shapely.hausdorff_distance(shapely.Polygon(simpler.exterior), shapely.Polygon(car.exterior)) <= 1 + 1e-9


def test_many_photos_are_read_as_they_are_needed(street):
    """A stream without an end: no more than one photo is read ahead of the answers."""
    taken = []

    def photos():
        while True:
            taken.append("photo.jpg")
            yield "photo.jpg"

    results = semseg_app.load("runs/street/best").predict_many(photos())
    for count in range(1, 4):
        next(results)
        assert len(taken) <= count + 1


def test_a_buffer_of_frames_may_be_used_again(street):
    """As readers of videos do; the result keeps its own frame."""
    frame = np.zeros((64, 80, 3), np.uint8)

    def frames():
        for channel in (0, 1):
            frame[:] = 0
            frame[..., channel] = 200
            yield frame

    first, second = semseg_app.load("runs/street/best").predict_many(frames())
    assert first.image[0, 0].tolist() == [200, 0, 0]
    assert second.image[0, 0].tolist() == [0, 200, 0]
    assert (first.classes == 0).all()
    assert (second.classes == 1).all()


def test_mistakes_are_said_in_one_line(street):
    with pytest.raises(UserError, match="nowhere: no such model folder"):
        semseg_app.load("nowhere")
    Path("runs", "latest").symlink_to("gone")  # runs/latest could be an id on the Hub, too
    with pytest.raises(UserError, match=r"^runs/latest: a link to gone, which is not there$"):
        semseg_app.load("runs/latest")
    with pytest.raises(UserError, match="unknown engine 'onnx'; choose one of"):
        semseg_app.load("runs/street/best", engine="onnx")
    with pytest.raises(UserError, match=r"threads 0: must be 1 or more"):
        semseg_app.load("runs/street/best", threads=0)
    model = semseg_app.load("runs/street/best")
    for single in ("photo.jpg", Path("photo.jpg"), Image.new("RGB", (8, 8)), np.zeros((8, 8, 3), np.uint8)):
        with pytest.raises(TypeError, match="for a single one, use predict"):
            next(model.predict_many(single))
    with pytest.raises(UserError, match=r"missing.jpg: no such image"):
        model.predict("missing.jpg")
    with pytest.raises(UserError, match="photos: a folder; give the list of its photos"):
        model.predict("photos")
    with pytest.raises(UserError, match="16-bit or float pixels"):
        model.predict(Image.new("I;16", (4, 4)))
    with pytest.raises(ValueError, match=r"a photo is uint8 RGB \[H, W, 3\]; got float64 \[4, 4\]"):
        model.predict(np.zeros((4, 4)))
    with pytest.raises(TypeError, match="got int"):
        model.predict(3)
    assert repr(model) == "Model('street': road, car, tree; onnxruntime fp32 on cpu)"


def test_importing_the_package_imports_nothing_else():
    code = "import sys; before = set(sys.modules); import semseg_app; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    foreign = {name.partition(".")[0] for name in done.stdout.split()} - {"semseg_app", *sys.stdlib_module_names}
    assert foreign == set()
