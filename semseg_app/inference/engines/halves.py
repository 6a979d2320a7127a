"""An engine on a CPU that has a second form for two photos at a time, each with half of the cores.

Threads that share one photo wait for each other, layer by layer, the more so the less of the machine they really get.
Two photos that are segmented beside each other need not. So a lone photo gets all cores, for the shortest answer, and
where others wait two at a time get half of them each, for the most answers.
"""

from pathlib import Path

import numpy as np

from semseg_app import machine
from semseg_app.inference.engines.base import Engine, Prediction, class_maps
from semseg_app.inference.engines.open import open_engine

AT_ONCE = 2
KINDS = ("onnxruntime", "openvino")
"""They answer the same, bit by bit, with any number of threads."""


class Halves:
    """One model, loaded twice.

    Args:
        whole: has all cores; one call at a time.
        half: has half of them for each of two calls at a time; None: not worth having.
    """

    def __init__(self, whole: Engine, half: Engine | None):
        self.name, self.kind, self.labels, self.precision = whole.name, whole.kind, whole.labels, whole.precision
        self.half = half
        self._whole = whole

    @property
    def device(self) -> str:
        """Of the whole engine, by its own account at this moment."""
        return self._whole.device

    def infer(self, images: np.ndarray) -> Prediction:
        """Segment uint8 RGB `[N, H, W, 3]` with all cores."""
        return self._whole.infer(images)

    def classes(self, images: np.ndarray) -> np.ndarray:
        """The class maps of `infer` alone: uint8 `[N, H, W]`."""
        return class_maps(self._whole, images)


def half_of(engine: Engine) -> Engine | None:
    """The half that an engine comes with."""
    return engine.half if isinstance(engine, Halves) else None


def open_halves(
    model: str | Path,
    kind: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    precision: str = "auto",
    force: bool = False,
) -> Engine:
    """`open_engine`, with a half beside it where the engine runs on two CPU threads or more and can have one."""
    engine = open_engine(model, kind, device, threads, precision, force)
    count = threads or machine.threads()
    if engine.device != "cpu" or engine.kind not in KINDS or count < AT_ONCE:
        return engine
    half = open_engine(model, engine.kind, "cpu", -(-count // AT_ONCE), precision, force, calls=AT_ONCE)
    return Halves(engine, half)
