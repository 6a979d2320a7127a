"""The dataset folder: what is read, and what is refused with one clear line."""

import struct
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from semseg_app.data.check import check
from semseg_app.data.dataset import (
    DatasetInfo,
    SegmentationData,
    default_palette,
    open_folder,
    read_color_mask,
    read_image,
    read_mask,
)
from semseg_app.data.layouts import open_dataset
from semseg_app.errors import UserError


def build(root: Path, files: dict[str, np.ndarray], **info: object) -> Path:
    """A dataset folder with these image files (path below root -> pixels)."""
    content = {"name": "made", "classes": ["a", "b"], **info}
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset.yaml").write_text(yaml.safe_dump(content))
    for name, pixels in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(root / name)
    return root


PHOTO = np.zeros((2, 3, 3), np.uint8)
LABEL = np.array([[0, 1, 255], [1, 1, 0]], np.uint8)


def test_splits_lists_and_unlabeled(tmp_path: Path) -> None:
    files = {f"images/train/{stem}.png": PHOTO for stem in ("b", "a", "both")}
    files |= {"images/val/both.png": PHOTO, "labels/train/a.png": LABEL, "labels/val/both.png": LABEL}
    files |= {"unlabeled/one.png": PHOTO, "unlabeled/trip/day1/two.png": PHOTO}
    root = build(tmp_path, files)
    (root / "splits").mkdir()
    (root / "splits" / "few.txt").write_text("\ufeffb\r\n\r\ntrain/both\r\n", encoding="utf-8")
    data = open_folder(root)
    assert data.split_names() == ["train", "val", "unlabeled", "few"]
    assert [(s.stem, s.label is not None) for s in data.samples("train")] == [
        ("a", True),
        ("b", False),
        ("both", False),
    ]
    assert [s.stem for s in data.samples("unlabeled")] == ["one", "trip/day1/two", "b", "both"]
    assert [s.image for s in data.samples("few")] == [root / "images/train/b.png", root / "images/train/both.png"]
    np.testing.assert_array_equal(data.read_label(data.samples("train")[0]), LABEL)


def test_accents_as_a_mac_spells_them(tmp_path: Path) -> None:
    """A file name from a Mac has the accent as a character of its own; masks and lists may come from elsewhere."""
    files = {"images/train/Mu\u0308hle.png": PHOTO, "labels/train/M\u00fchle.png": LABEL}
    files |= {"images/train/caf\u00e9.png": PHOTO, "labels/train/cafe\u0301.png": LABEL}
    root = build(tmp_path, files)
    (root / "splits").mkdir()
    (root / "splits" / "few.txt").write_text("M\u00fchle\n", encoding="utf-8")
    (root / "splits" / "all.txt").write_text("Mu\u0308hle.png\nimages/train/caf\u00e9.png\n", encoding="utf-8")
    data = open_folder(root)
    assert [sample.label is not None for sample in data.samples("train")] == [True, True]
    assert [sample.image.name for sample in data.samples("few")] == ["Mu\u0308hle.png"]
    assert len(data.samples("all")) == 2


def test_a_list_of_a_splits_name_is_told(tmp_path: Path) -> None:
    """It is not read; where it names the same photos, it says nothing else."""
    root = build(tmp_path, {f"images/train/{stem}.png": PHOTO for stem in "ab"})
    (root / "splits").mkdir()
    (root / "splits" / "train.txt").write_text("b\na\n")
    assert "not read" not in open_folder(root).describe()
    assert "list-hidden" not in {finding.kind for finding in check(open_folder(root)).findings}
    (root / "splits" / "train.txt").write_text("b\n")
    data = open_folder(root)
    assert len(data.samples("train")) == 2
    assert "splits/train.txt is not read, since a split has its name and other photos" in data.describe()
    (note,) = [note for note in check(data).notes if note.kind == "list-hidden"]
    assert note.file == "splits/train.txt"


def test_list_mistakes_name_file_and_line(tmp_path: Path) -> None:
    root = build(tmp_path, {"images/train/x.png": PHOTO, "images/val/x.png": PHOTO})
    (root / "splits").mkdir()
    (root / "splits" / "few.txt").write_text("train/x\nx\n")
    (root / "splits" / "none.txt").write_text("nobody\n")
    data = open_folder(root)
    with pytest.raises(UserError, match=r"few\.txt:2: 'x' is in several splits; write split/stem"):
        data.samples("few")
    with pytest.raises(UserError, match=r"none\.txt:1: 'nobody' has no image"):
        data.samples("none")
    with pytest.raises(UserError, match="no split or list named 'trian'; choose one of train, val, few, none"):
        data.samples("trian")


