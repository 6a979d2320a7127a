"""Colors of the page: the scale of confidence, and class colors that are easy to tell apart."""

from functools import lru_cache

import numpy as np

from semseg_app.labels import hex_color

HEAT = [(0.0, "#fcfdbf"), (0.3, "#fe9f6d"), (0.55, "#de4968"), (0.8, "#8c2981"), (1.0, "#2a1155")]
"""Confidence 0 to 1 -> color (after matplotlib's magma, reversed). Unsure pixels glow; lightness falls
steadily, so that the scale can be read with color blindness."""

_LEVELS = 9
"""Values per channel of the colors to choose from; after the limits of lightness enough for 256 classes."""
_LIGHTNESS = (0.35, 0.93)
"""OKLab lightness between which a color is seen on dark and on bright parts of a photo."""


def heat_colors() -> list[str]:
    """256 colors, unsure to sure."""
    positions = [255 * confidence for confidence, _ in HEAT]
    stops = np.array([tuple(bytes.fromhex(color[1:])) for _, color in HEAT])
    channels = [np.interp(np.arange(256), positions, stops[:, channel]).round().astype(int) for channel in range(3)]
    return [hex_color(color) for color in zip(*channels, strict=True)]


@lru_cache
def distinct_colors(count: int) -> list[str]:
    """Up to 256 colors, each as far as possible from all before it (farthest-point selection in OKLab).

    Neighbors in a photo may be any two classes, so every pair has to differ.
    """
    levels = np.linspace(0, 255, _LEVELS).round().astype(int)
    candidates = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    lab = _oklab(candidates / 255)
    seen = (lab[:, 0] >= _LIGHTNESS[0]) & (lab[:, 0] <= _LIGHTNESS[1])
    candidates, lab = candidates[seen], lab[seen]
    chosen = [int(np.argmax(np.hypot(lab[:, 1], lab[:, 2])))]  # the most vivid color first
    distance = np.full(len(lab), np.inf)
    while len(chosen) < count:
        distance = np.minimum(distance, np.linalg.norm(lab - lab[chosen[-1]], axis=1))
        chosen.append(int(np.argmax(distance)))
    return [hex_color(candidates[index].tolist()) for index in chosen[:count]]


def _oklab(rgb: np.ndarray) -> np.ndarray:
    """sRGB 0 to 1 `[N, 3]` -> OKLab `[N, 3]` (Ottosson 2020): equal distances look equally different."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_cones = np.array(
        [
            [0.4122214708, 0.5363325363, 0.0514459929],
            [0.2119034982, 0.6806995451, 0.1073969566],
            [0.0883024619, 0.2817188376, 0.6299787005],
        ]
    )
    to_lab = np.array(
        [
            [0.2104542553, 0.7936177850, -0.0040720468],
            [1.9779984951, -2.4285922050, 0.4505937099],
            [0.0259040371, 0.7827717662, -0.8086757660],
        ]
    )
    lab: np.ndarray = np.cbrt(linear @ to_cones.T) @ to_lab.T
    return lab
