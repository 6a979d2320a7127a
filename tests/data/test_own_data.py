"""Data as people have it: own classes in published folders, masks under other names, masks that cannot be meant."""

import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from support.own_data import NUMBERS, ZERO_AND_255, folder, kinds, mask, photo
from typer.testing import CliRunner

from semseg_app.cli.main import app
from semseg_app.data.check import check
from semseg_app.data.importers.formats import read_export
from semseg_app.data.layouts import open_dataset
from semseg_app.data.training_check import refuse_or_warn
from semseg_app.errors import UserError

COLORS = {"background": (0, 0, 0), "dog": (176, 112, 32), "cat": (48, 112, 32)}
CLASS_FILES = {
    "labelmap.txt": "# label:color_rgb:parts:actions\n"
    + "".join(f"{name}:{','.join(map(str, color))}::\n" for name, color in COLORS.items()),
    "label_colors.txt": "".join(f"{' '.join(map(str, color))}\t{name}\n" for name, color in COLORS.items()),
    "class_names.txt": "__ignore__\nbackground\ndog\ncat\n",
    "_classes.csv": "Pixel Value, Class\n0, background\n1, dog\n2, cat\n",
}


@pytest.mark.parametrize("name", CLASS_FILES)
@pytest.mark.parametrize("with_lists", [True, False])
def test_a_class_file_beside_the_masks_beats_the_layout(name, with_lists, tmp_path):
    root = tmp_path / "export"
    for number in range(3):
        photo(root / "JPEGImages" / f"f{number}.jpg", number)
        pixels = np.array(list(COLORS.values()), np.uint8)[NUMBERS] if "label" in name else NUMBERS
        mask(root / "SegmentationClass" / f"f{number}.png", pixels)
    photo(root / "JPEGImages" / "f9.jpg", 9)
    if with_lists:
        (root / "ImageSets" / "Segmentation").mkdir(parents=True)
        (root / "ImageSets" / "Segmentation" / "default.txt").write_text("f0\nf1\nf2\n")
    (root / name).write_text(CLASS_FILES[name])
    data = open_dataset(root)
    assert data.info.classes == list(COLORS)
    split = "default" if with_lists else "train"
    assert data.split_names() == [split, "unlabeled"]
    assert [sample.stem for sample in data.samples("unlabeled")] == ["f9"]
    for sample in data.samples(split):
        assert np.array_equal(data.read_label(sample), NUMBERS)
    assert name in data.describe()
    assert "3 classes (background, dog, cat)" in data.describe()


@pytest.mark.parametrize(
    ("files", "lines"),
    [
        (["IMG 0001.jpg", "IMG 0002.jpg"], ["IMG 0001", "IMG 0002"]),
        (["cam1/f1.jpg", "cam2/f1.jpg"], ["cam1/f1", "cam2/f1"]),
        (
            ["a1.jpg", "a2.tif", "a3.bmp"],
            ["JPEGImages\\a1.jpg", "a2.tif", "/JPEGImages/a3.bmp /SegmentationClass/a3.png"],
        ),
    ],
)
def test_lists_name_photos_as_people_and_tools_do(files, lines, tmp_path):
    root = tmp_path / "export"
    for number, file in enumerate(files):
        photo(root / "JPEGImages" / file, number)
        mask(root / "SegmentationClass" / Path(file).with_suffix(".png"), NUMBERS)
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "default.txt").write_text("\n".join(lines))
    (root / "class_names.txt").write_text(CLASS_FILES["class_names.txt"])
    data = open_dataset(root)
    assert data.split_names() == ["default"]
    assert [sample.image for sample in data.samples("default")] == [root / "JPEGImages" / file for file in files]
    assert all(np.array_equal(data.read_label(sample), NUMBERS) for sample in data.samples("default"))
    assert CliRunner().invoke(app, ["data", "import", str(root), "-o", str(tmp_path / "out")]).exit_code == 0
    (lists / "default.txt").write_text("\n".join([*lines, "IMG 0009"]))
    assert open_dataset(root).samples("default")[-1].image == root / "JPEGImages" / "IMG 0009.jpg"


