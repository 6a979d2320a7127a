"""Nested label splits, against what can be counted by hand, and the lists they become."""

import json
import math
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from semseg_app.cli.main import app
from semseg_app.data.dataset import open_folder
from semseg_app.data.layouts import open_dataset
from semseg_app.data.splits import extend, list_faults, nested_splits, parse_size, split_name, write_splits
from semseg_app.errors import UserError

RARE = {3: 17, 4: 40}
"""Class -> the only image that shows it."""


@pytest.fixture
def sixty(tmp_path: Path) -> Path:
    """60 train images; classes 0, 1, 2 are common, 3 and 4 are each in one image, 5 in none. One image has no mask."""
    root = tmp_path / "sixty"
    (root / "images" / "train").mkdir(parents=True)
    (root / "labels" / "train").mkdir(parents=True)
    (root / "dataset.yaml").write_text(yaml.safe_dump({"name": "sixty", "classes": list("abcdef")}))
    for index in range(60):
        label = np.array([[index % 3, (index + 1) % 3, 255]], np.uint8)
        for value, only in RARE.items():
            if index == only:
                label[0, 0] = value
        Image.fromarray(np.full((1, 3, 3), index, np.uint8)).save(root / "images" / "train" / f"{index:02d}.png")
        Image.fromarray(label).save(root / "labels" / "train" / f"{index:02d}.png")
    Image.fromarray(np.zeros((1, 3, 3), np.uint8)).save(root / "images" / "train" / "bare.png")
    return root


def test_published_sizes() -> None:
    """Counts of the splits in use: VOC, Cityscapes, COCO, CamVid."""
    for whole, sizes in (
        (1464, {"1/16": 92, "1/8": 183, "1/4": 366, "1/2": 732}),
        (10582, {"1/16": 662, "1/8": 1323, "1/4": 2646}),
        (2975, {"1/30": 100, "1/16": 186, "1/8": 372, "1/4": 744, "1/2": 1488}),
        (118287, {"1/512": 232, "1/256": 463, "1/128": 925, "1/64": 1849, "1/32": 3697}),
        (367, {"1/16": 23, "1/8": 46, "1/4": 92, "1/2": 184}),
    ):
        assert {size: math.ceil(parse_size(size) * whole) for size in sizes} == sizes


