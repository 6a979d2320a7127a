"""Graphs of other programs: an .onnx file and, beside it, a .yaml file of the same name that says what it takes.

    classes: [road, car, sky]      # the names of class 0, 1, 2 ...
    mean: [0.485, 0.456, 0.406]    # of RGB in [0, 1]; needed where the graph takes float
    std: [0.229, 0.224, 0.225]

A graph gives class scores `[N, C, H, W]` (logits or probabilities, also on a coarser grid), the scores of the second of
two classes alone, or a class map alone, whose labels are then hard: their confidence is full. What the graph and its
description leave open is refused.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from semseg_app.data.dataset import default_palette, read_yaml
from semseg_app.errors import UserError, explain
from semseg_app.inference.class_map import class_and_confidence_map, grid_of
from semseg_app.inference.engines.base import Prediction, check_images
from semseg_app.inference.tiling import resize_planes
from semseg_app.labels import IGNORE, Byte, LabelSpace

if TYPE_CHECKING:  # the description is read where ONNX Runtime is not installed, too
    import onnxruntime

FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
NEARLY_ZERO = 1e-6
"""How far probabilities of one channel stay from 0 and 1: an infinite logarithm would win wherever it is enlarged."""
PROBE = (256, 256)
"""Height and width of the image that a graph of free size is tried on when it is opened."""
Three = tuple[float, float, float]


class GraphDescription(BaseModel):
    """The contents of the .yaml file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    classes: list[str] = Field(min_length=2, max_length=IGNORE)
    palette: list[tuple[Byte, Byte, Byte]] | None = None
    """One color per class; null = distinct colors."""
    mean: Three | None = None
    std: Three | None = None
    """Normalization of RGB in [0, 1] (or of 0 to 255, see `pixels`), in the order of `channels`. A graph that takes
    uint8 has neither."""
    pixels: Literal["0-1", "0-255"] = "0-1"
    """What mean and std refer to."""
    channels: Literal["rgb", "bgr"] = "rgb"
    layout: Literal["nchw", "nhwc"] | None = None
    """Order of the input's axes; null = as its shape says."""
    size: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = None
    """Height and width to which photos are resized; null = the graph's own where they are fixed, else the photo's."""
    output: str | None = None
    """Which output; null = the only one."""
    scores: Literal["logits", "probabilities"] | None = None
    """What a graph of one channel, for two classes, says of the second one: before or after its sigmoid."""
    license: str | None = None
    """License of the model; its students inherit it."""

    @model_validator(mode="after")
    def _fits(self) -> "GraphDescription":
        LabelSpace(classes=self.classes, palette=self.palette or default_palette(len(self.classes)))
        if (self.mean is None) != (self.std is None):
            raise ValueError("give mean and std together")
        if self.std is not None and not all(value > 0 for value in self.std):
            raise ValueError("std must be above 0")
        if self.pixels == "0-1" and max((*(self.mean or ()), *(self.std or ())), default=0) > 1:
            raise ValueError("mean and std belong to pixels from 0 to 255; add pixels: 0-255, or divide them by 255")
        if self.scores is not None and len(self.classes) != 2:
            raise ValueError(
                f"scores is for graphs of one channel and two classes; leave it out for {len(self.classes)}"
            )
        return self


def description_file(graph: Path) -> Path:
    """Where the description of a graph lies."""
    return graph.with_suffix(".yaml")


def read_description(graph: Path) -> GraphDescription:
    """The description of a graph. UserError where it is missing or wrong."""
    path = description_file(graph)
    if not path.is_file():
        raise UserError(
            f"{graph}: names no classes (metadata 'semseg_app' is missing); make it with `semseg export`, or describe "
            f"this graph of another program in {path}: classes, mean, std"
        )
    try:
        return GraphDescription.model_validate(read_yaml(path))
    except ValidationError as error:
        raise explain(error, path) from None


class Input(NamedTuple):
    """What the graph takes."""

    name: str
    dtype: Any
    """np.uint8, np.float32 or np.float16."""
    channels_first: bool
    size: tuple[int, int] | None
    batch: int | None
    """The only number of images that it takes; None = any."""