def test_a_label_map_without_colors_means_those_of_voc(tmp_path):
    """As datumaro 1.13.12 writes it; the masks have VOC's colors."""
    photo(tmp_path / "JPEGImages" / "a.jpg")
    mask(tmp_path / "SegmentationClass" / "a.png", np.array([(0, 0, 0), (128, 0, 0), (0, 128, 0)], np.uint8)[NUMBERS])
    (tmp_path / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nbackground:::\ndog:::\ncat:::\n")
    data = open_dataset(tmp_path)
    assert data.info.classes == ["background", "dog", "cat"]
    assert np.array_equal(data.read_label(data.samples("train")[0]), NUMBERS)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("labelmap.txt", "dog:1,2::\n", r"labelmap.txt:1: expected `name:red,green,blue:parts:actions`"),
        ("labelmap.txt", "a:1,1,1::\nb:1,1,1::\n", r"labelmap.txt: the color \(1, 1, 1\) stands for two classes"),
        ("label_colors.txt", "1 2 300 dog\n", r"label_colors.txt:1: color 1,2,300: each number is 0 to 255"),
        ("_classes.csv", "v,n\nx,dog\n", r"_classes.csv:2: expected `value from 0 to 255, name`"),
    ],
)
def test_a_malformed_class_file_is_named_with_its_line(name, text, message, tmp_path):
    photo(tmp_path / "JPEGImages" / "a.jpg")
    mask(tmp_path / "SegmentationClass" / "a.png")
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("annotations/instances.json", {"images": [], "annotations": [], "categories": []}, "a COCO export"),
        ("photos/a.json", {"shapes": [], "imagePath": "a.jpg"}, "LabelMe files"),
        ("tasks.json", [{"id": 1, "data": {"image": "a.jpg"}, "annotations": []}], "a Label Studio export"),
        ("data.yaml", {"names": ["car"], "train": "images/train"}, "a YOLO dataset"),
        ("via.json", {"a1": {"filename": "a", "regions": [], "file_attributes": {}}}, "a VGG Image Annotator export"),
    ],
)
def test_exports_of_annotation_tools_are_called_by_name_with_the_command_that_imports_them(
    file, content, words, tmp_path
):
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(json.dumps(content))
    command = re.escape(f"`semseg data import {tmp_path} -o FOLDER` makes a dataset of it")
    with pytest.raises(UserError, match=rf"this is {words} \({file}\); {command}"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    ("content", "tool"),
    [
        ({"name": "yard", "tags": [], "assets": {"1": {"asset": {"name": "a.jpg"}, "regions": []}}}, "a VoTT export"),
        ({"version": "2.0", "item": {"name": "a.jpg", "slots": []}, "annotations": []}, "a Darwin (V7) export"),
        ({"info": {}, "categories": {}, "items": [{"id": "a", "annotations": []}]}, "a Datumaro dataset"),
        ({"metadata": {"name": "a.jpg"}, "instances": [], "tags": []}, "a SuperAnnotate export"),
        ({"name": "ann/yard", "release": {"name": "v1"}, "dataset": {"samples": []}}, "a Segments.ai release"),
        ({"imgHeight": 30, "imgWidth": 40, "objects": []}, "polygons of Cityscapes"),
    ],
)
def test_exports_that_are_not_imported_are_called_by_name(content, tool, tmp_path):
    path = tmp_path / "project.json"
    path.write_text(json.dumps(content))
    said = rf"this is {re.escape(tool)} \({{}}project.json\); it is not read: .* write PNG masks to labels/<split>/"
    with pytest.raises(UserError, match=said.format("")):
        open_dataset(tmp_path)
    with pytest.raises(UserError, match=said.format("")):
        read_export(tmp_path)
    with pytest.raises(UserError, match=said.format(".*")):
        read_export(path)


@pytest.mark.parametrize("suffix", [".tif", ".bmp", ".png"])
def test_masks_in_any_lossless_format_are_read(suffix, tmp_path):
    root = folder(tmp_path, [NUMBERS])
    (root / "labels" / "train" / "p0.png").unlink()
    mask(root / "labels" / "train" / f"p0{suffix}")
    data = open_dataset(root)
    assert np.array_equal(data.read_label(data.samples("train")[0]), NUMBERS)
    assert check(data).findings == []


@pytest.mark.parametrize("name", ["masks", "Masks", "Annotation", "segmentation_masks"])
def test_masks_elsewhere_are_found(name, tmp_path):
    root = folder(tmp_path / "a", [NUMBERS])
    (root / "labels").rename(root / name)
    assert kinds(root)["no-labels-folder"] == "train"
    data = open_dataset(root)
    with pytest.raises(UserError, match=rf"has no label \(expected .*labels/train/p0.png, and {name}/ is there\)"):
        data.read_label(data.samples("train")[0])


