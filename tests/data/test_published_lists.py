"""Label lists as other projects publish them, lists made of lists, and folders with masks for some of the photos."""

import errno
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from semseg_app.cli.main import app
from semseg_app.data.check import check
from semseg_app.data.dataset import SegmentationData, open_folder
from semseg_app.data.held_out import draw_val
from semseg_app.data.layouts import open_dataset
from semseg_app.data.listing import Sample
from semseg_app.data.near_duplicates import looks, near_duplicates
from semseg_app.data.selection.candidates import candidates
from semseg_app.data.splits import nested_splits, write_splits
from semseg_app.data.training_check import shared_photos
from semseg_app.errors import UserError


def photo(path: Path, seed: int, brightness: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 200, (16, 16, 3)) + brightness
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def mask(path: Path, *values: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.resize(np.array(values, np.uint8), (16, 16))).save(path)


def write_list(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def stems(data: SegmentationData, name: str) -> list[str]:
    return [sample.stem for sample in data.samples(name)]


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    root = tmp_path / "voc"
    for index, stem in enumerate(("2007_01", "2007_02", "2007_03", "2008_04", "2008_05")):
        photo(root / "JPEGImages" / f"{stem}.jpg", index)
        mask(root / "SegmentationClassAug" / f"{stem}.png", 0, 1)
    for stem in ("2007_01", "2007_02", "2007_03"):
        mask(root / "SegmentationClass" / f"{stem}.png", 0, 1, 255)
    lists = root / "ImageSets" / "Segmentation"
    write_list(lists / "train.txt", "2007_01", "2007_02")
    write_list(lists / "val.txt", "2007_03")
    write_list(lists / "trainval.txt", "2007_01", "2007_02", "2007_03")
    write_list(lists / "train_aug.txt", "2007_01", "2007_02", "2008_04", "2008_05")
    return root


def test_voc_lists_of_unimatch_and_augseg(voc: Path) -> None:
    write_list(
        voc / "splits" / "pascal" / "1_16" / "labeled.txt", "JPEGImages/2007_02.jpg SegmentationClassAug/2007_02.png"
    )
    write_list(voc / "splits" / "92" / "labeled.txt", "2007_02", "2008_04")
    data = open_dataset(voc)
    (sample,) = data.samples("pascal/1_16/labeled")
    assert sample.label == voc / "SegmentationClassAug" / "2007_02.png"  # the mask that the line names
    first, second = data.samples("92/labeled")  # a bare stem in train, trainval and train_aug: one photo
    assert first.label == voc / "SegmentationClass" / "2007_02.png"
    assert second.label == voc / "SegmentationClassAug" / "2008_04.png"
    assert {"92/labeled", "pascal/1_16/labeled"} <= set(data.split_names())
    assert not [finding for finding in check(data).findings if finding.kind == "list-entry"]


def test_pairs_of_published_lists_are_compared(voc: Path) -> None:
    write_list(voc / "splits" / "92" / "labeled.txt", "2007_02", "2007_03")
    write_list(voc / "splits" / "92" / "unlabeled.txt", "2007_02", "2008_04", "2008_05", "2007_01")
    kinds = {(finding.kind, finding.file) for finding in check(open_dataset(voc)).findings}
    assert ("list-overlap", "splits/92/unlabeled.txt") in kinds
    assert ("list-leak", "splits/92/labeled.txt") in kinds  # 2007_03 is a val photo, though trainval has it too


def test_cityscapes_lists(tmp_path: Path) -> None:
    name = "aachen/aachen_000000_000019"
    photo(tmp_path / "leftImg8bit" / "train" / f"{name}_leftImg8bit.png", 0)
    mask(tmp_path / "gtFine" / "train" / f"{name}_gtFine_labelIds.png", 7)
    paths = (
        f"leftImg8bit/train/{name}_leftImg8bit.png gtFine/train/{name}_gtFine_labelTrainIds.png",
        f"leftImg8bit/train/{name}_leftImg8bit.png",
        f"train/{name}_leftImg8bit",
        f"gtFine/train/{name}_gtFine_labelIds.png",
        name,
    )
    for number, line in enumerate(paths):
        write_list(tmp_path / "splits" / f"{number}.txt", line)
    data = open_dataset(tmp_path)
    for number, _ in enumerate(paths):
        assert data.samples(str(number)) == data.samples("train")


def test_list_expressions(voc: Path) -> None:
    write_list(voc / "splits" / "1_16-labeled.txt", "2007_02")
    data = open_dataset(voc)
    assert stems(data, "train_aug - 1_16-labeled") == ["2007_01", "2008_04", "2008_05"]
    assert stems(data, "val + train") == ["2007_03", "2007_01", "2007_02"]
    assert stems(data, "train_aug - train + val") == ["2008_04", "2008_05", "2007_03"]
    with pytest.raises(UserError, match="'val' has no photo of what stands before it"):
        data.samples("train - val")
    with pytest.raises(UserError, match="leaves no photo"):
        data.samples("train - trainval")
    with pytest.raises(UserError, match="no split or list named 'trian'"):
        data.samples("train_aug - trian")


@pytest.fixture
def partly(tmp_path: Path) -> Path:
    """24 photos, 12 with masks; class 2 in two of these, class 3 in one; 00, 01, 02 and the unlabeled 20 are alike."""
    root = tmp_path / "partly"
    for index in range(24):
        near = index in (0, 1, 2, 20)
        photo(root / "images" / "train" / f"{index:02d}.png", 0 if near else index, index % 5 if near else 0)
        if index < 12:
            rare = {5: 2, 7: 2, 9: 3}.get(index, 0)
            mask(root / "labels" / "train" / f"{index:02d}.png", 0, 1, rare)
    (root / "dataset.yaml").write_text(yaml.safe_dump({"name": "partly", "classes": list("abcd")}))
    return root


def test_masks_for_some_photos_beside_a_folder_of_unlabeled_ones(partly: Path) -> None:
    """The name stands for both; whatever goes through the folders meets each photo once."""
    photo(partly / "unlabeled" / "trip" / "x.png", 99)
    data = open_folder(partly)
    assert stems(data, "unlabeled") == ["trip/x", *(f"{index:02d}" for index in range(12, 24))]
    assert "'unlabeled' has the rest" in data.describe()
    assert [sample.stem for sample in candidates(data, None, None).unlabeled] == [
        *(f"{index:02d}" for index in range(12, 24)),
        "trip/x",
    ]
    held = draw_val(data, "2", "train")
    assert len({sample.image for sample in held.training}) == len(held.training)


def test_masks_for_some_photos(partly: Path) -> None:
    data = open_folder(partly)
    assert [sample.stem for sample in data.labeled_samples("train")] == [f"{index:02d}" for index in range(12)]
    assert stems(data, "unlabeled") == [f"{index:02d}" for index in range(12, 24)]
    assert "12 of 24 photos of 'train' have masks, 'unlabeled' is the rest" in data.describe()
    report = check(data)
    assert report.findings == []
    assert [(note.kind, note.file) for note in report.notes if note.kind != "duplicate-photo"] == [
        ("partly-labeled", "train")
    ]
    run = CliRunner().invoke(app, ["data", "split", str(partly), "--sizes", "all"])
    assert run.exit_code == 0
    assert stems(open_folder(partly), "all-unlabeled") == stems(data, "unlabeled")


def test_few_missing_masks_stay_findings(partly: Path) -> None:
    for index in range(14, 24):
        (partly / "images" / "train" / f"{index}.png").unlink()
    findings = check(open_folder(partly)).findings
    assert [finding.file for finding in findings] == ["images/train/12.png", "images/train/13.png"]


def test_masks_of_other_names_are_not_few_labels(partly: Path) -> None:
    mask(partly / "labels" / "train" / "12_mask.png", 0)
    assert open_folder(partly).partly_labeled == {}


def test_near_duplicates(partly: Path) -> None:
    photos = [sample.image for sample in open_folder(partly).samples("train")]
    groups = near_duplicates(looks(photos).thumbnails)
    assert [index for index, group in enumerate(groups) if group == 0] == [0, 1, 2, 20]
    assert len(set(groups)) == 21


@pytest.mark.parametrize("seed", range(8))
def test_held_out(partly: Path, seed: int) -> None:
    data = open_folder(partly)
    held = draw_val(data, "4", seed=seed)
    val, training = ({sample.stem for sample in part} for part in (held.val, held.training))
    assert len(held.val) == 4
    assert len(val & {"05", "07"}) == 1  # class c is on both sides
    assert "09" in training  # the only photo of class d
    assert len(val & {"00", "01", "02"}) in (0, 3)  # one scene, whole
    assert {sample.stem for sample in held.left_out} == ({"20"} if "00" in val else set())
    assert not val & training
    assert len(held.training) == 24 - 4 - len(held.left_out)
    assert held.missing == ["d"]
    assert draw_val(open_folder(partly), "4", seed=seed) == held


def test_held_out_on_the_command_line(partly: Path) -> None:
    run = CliRunner().invoke(app, ["data", "split", str(partly), "--val", "1/3", "--sizes", "1/2"])
    assert run.exit_code == 0
    data = open_folder(partly)
    val, labeled, unlabeled = (set(stems(data, name)) for name in ("val", "1_2-labeled", "1_2-unlabeled"))
    assert (len(val), len(labeled)) == (4, 4)
    assert not val & (labeled | unlabeled)
    again = CliRunner().invoke(app, ["data", "split", str(partly), "--val", "5"])
    assert isinstance(again.exception, UserError)
    assert "val.txt: exists and lists other images" in str(again.exception)
    assert not (partly / "splits" / "all-labeled.txt").exists()  # refused before anything was written


def test_held_out_beside_a_folder_of_unlabeled_photos(partly: Path) -> None:
    for index in range(12, 24):
        (partly / "images" / "train" / f"{index}.png").unlink()
    for index in range(12):  # one near-duplicate of each photo, and one photo of nothing else
        brightness = index % 5 + 1 if index < 3 else 1
        photo(partly / "unlabeled" / f"near{index:02d}.png", 0 if index < 3 else index, brightness)
    photo(partly / "unlabeled" / "far.png", 99)
    run = CliRunner().invoke(app, ["data", "split", str(partly), "--val", "4"])
    assert run.exit_code == 0
    data = open_folder(partly)
    held, labeled = (set(stems(data, name)) for name in ("val", "all-labeled"))
    assert len(held) == 4
    assert len(labeled) == 8
    nears = {f"near{stem}" for stem in labeled}
    assert set(stems(data, "all-unlabeled")) == nears | {"far"}
    assert "4 photos without masks nearly repeat photos of val" in run.stderr
    assert "train with all-unlabeled, not with unlabeled" in run.stderr
    assert [finding.kind for finding in check(data).findings] == []


def test_no_list_without_a_photo(partly: Path) -> None:
    for index in range(12, 24):
        (partly / "images" / "train" / f"{index}.png").unlink()
    run = CliRunner().invoke(app, ["data", "split", str(partly), "--val", "4"])
    assert run.exit_code == 0
    assert "all-unlabeled" not in run.stdout
    assert open_folder(partly).list_names() == ["all-labeled", "val"]


def test_held_out_that_cannot_be_had(partly: Path) -> None:
    with pytest.raises(UserError, match="has 12 masks; a held-out set of 12 leaves none"):
        draw_val(open_folder(partly), "12")
    with pytest.raises(UserError, match="stays in training, so 11 cannot be held out of 12; ask for 10"):
        draw_val(open_folder(partly), "11")
    photo(partly / "images" / "val" / "v.png", 99)
    with pytest.raises(UserError, match="already has the split 'val'"):
        draw_val(open_folder(partly), "4")


def test_two_masks_of_one_photo(partly: Path) -> None:
    mask(partly / "labels" / "train" / "03.tif", 1)
    found = [(finding.kind, finding.file) for finding in check(open_folder(partly)).findings]
    assert found == [("two-masks", "labels/train/03.png")]


def test_copies_are_shared_photos(tmp_path: Path) -> None:
    photo(tmp_path / "a.png", 0)
    photo(tmp_path / "b.png", 1)
    shutil.copy(tmp_path / "a.png", tmp_path / "copy.png")
    a, b, copy = (Sample(name, tmp_path / f"{name}.png", None) for name in ("a", "b", "copy"))
    assert shared_photos([a], [b]) == set()
    assert shared_photos([a, b], [copy]) == {copy.image}
    assert shared_photos([a, b], [b]) == {b.image}


def test_written_lists_survive_a_full_disk(partly: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    drawn = nested_splits(open_folder(partly), ["1/2"])
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UserError, match=r"1_2-labeled\.txt: the disk is full"):
        write_splits(open_folder(partly), drawn)
    assert list((partly / "splits").iterdir()) == []
