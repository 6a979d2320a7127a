"""What an engine has to show before it serves: right answers at every size and batch that it will meet first."""

import re
import time
from collections.abc import Sequence

import numpy as np

from semseg_app.errors import UserError
from semseg_app.inference.engines.base import ClassMapEngine, Engine

SIZES = ((480, 640),)
"""Height and width, where neither the engine nor the user names any."""


def parse_size(text: str) -> tuple[int, int]:
    """ "640x480" (width x height, as one says it) -> (480, 640). UserError when it is none."""
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if match is None:
        raise UserError(f"--warm-up {text!r}: give width and height, such as 640x480")
    return int(match[2]), int(match[1])


def warm_up(engine: Engine, sizes: Sequence[tuple[int, int]], max_batch: int) -> float:
    """Run every size, alone and in the fullest batch, so that no visitor pays for lazy start-up.

    Returns the seconds that one image of the first size takes then.

    RuntimeError when an answer does not fit its images or the model's classes, or when the engine by now runs somewhere
    else than it said when it was opened: such an engine must not serve.
    """
    promised = engine.device
    for height, width in sizes:
        for batch in sorted({1, max_batch}):
            shape = (batch, height, width)
            images = np.zeros((*shape, 3), np.uint8)
            classes, confidence = engine.infer(images)
            if classes.shape != shape or confidence.shape != shape:
                raise RuntimeError(f"engine {engine.kind} answered {classes.shape} for images {shape}")
            if isinstance(engine, ClassMapEngine) and (alone := engine.classes(images)).shape != shape:
                raise RuntimeError(f"engine {engine.kind} answered {alone.shape} for images {shape}")
            if int(classes.max()) >= len(engine.labels.classes):
                raise RuntimeError(
                    f"engine {engine.kind} answered class {classes.max()}, which the model does not have"
                )
    if engine.device != promised:
        raise RuntimeError(f"engine {engine.kind} was opened on {promised} and runs on {engine.device}")
    start = time.perf_counter()
    engine.infer(np.zeros((1, *sizes[0], 3), np.uint8))
    return time.perf_counter() - start
