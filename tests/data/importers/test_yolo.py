"""YOLO segmentation datasets by hand, as Ultralytics, Roboflow, CVAT and Label Studio lay them out."""

import numpy as np
import pytest
import yaml
from support.annotations import HEIGHT, WIDTH, canvas, imported, mask, masks, photo, refusal

CAR = "0 0.25 0.2 0.5 0.2 0.5 0.5 0.25 0.5\n"  # x 10 to 20, y 6 to 15 of 40x30
CAR_PIXELS = (slice(6, 15), slice(10, 20))
NAMES = {0: "car", 1: "tree"}


def yolo(root, labels=CAR, **content):
    photo(root / "images" / "train" / "a.jpg")
    (root / "labels" / "train").mkdir(parents=True)
    if labels is not None:
        (root / "labels" / "train" / "a.txt").write_text(labels)
    (root / "data.yaml").write_text(yaml.safe_dump({"train": "images/train", "names": NAMES} | content))
    return root


def test_polygons_are_fractions_of_the_photo(tmp_path):
    data, report = imported(yolo(tmp_path / "x"))
    expected = canvas()
    expected[CAR_PIXELS] = 1
    assert np.array_equal(mask(data, "background", "car", "tree"), expected)
    assert report["format"] == "YOLO segmentation"


def test_turned_photos_are_labeled_as_viewers_show_them(tmp_path):
    root = yolo(tmp_path / "x")
    photo(root / "images" / "train" / "a.jpg", HEIGHT, WIDTH, turn=6)  # stored sideways
    classes = mask(imported(root)[0], "background", "car", "tree")
    assert classes.shape == (HEIGHT, WIDTH)
    assert (classes[CAR_PIXELS] == 1).all()


@pytest.mark.parametrize("overlap", [None, "last"])
def test_smaller_objects_lie_over_larger_ones(overlap, tmp_path):
    root = yolo(tmp_path / "x", CAR + "1 0 0 1 0 1 1 0 1\n")
    data, report = imported(root, *(["--overlap", overlap] if overlap else []))
    assert mask(data, "background", "car", "tree")[7, 11] == (2 if overlap else 1)
    assert report["overlap"] == (overlap or "largest-on-bottom")


def test_an_empty_file_is_background_and_no_file_is_unlabeled(tmp_path):
    root = yolo(tmp_path / "x")
    photo(root / "images" / "train" / "empty.jpg")
    (root / "labels" / "train" / "empty.txt").write_text("\n")
    photo(root / "images" / "train" / "none.jpg")
    data, _ = imported(root)
    assert (masks(data)["train/empty"] == 0).all()
    assert [sample.stem for sample in data.samples("unlabeled")] == ["none"]


@pytest.mark.parametrize("entry", ["/content/yard/images/train", "yard/images/train", "D:\\data\\yard\\images\\train"])
def test_paths_of_another_machine_are_found_by_their_end(entry, tmp_path):
    data, report = imported(yolo(tmp_path / "x", train=entry, path="/content/yard"))
    assert (masks(data)["train/a"] == 1).sum() == 90
    assert report["notes"] == [f"data.yaml: train: {entry} is not there; images/train is read instead"]


def test_polygons_elsewhere(tmp_path):
    root = yolo(tmp_path / "x")
    (root / "labels").rename(root / "polygons")
    assert "no photo has a file of polygons; expected" in (line := refusal(root))
    assert "labels/train/a.txt" in line


def test_a_dataset_of_boxes_is_refused(tmp_path):
    line = refusal(yolo(tmp_path / "x", "0 0.5 0.5 0.2 0.2\n1 0.1 0.1 0.2 0.2\n"))
    assert "holds no outline of a class (2 boxes, crowds, without a label or of an ignored class); export poly" in line


def test_a_box_is_ignored(tmp_path):
    data, report = imported(yolo(tmp_path / "x", CAR + "1 0.1 0.1 0.2 0.2\n"))
    classes = mask(data, "background", "car", "tree")
    assert (classes[:6, :8] == 255).all()
    assert (classes == 255).sum() == 48
    assert report["objects"]["ignored"] == {"crowd or unknown": 1}


def test_corners_that_opencv_traced(tmp_path):
    """OpenCV's contour of columns 10 to 19 and rows 6 to 14 goes through the middles of the outer pixels."""
    corners = [(10, 6), (10, 14), (19, 14), (19, 6)]
    text = "0 " + " ".join(f"{x / WIDTH} {y / HEIGHT}" for x, y in corners)
    data, _ = imported(yolo(tmp_path / "x", text), "--vertices", "centers")
    expected = canvas()
    expected[CAR_PIXELS] = 1
    assert np.array_equal(mask(data, "background", "car", "tree"), expected)


