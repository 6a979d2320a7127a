"""The doctor: a clean dataset stays clean, every planted defect is named with its file."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from semseg_app.cli.main import app
from semseg_app.data.check import CheckReport, check
from semseg_app.data.dataset import open_folder, read_image
from semseg_app.data.layouts import open_dataset

CLASSES = ["ground", "box", "disc"]
PALETTE = [[90, 90, 90], [200, 60, 40], [40, 90, 210]]


def photo(seed: int, width: int = 40, height: int = 30) -> Image.Image:
    """A smooth random picture: no two seeds look alike."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def mask(*values: int, width: int = 40, height: int = 30) -> np.ndarray:
    """uint8 [height, width] in vertical stripes of the values."""
    columns = np.array_split(np.arange(width), len(values))
    row = np.concatenate([np.full(len(part), value, np.uint8) for part, value in zip(columns, values, strict=True)])
    return np.tile(row, (height, 1))


def make(root: Path, train: int = 4, val: int = 2, values: tuple[int, ...] = (0, 1, 2, 255), **info: object) -> Path:
    """A clean dataset folder."""
    for split, count, first in (("train", train, 0), ("val", val, 1000)):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            photo(first + index).save(root / "images" / split / f"{split}{index}.jpg", quality=95)
            Image.fromarray(mask(*values)).save(root / "labels" / split / f"{split}{index}.png")
    content = {"name": "made", "classes": CLASSES, "palette": PALETTE, **info}
    (root / "dataset.yaml").write_text(yaml.safe_dump(content))
    return root


def said(report: CheckReport) -> set[tuple[str, str]]:
    return {(finding.kind, finding.file) for finding in [*report.findings, *report.notes]}


def examine(root: Path) -> CheckReport:
    return check(open_dataset(root))


def message(report: CheckReport, kind: str) -> str:
    (found,) = [finding.message for finding in [*report.findings, *report.notes] if finding.kind == kind]
    return found


def test_clean_dataset_has_the_right_numbers(tmp_path: Path) -> None:
    root = make(tmp_path)
    report = examine(root)
    assert report.findings == []
    assert report.notes == []
    assert report.proposal is None
    train = report.splits["train"]
    assert (train.images, train.labeled, dict(train.sizes)) == (4, 4, {(40, 30): 4})
    # Four stripes of ten columns: each class, and ignore, covers a quarter of 4 x 1200 pixels.
    assert train.class_pixels.tolist() == [1200, 1200, 1200]
    assert train.class_images.tolist() == [4, 4, 4]
    assert train.ignored_pixels == 1200
    stack = np.stack([read_image(path) for path in sorted((root / "images" / "train").iterdir())]) / 255
    np.testing.assert_allclose(train.mean, stack.mean(axis=(0, 1, 2)), rtol=1e-9)
    np.testing.assert_allclose(train.std, stack.std(axis=(0, 1, 2)), rtol=1e-9)


