from itertools import pairwise

import numpy as np
import pytest
from skimage.color import deltaE_ciede2000, rgb2lab

from semseg_app.serve.demo.colors import distinct_colors, heat_colors


def lab(colors: list[str]) -> np.ndarray:
    return rgb2lab(np.array([list(bytes.fromhex(color[1:])) for color in colors], np.uint8)[None])[0]


def closest_pair(colors: list[str]) -> float:
    """CIEDE2000 of the two colors that are hardest to tell apart: 2 is just seen, side by side."""
    values = lab(colors)
    return min(deltaE_ciede2000(values[[index]], values[:index]).min() for index in range(1, len(values)))


@pytest.mark.parametrize(("count", "least"), [(2, 50), (11, 18), (21, 12), (150, 3), (256, 1.5)])
def test_every_two_classes_are_easy_to_tell_apart(count, least):
    colors = distinct_colors(count)
    assert len(set(colors)) == count
    assert closest_pair(colors) >= least
    assert colors == distinct_colors(256)[:count], "a class keeps its color when others join"


def test_they_are_easier_to_tell_apart_than_a_published_palette():
    camvid = ["#808080", "#800000", "#c0c080", "#804080", "#3c28de", "#808000", "#c08080", "#404080", "#400080"]
    assert closest_pair(distinct_colors(len(camvid))) > 1.3 * closest_pair(camvid)


def test_the_scale_of_confidence_gets_steadily_darker():
    lightness = lab(heat_colors())[:, 0]
    assert len(lightness) == 256
    assert all(after <= before + 0.2 for before, after in pairwise(lightness))
