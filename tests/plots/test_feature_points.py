"""Which pixels are shown, which cells of the maps they lie in, and where t-SNE puts them."""

import numpy as np
import pytest
import torch
from support.patch_network import patch_network

from semseg_app.data.layouts import open_dataset
from semseg_app.errors import UserError
from semseg_app.labels import IGNORE
from semseg_app.models import ModelSpec, build
from semseg_app.plots.feature_points import MAPS, as_input, cells, draw_points, layout, vectors_at


def test_points_are_labeled_pixels_of_all_photos_drawn_once(tiny_dataset) -> None:
    data = open_dataset(tiny_dataset)
    samples = data.samples("val")
    labels = np.stack([data.read_label(sample) for sample in samples])
    points = draw_points(data, samples, 2000, seed=3)
    np.testing.assert_array_equal(labels[points.photo, points.row, points.column], points.label)
    assert IGNORE not in points.label
    assert len(set(zip(points.photo, points.row, points.column, strict=True))) == 2000
    # Every photo has equally many labeled pixels, so each gets about a fifth.
    assert np.abs(np.bincount(points.photo, minlength=5) - 400).max() < 100
    assert (points.row >= 2).all()
    everything = draw_points(data, samples, 10**6, seed=0)
    assert len(everything.label) == (labels != IGNORE).sum()
    again = draw_points(data, samples, 2000, seed=3)
    np.testing.assert_array_equal(points.row, again.row)


def test_each_point_gets_the_cell_that_covers_it(tiny_dataset) -> None:
    data, network = open_dataset(tiny_dataset), patch_network().eval()
    samples = data.samples("val")[:2]
    points = draw_points(data, samples, 50, seed=0)
    vectors = vectors_at(network, points, samples, data.read_image)
    for number in range(50):
        image = data.read_image(samples[points.photo[number]])
        with torch.no_grad():
            features = network.features(as_input(image, "cpu"))
        row, column = points.row[number], points.column[number]
        np.testing.assert_allclose(vectors[MAPS[0]][number], features.decoder[0, :, row // 4, column // 4], atol=1e-6)
        np.testing.assert_allclose(
            vectors[MAPS[1]][number], features.stages[-1][0, :, row // 8, column // 8], atol=1e-6
        )


@pytest.mark.parametrize("align_corners", [False, True])
def test_a_pixel_lies_in_the_cell_with_the_nearest_center(align_corners) -> None:
    spec = ModelSpec(
        architecture="deeplabv3plus-plain",
        encoder="resnet18",
        num_classes=2,
        decoder_channels=8,
        align_corners=align_corners,
    )
    network = build(spec)
    side, pixels = 50, np.arange(50)  # no pixel is as near to two centers
    padded = side if align_corners else side + -side % network.stride
    count = 7 if align_corners else padded // 4
    centers = np.linspace(0, side - 1, count) if align_corners else (np.arange(count) + 0.5) * padded / count - 0.5
    nearest = np.abs(pixels[:, None] - centers).argmin(axis=1)
    np.testing.assert_array_equal(cells(pixels, side, count, network), nearest)


def test_classes_that_are_apart_lie_apart_and_the_silhouette_is_the_textbooks() -> None:
    random = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 20)
    vectors = (random.normal(0, 1, (60, 6)) + 12 * np.eye(6)[labels]).astype(np.float32)
    found = layout(vectors, labels, perplexity=8, seed=0)
    between = np.linalg.norm(found.places[:, None] - found.places, axis=2)
    np.fill_diagonal(between, np.inf)
    assert (labels[between.argmin(axis=1)] == labels).all()
    apart = np.linalg.norm(vectors[:, None].astype(np.float64) - vectors, axis=2)
    scores = []
    for own in range(60):
        others = [apart[own][labels == label].mean() for label in range(3) if label != labels[own]]
        inside = apart[own][labels == labels[own]].sum() / 19
        scores.append((min(others) - inside) / max(min(others), inside))
    assert found.silhouette == pytest.approx(np.mean(scores), abs=1e-5)
    again = layout(vectors, labels, perplexity=8, seed=0)
    np.testing.assert_array_equal(found.places, again.places)
    with pytest.raises(UserError, match="more than 60 points"):
        layout(vectors, labels, perplexity=20, seed=0)
    assert layout(vectors, np.zeros(60, np.int64), 8, 0).silhouette is None
