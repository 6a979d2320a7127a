"""Masks that contradict each other or the dataset, files that cannot be read, folders that are no dataset yet."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.own_data import NUMBERS, ZERO_AND_255, folder, kinds, mask, photo

from semseg_app.data.check import check
from semseg_app.data.layouts import open_dataset
from semseg_app.data.training_check import refuse_or_warn
from semseg_app.errors import UserError

ZERO_AND_1 = np.minimum(NUMBERS, 1)


def warnings_of(root: Path, val: str | None = None) -> list[str]:
    data, said = open_dataset(root), list[str]()
    refuse_or_warn(data, data.samples("train"), said.append, data.samples(val) if val else ())
    return said


@pytest.mark.parametrize("damage", ["empty", "dangling"])
@pytest.mark.parametrize("position", [0, 2])
def test_a_mask_that_cannot_be_read_is_one_line_before_training(damage, position, tmp_path):
    root = folder(tmp_path, [NUMBERS] * 3)
    path = root / "labels" / "train" / f"p{position}.png"
    path.unlink()
    path.write_bytes(b"") if damage == "empty" else path.symlink_to("nowhere.png")
    with pytest.raises(UserError, match=rf"^{path}: unreadable label \(.*\); replace it"):
        warnings_of(root)


def test_an_empty_list_is_refused(tmp_path):
    root = folder(tmp_path, [NUMBERS])
    data = open_dataset(root)
    with pytest.raises(UserError, match="the labeled list or split names no photo"):
        refuse_or_warn(data, [], print)


@pytest.mark.parametrize("where", ["train", "val"])
def test_0_and_255_among_0_and_1(where, tmp_path):
    """255 alone is ignore; where no mask has it beside class 1, it is class 1 in another hand."""
    root = folder(tmp_path, [ZERO_AND_1] * 3, classes="[ground, human]")
    photo(root / "images" / where / "odd.png", 9)
    mask(root / "labels" / where / "odd.png", ZERO_AND_255)
    assert kinds(root)["binary-mask"] == f"labels/{where}/odd.png"
    (line,) = warnings_of(root, where if where == "val" else None)
    assert f"binary mask saved as 0 and 255: 1 (e.g. labels/{where}/odd.png)" in line


def test_an_ignored_border_is_no_binary_mask(tmp_path):
    bordered = ZERO_AND_1.copy()
    bordered[:4] = 255
    root = folder(tmp_path, [bordered, ZERO_AND_1, ZERO_AND_255], classes="[ground, human]")
    assert "binary-mask" not in kinds(root)
    assert warnings_of(root) == []


def paletted(path: Path, numbers: np.ndarray, colors: list[tuple[int, int, int]]) -> None:
    image = Image.fromarray(numbers.astype(np.uint8), "P")
    image.putpalette([channel for color in colors for channel in color])
    image.save(path)


RED, GREEN, PINK, TEAL = (250, 10, 10), (10, 250, 10), (250, 120, 200), (10, 120, 130)


def test_palettes_that_number_a_color_in_two_ways(tmp_path):
    root = folder(tmp_path, [NUMBERS] * 3, classes="[a, b, c, d]")
    for number in range(3):
        paletted(root / "labels" / "train" / f"p{number}.png", NUMBERS, [RED, GREEN, PINK])
    assert "palette-mask" not in kinds(root)
    paletted(root / "labels" / "train" / "p1.png", NUMBERS, [RED, PINK, TEAL])
    findings = [finding for finding in check(open_dataset(root)).findings if finding.kind == "palette-mask"]
    assert [finding.file for finding in findings] == ["labels/train/p1.png"]
    assert "#fa78c8 is number 1 in its palette, 2 in most masks" in findings[0].message
    (line,) = warnings_of(root)
    assert "(e.g. labels/train/p1.png)" in line


def test_two_tools_with_palettes_of_their_own(tmp_path):
    """Every mask shows all three classes, in the colors of its tool."""
    root = folder(tmp_path, [NUMBERS] * 3, classes="[a, b, c]")
    for number, colors in enumerate([[RED, GREEN, PINK], [RED, TEAL, (250, 250, 10)], [RED, GREEN, PINK]]):
        paletted(root / "labels" / "train" / f"p{number}.png", NUMBERS, colors)
    assert "palette-mask" not in kinds(root)


@pytest.mark.parametrize("optimized", [True, False])
def test_each_mask_numbers_its_own_colors(optimized, tmp_path):
    """One object per photo: what is number 1 is another class in each. With a number left out, they are two tools'."""
    root = folder(tmp_path, [NUMBERS] * 3, classes="[a, b, c, d]")
    object_of = np.minimum(NUMBERS, 1)
    numbers = [object_of, object_of, object_of if optimized else 2 * object_of]
    for number, color in enumerate([GREEN, PINK, TEAL]):
        paletted(root / "labels" / "train" / f"p{number}.png", numbers[number], [RED, color, color])
    findings = [finding for finding in check(open_dataset(root)).findings if finding.kind == "palette-mask"]
    assert len(findings) == optimized
    if optimized:
        assert findings[0].message.startswith(
            "number 1 has several colors in the palettes of the masks (#0afa0a in 1, #fa78c8 in 1, #0a7882 in 1)"
        )
        assert findings[0].file == "labels/train/p0.png"