def test_splits_of_roboflow(tmp_path):
    root = tmp_path / "x"
    for folder in ("train", "valid", "test"):
        photo(root / folder / "images" / f"{folder}.jpg")
        (root / folder / "labels").mkdir()
        (root / folder / "labels" / f"{folder}.txt").write_text(CAR)
    paths = {"train": "../train/images", "val": "../valid/images", "test": "../test/images"}
    (root / "data.yaml").write_text(yaml.safe_dump(paths | {"nc": 2, "names": ["car", "tree"]}))
    assert list(masks(imported(root)[0])) == ["test/test", "train/train", "val/valid"]


def test_a_test_split_that_is_only_named(tmp_path):
    root = yolo(tmp_path / "x", test="../test/images", val="")
    data, report = imported(root)
    assert list(masks(data)) == ["train/a"]
    assert report["notes"] == ["data.yaml: test: ../test/images is not there; the split is left out"]


def test_numbers_of_classes_in_quotes(tmp_path):
    data, _ = imported(yolo(tmp_path / "x", names={"0": "car", "1": "tree"}))
    assert data.info.classes == ["background", "car", "tree"]


def test_photos_beside_the_folder_of_data_yaml(tmp_path):
    root = yolo(tmp_path / "x")
    for folder in ("images", "labels"):
        (root / folder).rename(tmp_path / folder)
    (root / "data.yaml").write_text(yaml.safe_dump({"train": str(tmp_path / "images"), "names": NAMES}))
    assert list(masks(imported(root)[0])) == ["train/a"]


def test_lists_of_cvat_and_folders_with_equal_names(tmp_path):
    root = tmp_path / "x"
    for folder in ("a", "b"):
        photo(root / "images" / "train" / folder / "1.jpg")
        (root / "labels" / "train" / folder).mkdir(parents=True)
        (root / "labels" / "train" / folder / "1.txt").write_text(CAR)
    (root / "train.txt").write_text("data/images/train/a/1.jpg\ndata/images/train/b/1.jpg\n")
    (root / "data.yaml").write_text(yaml.safe_dump({"path": ".", "train": "train.txt", "names": NAMES}))
    data, report = imported(root)
    assert len(masks(data)) == 2
    assert report["renamed"] == 2


def test_label_studio_writes_classes_txt(tmp_path):
    root = tmp_path / "x"
    photo(root / "images" / "a.jpg")
    (root / "labels").mkdir()
    (root / "labels" / "a.txt").write_text(CAR)
    (root / "classes.txt").write_text("car\ntree\n")
    assert (mask(imported(root)[0], "background", "car", "tree")[CAR_PIXELS] == 1).all()


@pytest.mark.parametrize(
    ("labels", "content", "message"),
    [
        ("0 0.1 0.2 x 0.3", {}, "a.txt:1: expected `class x1 y1 x2 y2 ...` in numbers"),
        (CAR + "7 0.1 0.2 0.3 0.4 0.5 0.6", {}, "a.txt:2: no class has the number 7; data.yaml names 0 to 1"),
        ("0 0.1 0.2 0.3 0.4 0.5", {}, "a.txt:1: expected pairs of x and y after the class, found 5 numbers"),
        ("0 10 20 30 40 50 60", {}, "a.txt:1: coordinates must be fractions of width and height"),
        ("0 nan 0.2 0.3 0.4 0.5 0.6", {}, "a.txt:1: coordinates must be fractions of width and height"),
        (CAR, {"names": "car"}, "data.yaml: names: expected a list of class names"),
        (CAR, {"names": {"car": 0}}, "data.yaml: names: expected a list of class names"),
        (CAR, {"names": {0: "car", "0": "tree"}}, "data.yaml: names: expected a list of class names"),
        (CAR, {"val": "images/val"}, "data.yaml: val: no folder or file images/val"),
        (CAR, {"kpt_shape": [17, 3]}, "data.yaml: kpt_shape: key points cover no area"),
    ],
)
def test_malformed_files(labels, content, message, tmp_path):
    assert message in refusal(yolo(tmp_path / "x", labels, **content))


def test_yaml_that_is_none(tmp_path):
    root = yolo(tmp_path / "x")
    (root / "data.yaml").write_text("names: [car\n")
    assert "data.yaml:2: not valid YAML" in refusal(root)
