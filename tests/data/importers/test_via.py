"""VGG Image Annotator's JSON, projects and CSV by hand, as versions 1.0.6 and 2.0.12 write them."""

import csv
import json

import numpy as np
import pytest
from support.annotations import canvas, imported, mask, masks, photo, refusal, write_json

CAR = {"name": "polygon", "all_points_x": [10, 20, 20, 10], "all_points_y": [6, 6, 15, 15]}
CAR_PIXELS = (slice(6, 15), slice(10, 20))
TREE = {"name": "rect", "x": 18, "y": 12, "width": 8, "height": 4}
TREE_PIXELS = (slice(12, 16), slice(18, 26))


def region(shape, **attributes):
    return {"shape_attributes": shape, "region_attributes": attributes}


def file(*regions, name="a.jpg"):
    return {f"{name}123": {"filename": name, "size": 123, "regions": list(regions), "file_attributes": {}}}


def via(root, content, name="via_region_data.json"):
    photo(root / "a.jpg")
    write_json(root / name, content)
    return root


def two(root):
    return via(root, file(region(CAR, kind="car"), region(TREE, kind="tree")))


def expected():
    pixels = canvas()
    pixels[CAR_PIXELS] = 1
    pixels[TREE_PIXELS] = 2
    return pixels


def drawn(root, *names, options=()):
    return mask(imported(root, *options)[0], *names)


def test_later_regions_lie_over_earlier_ones(tmp_path):
    assert np.array_equal(drawn(two(tmp_path / "x"), "background", "car", "tree"), expected())


def test_a_project(tmp_path):
    files = file(region(CAR, kind="car"), region(TREE, kind="tree"))
    settings = {"ui": {}, "core": {"default_filepath": ""}, "project": {"name": "yard"}}
    attributes = {"region": {"kind": {"type": "dropdown", "options": {"car": "", "tree": ""}}}, "file": {}}
    project = {"_via_settings": settings, "_via_img_metadata": files, "_via_attributes": attributes}
    root = via(tmp_path / "x", project | {"_via_data_format_version": "2.0.10"}, "yard.json")
    assert np.array_equal(drawn(root, "background", "car", "tree"), expected())


def test_regions_by_number_as_version_1_and_makesense_write_them(tmp_path):
    content = file()
    content["a.jpg123"]["regions"] = {"0": region(CAR, kind="car"), "1": region(TREE, kind="tree")}
    assert np.array_equal(drawn(via(tmp_path / "x", content), "background", "car", "tree"), expected())


@pytest.mark.parametrize("start", ["", "#"])
def test_csv(start, tmp_path):
    root = tmp_path / "x"
    for name in ("a", "empty"):
        photo(root / f"{name}.jpg")
    rows = [
        ["a.jpg", 123, "{}", 2, 0, json.dumps(CAR), json.dumps({"kind": "car"})],
        ["a.jpg", 123, "{}", 2, 1, json.dumps(TREE), json.dumps({"kind": "tree"})],
        ["empty.jpg", 123, "{}", 0, 0, "{}", "{}"],
    ]
    fields = "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes"
    with (root / "via.csv").open("w", newline="") as stream:
        stream.write(f"{start}{fields}\n")
        csv.writer(stream).writerows(rows)
    data, _ = imported(root)
    assert np.array_equal(mask(data, "background", "car", "tree"), expected())
    assert [sample.stem for sample in data.samples("unlabeled")] == ["empty"]


def test_circles_and_ellipses(tmp_path):
    """An ellipse that is turned by a right angle has its radii swapped."""
    circle = {"name": "circle", "cx": 10, "cy": 10, "r": 6.5}
    ellipse = {"name": "ellipse", "cx": 28, "cy": 15, "rx": 8, "ry": 3, "theta": np.pi / 2}
    root = via(tmp_path / "x", file(region(circle, kind="car"), region(ellipse, kind="tree")))
    rows, columns = np.mgrid[:30, :40] + 0.5
    pixels = canvas()
    pixels[(columns - 10) ** 2 + (rows - 10) ** 2 <= 6.5**2] = 1
    pixels[((columns - 28) / 3) ** 2 + ((rows - 15) / 8) ** 2 <= 1] = 2
    assert np.array_equal(drawn(root, "background", "car", "tree"), pixels)


