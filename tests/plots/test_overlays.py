import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semseg_app.errors import UserError
from semseg_app.plots.figures import plot_confusion_matrix
from semseg_app.plots.overlays import class_shares, legend, overlay

PALETTE = [(200, 0, 0), (0, 100, 0), (0, 0, 50)]


def test_overlay_blends_photo_and_class_color() -> None:
    image = np.full((2, 3, 3), 100, np.uint8)
    classes = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)
    np.testing.assert_array_equal(overlay(image, classes, PALETTE, 0.0), image)
    np.testing.assert_array_equal(overlay(image, classes, PALETTE, 1.0), np.array(PALETTE)[classes])
    quarter = overlay(image, classes, PALETTE, 0.25)
    np.testing.assert_allclose(quarter, 0.75 * image + 0.25 * np.array(PALETTE)[classes], atol=1)
    with pytest.raises(ValueError, match="differ in size"):
        overlay(image, classes.T, PALETTE)
    with pytest.raises(ValueError, match="opacity 2: give 0"):
        overlay(image, classes, PALETTE, 2)


def test_class_shares() -> None:
    shares = class_shares(np.array([[0, 0, 3], [0, 3, 3], [1, 1, 1]], np.uint8), 5)
    np.testing.assert_allclose(shares, [3 / 9, 3 / 9, 0, 3 / 9, 0])


def test_legend_shows_each_color_beside_ink() -> None:
    picture = legend(["road", "a long class name", "tree"], PALETTE, np.array([0.5, 0.25, 0.25]))
    for index, color in enumerate(PALETTE):
        line = picture[24 * index : 24 * (index + 1)]
        assert (line == color).all(axis=-1).sum() > 100
        assert (line[:, 30:] < 100).any()
    assert legend(["road"], PALETTE[:1]).shape[1] < picture.shape[1]


@pytest.mark.parametrize("count", [3, 31])
def test_confusion_matrix_is_drawn(count: int, tmp_path: Path) -> None:
    counts = np.diag(np.arange(count)) + np.eye(count, k=1, dtype=np.int64)  # the first row has no hit
    path = tmp_path / "deep" / "matrix.png"
    plot_confusion_matrix(counts, [f"class {index}" for index in range(count)], path)
    pixels = np.asarray(Image.open(path).convert("RGB"))
    assert min(pixels.shape[:2]) > 300
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 10
    assert [file.name for file in path.parent.iterdir()] == ["matrix.png"]


def test_without_matplotlib_one_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match=r"pip install 'semseg-app\[plot\]'"):
        plot_confusion_matrix(np.eye(2, dtype=np.int64), ["a", "b"], tmp_path / "matrix.png")
