"""How unsure a model is: of each pixel, and from that of a photo.

The mean over all pixels ranks photos by the length of their outlines, because a network is unsure along every one of
them. So pixels are first averaged over square cells, in which a thin outline weighs little and a region that the
network does not know weighs fully; the photo's value is the mean of its most unsure tenth of cells. This is the
patch-level aggregation of Kahl et al., "ValUES: A Framework for Systematic Validation of Uncertainty Estimation in
Semantic Segmentation" (ICLR 2024), with a mean over several patches in place of the single highest.
"""

import math

import numpy as np
from PIL import Image

CELLS = 8
"""Cells along the shorter side of a photo."""
UNSURE_SHARE = 0.1
"""Fraction of the cells that counts: an unknown object fills a few cells, rarely more."""


def entropy(probabilities: np.ndarray) -> np.ndarray:
    """float32 `[C, H, W]`, sums 1 -> float32 `[H, W]`: 0 for a certain class, 1 where all classes are equal."""
    logs = np.log(np.maximum(probabilities, np.float32(1e-12)))
    values: np.ndarray = -(probabilities * logs).sum(axis=0) / np.float32(math.log(max(len(probabilities), 2)))
    return values


def margin(probabilities: np.ndarray) -> np.ndarray:
    """float32 `[C, H, W]` -> float32 `[H, W]`: 1 minus the lead of the first class over the second."""
    if len(probabilities) < 2:
        return np.zeros(probabilities.shape[1:], np.float32)
    second, first = np.partition(probabilities, len(probabilities) - 2, axis=0)[-2:]
    values: np.ndarray = np.float32(1) - (first - second)
    return values


def disagreement(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Two answers about the same pixels, float32 `[C, H, W]` -> total variation distance float32 `[H, W]`, 0 to 1.

    For a photo and its mirror image this is the self-consistency of Golestaneh and Kitani (BMVC 2020).
    """
    values: np.ndarray = np.abs(one - other).sum(axis=0) / np.float32(2)
    return values


def photo_uncertainty(pixels: np.ndarray) -> float:
    """float32 `[H, W]`, 0 to 1 -> the mean of the most unsure cells, 0 to 1."""
    height, width = pixels.shape
    side = max(min(height, width) / CELLS, 1)
    grid = max(round(width / side), 1), max(round(height / side), 1)
    cells = np.sort(np.asarray(Image.fromarray(pixels.astype(np.float32)).resize(grid, Image.Resampling.BOX)).ravel())
    return float(cells[-math.ceil(UNSURE_SHARE * cells.size) :].mean())