def test_photos_in_sub_folders_are_found(tmp_path):
    root = folder(tmp_path / "a", [NUMBERS])
    (root / "images" / "train" / "monday").mkdir()
    for path in list((root / "images" / "train").glob("*.*")):
        path.rename(path.parent / "monday" / path.name)
    shutil.copytree(root / "images" / "train" / "monday", root / "images" / "train" / "tuesday")
    (root / "labels" / "train" / "monday").mkdir()
    (root / "labels" / "train" / "p0.png").rename(root / "labels" / "train" / "monday" / "p0.png")
    mask(root / "labels" / "train" / "tuesday" / "p0.png", NUMBERS[::-1])
    data = open_dataset(root)
    drawn = {sample.stem: data.read_label(sample) for sample in data.samples("train")}
    assert list(drawn) == ["monday/p0", "tuesday/p0"]
    assert np.array_equal(drawn["monday/p0"], NUMBERS)
    assert np.array_equal(drawn["tuesday/p0"], NUMBERS[::-1])


def test_a_split_in_capitals_is_held_out(tmp_path):
    root = folder(tmp_path / "a", [NUMBERS])
    for kind in ("images", "labels"):
        shutil.copytree(root / kind / "train", root / kind / "Val")
    assert kinds(root)["overlap"]


def test_pages_of_a_photo_and_masks_among_the_photos(tmp_path):
    root = folder(tmp_path / "a", [NUMBERS])
    pixels = Image.open(root / "images" / "train" / "p0.png").convert("RGB")
    (root / "unlabeled").mkdir()
    pixels.save(root / "unlabeled" / "stack.tif", save_all=True, append_images=[pixels.rotate(180)])
    mask(root / "unlabeled" / "p0_mask.png", NUMBERS)
    found = kinds(root)
    assert found["photo-of-pages"] == "unlabeled/stack.tif"
    assert found["photo-like-a-mask"] == "unlabeled/p0_mask.png"


def test_a_photo_without_a_suffix_is_named(tmp_path):
    root = folder(tmp_path / "a", [NUMBERS])
    (root / "images" / "train" / "p0.png").rename(root / "images" / "train" / "p0")
    found = next(finding for finding in check(open_dataset(root)).findings if finding.kind == "no-photo")
    assert found.message == "expected images/train/p0.*; p0 is not read"


def smoothed(shape):
    """0 to 255 with a few grays along the edges."""
    white = Image.fromarray(shape.astype(np.uint8) * 255)
    return np.asarray(white.resize((40, 31), Image.Resampling.BILINEAR).resize(white.size, Image.Resampling.BILINEAR))


SHAPE = np.zeros((48, 64), bool)
SHAPE[10:40, 10:40] = True


