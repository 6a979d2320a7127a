"""What comes out of the server's one way in: a segmented image."""

from typing import NamedTuple

import numpy as np

from semseg_app.inference.engines.base import Engine


class Segmentation(NamedTuple):
    """One segmented image."""

    image: np.ndarray
    """uint8 RGB `[H, W, 3]`, as decoded and resized."""
    classes: np.ndarray
    """uint8 `[H, W]`, class index."""
    confidence: np.ndarray
    """uint8 `[H, W]`, probability of that class times 255."""
    decode_ms: float
    inference_ms: float
    """Time in the engine, for the call that the image was in; time in the queue is not counted."""
    engine: Engine
    """The engine that answered. Its labels are those of `classes`, also when the model has been reloaded since."""