def test_every_planted_defect_is_named_with_its_file(tmp_path: Path) -> None:
    """One dataset with every defect that can stand beside the others."""
    root = make(tmp_path, train=20, val=6, splits={"train": 24, "val": 9})
    images, labels, val_images, val_labels = (root / part for part in (
        "images/train", "labels/train", "images/val", "labels/val",
    ))  # fmt: skip
    expected: set[tuple[str, str]] = {("split-count", "dataset.yaml")}

    # Unreadable and truncated files.
    (images / "train0.jpg").write_bytes((images / "train0.jpg").read_bytes()[:-100])
    (images / "train1.jpg").write_bytes(b"")
    (images / "broken_link.jpg").symlink_to(root / "nowhere.jpg")
    (labels / "train2.png").write_bytes((labels / "train2.png").read_bytes()[:60])
    (labels / "train3.png").write_text("not an image")
    expected |= {("unreadable-image", f"images/train/{name}.jpg") for name in ("train0", "train1", "broken_link")}
    expected |= {("unreadable-mask", f"labels/train/{name}.png") for name in ("train2", "train3")}
    expected |= {("no-mask", "images/train/broken_link.jpg")}
    # A photo in 16 bits, which would be clipped to white.
    Image.fromarray(np.full((30, 40), 40000, np.uint16)).save(images / "deep.png")
    Image.fromarray(mask(0, 1, 2)).save(labels / "deep.png")
    expected |= {("unreadable-image", "images/train/deep.png")}
    # Sizes.
    Image.fromarray(mask(0, 1, 2, width=20)).save(labels / "train4.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    photo(5).save(images / "train5.jpg", exif=turned)  # the mask keeps the unturned 40x30
    upside_down = Image.Exif()
    upside_down[0x0112] = 3
    photo(6).save(images / "train6.jpg", exif=upside_down)
    expected |= {("size-mismatch", "labels/train/train4.png"), ("size-mismatch", "labels/train/train5.png")}
    expected |= {("turned-photo", "images/train/train6.jpg")}
    # Masks that are no indices.
    Image.fromarray(np.array(PALETTE, np.uint8)[mask(0, 1, 2)]).save(labels / "train7.png")
    swapped = Image.fromarray(mask(2, 0, 1))
    swapped.putpalette([value for color in (PALETTE[2], PALETTE[0], PALETTE[1]) for value in color])
    swapped.save(labels / "train8.png")
    photo(9).save(labels / "train9.png", format="JPEG")
    expected |= {("color-mask", "labels/train/train7.png"), ("palette-mask", "labels/train/train8.png")}
    expected |= {("color-mask", "labels/train/train9.png"), ("lossy-mask", "labels/train/train9.png")}
    # Values.
    Image.fromarray(mask(0, 7, 200)).save(labels / "train10.png")
    Image.fromarray(mask(0, 44).astype(np.uint16) + 300).save(labels / "train11.png")  # 16 bits
    Image.fromarray(mask(255)).save(labels / "train12.png")
    expected |= {("value-outside", "labels/train/train10.png"), ("value-outside", "labels/train/train11.png")}
    expected |= {("empty-mask", "labels/train/train12.png")}
    # Partners.
    (labels / "train13.png").unlink()
    Image.fromarray(mask(0, 1)).save(labels / "orphan.png")
    Image.fromarray(mask(0, 1)).save(labels / "lossy.jpg")
    photo(50).save(images / "lossy.png")
    photo(51).save(images / "train14.png")
    (root / "labels" / "extra").mkdir()
    (root / "images" / "nothing").mkdir()
    expected |= {("no-mask", "images/train/train13.jpg"), ("no-photo", "labels/train/orphan.png")}
    expected |= {("no-mask", "images/train/lossy.png"), ("lossy-mask", "labels/train/lossy.jpg")}
    expected |= {("same-stem", "images/train/train14.jpg"), ("no-photo", "labels/extra")}
    expected |= {("empty-split", "images/nothing")}
    (root / "images" / "test").mkdir()
    photo(70).save(root / "images" / "test" / "t.png")
    expected |= {("unlabeled-split", "test")}
    # The same photo in train and val: by its bytes, by its name and look; a name alone is only a note.
    shutil.copy(images / "train15.jpg", val_images / "val0.jpg")
    for stem, quality, seed in (("train16", 60, 16), ("train17", 95, 999)):
        photo(seed).save(val_images / f"{stem}.jpg", quality=quality)
        Image.fromarray(mask(0, 1)).save(val_labels / f"{stem}.png")
    shutil.copy(images / "train18.jpg", images / "twin.jpg")
    Image.fromarray(mask(0, 1)).save(labels / "twin.png")
    expected |= {("overlap", "images/val/val0.jpg"), ("overlap", "images/val/train16.jpg")}
    expected |= {("name-in-two-splits", "images/val/train17.jpg"), ("duplicate-photo", "images/train/twin.jpg")}
    # Lists.
    splits = root / "splits"
    splits.mkdir()
    (splits / "a-labeled.txt").write_text("train18\ntrain19\ntrain18\nnobody\ntrain13\nval1\ntrain16\n")
    (splits / "a-unlabeled.txt").write_text("train19\n\ntrain4\n")
    (splits / "b.txt").write_bytes(b"\xff\xfe\x00")
    expected |= {("list-repeat", "splits/a-labeled.txt:3"), ("list-entry", "splits/a-labeled.txt:4")}
    expected |= {("no-mask", "splits/a-labeled.txt:5"), ("list-leak", "splits/a-labeled.txt")}
    expected |= {("list-entry", "splits/a-labeled.txt:7"), ("list-entry", "splits/b.txt")}
    expected |= {("list-overlap", "splits/a-unlabeled.txt"), ("list-incomplete", "splits/a-unlabeled.txt")}
    # Files that nobody minds.
    (images / "Thumbs.db").write_bytes(b"x")
    (images / ".hidden.jpg").write_bytes(b"x")
    (labels / ".DS_Store").write_bytes(b"x")
    (root / "images" / ".cache").mkdir()
    photo(60).save(images / "LOUD.JPG")
    Image.fromarray(mask(0, 1)).save(labels / "LOUD.PNG", format="PNG")

    report = examine(root)
    assert said(report) == expected
    by_file = {(finding.kind, finding.file): finding.message for finding in [*report.findings, *report.notes]}
    assert by_file["size-mismatch", "labels/train/train4.png"] == "the mask is 20x30, the photo 40x30"
    assert "EXIF orientation 6" in by_file["size-mismatch", "labels/train/train5.png"]
    assert "16-bit" in by_file["unreadable-image", "images/train/deep.png"]
    assert "truncated" in by_file["unreadable-image", "images/train/train0.jpg"]
    assert by_file["unreadable-image", "images/train/train1.jpg"] == "the file is empty"
    assert by_file["unreadable-image", "images/train/broken_link.jpg"] == "a link to nothing"
    assert by_file["color-mask", "labels/train/train7.png"].startswith("#5a5a5a = ground (35.0%), #285ad2 = disc")
    assert by_file["value-outside", "labels/train/train10.png"].startswith("7 (32.5%), 200 (32.5%); classes are 0 to 2")
    assert by_file["value-outside", "labels/train/train11.png"].startswith("300 (50.0%), 344 (50.0%)")
    assert by_file["overlap", "images/val/val0.jpg"] == "the same bytes as images/train/train15.jpg"
    assert "is in several splits; write split/stem" in by_file["list-entry", "splits/a-labeled.txt:7"]
    counts = [finding.message for finding in report.findings if finding.kind == "split-count"]
    assert counts == ["'train' has 26 photos, not 24", "'val' has 8 photos, not 9"]


def test_a_class_that_train_never_shows_is_a_finding_in_val_a_note(tmp_path: Path) -> None:
    root = make(tmp_path, values=(0, 1))
    report = examine(root)
    assert [(f.kind, f.file) for f in report.findings] == [("class-absent", "images/train")]
    assert [(f.kind, f.file) for f in report.notes] == [("class-absent-elsewhere", "images/val")]
    assert message(report, "class-absent") == "no mask of 'train' shows disc"


@pytest.mark.parametrize(
    ("values", "info", "words", "mapped"),
    [
        ((1, 2, 3, 255), {}, "labels run from 1 to 3", [0, 1, 2, 255]),
        ((0, 1, 2, 3), {}, "as in ADE20K", [255, 0, 1, 2]),
        ((1, 2, 3), {"ignore_index": 3}, "labels run from 1 to 3", [0, 1, 2]),
        ((0, 255), {}, "reads 255 as class 1", [0, 1]),
        ((0, 255), {"ignore_index": 100}, "reads 255 as class 1", [0, 1]),
        ((0, 1, 2, 9), {}, "9 (25.0%)", [0, 1, 2, 255]),
        ((0, 5, 6), {"label_map": {0: 0, 5: 2}}, "label_map names 0, 5", [0, 2, 255]),
    ],
)
def test_wrong_numbers_and_the_map_that_rights_them(
    tmp_path: Path, values: tuple[int, ...], info: dict[str, object], words: str, mapped: list[int]
) -> None:
    root = make(tmp_path / "data", values=values, **info)
    out = tmp_path / "fixed.yaml"
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    result = CliRunner().invoke(app, ["check", str(root), "--fix-map", str(out)])
    assert result.exit_code == 1
    assert words in result.stdout
    assert "labels/train/train0.png" in result.stdout
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before

    shutil.copy(out, root / "dataset.yaml")
    data = open_folder(root)
    label = data.read_label(data.samples("train")[0])
    stripes = np.array_split(np.arange(40), len(values))
    assert [int(label[0, columns[0]]) for columns in stripes] == mapped
    assert {kind for kind, _ in said(examine(root))} <= {"class-absent", "class-absent-elsewhere"}


@pytest.mark.parametrize("kind", ["rgb", "palette", "gray"])
def test_masks_of_colors_and_the_map_that_rights_them(tmp_path: Path, kind: str) -> None:
    root = make(tmp_path / "data")
    colors = np.array([*PALETTE, [255, 255, 255]], np.uint8)
    if kind == "gray":
        colors = np.array([[index] * 3 for index in (0, 1, 2, 255)], np.uint8)
    for path in (root / "labels").rglob("*.png"):
        stripes = mask(0, 1, 2, 3)
        if kind == "palette":  # the numbers run backwards, the colors are right
            picture = Image.fromarray(3 - stripes)
            picture.putpalette([int(value) for color in colors[::-1] for value in color])
            path.unlink()
            picture.save(path)
        else:
            Image.fromarray(colors[stripes]).save(path)
    out = tmp_path / "fixed.yaml"
    result = CliRunner().invoke(app, ["check", str(root), "--fix-map", str(out)])
    assert result.exit_code == 1
    if kind == "gray":
        assert "its channels hold class numbers" in result.stdout
    shutil.copy(out, root / "dataset.yaml")
    data = open_folder(root)
    np.testing.assert_array_equal(data.read_label(data.samples("train")[0]), mask(0, 1, 2, 255))
    report = examine(root)
    assert report.findings == []
    assert report.splits["train"].class_pixels.tolist() == [1200, 1200, 1200]


def test_masks_of_colors_among_masks_of_numbers(tmp_path: Path) -> None:
    root = make(tmp_path / "data")
    first = root / "labels" / "train" / "train0.png"
    Image.fromarray(np.array(PALETTE, np.uint8)[mask(0, 1, 2)]).save(first)
    out = tmp_path / "fixed.yaml"
    CliRunner().invoke(app, ["check", str(root), "--fix-map", str(out)])
    shutil.copy(out, root / "dataset.yaml")
    data = open_folder(root)
    labels = [data.read_label(sample) for sample in data.samples("train")]
    np.testing.assert_array_equal(labels[0], mask(0, 1, 2))
    np.testing.assert_array_equal(labels[1], mask(0, 1, 2, 255))


def test_blurred_mask_has_too_many_colors(tmp_path: Path) -> None:
    root = make(tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8)
    Image.fromarray(noise).save(root / "labels" / "train" / "train0.png")
    assert "more than 4096 colors" in message(examine(root), "color-mask")


def test_colors_outside_the_color_map(tmp_path: Path) -> None:
    colors = {"#000000": 0, "#FF0000": 1, "#00ff00": 2}
    root = make(tmp_path, color_map=colors)
    for path in (root / "labels").rglob("*.png"):
        Image.fromarray(np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0]], np.uint8)[mask(0, 1, 2)]).save(path)
    assert examine(root).findings == []
    Image.fromarray(mask(0, 9)).save(root / "labels" / "train" / "train0.png")
    assert message(examine(root), "value-outside") == "not in the color_map: #090909 = no class (100.0%)"


