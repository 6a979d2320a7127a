"""Masks that tools drew: COCO panoptic, COCO-Stuff, VOC palettes with own classes, Roboflow. All are exact."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from support.annotations import HEIGHT, WIDTH, imported, masks, photo, refusal, write_json

VALUES = np.random.default_rng(0).integers(0, 3, (HEIGHT, WIDTH)).astype(np.uint8)


def save(path, values, palette=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values, "P" if palette else None) if palette else Image.fromarray(values)
    if palette:
        image.putpalette(np.random.default_rng(1).integers(0, 255, 768, np.uint8).tobytes())
    image.save(path)


def panoptic(root, **segment):
    """Segment numbers that need all three bytes; 0 is no segment; segment 70000 is a crowd."""
    ids = np.array([0, 5, 300, 70000])[np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) // 4 % 4]
    save(
        root / "annotations" / "panoptic_val2017" / "a.png",
        np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=2).astype(np.uint8),
    )
    photo(root / "val2017" / "a.jpg")
    segments = [
        {"id": 5, "category_id": 1, "iscrowd": 0, "area": 1, "bbox": [0, 0, 1, 1]},
        {"id": 300, "category_id": 200, "iscrowd": 0},
        {"id": 70000, "category_id": 1, "iscrowd": 1} | segment,
    ]
    content = {
        "images": [{"id": 9, "file_name": "a.jpg", "width": WIDTH, "height": HEIGHT}],
        "annotations": [{"image_id": 9, "file_name": "a.png", "segments_info": segments}],
        "categories": [{"id": 1, "name": "person", "isthing": 1}, {"id": 200, "name": "sky", "isthing": 0}],
    }
    write_json(root / "annotations" / "panoptic_val2017.json", content)
    return root, np.array([255, 0, 1, 255], np.uint8)[np.searchsorted([0, 5, 300, 70000], ids)]


def test_panoptic_segments(tmp_path):
    root, expected = panoptic(tmp_path / "x")
    data, _ = imported(root)
    assert data.info.classes == ["person", "sky"]
    assert np.array_equal(masks(data)["val/a"], expected)
    for path in sorted((root / "annotations").iterdir()):
        path.rename(path.with_name(path.name.replace("_val2017", "")))
    assert list(masks(imported(root)[0])) == ["val/a"]  # as the folder of the photo says


@pytest.mark.parametrize(
    ("segment", "message"),
    [
        (
            {"category_id": 7},
            "panoptic_val2017.json: annotations.0.segments_info.2.category_id: no category has the id 7",
        ),
        ({"id": 4}, "panoptic_val2017.json: annotations.0: the mask holds 70000, which the export does not name"),
        ({"id": "x"}, "panoptic_val2017.json: annotations.0.segments_info.2.id: must be a whole number"),
    ],
)
def test_malformed_segments(segment, message, tmp_path):
    assert message in refusal(panoptic(tmp_path / "x", **segment)[0])


def test_panoptic_without_its_pngs(tmp_path):
    root, _ = panoptic(tmp_path / "x")
    (root / "annotations" / "panoptic_val2017" / "a.png").unlink()
    assert "unpack panoptic_val2017.zip beside panoptic_val2017.json" in refusal(root)


def test_coco_stuff(tmp_path):
    root = tmp_path / "x"
    values = VALUES.copy()
    values[0, :3] = 0, 181, 255  # person, the last of 182 numbers, no label
    for split in ("train2017", "val2017"):
        photo(root / "images" / split / "1.jpg", seed=len(split))
        save(root / "annotations" / split / "1.png", values)
    data, report = imported(root, "--no-check")
    assert len(data.info.classes) == 171
    classes = masks(data)["val/1"]
    assert [data.info.classes[classes[0, 0]], data.info.classes[classes[0, 1]]] == ["person", "wood"]
    assert classes[0, 2] == 255
    assert report["photos"]["written"] == {"train": 1, "val": 1}
    few, _ = imported(root, "--classes", "person,other", "--map", "*=other")
    assert few.info.classes == ["person", "other"]


@pytest.mark.parametrize("with_lists", [True, False])
@pytest.mark.parametrize("with_file", [True, False])
def test_voc_palettes_with_own_classes(with_lists, with_file, tmp_path):
    root = tmp_path / "x"
    photo(root / "JPEGImages" / "a.jpg")
    photo(root / "JPEGImages" / "b.jpg")
    values = VALUES.copy()
    values[0] = 255
    save(root / "SegmentationClass" / "a.png", values, palette=True)
    if with_lists:
        (root / "ImageSets" / "Segmentation").mkdir(parents=True)
        (root / "ImageSets" / "Segmentation" / "train.txt").write_text("a\n")
    if with_file:
        (root / "class_names.txt").write_text("__ignore__\n_background_\ndog\ncat\n")
    names = ["_background_", "dog", "cat"]
    data, _ = imported(root, *([] if with_file else ["--classes", ",".join(names)]))
    assert data.info.classes == names
    assert np.array_equal(masks(data)["train/a"], values)
    if not with_file and with_lists:
        save(root / "SegmentationClass" / "a.png", VALUES + 7)
        assert "is not one of the 3 classes nor ignore" in refusal(root, "--classes", ",".join(names))


def test_roboflow_masks(tmp_path):
    root = tmp_path / "x"
    for folder in ("train", "valid"):
        photo(root / folder / "a_jpg.rf.123.jpg", seed=len(folder))
        save(root / folder / "a_jpg.rf.123_mask.png", VALUES)
        (root / folder / "_classes.csv").write_text("Pixel Value, Class\n0, background\n1, dog\n2, cat\n")
    data, _ = imported(root)
    assert data.info.classes == ["background", "dog", "cat"]
    assert list(masks(data)) == ["train/a_jpg.rf.123", "val/a_jpg.rf.123"]
    assert all(np.array_equal(classes, VALUES) for classes in masks(data).values())
    shutil.copytree(root / "valid", root / "val")
    assert "valid/ and val/ are one split" in refusal(root)
    (root / "valid" / "_classes.csv").write_text("Pixel Value, Class\nx, dog\n")
    assert "valid/_classes.csv:2: expected `value from 0 to 255, name`" in refusal(root)


def test_a_mask_of_another_size_and_a_turned_photo(tmp_path):
    root, expected = panoptic(tmp_path / "x")
    photo(root / "val2017" / "a.jpg", turn=6)  # the mask lies as the pixels are stored
    data, report = imported(root)
    assert np.array_equal(masks(data)["val/a"], np.rot90(expected, -1))
    assert report["turned"] == 1
    photo(root / "val2017" / "a.jpg", 10, 10)
    assert "drawn on a picture of 40x30, but a.jpg is 10x10" in refusal(root)


def test_a_dataset_folder_such_as_the_flags_of_the_demo(tmp_path):
    root, expected = panoptic(tmp_path / "x")
    first, _ = imported(root)
    photo(first.root / "unlabeled" / "flagged-0123.png")
    data, report = imported(first.root, "--map", "sky=ignore")
    assert np.array_equal(masks(data)["val/a"], np.where(expected == 0, 0, 255))
    assert report["photos"]["written"] == {"val": 1, "unlabeled": 1}


def test_the_report_is_kept_in_the_folder(tmp_path):
    root, _ = panoptic(tmp_path / "x")
    data, report = imported(root)
    kept = json.loads((data.root / "import.json").read_text())
    assert kept == {key: value for key, value in report.items() if key not in ("root", "check")}


def test_published_layouts_with_joined_classes(tmp_path):
    """CamVid as Cambridge publishes it: colors, and a split by the names of the frames."""
    root = tmp_path / "x"
    for name in ("0001TP_006690", "0016E5_07961", "Seq05VD_f00000"):
        photo(root / "701_StillsRaw_full" / f"{name}.png")
        colors = np.full((HEIGHT, WIDTH, 3), (128, 64, 128), np.uint8)  # Road
        colors[5:20, 5:20] = 64, 0, 128  # Car
        colors[:2] = 0  # Void
        save(root / "LabeledApproved_full" / f"{name}_L.png", colors)
    data, _ = imported(root, "--classes", "car,ground", "--map", "*=ground", "--no-check")
    expected = np.ones((HEIGHT, WIDTH), np.uint8)
    expected[5:20, 5:20] = 0
    expected[:2] = 255
    drawn = masks(data)
    assert sorted(drawn) == ["test/Seq05VD_f00000", "train/0001TP_006690", "val/0016E5_07961"]
    assert all(np.array_equal(classes, expected) for classes in drawn.values())
