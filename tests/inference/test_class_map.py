"""Exact decoding against the plain one: the logits enlarged by torch, the largest of each pixel, the whole softmax."""

import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch.nn import functional

from semseg_app.inference.class_map import Grid, class_and_confidence_map, class_map, grid_of

STEPS = ((1, 1), (2, 2), (4, 4), (7, 7), (8, 16), (14, 14), (32, 32))
"""Pixels between logits: of every architecture, of a patch of 14, and of a grid that is not square."""


def smooth(classes: int, height: int, width: int) -> np.ndarray:
    """What a trained network gives: large areas, narrow borders, logits up to about 20."""
    random = torch.Generator().manual_seed(classes + height)
    coarse = torch.randn(1, classes, max(2, height // 6), max(2, width // 6), generator=random)
    areas = functional.interpolate(coarse, size=(height, width), mode="bicubic") * 8
    return (areas + 0.3 * torch.randn(1, classes, height, width, generator=random))[0].numpy()


def noise(classes: int, height: int, width: int) -> np.ndarray:
    """The worst case: every corner has another class."""
    return np.random.default_rng(classes).normal(0, 3, (classes, height, width)).astype(np.float32)


def ties(classes: int, height: int, width: int) -> np.ndarray:
    """Whole numbers, many of them equal."""
    return np.random.default_rng(classes).integers(0, 3, (classes, height, width)).astype(np.float32)


def extreme(classes: int, height: int, width: int) -> np.ndarray:
    """Neighbors further apart than exp can tell."""
    return noise(classes, height, width) * 200


def plain(logits: np.ndarray, grid: Grid) -> torch.Tensor:
    """All classes at full size: float64 `[C, H, W]`."""
    size = (logits.shape[1] * grid.step_y, logits.shape[2] * grid.step_x)
    whole = functional.interpolate(torch.from_numpy(logits)[None].double(), size=size, mode="bilinear")
    return whole[0, :, : grid.height, : grid.width]


@pytest.mark.parametrize("make", [smooth, noise, ties, extreme])
@pytest.mark.parametrize("classes", [1, 2, 5, 19, 150])
def test_equals_the_plain_way(make, classes: int) -> None:
    for step_y, step_x in STEPS if classes == 5 else ((4, 4), (8, 8)):
        for rows, columns in ((1, 1), (5, 7)) if classes == 5 else ((6, 5),):
            logits = make(classes, rows, columns)
            grid = Grid(max(1, rows * step_y - step_y // 3), columns * step_x, step_y, step_x)
            whole = plain(logits, grid)

            found, (again, confidence) = class_map(logits, grid), class_and_confidence_map(logits, grid)

            assert found.dtype == again.dtype == confidence.dtype == np.uint8
            assert found.shape == again.shape == confidence.shape == (grid.height, grid.width)
            for class_numbers in (found, again):
                below = whole.amax(dim=0) - whole.gather(0, torch.from_numpy(class_numbers).long()[None])[0]
                # A part of the largest logit in the cell, where float32 ends.
                assert below.max() <= 1e-6 * max(1, np.abs(logits).max()), "a class that is not the largest"
            if make in (smooth, noise):  # no two classes are equal there
                assert np.array_equal(found, whole.argmax(dim=0))
            exact = 255 * whole.softmax(dim=0).amax(dim=0).numpy()
            assert np.abs(confidence - exact).max() <= 0.5 + 0.01


def test_of_equal_classes_the_first() -> None:
    same = np.broadcast_to(smooth(1, 4, 4), (5, 4, 4)).copy()
    assert not class_map(same, Grid(16, 16, 4, 4)).any()
    assert not class_and_confidence_map(same, Grid(16, 16, 4, 4))[0].any()
    same[3, :, 2:] += 5
    assert set(np.unique(class_map(same, Grid(16, 16, 4, 4)))) == {0, 3}


def test_a_class_that_is_the_largest_at_no_corner_wins_between_them() -> None:
    logits = np.array([[[4, 0]], [[0, 4]], [[3, 3]]], np.float32)
    assert class_map(logits, Grid(8, 16, 8, 8))[0].tolist() == [0] * 6 + [2] * 4 + [1] * 6


def test_large_maps_take_several_bands_and_the_threads_do_not_show() -> None:
    logits = noise(40, 100, 90)
    grid = Grid(397, 359, 4, 4)
    whole = plain(logits, grid)
    classes, confidence = class_and_confidence_map(logits, grid)
    assert np.array_equal(classes, whole.argmax(dim=0))
    assert np.array_equal(classes, class_map(logits, grid))
    with ThreadPoolExecutor(3) as executor:
        shared = class_and_confidence_map(logits, grid, executor)
    assert np.array_equal(shared[0], classes)
    assert np.array_equal(shared[1], confidence)


def test_memory_does_not_grow_with_the_photo() -> None:
    logits = smooth(150, 128, 128)
    grid = Grid(512, 512, 4, 4)
    peaks = []
    for read in (class_map, class_and_confidence_map):
        tracemalloc.start()
        read(logits, grid)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    whole = 4 * 150 * 512 * 512
    assert max(peaks) < whole / 8


def test_a_network_that_gives_no_numbers_gives_classes_all_the_same() -> None:
    logits = noise(5, 6, 6)
    logits[2, 1, 1] = logits[:, 4, 4] = np.nan
    classes, _ = class_and_confidence_map(logits, Grid(48, 48, 8, 8))
    assert class_map(logits, Grid(48, 48, 8, 8)).max() < 5
    assert classes.max() < 5


def test_the_grid_of_a_photo() -> None:
    assert grid_of(np.empty((5, 16, 24)), 127, 131, 64) == Grid(127, 131, 8, 8)
    assert grid_of(np.empty((5, 1, 1)), 1, 1, 8) == Grid(1, 1, 8, 8)
    assert grid_of(np.empty((5, 3, 2)), 31, 62, 32) is None
