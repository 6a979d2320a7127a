"""Synthetic streets: pure functions of (seed, index), the same at every size, fair to learn from, and whole on disk."""

import hashlib
import json
import subprocess
import sys
import time

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from semseg_app import synthetic as streets
from semseg_app.cli.generate import generate as generate_verb
from semseg_app.data.dataset import open_folder
from semseg_app.errors import UserError
from semseg_app.synthetic.scene import compose
from semseg_app.synthetic.shapes import BICYCLIST, CAR, PEDESTRIAN, RandomSource

CLASSES = streets.CLASSES
# sha256 of the label's bytes: changes when the streets change, and then every result on them is out of date.
GOLDEN = "c07c3cdd9ded2a2d80cd0bf7a01fe1a3f994aeb9f2e0bacf426dcfa70671d30f"
HASHES = """
import hashlib
from semseg_app.synthetic import render
print(*(hashlib.sha256(array.tobytes()).hexdigest() for array in render(0, 7, 96, 128)))
"""


def sha256(array: np.ndarray) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()


@pytest.fixture(scope="module")
def some_streets() -> list[tuple[np.ndarray, np.ndarray]]:
    return [streets.render(0, index, 96, 128) for index in range(40)]


def test_a_street_is_the_same_everywhere():
    photo, label = streets.render(0, 7, 96, 128)
    assert sha256(label) == GOLDEN
    fresh = subprocess.run([sys.executable, "-c", HASHES], capture_output=True, text=True, check=True).stdout.split()
    assert fresh == [sha256(photo), sha256(label)]


def test_seed_and_index_make_other_streets():
    labels = [streets.render(seed, index, 48, 64)[1] for seed, index in ((0, 0), (0, 1), (1, 0))]
    assert all((labels[a] != labels[b]).mean() > 0.1 for a, b in ((0, 1), (0, 2), (1, 2)))


@pytest.mark.parametrize("index", range(4))
def test_a_street_is_the_same_at_every_size(index):
    small_photo, small = streets.render(3, index, 96, 128)
    large_photo, large = streets.render(3, index, 288, 384)
    # The centers of the small photo's pixels are those of every third of the large one's.
    assert (large[1::3, 1::3] == small).mean() > 0.97
    averaged = large_photo.reshape(96, 3, 128, 3, 3).mean(axis=(1, 3))
    assert np.corrcoef(averaged.ravel(), small_photo.ravel())[0, 1] > 0.9
    wide = streets.render(3, index, 96, 192)[1]
    assert (wide[:, 32:-32] == small).mean() > 0.999


@pytest.mark.parametrize("size", [(33, 47), (64, 32), (32, 200)])
def test_any_size(size):
    photo, label = streets.render(2, 5, *size)
    assert (photo.shape, photo.dtype) == ((*size, 3), np.uint8)
    assert (label.shape, label.dtype) == (size, np.uint8)
    assert label.max() < len(CLASSES)


def test_every_class_is_often_enough_to_be_measured(some_streets):
    counts = np.array([np.bincount(label.ravel(), minlength=len(CLASSES)) for _, label in some_streets])
    assert counts.shape[1] == len(CLASSES)
    in_images = dict(zip(CLASSES, (counts >= 6).mean(axis=0), strict=True))
    assert min(in_images.values()) > 0.3, in_images
    shares = dict(zip(CLASSES, counts.sum(axis=0) / counts.sum(), strict=True))
    assert max(shares.values()) < 0.4, shares
    assert all(0.002 < shares[name] < 0.03 for name in ("sign", "pole", "pedestrian", "bicyclist")), shares


def test_thin_things_are_thin():
    left = dict.fromkeys(["pole", "sign", "road", "building"], 0)
    whole = dict(left)
    for index in range(12):
        label = streets.render(0, index, 192, 256)[1]
        for name in left:
            mask = np.pad(label == CLASSES.index(name), 4, mode="edge")
            windows = np.lib.stride_tricks.sliding_window_view(mask, (9, 9))
            left[name] += int(windows.all(axis=(2, 3)).sum())
            whole[name] += int(mask[4:-4, 4:-4].sum())
    shares = {name: left[name] / whole[name] for name in left}
    assert shares["pole"] < 0.1, shares
    assert shares["sign"] < 0.5, shares
    assert min(shares["road"], shares["building"]) > 0.6, shares