@pytest.mark.parametrize("text", ["0", "1/0", "-1/2", "2/1", "1.5", "many", "", "1.0"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(UserError, match="size"):
        parse_size(text)


def test_names() -> None:
    assert (split_name("1/8"), split_name("92"), split_name("0.1")) == ("1_8", "92", "0.1")
    assert split_name("1/8", "train_aug", 3) == "train_aug-1_8-seed3"


@pytest.mark.parametrize("seed", range(5))
def test_nested_complete_and_class_aware(sixty: Path, seed: int) -> None:
    data = open_folder(sixty)
    drawn = nested_splits(data, ["1/2", "4", "1/4"], seed=seed)
    assert [len(split.labeled) for split in drawn] == [4, 15, 30]
    everything = data.samples("train")
    for split in drawn:
        assert sorted([*split.labeled, *split.unlabeled]) == everything
        assert not {*split.labeled} & {*split.unlabeled}
        assert {f"{only:02d}" for only in RARE.values()} <= {sample.stem for sample in split.labeled}
        assert split.missing == []  # class f is in no image, so no list can be blamed
        assert "bare" in {sample.stem for sample in split.unlabeled}
    assert {*drawn[0].labeled} < {*drawn[1].labeled} < {*drawn[2].labeled}
    again = nested_splits(open_folder(sixty), ["4", "1/4", "1/2"], seed=seed)
    assert again == drawn
    assert nested_splits(data, ["4"], seed=seed + 1)[0].labeled != drawn[0].labeled


def test_too_small_for_every_class(sixty: Path) -> None:
    (split,) = nested_splits(open_folder(sixty), ["1"])
    assert len(split.missing) == 3  # an image shows two of the five classes


def test_a_draw_that_shows_every_class_is_left_alone() -> None:
    """Then the choice is the plain random order, so nothing is biased toward crowded images."""
    presence = np.ones((10, 3), bool)
    order = np.random.default_rng(0).permutation(10)
    assert extend([], 4, order, presence) == order[:4].tolist()


def test_as_much_of_the_random_order_as_possible_is_kept() -> None:
    """Against an exhaustive search over pairs on small random problems."""
    random = np.random.default_rng(1)
    kept = []
    for _ in range(200):
        presence = random.random((8, 4)) < 0.4
        order = random.permutation(8)
        chosen = extend([], 2, order, presence)
        assert len(set(chosen)) == 2
        exists = presence.any(axis=0)
        pairs = [set(rows) for rows in combinations(range(8), 2) if (presence[list(rows)].any(axis=0) == exists).all()]
        best = max((_common_beginning(order, rows) for rows in pairs), default=0)
        if best:  # the beginning and one more image: here the greedy choice cannot be wrong
            assert set(chosen) in pairs
            assert _common_beginning(order, set(chosen)) == best
        kept.append(best)
    assert {*kept} == {0, 1, 2}


def _common_beginning(order: np.ndarray, rows: set[int]) -> int:
    return next((place for place, index in enumerate(order) if int(index) not in rows), len(order))


def test_what_cannot_be_drawn(sixty: Path) -> None:
    data = open_folder(sixty)
    with pytest.raises(UserError, match="size '61': 'train' has only 60 labeled images"):
        nested_splits(data, ["61"])
    with pytest.raises(UserError, match="two of them take the same number of images"):
        nested_splits(data, ["1/4", "15"])
    with pytest.raises(UserError, match="no split or list named 'vla'"):
        nested_splits(data, ["1/4"], split="vla")
    (sixty / "unlabeled").mkdir()
    with pytest.raises(UserError, match="no image of 'unlabeled' has a label"):
        nested_splits(open_folder(sixty), ["1/4"], split="unlabeled")


def test_written_lists_read_back_and_are_not_overwritten(sixty: Path) -> None:
    data = open_folder(sixty)
    drawn = nested_splits(data, ["1/4"])
    paths = write_splits(data, drawn)
    assert [path.name for path in paths] == ["1_4-labeled.txt", "1_4-unlabeled.txt"]
    assert open_folder(sixty).samples("1_4-labeled") == drawn[0].labeled
    assert open_folder(sixty).samples("1_4-unlabeled") == drawn[0].unlabeled
    before = [path.read_bytes() for path in paths]
    write_splits(data, drawn)  # the same again is no conflict
    other = [nested_splits(data, ["1/4"], seed=9)[0]._replace(name="1_4")]
    paths[0].unlink()
    with pytest.raises(UserError, match=r"1_4-unlabeled\.txt: exists and lists other images; --force"):
        write_splits(data, other)
    assert not paths[0].exists()  # nothing was written before the conflict was seen
    assert paths[1].read_bytes() == before[1]
    write_splits(data, other, force=True)
    assert paths[1].read_bytes() != before[1]
    assert {path.name for path in (sixty / "splits").iterdir()} == {path.name for path in paths}


def test_ambiguous_stems_are_written_with_their_split(tmp_path: Path) -> None:
    root = tmp_path / "voc"
    for folder in ("JPEGImages", "SegmentationClass", "SegmentationClassAug", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for stem in "ab":
        Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(root / "JPEGImages" / f"{stem}.jpg")
        for folder in ("SegmentationClass", "SegmentationClassAug"):
            Image.fromarray(np.zeros((2, 2), np.uint8)).save(root / folder / f"{stem}.png")
    for name in ("train", "train_aug", "trainval"):
        (root / "ImageSets" / "Segmentation" / f"{name}.txt").write_text("a\nb\n")
    data = open_dataset(root)
    drawn = nested_splits(data, ["1"], split="train_aug")
    write_splits(data, drawn)
    assert (root / "splits" / "train_aug-1-labeled.txt").read_text().startswith("train_aug/")
    assert open_dataset(root).samples("train_aug-1-labeled") == drawn[0].labeled


def test_list_faults() -> None:
    assert list_faults(["a", "b"], ["c"], ["a", "b", "c"]) == ([], [], [], [])
    faults = list_faults(["a", "b", "a"], ["b", "x", "c", "c"], ["a", "b", "c", "d"])
    assert faults.repeated == ["a", "c"]
    assert faults.both == ["b"]
    assert faults.lost == ["d"]
    assert faults.strange == ["x"]


def test_command_line(sixty: Path) -> None:
    run = CliRunner().invoke(app, ["data", "split", str(sixty), "--sizes", "1/4, 1/2", "--seed", "3", "--json"])
    assert run.exit_code == 0
    lists = json.loads(run.stdout)["lists"]
    assert [(row["name"], row["images"]) for row in lists] == [
        ("1_4-seed3-labeled", 15),
        ("1_4-seed3-unlabeled", 46),
        ("1_2-seed3-labeled", 30),
        ("1_2-seed3-unlabeled", 31),
    ]
    data = open_folder(sixty)
    assert lists[0]["hash"] == data.fingerprint(data.samples("1_4-seed3-labeled"))
    shown = CliRunner().invoke(app, ["data", "list", str(sixty)])
    assert shown.exit_code == 0
    assert lists[0]["hash"] in shown.stdout
    listed = json.loads(CliRunner().invoke(app, ["data", "list", str(sixty), "--json"]).stdout)["splits"]
    assert listed[0]["name"] == "train"
    assert (listed[0]["images"], listed[0]["labeled"]) == (61, 60)
    small = CliRunner().invoke(app, ["data", "split", str(sixty), "--sizes", "1"])
    assert "1-labeled is too small to show" in small.stderr
    assert CliRunner().invoke(app, ["check", str(sixty)]).exit_code == 1  # `bare` has no mask, f is in no image