def test_what_lies_about_in_real_folders(tmp_path: Path) -> None:
    """Upper-case suffixes, hidden files, Thumbs.db, linked files and folders, a link in a circle."""
    elsewhere = build(tmp_path / "elsewhere", {"images/train/linked.png": PHOTO, "labels/train/linked.png": LABEL})
    root = build(tmp_path / "data", {"images/train/x.png": PHOTO})
    train = root / "images" / "train"
    Image.fromarray(PHOTO).save(train / "LOUD.JPG")
    (root / "labels" / "train").mkdir(parents=True)
    Image.fromarray(LABEL).save(root / "labels" / "train" / "LOUD.PNG")
    for junk in (train / "Thumbs.db", train / ".hidden.png", train / "._LOUD.JPG"):
        junk.write_bytes(b"junk")
    (root / "images" / ".ipynb_checkpoints").mkdir()
    (train / "linked.png").symlink_to(elsewhere / "images/train/linked.png")
    (root / "images" / "more").symlink_to(elsewhere / "images" / "train")
    (root / "unlabeled" / "deep").mkdir(parents=True)
    Image.fromarray(PHOTO).save(root / "unlabeled" / "deep" / "y.png")
    (root / "unlabeled" / "deep" / "circle").symlink_to(root / "unlabeled")
    data = open_folder(root)
    assert data.split_names() == ["more", "train", "unlabeled"]
    assert [s.stem for s in data.samples("train")] == ["LOUD", "linked", "x"]
    assert [s.label is not None for s in data.samples("train")] == [True, False, False]
    assert [s.stem for s in data.folders["unlabeled"].samples()] == ["deep/y"]
    assert data.read_image(data.samples("more")[0]).shape == (2, 3, 3)