def test_color_alone_does_not_tell_the_class(some_streets):
    """A table from color to class, made from thirty streets, is a poor labeler of ten others."""
    votes = np.zeros((16**3, len(CLASSES)))

    def cells(photo: np.ndarray) -> np.ndarray:
        return (photo // 16).astype(int) @ np.array([256, 16, 1])

    for photo, label in some_streets[:30]:
        np.add.at(votes, (cells(photo).ravel(), label.ravel()), 1)
    best = (votes / votes.sum(axis=0)).argmax(axis=1)
    recalls = np.zeros((len(CLASSES), 2))
    for photo, label in some_streets[30:]:
        guess = best[cells(photo)]
        for index in range(len(CLASSES)):
            recalls[index] += ((guess == index) & (label == index)).sum(), (label == index).sum()
    assert (recalls[:, 0] / recalls[:, 1]).mean() < 0.45


def test_variety_and_clutter_do_what_they_say():
    def scenes(variety: float, clutter: float):
        seeds = [np.random.SeedSequence([9, index]).spawn(2) for index in range(30)]
        return [compose(RandomSource(layout), RandomSource(weather), variety, clutter) for layout, weather in seeds]

    assert {scene.light.kind for scene in scenes(0.0, 0.0)} == {"day"}
    assert {scene.light.kind for scene in scenes(1.5, 0.0)} == {"day", "overcast", "dusk", "night", "rain", "fog"}
    things = {CAR, PEDESTRIAN, BICYCLIST}
    assert not things & {face.label for scene in scenes(1.0, 0.0) for face in scene.faces}
    assert things <= {face.label for scene in scenes(1.0, 1.0) for face in scene.faces}


def test_a_street_takes_no_time():
    seconds = []
    for index in range(5):
        start = time.process_time()
        streets.render(0, index, 192, 256)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("streets") / "data"
    seen = []
    streets.generate(
        root, train=6, val=2, unlabeled=3, size=(48, 64), labeled_counts=[2, 4], progress=lambda *now: seen.append(now)
    )
    assert seen == [(number, 11) for number in range(1, 12)]
    return root


def test_the_folder_opens_as_a_dataset(folder):
    data = open_folder(folder)
    assert data.info.classes == CLASSES
    assert data.info.palette == streets.PALETTE
    assert data.info.splits == {"train": 6, "val": 2}
    train, val, unlabeled = (data.samples(name) for name in ("train", "val", "unlabeled"))
    assert [len(samples) for samples in (train, val, unlabeled)] == [6, 2, 3]
    assert all(sample.label is None for sample in unlabeled)
    for sample, index in ((train[5], 5), (val[0], streets.FIRST_INDEX["val"])):
        photo, label = streets.render(0, index, 48, 64)
        np.testing.assert_array_equal(data.read_label(sample), label)
        assert np.abs(data.read_image(sample).astype(int) - photo).mean() < 4
    with Image.open(train[0].label) as mask:
        assert mask.mode == "P"
        assert tuple(mask.getpalette()[3:6]) == streets.PALETTE[1]
    with Image.open(train[0].image) as photo:
        assert [layer[1:3] for layer in photo.layer] == [(1, 1)] * 3  # 4:4:4


def test_labeled_lists_are_nested_and_part_the_training_images(folder):
    data = open_folder(folder)
    lists = {name: {sample.stem for sample in data.samples(name)} for name in data.split_names()}
    assert len(lists["2-labeled"]) == 2
    assert lists["2-labeled"] < lists["4-labeled"]
    for count in (2, 4):
        assert lists[f"{count}-labeled"] | lists[f"{count}-unlabeled"] == lists["train"]
        assert not lists[f"{count}-labeled"] & lists[f"{count}-unlabeled"]


def test_more_processes_and_more_training_images_change_nothing_else(folder, tmp_path):
    streets.generate(tmp_path / "more", train=7, val=2, size=(48, 64), workers=2)
    for path in [*folder.glob("*/train/*"), *folder.glob("*/val/*")]:
        assert (tmp_path / "more" / path.relative_to(folder)).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"train": 0}, "train and workers must be at least 1"),
        ({"seed": -1}, "val, unlabeled and seed must not be negative"),
        ({"size": (16, 64)}, "size 16x64: height and width must be from 32 to 8192"),
        ({"labeled_counts": [3]}, r"labeled counts \[3\] must lie between 1 and 2"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(tmp_path, wrong, message):
    with pytest.raises(UserError, match=message):
        streets.generate(tmp_path / "data", **({"train": 3, "val": 1, "size": (48, 64)} | wrong))
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_leaves_nothing(tmp_path):
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        streets.generate(tmp_path / "data", train=3, val=1, size=(48, 64), progress=stop)
    assert list(tmp_path.iterdir()) == []


def semseg_data_generate(*arguments: str):
    app = typer.Typer()
    app.command()(generate_verb)
    return CliRunner().invoke(app, arguments)


def test_the_verb_writes_and_answers(tmp_path):
    out = tmp_path / "streets"
    result = semseg_data_generate(
        str(out), "--train", "3", "--val", "1", "--size", "32x48", "--labeled", "1,2", "--json"
    )
    assert result.exit_code == 0
    answer = json.loads(result.stdout)
    assert answer["splits"] == {
        "train": 3,
        "val": 1,
        "1-labeled": 1,
        "1-unlabeled": 2,
        "2-labeled": 2,
        "2-unlabeled": 1,
    }
    assert answer["classes"] == CLASSES
    assert open_folder(out).read_image(open_folder(out).samples("val")[0]).shape == (32, 48, 3)
    again = semseg_data_generate(str(out))
    assert isinstance(again.exception, UserError)
    assert "exists already" in str(again.exception)


@pytest.mark.parametrize(("option", "value"), [("--size", "192"), ("--size", "12 x 5"), ("--labeled", "1/8")])
def test_the_verb_explains_what_to_write(tmp_path, option, value):
    result = semseg_data_generate(str(tmp_path / "streets"), option, value)
    assert isinstance(result.exception, UserError)
    assert str(result.exception).startswith(f"{option} {value}: write ")
