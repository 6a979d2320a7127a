"""Score an engine on labeled images: whole or in sliding windows, at one scale or several, mirrored too.

One scale and whole images ask the engine for classes, as it is served. Everything else averages softmax probabilities
on the grid of the original image, which only the torch engine gives.
"""

import math
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image

from semseg_app.data.dataset import Sample, SegmentationData
from semseg_app.errors import UserError, memory_advice
from semseg_app.inference.class_mapping import MappedEngine
from semseg_app.inference.engines.base import Engine, ProbabilityEngine
from semseg_app.inference.predictor import Predictor
from semseg_app.inference.tiling import resize_planes, slide
from semseg_app.metrics.scores import METRICS, Scorer, Scores


@dataclass(frozen=True)
class EvaluationProtocol:
    """How images are shown to the network."""

    window: int | None = None
    """Side of the sliding windows; None = whole images."""
    stride: int | None = None
    """From one window to the next; None = two thirds of the window."""
    scales: tuple[float, ...] = (1.0,)
    """Factors by which the image is resized before it is segmented."""
    flip: bool = False
    """Each view also mirrored left to right."""
    short_side: int | None = None
    """Photos are first resized, in proportion, so that their shorter side has so many pixels; None = as they are."""
    long_side: int | None = None
    """The same for the longer side; with both, the smaller of the two sizes."""

    def __post_init__(self) -> None:
        if self.window is not None and self.window < 1:
            raise UserError(f"window {self.window}: must be at least 1 pixel")
        if self.stride is not None and self.window is None:
            raise UserError(f"stride {self.stride}: needs sliding windows; give their side too (--slide)")
        if self.window is not None and self.stride is not None and not 1 <= self.stride <= self.window:
            raise UserError(f"stride {self.stride}: must be from 1 to the window, {self.window}")
        if not self.scales or not all(0 < scale < math.inf for scale in self.scales):
            raise UserError("scales: give one or more positive numbers, such as 0.75,1,1.25")
        for name, side in (("short side", self.short_side), ("long side", self.long_side)):
            if side is not None and side < 1:
                raise UserError(f"{name} {side}: must be at least 1 pixel")

    @property
    def averages(self) -> bool:
        """Whether more than one answer is averaged for a pixel, or the answer is on another grid than the image."""
        resized = self.short_side is not None or self.long_side is not None
        return self.window is not None or self.flip or self.scales != (1.0,) or resized

    def size(self, height: int, width: int, scale: float) -> tuple[int, int]:
        """Height and width, in pixels, in which a photo of that size is shown at a scale."""
        sides = ((self.short_side, min(height, width)), (self.long_side, max(height, width)))
        factor = scale * min((wished / side for wished, side in sides if wished is not None), default=1.0)
        return max(round(height * factor), 1), max(round(width * factor), 1)

    @property
    def step(self) -> int | None:
        """The stride that holds."""
        return self.stride or (None if self.window is None else max(self.window * 2 // 3, 1))


@dataclass(frozen=True)
class Evaluation:
    """Scores and where they come from."""

    scores: Scores
    images: int
    classes: list[str]
    protocol: EvaluationProtocol

    def to_json(self) -> dict[str, Any]:
        """Everything but the confusion matrix."""
        protocol = {**asdict(self.protocol), "stride": self.protocol.step}
        return {"images": self.images, "protocol": protocol, **self.scores.to_json(self.classes)}


def evaluate(
    engine: Engine,
    data: SegmentationData,
    samples: Iterable[Sample],
    protocol: EvaluationProtocol = EvaluationProtocol(),
    batch_size: int = 1,
    metrics: Collection[str] | None = None,
) -> Evaluation:
    """Segment every sample and compare with its label.

    Args:
        engine: what is scored; must give probabilities when the protocol averages (UserError otherwise). One that maps
            classes is scored by the most probable class of the data, also where a class without a partner is more so.
        data: where images and labels are read from; its classes must be those of the engine, in the same order.
        samples: labeled samples of `data`, each counted once.
        protocol: how images are shown to the network.
        batch_size: images (equal neighbors) or windows in a call of the engine.
        metrics: names of `METRICS`; None = all of them.
    """
    check_classes(engine.labels.classes, data.info.classes)
    if protocol.averages and not isinstance(engine, ProbabilityEngine):
        raise UserError(
            f"sliding windows, scales and flip average probabilities, which {engine.kind} does not give; "
            "take the torch engine with a model folder (--engine torch)"
        )
    if (
        isinstance(engine, MappedEngine)
        and engine.mapping.without_partner
        and not isinstance(engine, ProbabilityEngine)
    ):
        raise UserError(
            f"{engine.name}: gives class maps alone, so pixels of classes without a partner cannot be scored; name a "
            f"partner for {_names(engine.mapping.without_partner)}"
        )
    scorer = Scorer(data.num_classes, tuple(METRICS) if metrics is None else metrics)
    images = 0
    labels: deque[np.ndarray] = deque()  # of the images that the engine has been given and not yet answered

    def read() -> Iterator[np.ndarray]:
        for sample in samples:
            image, label = data.read_pair(sample)
            labels.append(label)
            yield image

    with memory_advice("evaluating", "use --slide WINDOW, or smaller photos"):
        for classes, confidence in _predictions(engine, read(), protocol, batch_size, scorer.needs_confidence):
            scorer.add(classes, labels.popleft(), confidence)
            images += 1
    if not images:
        raise UserError(f"{data.root}: no labeled images to evaluate on; choose another split")
    scores = scorer.result()
    if not scores.pixels:
        raise UserError(f"{data.root}: every pixel of the masks is ignored; run `semseg check {data.root}`")
    return Evaluation(scores, images, list(data.info.classes), protocol)


def check_classes(model: list[str], data: list[str]) -> None:
    """UserError that shows the difference, unless the two lists are equal."""
    if model == data:
        return
    only_model = [name for name in model if name not in data]
    only_data = [name for name in data if name not in model]
    if only_model or only_data:
        raise UserError(
            f"the model and the data have different classes: only the model knows {_names(only_model)}; "
            f"only the data knows {_names(only_data)}; name partners in a file: --teacher-classes"
        )
    index = next(place for place, (one, other) in enumerate(zip(model, data, strict=True)) if one != other)
    raise UserError(
        f"the model and the data order their classes differently: class {index} is {model[index]!r} in the model "
        f"and {data[index]!r} in the data"
    )


def _predictions(
    engine: Engine, images: Iterator[np.ndarray], protocol: EvaluationProtocol, batch_size: int, confidence: bool
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Class map uint8 `[H, W]` of every image, in order, and its confidence where it is needed or costs nothing."""
    if not protocol.averages:
        predictor = Predictor(engine, tile=None, batch_size=batch_size)
        if confidence:
            yield from predictor.predict_many(images)
        else:
            for classes in predictor.class_maps(images):
                yield classes, None
        return
    assert isinstance(engine, ProbabilityEngine)
    for image in images:
        probabilities = averaged_probabilities(engine, image, protocol, batch_size)
        sure = np.rint(255 * probabilities.max(axis=0)).astype(np.uint8)
        yield probabilities.argmax(axis=0).astype(np.uint8), sure


def averaged_probabilities(
    engine: ProbabilityEngine, image: np.ndarray, protocol: EvaluationProtocol, batch_size: int = 1
) -> np.ndarray:
    """Mean softmax over windows, scales and mirror images: uint8 `[H, W, 3]` -> float32 `[C, H, W]`."""
    height, width = image.shape[:2]
    mirrorings = (False, True) if protocol.flip else (False,)
    total = np.zeros((len(engine.labels.classes), height, width), np.float32)
    for scale in protocol.scales:
        scaled = _resize_image(image, *protocol.size(height, width, scale))
        for mirrored in mirrorings:
            view = scaled[:, ::-1] if mirrored else scaled
            if protocol.window is None:
                answer = engine.probabilities(view[np.newaxis])[0]
            else:
                assert protocol.step is not None
                answer = slide(view, engine.probabilities, protocol.window, protocol.step, batch_size)
            total += resize_planes(answer[:, :, ::-1] if mirrored else answer, height, width)
    return total / (len(protocol.scales) * len(mirrorings))


def _resize_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def _names(names: list[str]) -> str:
    return ", ".join(names) if names else "none"
