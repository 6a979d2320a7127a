"""Proof that exact decoding gives what the graph itself answers: the same pixels, read in both ways."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from semseg_app.export.verification_set import resized
from semseg_app.inference.class_map import Grid, grid_of
from semseg_app.inference.engines.base import Engine
from semseg_app.inference.engines.onnxruntime import OnnxRuntimeEngine

TIE = 1e-5
"""Two classes whose logits differ by less are equal to float32: relative to the larger one where that is above 1."""
ROUNDING = 1
"""Steps of 255 by which the confidence may be rounded differently."""


def compare_decoding(
    engine: OnnxRuntimeEngine, whole: Engine, photos: Sequence[np.ndarray], sizes: Sequence[tuple[int, int]]
) -> dict[str, int]:
    """Compare the engine's class maps with those of the same graph run to its end, on the photos at every size.

    Returns counts: `pixels`; `ties`, that have another class whose logit is equal; `wrong`, that have another class
    with no such excuse; and `confidence_difference`, the largest one, of 255.
    """
    counts = {"pixels": 0, "ties": 0, "wrong": 0, "confidence_difference": 0}
    for size in sizes:
        images = np.stack([resized(photo, size) for photo in photos])
        expected, found, alone = whole.infer(images), engine.infer(images), engine.classes(images)
        counts["pixels"] += found.classes.size
        difference = np.abs(found.confidence.astype(np.int16) - expected.confidence).max()
        counts["confidence_difference"] = max(counts["confidence_difference"], int(difference))
        coarse = engine.logits(images)
        grid = grid_of(coarse, *size, engine.stride)
        assert grid is not None, "the engine has read these logits"
        for index, logits in enumerate(coarse):
            for classes in (found.classes[index], alone[index]):
                differs = classes != expected.classes[index]
                if differs.any():
                    gaps = _gaps(logits, grid, classes, expected.classes[index])[differs]
                    counts["ties"] += int((gaps < TIE).sum())
                    counts["wrong"] += int((gaps >= TIE).sum())
    return counts


def reasons_of_decoding(counts: dict[str, Any]) -> list[str]:
    """What a comparison is refused for."""
    reasons = []
    if counts["wrong"]:
        reasons.append(f"exact decoding gives {counts['wrong']} of {counts['pixels']} pixels another class")
    if counts["confidence_difference"] > ROUNDING:
        reasons.append(f"exact decoding gives a confidence that is off by {counts['confidence_difference']} of 255")
    return reasons


def _gaps(logits: np.ndarray, grid: Grid, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """By how much the logits of two class maps differ at each pixel, in float64: `[H, W]`."""
    size = (logits.shape[1] * grid.step_y, logits.shape[2] * grid.step_x)
    whole = functional.interpolate(torch.from_numpy(logits)[None].double(), size=size, mode="bilinear")[0]
    whole = whole[:, : grid.height, : grid.width]
    first, second = (whole.gather(0, torch.from_numpy(classes).long()[None])[0] for classes in (one, other))
    gaps: np.ndarray = ((first - second).abs() / torch.maximum(first.abs(), second.abs()).clamp(min=1)).numpy()
    return gaps
