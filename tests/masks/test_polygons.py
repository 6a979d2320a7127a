import time

import cv2
import numpy as np
import pytest
import shapely
from shapely.geometry import shape as read_geojson

from semseg_app.errors import UserError
from semseg_app.masks import polygons as module
from semseg_app.masks.geojson import features, parse_transform
from semseg_app.masks.polygons import Polygon, polygons


def as_shapely(found: list[Polygon]) -> list[shapely.Polygon]:
    return [shapely.Polygon(polygon.exterior, polygon.holes) for polygon in found]


def filled(shapes: list[shapely.Polygon], height: int, width: int) -> np.ndarray:
    """int [H, W]: how many shapes cover each pixel's center."""
    y, x = np.mgrid[:height, :width] + 0.5
    return sum((shapely.contains_xy(shape, x, y).astype(int) for shape in shapes), np.zeros((height, width), int))


@pytest.mark.parametrize("strip_rows", [256, 5])
def test_polygons_are_valid_connected_and_fill_the_mask(scene, strip_rows, monkeypatch):
    monkeypatch.setattr(module, "STRIP_ROWS", strip_rows)
    every = polygons(scene)
    assert list(every) == np.unique(scene).tolist()
    for index, found in every.items():
        mask = scene == index
        shapes = as_shapely(found)
        assert [shapely.is_valid_reason(shape) for shape in shapes] == ["Valid Geometry"] * len(shapes)
        np.testing.assert_array_equal(filled(shapes, *mask.shape), mask)
        assert sum(shape.area for shape in shapes) == mask.sum()
        # One polygon for each part that is connected by the sides of its pixels.
        assert len(found) == cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)[0] - 1
        for polygon in found:
            assert shapely.LinearRing(polygon.exterior).is_ccw
            assert not any(shapely.LinearRing(hole).is_ccw for hole in polygon.holes)


def test_by_hand():
    mask = np.array([[1, 1, 1, 0], [1, 0, 1, 1], [1, 1, 1, 0]], np.uint8)
    (polygon,) = polygons(mask)[1]
    square = {(1, 1), (1, 2), (2, 1), (2, 2)}
    assert [set(map(tuple, hole.tolist())) for hole in polygon.holes] == [square]
    assert polygon.exterior.tolist() == [
        *([0, 0], [3, 0], [3, 1], [4, 1], [4, 2], [3, 2], [3, 3]),
        [0, 3],
    ]
    assert polygons(np.zeros((0, 3), np.uint8)) == {}


def test_a_large_smooth_map_is_quick():
    """A loop over its 16 million pixels would take many seconds, for each of its 19 classes."""
    classes = np.kron(np.random.default_rng(0).integers(0, 19, (80, 80)), np.ones((50, 50))).astype(np.uint8)
    start = time.perf_counter()
    found = polygons(classes)
    assert time.perf_counter() - start < 3
    assert len(found) == 19
    for index in (0, 18):
        assert sum(shape.area for shape in as_shapely(found[index])) == (classes == index).sum()


def test_noise_beyond_the_limit_is_refused(monkeypatch):
    monkeypatch.setattr(module, "MAX_CORNERS", 100)
    with pytest.raises(UserError, match="more than 100 corners: ask for run lengths"):
        polygons(np.random.default_rng(0).integers(0, 2, (30, 30), np.uint8))


@pytest.mark.parametrize("text", ["2,0,100,0,-2,500", "0.5,0.1,7,-0.1,0.5,3", "1,0,0,0,1,0"])
def test_geojson_lies_where_the_transform_says(text):
    mask = np.zeros((6, 8), np.uint8)
    mask[1:5, 2:7] = 1
    mask[2, 3] = 0
    a, b, c, d, e, f = map(float, text.split(","))
    (feature,) = features(polygons(mask)[1], {"name": "road"}, parse_transform(text))
    assert (feature["type"], feature["properties"]) == ("Feature", {"name": "road"})
    exterior, hole = feature["geometry"]["coordinates"] = [ring.tolist() for ring in feature["geometry"]["coordinates"]]
    assert exterior[0] == exterior[-1]
    assert shapely.LinearRing(exterior).is_ccw
    assert not shapely.LinearRing(hole).is_ccw
    corners = [(2, 1), (7, 1), (7, 5), (2, 5)]
    expected = shapely.Polygon([(a * x + b * y + c, d * x + e * y + f) for x, y in corners])
    shown = read_geojson(feature["geometry"])
    assert shapely.Polygon(shown.exterior).equals_exact(expected.normalize(), 1e-9) or shapely.Polygon(
        shown.exterior
    ).symmetric_difference(expected).area == pytest.approx(0, abs=1e-9)
    assert shown.area == pytest.approx(19 * abs(a * e - b * d))


@pytest.mark.parametrize("text", ["", "1,2,3", "1,0,0,0,0,0", "1,0,nan,0,1,0", "a,b,c,d,e,f", "1e200,0,0,0,1e200,0"])
def test_transforms_that_cannot_be(text):
    with pytest.raises(UserError, match=r"^transform '"):
        parse_transform(text)