def test_photos_are_read_upright_as_8_bit_rgb(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 6  # stored lying on its left side: turn a quarter clockwise to show
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=turned)
    np.testing.assert_array_equal(read_image(tmp_path / "turned.png"), np.rot90(pixels, -1))
    Image.fromarray(pixels[..., 0]).save(tmp_path / "gray.png")
    np.testing.assert_array_equal(read_image(tmp_path / "gray.png"), np.repeat(pixels[..., :1], 3, axis=2))
    Image.fromarray(np.full((4, 6), 40000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(UserError, match=r"deep\.png: unreadable image \(16-bit or float pixels"):
        read_image(tmp_path / "deep.png")


def tiff_of(path: Path, bands: int, **tags: tuple[int, ...]) -> Path:
    """A TIFF of 2 x 1 pixels, written by hand; `tags` are T258=(8, 8, 8) and the like."""
    values = {256: (2,), 257: (1,), 258: (8,) * bands, 259: (1,), 262: (1,), 273: (8,), 277: (bands,), 278: (1,)}
    values |= {279: (2 * bands,)} | {int(name[1:]): numbers for name, numbers in tags.items()}
    longs = [number for numbers in values.values() if len(numbers) > 1 for number in numbers]
    start = 8 + 2 * bands + len(longs) * 4
    entries, at = b"", 8 + 2 * bands
    for tag, numbers in sorted(values.items()):
        entries += struct.pack("<HHLL", tag, 4, len(numbers), at if len(numbers) > 1 else numbers[0])
        at += 4 * len(numbers) if len(numbers) > 1 else 0
    ordered = [number for _, numbers in sorted(values.items()) if len(numbers) > 1 for number in numbers]
    body = struct.pack(f"<{len(ordered)}L", *ordered) + struct.pack("<H", len(values)) + entries + bytes(4)
    path.write_bytes(b"II*\0" + struct.pack("<L", start) + bytes(range(2 * bands)) + body)
    return path


def test_tiffs_of_forms_that_are_not_read_say_which_and_what_to_save(tmp_path: Path) -> None:
    assert read_image(tiff_of(tmp_path / "gray.tif", 1)).tolist() == [[[0, 0, 0], [1, 1, 1]]]
    with pytest.raises(UserError, match=r"signed\.tif: unreadable image \(signed pixels, -128 to 127; convert"):
        read_image(tiff_of(tmp_path / "signed.tif", 1, T339=(2,)))
    with pytest.raises(UserError, match=r"preview of another one \(a camera's raw file\?\); develop it to JPEG"):
        read_image(tiff_of(tmp_path / "raw.tif", 1, T254=(1,)))
    with pytest.raises(UserError) as caught:  # three bands that are not called red, green and blue
        read_image(tiff_of(tmp_path / "bands.tif", 3))
    assert "(3 channels, bits per channel 8, photometric 1, compression 1); save it as 8-bit RGB" in str(caught.value)


@pytest.mark.parametrize(
    ("start", "what"),
    [
        (b"", "the file is empty"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC photo, whatever its name says; convert it to JPEG"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
            "a pointer of Git LFS, not the photo; fetch that",
        ),
        (b"<!DOCTYPE html><html>", "a web page, not a photo; download it again"),
        (b"something else", "cannot identify image file"),
    ],
)
def test_what_is_no_photo_but_has_the_name_of_one(tmp_path: Path, start: bytes, what: str) -> None:
    (tmp_path / "a.jpg").write_bytes(start)
    with pytest.raises(UserError) as caught:
        read_image(tmp_path / "a.jpg")
    assert f"a.jpg: unreadable image ({what}" in str(caught.value)


def test_absurdly_large_photo_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(PHOTO).save(tmp_path / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2)
    with pytest.raises(UserError, match=r"huge\.png: more than 0 million pixels; cut it, and its mask, into tiles"):
        read_image(tmp_path / "huge.png")


def test_masks_of_every_kind(tmp_path: Path) -> None:
    palette = Image.fromarray(LABEL)
    palette.putpalette([value % 251 for value in range(768)])
    palette.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "palette.png"), LABEL)
    Image.fromarray(LABEL.astype(np.uint16)).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "deep.png"), LABEL)
    Image.fromarray(LABEL == 1).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "bits.png"), LABEL == 1)
    Image.fromarray(LABEL.astype(np.uint16) + 1000).save(tmp_path / "far.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "far.png"), LABEL.astype(int) + 1000)
    Image.fromarray(LABEL.astype(np.float32)).save(tmp_path / "float.tif")
    np.testing.assert_array_equal(read_mask(tmp_path / "float.tif"), LABEL)
    Image.fromarray(PHOTO).save(tmp_path / "rgb.png")
    with pytest.raises(UserError, match=r"rgb\.png: mask has mode RGB.*semseg check"):
        read_mask(tmp_path / "rgb.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "palette.png").read_bytes()[:50])
    for reader in (read_mask, read_color_mask):
        with pytest.raises(UserError, match=r"cut\.png: unreadable label"):
            reader(tmp_path / "cut.png")
        with pytest.raises(UserError, match=r"gone\.png: no such label"):
            reader(tmp_path / "gone.png")


def test_label_map_and_color_map(tmp_path: Path) -> None:
    files = {"images/train/x.png": PHOTO, "labels/train/x.png": np.array([[3, 4, 200], [4, 4, 3]], np.uint8)}
    data = open_folder(build(tmp_path / "values", files, label_map={3: 0, 4: 1, 200: 255}))
    np.testing.assert_array_equal(data.read_label(data.samples("train")[0]), LABEL)

    colors = np.array([[0, 0, 9], [255, 0, 0], [1, 2, 3]], np.uint8)[[[0, 1, 2], [1, 1, 0]]]
    files["labels/train/x.png"] = colors
    mapping = {"#FF0000": 1, "#000009": 0, "#010203": 7}
    data = open_folder(build(tmp_path / "colors", files, color_map=mapping, ignore_index=7))
    np.testing.assert_array_equal(data.read_label(data.samples("train")[0]), LABEL)
    Image.fromarray(PHOTO).save(tmp_path / "colors/labels/train/x.png")
    with pytest.raises(UserError, match=r"x\.png: color #000000 is not in the color_map; run `semseg check"):
        data.read_label(data.samples("train")[0])


def test_value_outside_the_classes(tmp_path: Path) -> None:
    files = {"images/train/x.png": PHOTO, "labels/train/x.png": np.full((2, 3), 2, np.uint8)}
    data = open_folder(build(tmp_path, files, ignore_index=9))
    with pytest.raises(UserError, match=r"x\.png: value 2 is not one of the 2 classes nor ignore \(9\)"):
        data.read_label(data.samples("train")[0])
    with pytest.raises(UserError, match=r"has no label .*; only an unlabeled list may name it"):
        data.read_label(data.samples("train")[0]._replace(label=None))


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({"classes": ["a", "a"]}, "class names must be unique; given twice: a"),
        ({"classes": ["a"], "palette": [[0, 0, 0], [1, 1, 1]]}, "1 classes but 2 palette colors"),
        ({"classes": ["a"], "palette": [[0, 0, 256]]}, "from 0 to 255"),
        ({"classes": ["a", "b"], "ignore_index": 1}, "ignore_index 1 is also a class"),
        ({"classes": ["a"], "label_map": {65536: 0}}, "65536 is no value of a mask; they go from -32768 to 65535"),
        (
            {"classes": ["a"], "label_map": {0: 1}},
            r"label_map: 1 is neither a class \(0 to 0\) nor ignore_index \(255\)",
        ),
        ({"classes": ["a"], "color_map": {"red": 0}}, "'red' is no color; write it as '#rrggbb'"),
        ({"classes": ["a"], "color_map": {"#ff0000": 0}, "label_map": {0: 0}}, "not both"),
        ({"classes": ["a"], "color_map": {}}, "color_map"),
        ({"classes": [False, "yes"]}, "classes.0: must be text, not False; write it in quotes"),
        ({"classes": ["a", " "]}, "class 1 has no name"),
        ({"classes": "a, b"}, r"classes: write a list, in brackets: \[a, b\]"),
        (
            {"classes": {1: "a", 5: "b"}},
            r"write classes: \[a, b\] and label_map: \{1: 0, 5: 1, 255: 255\}",
        ),
        ({"classes": ["a"], "color_map": {"a": [0, 0, 0]}}, "the color comes first, then the number of its class"),
        ({"names": ["a"], "nc": 1}, "names is no key of dataset.yaml: write classes"),
        ({"classes": ["a"], "num_classes": 1}, "num_classes is no key of dataset.yaml: leave it out"),
        ({"classes": ["a"], "reduce_zero_label": True}, r"write label_map: \{0: 255, 1: 0"),
        ({"classes": ["ground", 1]}, r"classes.1: must be text, not 1; write it in quotes \(YAML reads no, yes, 1"),
    ],
)
def test_wrong_descriptions(tmp_path: Path, info: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        open_folder(build(tmp_path, {"images/train/x.png": PHOTO}, **info))
    assert str(tmp_path / "dataset.yaml") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("classes", [{1: "tree", 0: "ground"}, {"ground": 0, "tree": 1}])
def test_classes_by_number_and_colors_in_hex(classes: dict[object, object], tmp_path: Path) -> None:
    root = build(tmp_path, {"images/train/x.png": PHOTO}, classes=classes, palette=["#010203", [4, 5, 6]])
    info = open_folder(root).info
    assert info.classes == ["ground", "tree"]
    assert info.palette == [(1, 2, 3), (4, 5, 6)]


def test_a_description_under_another_name(tmp_path: Path) -> None:
    root = build(tmp_path, {"images/train/x.png": PHOTO})
    (root / "dataset.yaml").rename(root / "dataset.yml")
    with pytest.raises(UserError, match=r"dataset\.yml: is called dataset\.yaml here; rename it"):
        open_dataset(root)


def test_wrong_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        open_folder(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"dataset\.yaml: no such file"):
        open_folder(tmp_path)
    root = build(tmp_path / "empty", {})
    with pytest.raises(UserError, match="expected images/<split>/ beside dataset"):
        open_folder(root)
    root = build(tmp_path / "flat", {"images/x.png": PHOTO})
    with pytest.raises(UserError, match="move them to images/train/"):
        open_folder(root)
    (root / "dataset.yaml").write_text("name: größe\n", encoding="cp1252")
    with pytest.raises(UserError, match=r"dataset\.yaml: not a text file in UTF-8; save it as UTF-8"):
        open_folder(root)
    (root / "dataset.yaml").write_text("name: [\n")
    with pytest.raises(UserError, match=r"dataset\.yaml:\d: not valid YAML"):
        open_folder(root)


def test_default_palette_is_the_voc_palette_without_its_black() -> None:
    # From the VOC devkit: aeroplane, bicycle, bird, boat ... tvmonitor.
    palette = default_palette(20)
    assert palette[:4] == [(128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128)]
    assert palette[-1] == (0, 64, 128)
    assert len(set(default_palette(255))) == 255


def test_fingerprint_follows_the_data_not_its_place(tmp_path: Path) -> None:
    def fingerprint(root: Path, stems: str = "xy", size: int = 2, **info: object) -> str:
        files = {f"images/train/{stem}.png": np.zeros((size, 3, 3), np.uint8) for stem in stems}
        data: SegmentationData = open_folder(build(root, files, **info))
        return data.fingerprint(data.samples("train"))

    here = fingerprint(tmp_path / "here")
    assert fingerprint(tmp_path / "there") == here
    others = [
        fingerprint(tmp_path / "fewer", "x"),
        fingerprint(tmp_path / "larger", size=200),
        fingerprint(tmp_path / "classes", classes=["a", "c"]),
        fingerprint(tmp_path / "map", label_map={0: 0, 1: 1}),
        fingerprint(tmp_path / "other map", label_map={0: 1, 1: 0}),
    ]
    assert len({here, *others}) == 6
    data = open_folder(tmp_path / "here")
    samples = data.samples("train")
    samples[1].image.unlink()
    with pytest.raises(UserError, match=r"y\.png: is listed but not there"):
        data.fingerprint(samples)


def test_info_default_palette_fits() -> None:
    info = DatasetInfo(name="x", classes=["a", "b", "c"])
    assert info.palette == default_palette(3)
