"""What networks make of the same pixels, laid out in the plane by t-SNE.

van der Maaten & Hinton, "Visualizing Data using t-SNE", JMLR 2008; as in Zhong et al., "PC2Seg", ICCV 2021, supplement,
figure D.1: the decoder's map and the deepest stage, 10,000 pixels drawn evenly from all photos, perplexity 40.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from semseg_app.data.dataset import Sample, SegmentationData
from semseg_app.errors import UserError
from semseg_app.labels import IGNORE
from semseg_app.models import SegmentationNetwork
from semseg_app.plots.extra import plot_extra

MAPS = ("decoder", "deepest stage")
"""What is looked at: what the classifier reads, and the encoder's last map."""
PRINCIPAL = 50
"""Vectors are first reduced to so many principal components, as the authors of t-SNE do: distances are cheaper then."""


class Points(NamedTuple):
    """Labeled pixels, drawn from the photos of a list; all are int64 `[N]`, by photo, row and column."""

    photo: np.ndarray
    row: np.ndarray
    column: np.ndarray
    label: np.ndarray


class Layout(NamedTuple):
    """Vectors in the plane."""

    places: np.ndarray
    """float32 `[N, 2]`."""
    divergence: float
    """Kullback-Leibler divergence that t-SNE ended at."""
    silhouette: float | None
    """How far apart the classes are among the vectors themselves, not in the plane, from -1 to 1 (Rousseeuw, 1987):
    the mean over points of (b - a) / max(a, b), a = mean distance to its own class, b = to the nearest other one. None
    where all points are of one class."""


def draw_points(data: SegmentationData, samples: Sequence[Sample], count: int, seed: int) -> Points:
    """Labeled pixels, every one of the list equally likely and none twice; all of them where they are fewer.

    They are pixels of the photos, so that networks of different strides show the same ones. UserError without any.
    """
    sizes = [int((data.read_label(sample) != IGNORE).sum()) for sample in samples]
    total = sum(sizes)
    if not total:
        raise UserError(f"{data.root}: no labeled pixels to show; choose another split")
    random = np.random.default_rng(seed)
    drawn = np.sort(random.choice(total, min(count, total), replace=False, shuffle=False))
    ends = np.cumsum(sizes)
    photos = np.searchsorted(ends, drawn, side="right")
    rows, columns, labels = [], [], []
    for photo in np.unique(photos).tolist():
        label = data.read_label(samples[photo])
        chosen = np.flatnonzero(label != IGNORE)[drawn[photos == photo] - (ends[photo] - sizes[photo])]
        row, column = np.divmod(chosen, label.shape[1])
        rows.append(row)
        columns.append(column)
        labels.append(label[row, column].astype(np.int64))
    return Points(photos, np.concatenate(rows), np.concatenate(columns), np.concatenate(labels))


@torch.inference_mode()
def vectors_at(
    network: SegmentationNetwork,
    points: Points,
    samples: Sequence[Sample],
    read: Callable[[Sample], np.ndarray],
    device: str = "cpu",
) -> dict[str, np.ndarray]:
    """The cells of the network's maps in which the points lie: name of MAPS -> float32 `[N, C]`.

    Args:
        network: in eval mode, on `device`. Photos are shown whole.
        points: from `draw_points`.
        samples: the same list.
        read: a sample's photo, uint8 RGB `[H, W, 3]`.
        device: where the network is.
    """
    found: dict[str, list[np.ndarray]] = {name: [] for name in MAPS}
    for photo in np.unique(points.photo).tolist():
        image = read(samples[photo])
        here = points.photo == photo
        features = network.features(as_input(image, device))
        for name, feature in zip(MAPS, (features.decoder, features.stages[-1]), strict=True):
            rows, columns = (
                cells(pixels[here], side, count, network)
                for pixels, side, count in zip(
                    (points.row, points.column), image.shape[:2], feature.shape[2:], strict=True
                )
            )
            found[name].append(feature[0, :, rows, columns].T.float().cpu().numpy())
    return {name: np.concatenate(parts) for name, parts in found.items()}


def as_input(image: np.ndarray, device: str) -> Tensor:
    """uint8 RGB `[H, W, 3]` -> float RGB in [0, 1], `[1, 3, H, W]`, on the device."""
    return torch.from_numpy(image.copy()).to(device).permute(2, 0, 1)[None].float().div_(255)


def cells(pixels: np.ndarray, side: int, count: int, network: SegmentationNetwork) -> np.ndarray:
    """The cell of a map, of `count` cells along a photo's side of `side` pixels, in which each pixel lies.

    A map covers the photo as the network pads it; one that aligns corners pads nothing, and has the centers of its
    first and last cells on the first and last pixel.
    """
    if network.spec.align_corners:
        nearest: np.ndarray = np.rint(pixels * (count - 1) / max(side - 1, 1)).astype(np.int64)
        return nearest
    padded = side + -side % network.stride
    covering: np.ndarray = ((2 * pixels + 1) * count // (2 * padded)).astype(np.int64)
    return covering


def layout(vectors: np.ndarray, labels: np.ndarray, perplexity: float, seed: int) -> Layout:
    """Lay float `[N, C]` of classes int `[N]` out in the plane. One thread: the result must not depend on how many.

    UserError where the points are too few for the perplexity.
    """
    with plot_extra("t-SNE"):
        from sklearn.decomposition import PCA
        from sklearn.manifold import TSNE
        from sklearn.metrics import silhouette_score
        from threadpoolctl import threadpool_limits

    if len(vectors) <= 3 * perplexity:
        raise UserError(
            f"perplexity {perplexity:g} needs more than {3 * perplexity:g} points and there are {len(vectors)}; "
            "lower --perplexity, or take more photos"
        )
    with threadpool_limits(1):
        classes = len(np.unique(labels))
        silhouette = float(silhouette_score(vectors, labels)) if 1 < classes < len(labels) else None
        reduced = vectors.astype(np.float64)
        if min(reduced.shape) > PRINCIPAL:
            reduced = PCA(PRINCIPAL, svd_solver="covariance_eigh").fit_transform(reduced)
        model = TSNE(perplexity=perplexity, init="pca", random_state=seed)
        places = model.fit_transform(reduced).astype(np.float32)
    return Layout(places, float(model.kl_divergence_), silhouette)


def thinned(points: Iterable[np.ndarray]) -> list[list[float]]:
    """Places in the plane with three decimals, for JSON."""
    return [[round(float(x), 3), round(float(y), 3)] for x, y in points]
