"""A Supervisely project by hand, after docs.supervisely.com."""

import base64
import io
import zlib

import numpy as np
import pytest
from PIL import Image
from support.annotations import HEIGHT, WIDTH, canvas, imported, mask, masks, photo, refusal, write_json

from semseg_app.data.importers import supervisely as importer

CAR = {
    "id": 497521359,
    "classId": 1661571,
    "labelerLogin": "ann",
    "geometryType": "polygon",
    "tags": [],
    "classTitle": "car",
    "points": {"exterior": [[10, 6], [19, 6], [19, 14], [10, 14]], "interior": []},
}
CAR_PIXELS = (slice(6, 15), slice(10, 20))


def project(root, *objects, dataset="ds1", name="a.jpg"):
    classes = [("car", "#C06060", "polygon"), ("tree", "#2080C0", "any")]
    meta = {
        "classes": [{"title": title, "color": color, "shape": shape} for title, color, shape in classes],
        "tags": [],
    }
    write_json(root / "meta.json", meta)
    photo(root / dataset / "img" / name)
    content = {"description": "", "tags": [], "size": {"height": HEIGHT, "width": WIDTH}, "objects": list(objects)}
    write_json(root / dataset / "ann" / f"{name}.json", content)
    return root


def bitmap(pixels, left, top, mode="RGBA"):
    file = io.BytesIO()
    gray = Image.fromarray(pixels.astype(np.uint8) * 255)
    image = Image.merge("RGBA", [gray] * 4) if mode == "RGBA" else gray.convert("1")
    image.save(file, "PNG")
    data = base64.b64encode(zlib.compress(file.getvalue())).decode()
    return {"classTitle": "tree", "geometryType": "bitmap", "bitmap": {"data": data, "origin": [left, top]}}


def drawn(root, *options):
    return mask(imported(root, *options)[0], "background", "car", "tree")


def test_whole_numbers_are_pixels_and_the_outline_counts(tmp_path):
    expected = canvas()
    expected[CAR_PIXELS] = 1
    data, _ = imported(project(tmp_path / "x", CAR))
    assert np.array_equal(mask(data, "background", "car", "tree"), expected)
    assert data.info.palette == [(0, 0, 0), (0xC0, 0x60, 0x60), (0x20, 0x80, 0xC0)]


def test_a_kind_of_geometry_that_is_not_known_is_no_loss_in_silence(tmp_path):
    line = refusal(project(tmp_path / "x", CAR, CAR | {"geometryType": "oriented_bbox"}))
    assert "objects.1.geometryType: unknown kind 'oriented_bbox'; convert it to a polygon or a bitmap" in line


def test_fractions_are_edges(tmp_path):
    fine = CAR | {
        "points": {"exterior": [[10.0, 6.0], [20.0, 6.0], [20.0, 15.0], [10.0, 15.0], [9.99, 10.0]], "interior": []}
    }
    expected = canvas()
    expected[CAR_PIXELS] = 1
    assert np.array_equal(drawn(project(tmp_path / "x", fine)), expected)


def test_holes(tmp_path):
    """The outline of a hole belongs to the object: columns 13 to 15 and rows 9 to 11 are free."""
    ring = CAR["points"] | {"interior": [[[12, 8], [16, 8], [16, 12], [12, 12]]]}
    expected = canvas()
    expected[CAR_PIXELS] = 1
    expected[9:12, 13:16] = 0
    assert np.array_equal(drawn(project(tmp_path / "x", CAR | {"points": ring})), expected)


@pytest.mark.parametrize("mode", ["RGBA", "1"])
def test_bitmaps_and_rectangles(mode, tmp_path):
    pixels = np.random.default_rng(2).random((5, 7)) > 0.5
    rectangle = CAR | {"geometryType": "rectangle", "points": {"exterior": [[10, 6], [19, 14]], "interior": []}}
    point = CAR | {"geometryType": "point", "points": {"exterior": [[1, 1]], "interior": []}}
    data, report = imported(project(tmp_path / "x", rectangle, bitmap(pixels, 4, 20, mode), point))
    expected = canvas()
    expected[CAR_PIXELS] = 1
    expected[20:25, 4:11][pixels] = 2
    assert np.array_equal(mask(data, "background", "car", "tree"), expected)
    assert report["objects"]["no_area"] == {"point": 1}


def test_datasets_are_splits_or_folders(tmp_path):
    root = tmp_path / "x"
    for dataset in ("train", "val", "more"):
        project(root, CAR, dataset=dataset)
    project(root, dataset="more", name="empty[1].png")
    project(root, CAR, dataset="val/datasets/monday", name="b.jpg")
    data, report = imported(root)
    assert list(masks(data)) == ["train/more_a", "train/train_a", "val/a", "val/b"]
    assert [sample.stem for sample in data.samples("unlabeled")] == ["empty[1]"]
    assert report["renamed"] == 2


@pytest.mark.parametrize(
    ("figure", "message"),
    [
        ({"classTitle": "lorry"}, "a.jpg.json: objects.0.classTitle: 'lorry' is not in meta.json"),
        ({"points": {"exterior": [[1]]}}, "a.jpg.json: objects.0.points.exterior.0"),
        ({"bitmap": {"data": "AAAA", "origin": [0, 0]}}, "a.jpg.json: objects.0.bitmap.data: is no deflated PNG"),
        ({"geometryType": "rectangle"}, "objects.0.points.exterior: a rectangle has 2 points, this one 4"),
    ],
)
def test_malformed_files(figure, message, tmp_path):
    assert message in refusal(project(tmp_path / "x", CAR | figure))


def test_a_bitmap_may_unpack_to_so_many_bytes(tmp_path, monkeypatch):
    root = project(tmp_path / "x", bitmap(np.ones((5, 7), bool), 0, 0))
    monkeypatch.setattr(importer, "MOST_BITMAP_BYTES", 20)
    assert "a.jpg.json: objects.0.bitmap.data: is larger than 20 bytes" in refusal(root)
