"""Pictures of class maps, heat and changes, pixel by pixel."""

import numpy as np
from PIL import Image

from semseg_app.labels import LabelSpace
from semseg_app.plots.photo_grid import (
    GAINED,
    LOST,
    Box,
    Picture,
    Row,
    change_picture,
    class_picture,
    draw_photo_grid,
    heat_picture,
)

LABELS = LabelSpace(classes=["a", "b"], palette=[(10, 20, 30), (200, 100, 0)])


def test_classes_have_their_colors_and_the_rest_is_white() -> None:
    picture = class_picture(np.array([[0, 1, 255]], np.uint8), LABELS)
    np.testing.assert_array_equal(picture, [[(10, 20, 30), (200, 100, 0), (255, 255, 255)]])


def test_changed_pixels_stand_out_of_a_gray_photo() -> None:
    photo = np.full((1, 3, 3), (100, 200, 50), np.uint8)
    gained, lost = np.array([[True, False, False]]), np.array([[False, True, False]])
    gray = round(128 + (0.299 * 100 + 0.587 * 200 + 0.114 * 50) / 2)
    np.testing.assert_array_equal(change_picture(photo, gained, lost), [[GAINED, LOST, (gray, gray, gray)]])


def test_the_largest_heat_is_the_brightest() -> None:
    photo = np.full((1, 3, 3), 90, np.uint8)
    picture = heat_picture(photo, np.array([[0.0, 0.01, 0.02]]))
    brightness = picture.sum(axis=2)[0].tolist()
    assert brightness == sorted(brightness)
    assert len(set(brightness)) == 3
    np.testing.assert_array_equal(picture, heat_picture(photo, np.array([[0.0, 1.0, 2.0]])))


def test_a_grid_shows_every_picture(tmp_path) -> None:
    """Each cell has the color of its picture, the box is white, the cross yellow, and an empty cell is blank."""
    plain = [np.full((30, 40, 3), color, np.uint8) for color in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    rows = [
        Row("x", [Picture(plain[0], boxes=[Box(5, 5, 10, 10)]), Picture(plain[1], mark=(20, 15))]),
        Row("y", [None, Picture(plain[2], caption="c")]),
    ]
    path = tmp_path / "grid.png"
    draw_photo_grid(path, ["one", "two"], rows, LABELS)
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3).tolist()
    counts = [pixels.count([250, 0, 0]), pixels.count([0, 250, 0]), pixels.count([0, 0, 250])]
    assert min(counts) > 20_000
    assert max(counts) < 1.2 * min(counts)
    assert pixels.count([255, 255, 0]) > 50
    assert pixels.count([10, 20, 30]) > 30