class OtherGraph:
    """A graph of another program in one session.

    Args:
        path: the .onnx file.
        session: of that file.
    """

    def __init__(self, path: Path, session: "onnxruntime.InferenceSession"):
        self.path = path
        self.description = read_description(path)
        classes = self.description.classes
        self.labels = LabelSpace(classes=classes, palette=self.description.palette or default_palette(len(classes)))
        self._session = session
        self._input = self._read_input()
        self._output = self._read_output()
        probe = np.random.default_rng(0).integers(0, 256, (1, *(self._input.size or PROBE), 3), np.uint8)
        raw = self._raw(probe)
        self._channels_first = raw.ndim == 4 and self._classes_first(raw.shape)
        one_channel = raw.ndim == 3 or raw.shape[1] == 1 or (raw.shape[3] == 1 and not self._channels_first)
        said = self.description.scores
        if said is not None and not one_channel:
            raise UserError(f"{path}: gives {list(raw.shape)}; scores is for graphs of one channel, leave it out")
        self.is_hard = one_channel and said is None
        """Whether the graph gives a class map alone."""
        scores = None if self.is_hard else self._planes(raw)
        self.gives_probabilities = said == "probabilities" or (
            said is None
            and scores is not None
            and scores.min() >= 0
            and bool(np.allclose(scores.sum(axis=1), 1, atol=1e-2))
        )
        """Whether its scores are a distribution already; found on the first image where the description is silent."""
        if self.is_hard:
            self._class_map(raw)

    @property
    def device(self) -> str:
        """Where the session runs, by its own account at this moment."""
        return "cuda:0" if "CUDAExecutionProvider" in self._session.get_providers() else "cpu"

    def class_maps(self, images: np.ndarray) -> np.ndarray:
        """For hard labels: uint8 RGB `[N, H, W, 3]` -> class indices uint8 `[N, H, W]`, nearest where it is coarser."""
        height, width = images.shape[1:3]
        maps = np.concatenate([self._class_map(raw) for raw in self._parts(images)])
        rows, columns = (
            ((np.arange(target) + 0.5) * (source / target)).astype(np.intp)
            for source, target in zip(maps.shape[1:], (height, width), strict=True)
        )
        resized: np.ndarray = maps[:, rows][:, :, columns]
        return resized

    def logits(self, images: np.ndarray) -> np.ndarray:
        """uint8 RGB `[N, H, W, 3]` -> float32 `[N, C, h, w]`, on the graph's own grid; their softmax are the
        probabilities."""
        scores = np.concatenate([self._planes(raw) for raw in self._parts(images)])
        if self.gives_probabilities:
            scores = np.log(np.maximum(scores, np.finfo(np.float32).tiny))
        return np.asarray(scores, np.float32)

    def _parts(self, images: np.ndarray) -> list[np.ndarray]:
        """The graph's answers to as many images at once as it takes."""
        check_images(images)
        most = self._input.batch or len(images)
        if len(images) % most:
            raise UserError(
                f"{self.path}: takes {most} images at once and no other number; export it with a batch of 1 or any size"
            )
        return [self._raw(images[start : start + most]) for start in range(0, len(images), most)]

    def _raw(self, images: np.ndarray) -> np.ndarray:
        described, taken = self.description, self._input
        height, width = images.shape[1:3]
        size = taken.size or (height, width)
        if size != (height, width):
            resized = [Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR) for image in images]
            images = np.stack([np.asarray(image) for image in resized])
        if described.channels == "bgr":
            images = images[..., ::-1]
        pixels = images
        if taken.dtype != np.uint8:
            scale = 255 if described.pixels == "0-1" else 1
            assert described.mean is not None
            assert described.std is not None
            mean, std = np.array(described.mean, np.float32), np.array(described.std, np.float32)
            pixels = ((images.astype(np.float32) / scale - mean) / std).astype(taken.dtype)
        if taken.channels_first:
            pixels = pixels.transpose(0, 3, 1, 2)
        try:
            (answer,) = self._session.run([self._output], {taken.name: np.ascontiguousarray(pixels)})
        except Exception as error:  # the runtime's own errors have no common base
            raise UserError(
                f"{self.path}: does not run on photos of {size[1]}x{size[0]} ({_one_line(error)}); give size: [height, "
                f"width] in {description_file(self.path).name}"
            ) from error
        if not isinstance(answer, np.ndarray) or answer.ndim not in (3, 4) or len(answer) != len(images):
            raise UserError(
                f"{self.path}: gives {_shape(answer)}, neither class scores [N, C, H, W] nor a class map [N, H, W]"
            )
        return answer

    def _planes(self, raw: np.ndarray) -> np.ndarray:
        """Class scores as float32 `[N, C, h, w]`."""
        said = self.description.scores
        if said is not None:
            second = _one_channel(raw).astype(np.float32)
            if said == "probabilities" and ((second < 0) | (second > 1)).any():
                raise UserError(
                    f"{self.path}: gives {second.min():g} to {second.max():g}, no probabilities; say scores: logits in "
                    f"{description_file(self.path).name}"
                )
            if said == "probabilities":
                second = second.clip(NEARLY_ZERO, 1 - NEARLY_ZERO)
            raw = np.stack([1 - second if said == "probabilities" else np.zeros_like(second), second], axis=1)
        elif not self._channels_first:
            raw = raw.transpose(0, 3, 1, 2)
        planes = np.ascontiguousarray(raw, np.float32)
        if np.isnan(planes).any():
            raise UserError(
                f"{self.path}: its scores are not numbers (NaN); check it with onnxruntime, or export it in fp32 where "
                "it is fp16"
            )
        return planes

    def _class_map(self, raw: np.ndarray) -> np.ndarray:
        """A class map as uint8 `[N, h, w]`; UserError for a value that is no class."""
        maps = _one_channel(raw)
        count = len(self.labels.classes)
        uneven = maps != np.floor(maps)
        wrong = (maps < 0) | (maps >= count) | uneven
        if count == 2 and uneven.any():
            raise UserError(
                f"{self.path}: gives one channel of scores for two classes; say in {description_file(self.path).name} "
                "what they are: scores: logits, or scores: probabilities (after a sigmoid)"
            )
        if wrong.any():
            raise UserError(
                f"{self.path}: its class map holds {maps[wrong].flat[0]:g}, but "
                f"{description_file(self.path).name} names {count} classes (0 to {count - 1})"
            )
        return maps.astype(np.uint8)

    def _read_input(self) -> Input:
        described, name = self.description, description_file(self.path).name
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or len(inputs[0].shape) != 4:
            shown = ", ".join(f"{node.name} {node.shape}" for node in inputs)
            raise UserError(f"{self.path}: takes {shown}; only graphs of one input, a batch of photos, are run here")
        (node,) = inputs
        if node.type == "tensor(uint8)":
            dtype: Any = np.uint8
            if described.mean is not None:
                raise UserError(f"{name}: mean and std are for graphs that take float; {self.path.name} takes uint8")
        elif node.type in FLOATS:
            dtype = FLOATS[node.type]
            if described.mean is None:
                raise UserError(
                    f"{self.path}: takes float, so how pixels become numbers is unknown; give mean and std in {name} "
                    "(mean: [0, 0, 0] and std: [1, 1, 1] for plain RGB in 0 to 1)"
                )
        else:
            raise UserError(f"{self.path}: takes {node.type}, neither uint8 nor float")
        _, *sides = node.shape
        first, last = sides[0] == 3, sides[2] == 3
        if described.layout is None and first == last:
            raise UserError(
                f"{self.path}: {node.name} {node.shape} does not show its layout; give layout: nchw in {name}"
            )
        channels_first = first if described.layout is None else described.layout == "nchw"
        if first != last and channels_first != first:
            raise UserError(
                f"{name}: layout is {described.layout}, but {self.path.name} takes {node.shape}; leave layout out"
            )
        spatial = sides[1:] if channels_first else sides[:2]
        size = described.size
        if all(isinstance(side, int) for side in spatial):
            own = (int(spatial[0]), int(spatial[1]))
            if size not in (None, own):
                raise UserError(f"{name}: size is {size}, but {self.path.name} takes {own} alone; leave size out")
            size = own
        batch = node.shape[0] if isinstance(node.shape[0], int) else None
        return Input(node.name, dtype, channels_first, size, batch)

    def _read_output(self) -> str:
        names = [node.name for node in self._session.get_outputs()]
        output = self.description.output
        if output is None and len(names) == 1:
            return str(names[0])
        if output not in names:
            problem = "gives several outputs" if output is None else f"has no output {output!r}"
            choices = ", ".join(names)
            raise UserError(f"{self.path}: {problem}; give output in {description_file(self.path).name}: {choices}")
        return str(output)

    def _classes_first(self, shape: tuple[int, ...]) -> bool:
        """Whether class scores are `[N, C, h, w]` rather than `[N, h, w, C]`; True for a class map `[N, 1, h, w]`."""
        count = len(self.labels.classes)
        first, last = shape[1] == count, shape[3] == count
        if first != last:
            return first
        if not first and 1 in (shape[1], shape[3]):
            return shape[1] == 1
        raise UserError(
            f"{self.path}: gives {list(shape)}, but {description_file(self.path).name} names {count} classes; give the "
            "classes of this graph, in its order"
            if not first
            else f"{self.path}: gives {list(shape)}, and {count} classes fit both its second and its last axis; export "
            "it for photos of another size"
        )