def test_published_lists_may_share_photos(tmp_path: Path) -> None:
    """VOC's trainval repeats train and val on purpose; a train_aug that holds a val photo is a leak."""
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for folder in ("JPEGImages", "SegmentationClass", "SegmentationClassAug"):
        (tmp_path / folder).mkdir()
    everything = mask(*range(21), 255, width=44)
    for index, stem in enumerate("abc"):
        photo(index, width=44).save(tmp_path / "JPEGImages" / f"{stem}.jpg")
        for folder in ("SegmentationClass", "SegmentationClassAug"):
            Image.fromarray(everything).save(tmp_path / folder / f"{stem}.png")
    for name, stems in (("train", "a"), ("val", "b"), ("trainval", "ab"), ("train_aug", "ac")):
        (lists / f"{name}.txt").write_text("\n".join(stems))
    assert said(examine(tmp_path)) == set()
    (lists / "train_aug.txt").write_text("a\nb\nmissing\n")
    assert said(examine(tmp_path)) == {
        ("overlap", "JPEGImages/b.jpg"),
        ("unreadable-image", "JPEGImages/missing.jpg"),
        ("no-mask", "JPEGImages/missing.jpg"),
        ("unused-mask", "SegmentationClass"),  # of c, which no list names any more
        ("unused-mask", "SegmentationClassAug"),
    }