VOC = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128)]
"""The first colors of the VOC devkit."""


@pytest.mark.parametrize(("numbers", "colors", "odd"), [([0, 2, 5], VOC, False), ([0, 1, 2], VOC[::2], True)])
def test_a_voc_palette_that_an_optimizer_renumbered(numbers, colors, odd, tmp_path):
    root = folder(tmp_path, [NUMBERS] * 2, classes="[a, b, c, d, e, f]")
    for number in range(2):
        paletted(root / "labels" / "train" / f"p{number}.png", np.array(numbers)[NUMBERS], colors)
    assert ("palette-mask" in kinds(root)) is odd


LAYOUTS = {
    "ade20k": ("images/training", "annotations/training"),
    "coco-stuff": ("images/train2017", "annotations/train2017"),
    "camvid-segnet": ("train", "trainannot"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_own_masks_in_a_published_layout_are_called_so(layout, tmp_path):
    photos, masks = LAYOUTS[layout]
    for number in range(3):
        photo(tmp_path / photos / f"f{number}.jpg", number)
        mask(tmp_path / masks / f"f{number}.png", NUMBERS)
    finding = next(finding for finding in check(open_dataset(tmp_path)).findings if finding.kind == "few-classes")
    assert "the masks hold only 0, 1, 2, but" in finding.message
    (line,) = warnings_of(tmp_path)
    assert f"one per line, into {tmp_path / 'class_names.txt'}" in line
    (tmp_path / "class_names.txt").write_text("ground\nplant\ntool\n")
    data = open_dataset(tmp_path)
    assert check(data).findings == []
    assert np.array_equal(data.read_label(data.samples("train")[0]), NUMBERS)
    assert warnings_of(tmp_path) == []


def test_masks_of_photos_in_no_list_are_a_finding(tmp_path):
    (tmp_path / "ImageSets" / "Segmentation").mkdir(parents=True)
    (tmp_path / "class_names.txt").write_text("ground\nplant\ntool\n")
    for number in range(3):
        photo(tmp_path / "JPEGImages" / f"f{number}.jpg", number)
        mask(tmp_path / "SegmentationClass" / f"f{number}.png")
    (tmp_path / "ImageSets" / "Segmentation" / "train.txt").write_text("f0\nf2\n")
    finding = next(finding for finding in check(open_dataset(tmp_path)).findings if finding.kind == "unused-mask")
    assert finding.file == "SegmentationClass"
    assert "no list names the photo of f1.png" in finding.message


@pytest.mark.parametrize("name", ["p1_mask.png", "mask_p1.png", "p1.webp", "p1_labelTrainIds.png"])
def test_a_mask_of_another_name_is_named(name, tmp_path):
    root = folder(tmp_path, [NUMBERS] * 2)
    masks = root / "labels" / "train"
    (masks / "p1.png").unlink()
    mask(masks / name)
    (masks / "p1_polygons.json").write_text("{}")
    (masks / "p11.txt").write_text("of another photo")
    finding = next(finding for finding in check(open_dataset(root)).findings if finding.kind == "no-mask")
    assert f"labels/train/{name}" in finding.message
    assert "p11" not in finding.message


def roboflow(root: Path) -> Path:
    for split in ("train", "valid"):
        for number in range(2):
            photo(root / split / f"a{number}.jpg", number + 7 * (split == "valid"))
            mask(root / split / f"a{number}_mask.png")
        (root / split / "_classes.csv").write_text("Pixel Value, Class\n0, background\n1, dog\n2, cat\n")
    return root


def test_roboflows_masks_are_read(tmp_path):
    data = open_dataset(roboflow(tmp_path))
    assert data.split_names() == ["train", "val"]
    assert data.info.classes == ["background", "dog", "cat"]
    assert [sample.stem for sample in data.samples("val")] == ["a0", "a1"]
    assert np.array_equal(data.read_label(data.samples("val")[1]), NUMBERS)
    assert check(data).findings == []


def test_a_val_folder_of_roboflow_may_be_called_val(tmp_path):
    (roboflow(tmp_path) / "valid").rename(tmp_path / "val")
    assert open_dataset(tmp_path).split_names() == ["train", "val"]


def test_roboflow_splits_of_other_classes_are_refused(tmp_path):
    (roboflow(tmp_path) / "valid" / "_classes.csv").write_text("Pixel Value, Class\n0, background\n1, cat\n2, dog\n")
    with pytest.raises(UserError, match=r"valid/_classes.csv: other classes or values than in .*train/_classes.csv"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("project.json", json.dumps({"assets": {"1": {"asset": {}, "regions": []}}}), "VoTT"),
        ("meta.json", json.dumps({"classes": [], "tags": []}), "Supervisely"),
        ("labels/train/a.txt", "0 0.1 0.1 0.5 0.5\n", "YOLO labels"),
        ("Annotations/a.xml", "<annotation/>", "Pascal VOC boxes"),
        ("export.ndjson", "{}\n", "Labelbox"),
        ("inner/dataset.yaml", "name: x\n", "the folder above a dataset; name .*inner"),
        ("masks/a.png", "", "photos/ and masks/ without a description: write the names of the classes into"),
    ],
)
def test_what_is_no_dataset_yet_is_called_by_name(file, content, words, tmp_path):
    photo(tmp_path / "photos" / "a.jpg")
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(content)
    with pytest.raises(UserError, match=words):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (
            ["img_dir/train/a.jpg", "ann_dir/train/a.png", "img_dir/val/b.jpg", "ann_dir/val/b.png"],
            "img_dir/train/ and ann_dir/train/ without a description: .*, and move img_dir/train/ to images/train/, "
            "ann_dir/train/ to labels/train/, img_dir/val/ to images/val/, ann_dir/val/ to labels/val/; or "
            "`semseg data import .* --classes NAME,NAME -o FOLDER` makes a dataset of it$",
        ),
        (
            ["train/images/a.jpg", "train/masks/a.png", "valid/images/b.jpg", "valid/masks/b.png"],
            "train/images/ and train/masks/ without a description: .*, and move train/images/ to images/train/, "
            "train/masks/ to labels/train/, valid/images/ to images/val/, valid/masks/ to labels/val/; or ",
        ),
        (
            ["train/a_03.jpg", "train_masks/a_03_mask.jpg"],
            "move train/ to images/train/, train_masks/ to labels/train/; a mask has the name of its photo: "
            "a_03.png, not a_03_mask.jpg$",
        ),
        (["images/train/a.jpg", "labels/train/a.png"], r"the names of the classes into .*dataset.yaml \(.*\]\); or "),
    ],
)
def test_photos_beside_masks_of_common_layouts(files, words, tmp_path):
    for file in files:
        photo(tmp_path / file)
    with pytest.raises(UserError, match=words):
        open_dataset(tmp_path)