class HardLabelEngine:
    """A graph that gives class maps alone. They are certain by definition: the confidence is 255 everywhere."""

    kind = "onnxruntime"
    precision = "fp32"

    def __init__(self, graph: OtherGraph):
        self.name = graph.path.stem
        self.labels = graph.labels
        self.graph = graph

    @property
    def device(self) -> str:
        """Where the session runs."""
        return self.graph.device

    def infer(self, images: np.ndarray) -> Prediction:
        """Segment uint8 RGB `[N, H, W, 3]`."""
        classes = self.graph.class_maps(images)
        return Prediction(classes, np.full_like(classes, 255))


class OtherGraphEngine(HardLabelEngine):
    """A graph that gives class scores."""

    def infer(self, images: np.ndarray) -> Prediction:
        """Segment uint8 RGB `[N, H, W, 3]`: the largest logit, resized to the photo, is the class."""
        answers = [_read(planes, *images.shape[1:3]) for planes in self.graph.logits(images)]
        classes, confidences = zip(*answers, strict=True)
        return Prediction(np.stack(classes), np.stack(confidences))

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Class distribution at every pixel of uint8 RGB `[N, H, W, 3]`: float32 `[N, C, H, W]`."""
        softmax = []
        for planes in self.graph.logits(images):
            logits = resize_planes(planes, *images.shape[1:3])
            powers = np.exp(logits - logits.max(axis=0))
            softmax.append(powers / powers.sum(axis=0))
        return np.stack(softmax)


def _read(planes: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Class map and confidence uint8 `[H, W]` of logits `[C, h, w]`."""
    grid = grid_of(planes, height, width, stride=1)
    if grid is not None and grid.step_y * grid.step_x > 1:
        return class_and_confidence_map(planes, grid)
    logits = resize_planes(planes, height, width)
    highest = logits.max(axis=0)
    confidence = 255 / np.exp(logits - highest).sum(axis=0)
    return logits.argmax(axis=0).astype(np.uint8), np.rint(confidence).astype(np.uint8)


def _one_channel(raw: np.ndarray) -> np.ndarray:
    """`[N, h, w]` of an answer with one value per pixel."""
    return raw if raw.ndim == 3 else raw[:, 0] if raw.shape[1] == 1 else raw[..., 0]


def engine_of(graph: OtherGraph) -> HardLabelEngine:
    """The engine for what the graph gives."""
    return HardLabelEngine(graph) if graph.is_hard else OtherGraphEngine(graph)


def _shape(answer: Any) -> str:
    return str(list(answer.shape)) if isinstance(answer, np.ndarray) else type(answer).__name__


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[-300:]
