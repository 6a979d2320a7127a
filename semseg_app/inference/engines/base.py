"""What every engine is: uint8 images in, uint8 class maps out, whatever runs underneath."""

from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from semseg_app.inference.engines.plans import Shape
from semseg_app.labels import LabelSpace

KINDS = ("auto", "torch", "onnxruntime", "openvino", "tensorrt")
DEVICES = ("auto", "cpu", "cuda")
GRAPHS = {
    "fp32": Path("onnx", "model.onnx"),
    "fp16": Path("onnx", "model-fp16.onnx"),
    "int8": Path("onnx", "model-int8.onnx"),
}
"""Precision -> where a model folder keeps its exported graph."""
GRAPH = GRAPHS["fp32"]
IMAGES, CLASSES, CONFIDENCE = "images", "classes", "confidence"
"""Names of an exported graph's input and its two outputs."""
PRECISIONS = ("auto", *GRAPHS)


class Prediction(NamedTuple):
    """What an engine says of a batch, or the predictor of one image (then without N)."""

    classes: np.ndarray
    """uint8 [N, H, W], class index."""
    confidence: np.ndarray
    """uint8 [N, H, W], the largest softmax probability times 255, rounded."""


class Engine(Protocol):
    """One loaded model on one device."""

    name: str
    """The model's name, as its config gives it."""
    kind: str
    """"torch", "onnxruntime", "openvino" or "tensorrt"."""
    precision: str
    """What really runs: "fp32", "fp16", "bf16", "int8"."""
    labels: LabelSpace

    @property
    def device(self) -> str:
        """What really runs: "cpu", "cuda:0"."""
        ...

    def infer(self, images: np.ndarray) -> Prediction:
        """Segment uint8 RGB `[N, H, W, 3]`; any H and W. One call at a time, or as many as it was opened for."""
        ...


@runtime_checkable
class ClassMapEngine(Protocol):
    """What an engine has that gives class maps alone for less than `infer` takes.

    It names a single method: Python remembers whether a type has the methods of a protocol, so asking takes 0.5 us. It
    looks at an object's attributes each time, and for all those of an Engine that takes 20 us.
    """

    def classes(self, images: np.ndarray) -> np.ndarray:
        """`infer(images).classes`, without the confidence."""
        ...


@runtime_checkable
class ProbabilityEngine(Engine, Protocol):
    """An engine that also gives what sliding-window and multi-scale evaluation average."""

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Softmax of uint8 RGB `[N, H, W, 3]`: float32 `[N, C, H, W]`."""
        ...


@runtime_checkable
class FeatureEngine(ProbabilityEngine, Protocol):
    """An engine that also tells what its encoder makes of an image."""

    def probabilities_and_features(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`probabilities`, and the mean over the encoder's deepest map, float32 `[N, D]`."""
        ...


@runtime_checkable
class BucketEngine(Engine, Protocol):
    """An engine that was built for certain sizes."""

    buckets: list[Shape]
    """Those that it is fastest at, each with its largest batch."""
    largest: Shape
    """The largest that it takes at all."""


def class_maps(engine: Engine, images: np.ndarray) -> np.ndarray:
    """Class maps uint8 `[N, H, W]` of uint8 RGB `[N, H, W, 3]`, the cheapest way that the engine has."""
    return engine.classes(images) if isinstance(engine, ClassMapEngine) else engine.infer(images).classes


def check_images(images: np.ndarray) -> None:
    """ValueError unless `images` is uint8 `[N, H, W, 3]` with at least one pixel: what every engine takes."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3 or not images.size:
        raise ValueError(f"images are uint8 [N, H, W, 3]; got {images.dtype} {list(images.shape)}")
