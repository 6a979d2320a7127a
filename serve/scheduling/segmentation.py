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
    confidence_map: np.ndarray | None
    """`confidence`; None where the request needs none, and the engine was spared the work."""
    decode_ms: float
    inference_ms: float
    """Time in the engine, for the call that the image was in; time in the queue is not counted."""
    engine: Engine
    """The engine that answered. Its labels are those of `classes`, also when the model has been reloaded since."""

    @property
    def confidence(self) -> np.ndarray:
        """uint8 `[H, W]`, probability of the pixel's class times 255. RuntimeError where it was not asked for."""
        if self.confidence_map is None:
            raise RuntimeError("the confidence is read but was not asked for; segment with confidence=True")
        return self.confidence_map