def test_camvid_as_cvat_exports_it(tmp_path):
    colors = np.array([(0, 0, 0), (176, 112, 32), (48, 112, 32)], np.uint8)
    for name in ("a", "cam1/b"):
        photo(tmp_path / "default" / f"{name}.jpg")
        mask(tmp_path / "defaultannot" / f"{name}.png", colors[NUMBERS])
    (tmp_path / "label_colors.txt").write_text("0 0 0 background\n176 112 32 dog\n48 112 32 cat\n")
    (tmp_path / "default.txt").write_text("/default/a.jpg /defaultannot/a.png\n")
    data = open_dataset(tmp_path)
    assert (data.split_names(), data.info.classes) == (["default"], ["background", "dog", "cat"])
    assert [sample.stem for sample in data.samples("default")] == ["a", "cam1/b"]
    assert all(np.array_equal(data.read_label(sample), NUMBERS) for sample in data.samples("default"))


@pytest.mark.parametrize(("name", "words"), [("x.zip", "unpack it"), ("dataset.yaml", "name the folder that holds")])
def test_a_file_is_no_dataset(name, words, tmp_path):
    (tmp_path / name).write_text("")
    with pytest.raises(UserError, match=words):
        open_dataset(tmp_path / name)


def test_an_empty_description_is_called_empty(tmp_path):
    (tmp_path / "dataset.yaml").write_text("")
    with pytest.raises(UserError, match=r"dataset.yaml: is empty"):
        open_dataset(tmp_path)