def test_exit_codes_and_json(tmp_path: Path) -> None:
    root = make(tmp_path / "data")
    clean = CliRunner().invoke(app, ["check", str(root)])
    assert clean.exit_code == 0
    assert "clean" in clean.stdout
    (root / "labels" / "train" / "train0.png").unlink()
    found = CliRunner().invoke(app, ["check", str(root), "--json"])
    assert found.exit_code == 1
    answer = json.loads(found.stdout)
    assert answer["clean"] is False
    assert answer["findings"] == [
        {"kind": "no-mask", "message": "expected labels/train/train0.png", "file": "images/train/train0.jpg"}
    ]
    assert answer["splits"]["train"]["histogram"]["box"] == {"pixels": 900, "images": 3}
    assert answer["splits"]["val"]["sizes"] == {"40x30": 2}


def test_misuse_is_one_line_and_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from semseg_app.cli.main import main

    root = make(tmp_path / "data")
    kept = tmp_path / "kept.yaml"
    kept.write_text("mine")
    for arguments, words in (
        ([str(tmp_path / "nowhere")], "no such folder"),
        ([str(root), "--layout", "vok"], "no layout named 'vok'"),
        ([str(root), "--fix-map", str(kept)], "nothing is changed in place"),
    ):
        monkeypatch.setattr("sys.argv", ["semseg", "check", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert stopped.value.code == 2
        captured = capsys.readouterr()
        assert words in captured.err
        assert captured.err.count("\n") == 1
        assert captured.out == ""
    assert kept.read_text() == "mine"


def test_no_map_is_written_where_none_is_called_for(tmp_path: Path) -> None:
    out = tmp_path / "out.yaml"
    result = CliRunner().invoke(app, ["check", str(make(tmp_path / "data")), "--fix-map", str(out)])
    assert result.exit_code == 0
    assert "no map is called for" in result.stderr
    assert not out.exists()


@pytest.mark.slow
def test_camvid_is_clean() -> None:
    root = Path(__file__).parents[2].parent / "shared" / "data" / "camvid"
    report = examine(root)
    assert report.findings == []
    assert (report.splits["train"].images, report.splits["val"].images) == (367, 101)
    # Counted by a loop over numpy.bincount.
    assert int(report.splits["train"].class_pixels[10]) == 184967
    assert report.splits["val"].ignored_pixels == 297271


def test_processes_find_what_threads_find(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make(tmp_path / "d")
    (root / "images" / "train" / "train1.jpg").write_bytes(b"no photo")
    Image.fromarray(mask(0, 7)).save(root / "labels" / "val" / "val1.png")
    expected = examine(root)
    # Were they threads here, the processes would count for nothing.
    monkeypatch.setattr("semseg_app.data.check.ordered_map", None)
    monkeypatch.setattr("semseg_app.data.check.MANY", 6)
    report = check(open_dataset(root), processes=2)
    assert report.to_dict() == expected.to_dict()
    assert {"unreadable-image", "value-outside"} <= {finding.kind for finding in report.findings}
