import io

import numpy as np
from PIL import Image

from semseg_app.masks import color_png, colorize, indexed_png

PALETTE = [(128, 64, 128), (0, 0, 0), (255, 255, 255)]


def test_indexed_png_keeps_every_index_and_shows_the_palette() -> None:
    classes = np.random.default_rng(0).integers(0, 3, (17, 23), np.uint8)
    classes[0, :2] = (255, 100)  # ignore, and what no palette covers
    image = Image.open(io.BytesIO(indexed_png(classes, PALETTE)))
    assert (image.format, image.mode) == ("PNG", "P")
    np.testing.assert_array_equal(np.asarray(image), classes)
    shown = np.asarray(image.convert("RGB"))
    for index, color in enumerate(PALETTE):
        assert (shown[classes == index] == color).all()


def test_colors() -> None:
    classes = np.array([[0, 2], [1, 9]], np.uint8)
    expected = [[[128, 64, 128], [255, 255, 255]], [[0, 0, 0], [0, 0, 0]]]
    assert colorize(classes, PALETTE).tolist() == expected
    image = Image.open(io.BytesIO(color_png(classes, PALETTE)))
    assert (image.format, image.mode) == ("PNG", "RGB")
    assert np.asarray(image).tolist() == expected


def test_a_smooth_mask_is_small() -> None:
    classes = np.zeros((1000, 1000), np.uint8)
    classes[300:, 200:700] = 1
    assert len(indexed_png(classes, PALETTE)) < 30_000
