import numpy as np
import pytest
import torch

from semseg_app.inference.tiling import resize_planes, slide, tiles

LAYOUTS = [(100, 100, 40, 8), (97, 61, 40, 0), (41, 200, 40, 30), (30, 90, 40, 20), (40, 40, 40, 39), (200, 33, 64, 63)]


@pytest.mark.parametrize("grid", [1, 8])
@pytest.mark.parametrize(("height", "width", "tile", "overlap"), LAYOUTS)
def test_every_pixel_is_kept_once_from_the_tile_in_which_it_lies_deepest(
    height: int, width: int, tile: int, overlap: int, grid: int
) -> None:
    rows, columns = np.mgrid[0:height, 0:width]
    kept_depth = np.full((height, width), -1.0)
    deepest = np.zeros((height, width))
    tile, overlap = -(-tile // grid) * grid, overlap // grid * grid
    for window, keep in tiles(height, width, tile, tile, overlap, grid):
        assert window.top % grid == window.left % grid == 0
        for side, length in ((window.height, height), (window.width, width)):
            assert min(tile, length) - grid < side <= min(tile, length)
        bottom, right = window.top + window.height, window.left + window.width
        assert window.top >= 0
        assert window.left >= 0
        assert bottom <= height
        assert right <= width
        # Distance to the nearest border of the tile that is not a border of the image.
        borders = [
            rows - window.top + 0.5 if window.top else np.full(rows.shape, np.inf),
            columns - window.left + 0.5 if window.left else np.full(rows.shape, np.inf),
            bottom - rows - 0.5 if bottom < height else np.full(rows.shape, np.inf),
            right - columns - 0.5 if right < width else np.full(rows.shape, np.inf),
        ]
        depth = np.minimum.reduce(borders)
        deepest = np.maximum(deepest, depth)
        kept = (slice(keep.top, keep.top + keep.height), slice(keep.left, keep.left + keep.width))
        assert (kept_depth[kept] == -1).all()
        kept_depth[kept] = depth[kept]
    np.testing.assert_array_equal(kept_depth, deepest)


def test_neighbors_overlap_as_asked() -> None:
    tops = [tile.window.top for tile in tiles(1000, 10, 256, 256, 64)]
    assert tops == [0, 192, 384, 576, 744]
    with pytest.raises(ValueError, match="overlap 256"):
        list(tiles(1000, 10, 256, 256, 256))


@pytest.mark.parametrize("batch_size", [1, 3])
def test_slide_is_the_mean_over_the_windows_that_cover_a_pixel(batch_size: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (23, 31, 3), np.uint8)
    weights = np.random.default_rng(1).random((10, 10, 2)).astype(np.float32)  # an answer that depends on the place

    def answer(images: np.ndarray) -> np.ndarray:
        assert len(images) <= batch_size
        return np.stack([images[..., 0] * weights[..., 0], images[..., 1] * weights[..., 1]], axis=1)

    answers: dict[tuple[int, int], list[np.ndarray]] = {}
    for top in (0, 6, 12, 13):
        for left in (0, 6, 12, 18, 21):
            for row in range(10):
                for column in range(10):
                    pixel = image[top + row, left + column, :2] * weights[row, column]
                    answers.setdefault((top + row, left + column), []).append(pixel)
    averaged = slide(image, answer, window=10, stride=6, batch_size=batch_size)
    assert averaged.shape == (2, 23, 31)
    for (row, column), values in answers.items():
        np.testing.assert_allclose(averaged[:, row, column], np.mean(values, axis=0), rtol=1e-5)


def test_a_window_larger_than_the_image_is_one_whole_run() -> None:
    image = np.random.default_rng(0).integers(0, 256, (9, 14, 3), np.uint8)
    averaged = slide(image, lambda images: images.astype(np.float32).transpose(0, 3, 1, 2), window=32, stride=20)
    np.testing.assert_array_equal(averaged, image.transpose(2, 0, 1))


@pytest.mark.parametrize("size", [(17, 40), (5, 6), (13, 21), (1, 1)])
def test_resize_planes_is_bilinear_as_torch_means_it(size: tuple[int, int]) -> None:
    planes = np.random.default_rng(0).random((3, 13, 21)).astype(np.float32)
    expected = torch.nn.functional.interpolate(torch.tensor(planes)[None], size=size, mode="bilinear")[0]
    resized = resize_planes(planes, *size)
    assert resized.dtype == np.float32
    np.testing.assert_allclose(resized, expected, atol=5e-6)
