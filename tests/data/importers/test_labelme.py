"""LabelMe's JSON by hand, as version 7.9.1 writes it."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image
from support.annotations import HEIGHT, WIDTH, canvas, imported, mask, masks, photo, refusal, write_json

CAR = {"label": "car", "points": [[10, 6], [20, 6], [20, 15], [10, 15]], "shape_type": "polygon"}
CAR_PIXELS = (slice(6, 15), slice(10, 20))


def shape(**changes):
    return {"group_id": None, "description": "", "flags": {}, "mask": None} | CAR | changes


def labelme(root, *shapes, name="a", **content):
    photo(root / f"{name}.jpg")
    whole = {
        "version": "7.9.1",
        "flags": {},
        "shapes": [shape(**changes) for changes in shapes],
        "imagePath": f"{name}.jpg",
        "imageData": None,
        "imageHeight": HEIGHT,
        "imageWidth": WIDTH,
    }
    write_json(root / f"{name}.json", whole | content)
    return root


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def drawn(root, *names, **options):
    return mask(imported(root)[0], *names)


def test_polygon_rectangle_and_mask(tmp_path):
    pixels = np.random.default_rng(0).random((4, 6)) > 0.5
    pixels[0, 0] = pixels[-1, -1] = True
    root = labelme(
        tmp_path / "x",
        {},
        {"label": "tree", "shape_type": "rectangle", "points": [[36, 28], [30, 20]]},
        {"label": "sign", "shape_type": "mask", "points": [[2, 3], [7, 6]], "mask": png(pixels)},
    )
    expected = canvas()
    expected[CAR_PIXELS] = 1
    expected[20:28, 30:36] = 3
    expected[3:7, 2:8][pixels] = 2
    assert np.array_equal(drawn(root, "background", "car", "sign", "tree"), expected)


@pytest.mark.parametrize("kind", ["rectangle", "rotation"])
def test_rectangles_of_four_corners_as_x_anylabeling_writes_them(kind, tmp_path):
    root = labelme(tmp_path / "x", {"shape_type": kind, "direction": 0.0, "score": None})
    expected = canvas()
    expected[CAR_PIXELS] = 1
    assert np.array_equal(drawn(root, "background", "car"), expected)


def test_another_file_among_them(tmp_path):
    root = labelme(tmp_path / "x", {})
    write_json(root / "config.json", {"labels": ["car"]})
    assert "config.json: lies among LabelMe's files and is none; move it elsewhere" in refusal(root)


def test_a_circle(tmp_path):
    root = labelme(tmp_path / "x", {"shape_type": "circle", "points": [[20, 15], [26, 23]]})  # radius 10
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    assert np.array_equal(drawn(root, "background", "car") == 1, (columns - 20) ** 2 + (rows - 15) ** 2 <= 100)


def test_later_shapes_lie_over_earlier_ones_and_ignored_ones_are_255(tmp_path):
    over = {"points": [[12, 6], [14, 6], [14, 15], [12, 15]]}
    root = labelme(
        tmp_path / "x",
        {},
        over | {"label": "tree"},
        {"label": "__ignore__", "points": [[0, 0], [3, 0], [3, 3], [0, 3]]},
    )
    classes = drawn(root, "background", "car", "tree")
    assert (classes[6:15, 12:14] == 2).all()
    assert (classes == 255).sum() == 9


def test_points_and_lines_are_counted_as_left_out(tmp_path):
    root = labelme(tmp_path / "x", {}, {"shape_type": "point", "points": [[1, 1]]}, {"shape_type": "linestrip"})
    _, report = imported(root)
    assert report["objects"]["no_area"] == {"point": 1, "linestrip": 1}
    assert report["objects"]["read"] == 3


def test_a_file_without_shapes_is_background_and_a_photo_without_a_file_unlabeled(tmp_path):
    root = labelme(tmp_path / "x", {})
    labelme(root, name="empty")
    photo(root / "none.jpg")
    data, _ = imported(root)
    assert (masks(data)["train/empty"] == 0).all()
    assert [sample.stem for sample in data.samples("unlabeled")] == ["none"]


def test_photos_of_a_folder_without_any_file_are_unlabeled(tmp_path):
    root = labelme(tmp_path / "x", {})
    photo(root / "tuesday" / "b.jpg")
    photo(root / "masks" / "a.png")
    data, _ = imported(root)
    assert [sample.stem for sample in data.samples("unlabeled")] == ["b"]


def test_sub_folders_are_splits_and_equal_names_are_told_apart(tmp_path):
    root = tmp_path / "x"
    for folder in ("train", "val", "more/a", "more/b"):
        labelme(root / folder, {}, name="1")
    assert list(masks(imported(root)[0])) == ["train/more_a_1", "train/more_b_1", "train/train_1", "val/1"]


@pytest.mark.parametrize(
    ("photos", "files"),
    [("{}/cam1", "{}/cam1"), ("{}/images", "{}/json"), ("{}2017/a/b/c/d", "{}2017/a/b/c/d"), ("{}", "json/{}_files")],
)
def test_a_split_may_be_any_folder_around_the_files_or_the_photos(photos, files, tmp_path):
    root = tmp_path / "test" / "x"  # whose own place says nothing
    for split in ("train", "val"):
        folder = labelme(root / photos.format(split), {}, name=split)
        (root / files.format(split)).mkdir(parents=True, exist_ok=True)
        (folder / f"{split}.json").rename(root / files.format(split) / f"{split}.json")
    labelme(root / "more", {}, name="b")
    assert list(masks(imported(root)[0])) == ["train/b", "train/train", "val/val"]


def test_files_are_found_at_any_depth_and_once(tmp_path):
    root = labelme(tmp_path / "x", {})
    deep = labelme(root / "2026" / "may" / "monday" / "north" / "cam1", {}, name="b")
    labelme(root / ".trash", {}, name="c")
    (deep / "back").symlink_to(root)
    assert list(masks(imported(root)[0])) == ["train/a", "train/b"]


def test_a_folder_that_is_imported_alone_is_a_split_only_where_nothing_in_it_is(tmp_path):
    root = labelme(tmp_path / "valid", {})
    assert list(masks(imported(root)[0])) == ["val/a"]
    labelme(root / "train" / "cam1", {}, name="b")
    assert list(masks(imported(root)[0])) == ["train/b", "val/a"]


def test_names_in_upper_case_as_windows_allows_them(tmp_path):
    for folder in ("a", "b"):
        labelme(tmp_path / "x" / folder, {}, imagePath="A.JPG")
    assert list(masks(imported(tmp_path / "x")[0])) == ["train/a_a", "train/b_a"]
    root = labelme(tmp_path / "y", {}, imagePath="A.JPG")
    photo(root / "A.jpg")
    line = refusal(root)
    assert "A.JPG: " in line
    assert "fit equally well" in line
    photo(root / "A.JPG")  # whose name is the same in every letter
    data, _ = imported(root)
    assert data.samples("train")[0].image.read_bytes() == (root / "A.JPG").read_bytes()


def test_the_class_background_is_first(tmp_path):
    root = labelme(tmp_path / "x", {}, {"label": "_background_", "points": [[0, 0], [3, 0], [3, 3]]})
    assert imported(root)[0].info.classes == ["_background_", "car"]


def test_turned_photos_are_drawn_upright(tmp_path):
    root = labelme(tmp_path / "x", {})
    photo(root / "a.jpg", HEIGHT, WIDTH, turn=8)
    assert (drawn(root, "background", "car")[CAR_PIXELS] == 1).all()


def test_the_photo_in_the_file_is_taken_where_none_lies_beside_it(tmp_path):
    root = labelme(tmp_path / "x", {})
    content = (root / "a.jpg").read_bytes()
    (root / "a.jpg").unlink()
    assert "a.json: 1 of 1 photos are missing (a.jpg)" in refusal(root)
    write_json(
        root / "a.json",
        {"shapes": [shape()], "imagePath": "..\\photos\\a.jpg", "imageData": base64.b64encode(content).decode()},
    )
    data, _ = imported(root)
    assert data.samples("train")[0].image.read_bytes() == content
    write_json(root / "b" / "a.json", json.loads((root / "a.json").read_text()))
    assert list(masks(imported(root)[0])) == ["train/a", "train/b_a"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"shapes": [{"label": "car"}]}, "a.json: shapes.0.points: is missing"),
        ({"shapes": [shape(points=[[1, 2, 3]])]}, "a.json: shapes.0.points.0"),
        ({"shapes": [shape(shape_type="spiral")]}, "a.json: shapes.0.shape_type: unknown kind 'spiral'"),
        ({"shapes": [shape(shape_type="circle")]}, "a.json: shapes.0.points: a circle has 2 points, this one 4"),
        (
            {"shapes": [shape(shape_type="mask", points=[[0, 0], [1, 1]], mask="AAAA")]},
            "a.json: shapes.0.mask: is not a PNG",
        ),
        (
            {"shapes": [shape(points=[[1e9, 2], [3, 4], [5, 6]])]},
            "a.json: shapes.0: a coordinate is not a number or beyond",
        ),
        ({"imageWidth": 99}, "a.json: drawn on a picture of 99x30, but a.jpg is 40x30"),
        ({"imagePath": None}, "a.json: imagePath: must be a valid string"),
    ],
)
def test_malformed_files(content, message, tmp_path):
    assert message in refusal(labelme(tmp_path / "x", {}, **content))


def test_a_file_that_is_cut_off(tmp_path):
    path = labelme(tmp_path / "x", {}) / "a.json"
    path.write_text(path.read_text()[:-9])
    assert "a.json: Invalid JSON" in refusal(path.parent)


def test_a_file_in_the_encoding_of_its_machine(tmp_path):
    path = labelme(tmp_path / "x", {}) / "a.json"
    text = json.dumps(json.loads(path.read_text()) | {"description": "汽车"}, ensure_ascii=False)
    path.write_bytes(text.encode("gbk"))
    assert "a.json: not a text file in UTF-8; save it as UTF-8" in refusal(path.parent)


def test_labels_of_spaces(tmp_path):
    """An empty label is no class, and one with a space around it can be joined."""
    root = labelme(tmp_path / "x", {"label": " car "}, {}, {"label": " "})
    assert "LabelMe: a class has no name; --map =NAME names it, or --map =ignore" in refusal(root)
    _, report = imported(root, "--map", "=ignore")
    assert "' car ' and 'car' are two classes; --map 'car'=' car ' makes them one" in report["notes"][0]
    data, report = imported(root, "--map", "=ignore", "--map", " car =car")
    assert data.info.classes == ["background", "car"]
    assert report["objects"]["drawn"] == {"car": 1, " car ": 1}