@pytest.mark.parametrize(
    ("classes", "saved", "meant"),
    [
        ("[a, b]", SHAPE.astype(np.uint8) * 128, SHAPE),
        ("[a, b]", smoothed(SHAPE), SHAPE),
        ("[a, b]", np.dstack([smoothed(SHAPE)] * 3), SHAPE),
        ("[a, b]", np.where(SHAPE, np.arange(64) // 10, 0).astype(np.uint16), SHAPE),
        ("[a, b, c]", np.array([0, 127, 255], np.uint8)[NUMBERS], NUMBERS),
        ("[a, b, c]", np.array([0, 38, 75], np.uint8)[NUMBERS], NUMBERS),
        ("[a, b, c]", NUMBERS.astype(np.uint16) * 256, NUMBERS),
        ("[shape]", SHAPE.astype(np.uint8), SHAPE),
        ("[shape]", SHAPE.astype(np.uint8) * 255, SHAPE),
    ],
)
def test_levels_edges_objects_and_a_single_class(classes, saved, meant, tmp_path):
    """The map that the doctor proposes reads the masks as they were meant, and not as ignored."""
    root = folder(tmp_path / "a", [saved])
    (root / "dataset.yaml").write_text(f"name: x\nclasses: {classes}\n")
    assert check(open_dataset(root)).findings
    fixed(root, tmp_path / "fixed.yaml")
    (tmp_path / "fixed.yaml").replace(root / "dataset.yaml")
    data = open_dataset(root)
    (sample,) = data.samples("train")
    # The edge itself lies within a pixel of where it was.
    assert (data.read_label(sample) != meant).mean() <= (0.02 if len(np.unique(saved)) > 20 else 0)


def test_white_as_the_first_color_of_a_palette(tmp_path):
    root = folder(tmp_path / "a", [SHAPE.astype(np.uint8)])
    (root / "dataset.yaml").write_text("name: x\nclasses: [a, b]\n")
    path = root / "labels" / "train" / "p0.png"
    image = Image.fromarray((~SHAPE).astype(np.uint8))
    image.putpalette([255, 255, 255, 0, 0, 0])
    image.save(path)
    assert kinds(root)["palette-mask"] == "labels/train/p0.png"
    fixed(root, tmp_path / "fixed.yaml")
    (tmp_path / "fixed.yaml").replace(root / "dataset.yaml")
    data = open_dataset(root)
    assert np.array_equal(data.read_label(data.samples("train")[0]), SHAPE)


def test_photos_that_are_not_read_are_named(tmp_path):
    root = folder(tmp_path, [NUMBERS])
    photo(root / "unlabeled" / "phone.heic")
    photo(root / "unlabeled" / "browser.jfif")
    found = kinds(root)
    assert found["unread-photo"] == "unlabeled/phone.heic"
    assert found["jfif-photo"] == "unlabeled/browser.jfif"
    assert [sample.stem for sample in open_dataset(root).samples("unlabeled")] == ["browser"]


@pytest.mark.parametrize(
    "line",
    ["p0", "p0.png", "train/p0", "images/train/p0.png", "JPEGImages/p0.jpg SegmentationClass/p0.png", "x\\p0.png"],
)
def test_lists_may_name_files_and_paths(line, tmp_path):
    root = folder(tmp_path, [NUMBERS, NUMBERS])
    (root / "splits").mkdir()
    (root / "splits" / "few.txt").write_text(f"{line}\n")
    assert [sample.stem for sample in open_dataset(root).samples("few")] == ["p0"]


def optimized(values: np.ndarray) -> bytes:
    """The mask as lossless PNG optimizers leave it: indices into a palette of the grays in use."""
    grays = np.unique(values)
    image = Image.fromarray(np.searchsorted(grays, values).astype(np.uint8), "P")
    image.putpalette(np.repeat(grays, 3).tolist())
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def test_masks_of_which_an_optimizer_took_the_numbers(tmp_path):
    values = np.where(NUMBERS == 1, 7, NUMBERS).astype(np.uint8)
    root = folder(tmp_path, [values, values], classes="[a, b, c, d, e, f, g, h]")
    path = root / "labels" / "train" / "p1.png"
    path.write_bytes(optimized(values))
    assert kinds(root)["gray-palette-mask"] == "labels/train/p1.png"
    data = open_dataset(root)
    with pytest.raises(UserError, match=r"p1.png: its palette of grays holds the class numbers"):
        refuse_or_warn(data, data.samples("train"), print)


def test_a_one_bit_mask_among_masks_of_numbers(tmp_path):
    root = folder(tmp_path, [NUMBERS])
    photo(root / "images" / "train" / "p1.png", 1)
    mask(root / "labels" / "train" / "p1.png", NUMBERS > 0)
    assert kinds(root)["one-bit-mask"] == "labels/train/p1.png"


@pytest.mark.parametrize(
    ("masks", "classes", "message"),
    [
        ([ZERO_AND_255] * 2, "[ground, human]", "show ground alone and no pixel of human .* --fix-map"),
        ([np.full_like(NUMBERS, 255)] * 2, "[ground, human]", "every pixel of all 2 masks is ignored"),
        ([np.zeros_like(NUMBERS)] * 2, "[ground]", "one class .* leaves nothing to tell apart"),
    ],
)
def test_masks_that_cannot_be_meant_are_refused_before_training(masks, classes, message, tmp_path):
    data = open_dataset(folder(tmp_path, masks, classes=classes))
    with pytest.raises(UserError, match=message):
        refuse_or_warn(data, data.samples("train"), print)


def test_masks_that_leave_nothing_to_score_are_refused_before_training(tmp_path):
    """The val mIoU of such a run would be NaN, which no model is better than, so no model would be the best."""
    data = open_dataset(folder(tmp_path, [NUMBERS, np.full_like(NUMBERS, 255)]))
    learned, scored = data.samples("train")
    with pytest.raises(UserError, match=r"every pixel of the masks of data.val is ignored, .* data.val=null"):
        refuse_or_warn(data, [learned], print, [scored])


def test_absent_classes_and_shared_masks_are_one_warning(tmp_path):
    root = folder(tmp_path, [np.minimum(NUMBERS, 1)] * 2)
    photo(root / "images" / "train" / "p0.jpg", 5)
    data, said = open_dataset(root), list[str]()
    refuse_or_warn(data, data.samples("train"), said.append)
    (line,) = said
    assert "no pixel of tool in all 3 masks; 1 mask shared by several photos (e.g. p0.png)" in line
    assert line.endswith(f"run `semseg check {root}`")


def fixed(root: Path, out: Path) -> dict:
    CliRunner().invoke(app, ["check", str(root), "--fix-map", str(out)])
    return yaml.safe_load(out.read_text())


def channels(*weights: int) -> list[np.ndarray]:
    return [np.stack([NUMBERS * weight for weight in weights], axis=2).astype(np.uint8)] * 2


@pytest.mark.parametrize(
    ("masks", "expected"),
    [
        (channels(1, 1, 1), {"#000000": 0, "#010101": 1, "#020202": 2}),
        (channels(1, 0, 0), {"#000000": 0, "#010000": 1, "#020000": 2}),
        (channels(100, 100, 100), {"#000000": 0, "#646464": 1, "#c8c8c8": 2}),
    ],
)
def test_pictures_of_numbers_keep_their_classes(masks, expected, tmp_path):
    root = folder(tmp_path / "data", masks)
    proposed = fixed(root, tmp_path / "fixed.yaml")
    assert proposed["color_map"] == expected
    (root / "dataset.yaml").write_text((tmp_path / "fixed.yaml").read_text())
    data = open_dataset(root)
    assert np.array_equal(data.read_label(data.samples("train")[0]), NUMBERS)


def test_black_and_white_pictures_are_two_classes(tmp_path):
    masks = [np.repeat(ZERO_AND_255[..., None], 3, axis=2)] * 2
    root = folder(tmp_path / "data", masks, classes="[ground, human]")
    assert fixed(root, tmp_path / "fixed.yaml")["color_map"] == {"#000000": 0, "#ffffff": 1}


def test_the_masks_vote_whether_0_or_the_last_value_is_no_label(tmp_path):
    """Values 0 to 3 for three classes: 3 is rare in two masks of three, so it is no label, and 0 stays a class."""
    void, shifted = np.zeros((48, 64), np.uint8), np.full((48, 64), 3, np.uint8)
    void[:2], void[10:20], void[20:30] = 3, 1, 2
    shifted[:2], shifted[10:20], shifted[20:30] = 0, 1, 2
    root = folder(tmp_path / "data", [void, void, shifted])
    proposed = fixed(root, tmp_path / "fixed.yaml")
    assert proposed["ignore_index"] == 3
    assert "label_map" not in proposed
    text = (tmp_path / "fixed.yaml").read_text()
    assert "# 3 is ignored; 0 covers less than 3 in 1 masks, more in 2: so 0 is taken for ground" in text
    other = "\n".join(line.removeprefix("# ") for line in text.partition("# The other reading:\n")[2].splitlines())
    assert yaml.safe_load(other)["label_map"] == {0: 255, 1: 0, 2: 1, 3: 2, 255: 255}


@pytest.mark.parametrize(
    ("value", "example"), [(0, "{0: 255, 1: 0, 2: 1"), (-1, "{255: 255, 0: 0"), (-100, "{156: 255")]
)
def test_an_ignore_index_that_cannot_be_shows_the_map_that_does_it(value, example, tmp_path):
    root = folder(tmp_path, [NUMBERS], ignore_index=value)
    with pytest.raises(UserError) as error:
        open_dataset(root)
    assert f"label_map: {example}" in str(error.value)


@pytest.mark.parametrize("heading", ["ImageId,ClassId,EncodedPixels", "img,rle_mask", "id,RLE"])
def test_run_lengths_in_a_table_are_called_by_name(heading, tmp_path):
    photo(tmp_path / "photos" / "a.jpg")
    (tmp_path / "train.csv").write_text(f"{heading}\na.jpg,1 3 9 4\n")
    with pytest.raises(UserError, match=r"this is run lengths \(train.csv\); they are not read: write PNG masks"):
        read_export(tmp_path)


def test_an_archive_that_was_not_unpacked_is_named(tmp_path):
    (tmp_path / "task.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"where task.zip is the export, unpack it first"):
        read_export(tmp_path)