def test_points_and_lines_cover_no_area(tmp_path):
    line = {"name": "polyline", "all_points_x": [1, 5], "all_points_y": [1, 9]}
    point = {"name": "point", "cx": 3, "cy": 4}
    regions = [region(shape, kind="car") for shape in (CAR, line, point)]
    assert imported(via(tmp_path / "x", file(*regions)))[1]["objects"]["no_area"] == {"polyline": 1, "point": 1}


def test_the_attribute_of_the_class(tmp_path):
    regions = [region(CAR, kind="car", color="red"), region(TREE, kind="tree", color="")]
    root = via(tmp_path / "x", file(*regions))
    assert "regions have the attributes kind, color; name that of the class with --attribute" in refusal(root)
    assert np.array_equal(drawn(root, "background", "car", "tree", options=("--attribute", "kind")), expected())
    pixels = expected()
    pixels[TREE_PIXELS] = 255  # nothing is known of it
    assert np.array_equal(drawn(root, "background", "red", options=("--attribute", "color")), pixels)
    assert "--attribute sort: no region has it; choose one of kind, color" in refusal(root, "--attribute", "sort")


def test_a_blank_attribute_says_nothing(tmp_path):
    data, _ = imported(via(tmp_path / "x", file(region(CAR, kind="car"), region(TREE, kind=" "))))
    assert data.info.classes == ["background", "car"]
    pixels = expected()
    pixels[TREE_PIXELS] = 255
    assert np.array_equal(mask(data, "background", "car"), pixels)


def test_check_boxes(tmp_path):
    checked = [region(CAR, kind={"car": True, "tree": False}), region(TREE, kind={"tree": True})]
    assert np.array_equal(drawn(via(tmp_path / "x", file(*checked)), "background", "car", "tree"), expected())
    both = via(tmp_path / "y", file(region(CAR, kind={"car": True, "tree": True})))
    assert "kind is car, tree; a pixel has one class, so leave one" in refusal(both)


def test_regions_without_any_attribute_are_one_class(tmp_path):
    data, report = imported(via(tmp_path / "x", file(region(CAR))), "--map", "object=balloon")
    assert data.info.classes == ["background", "balloon"]
    assert report["notes"] == ["no region has an attribute; all of them are the class object"]


def test_photos_without_a_region_are_unlabeled_and_folders_are_splits(tmp_path):
    root = tmp_path / "x"
    for split in ("train", "val"):
        photo(root / split / f"{split}.jpg")
        photo(root / split / "none.jpg")
        content = file(region(CAR, kind="car"), name=f"{split}.jpg") | file(name="none.jpg")
        write_json(root / split / "via_region_data.json", content)
    data, _ = imported(root)
    assert list(masks(data)) == ["train/train", "val/val"]
    assert len(data.samples("unlabeled")) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (file(region(CAR | {"all_points_x": [1, 2]}, kind="car")), "a.jpg123.regions.0: 2 all_points_x, but 4 all_p"),
        (file(region(CAR | {"all_points_x": ["x"]}, kind="car")), "a.jpg123.regions.0: all_points_x must be numbers"),
        (file(region({"name": "rect", "x": 1}, kind="car")), "a.jpg123.regions.0: y must be numbers"),
        (file(region({"name": "cube"}, kind="car")), "a.jpg123.regions.0: unknown kind of region 'cube'"),
        ({"a": {"filename": "a.jpg", "regions": 3, "file_attributes": {}}}, "via_region_data.json: a.regions"),
        (file(region(CAR, kind="car"), name="b.jpg"), "1 of 1 photos are missing (b.jpg)"),
    ],
)
def test_malformed_files(content, message, tmp_path):
    assert message in refusal(via(tmp_path / "x", content))


@pytest.mark.parametrize("shape", ["{", "[]", "3"])
def test_malformed_csv(shape, tmp_path):
    root = tmp_path / "x"
    photo(root / "a.jpg")
    (root / "via.csv").write_text(f"filename,region_shape_attributes,region_attributes\na.jpg,{shape},{{}}\n")
    assert "via.csv:2: " in refusal(root)
