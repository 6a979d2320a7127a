"""Graphs of other programs, described by a .yaml file: read as described, and refused where that leaves a doubt."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.other_graphs import other_graph

from semseg_app.errors import UserError
from semseg_app.inference.engines.base import Engine, ProbabilityEngine
from semseg_app.inference.engines.open import open_engine

Logits = Callable[[np.ndarray], np.ndarray]
NAMES = ["red", "green", "blue"]
PLAIN = {"classes": NAMES, "mean": [0, 0, 0], "std": [1, 1, 1]}
IMAGES = np.random.default_rng(1).integers(0, 256, (2, 24, 40, 3), np.uint8)


def opened(path: Path) -> Engine:
    return open_engine(path, device="cpu", threads=1)


@pytest.mark.parametrize("gives", ["logits", "probabilities"])
@pytest.mark.parametrize(
    ("description", "keywords"),
    [
        (PLAIN, {}),
        ({"classes": NAMES}, {"input_type": "uint8", "shape": ("n", "h", "w", 3)}),
        (PLAIN, {"shape": ("n", 3, 24, 40)}),
        (PLAIN, {"shape": (1, 3, "h", "w"), "last": True}),
        (PLAIN | {"layout": "nchw"}, {"shape": ("n", "c", "h", "w")}),
        ({"classes": NAMES, "mean": [0] * 3, "std": [255] * 3, "pixels": "0-255"}, {}),
    ],
)
def test_scores_are_read_as_described(
    tmp_path: Path, rgb_logits: Logits, gives: str, description: dict[str, Any], keywords: dict[str, Any]
) -> None:
    engine = opened(other_graph(tmp_path / "theirs.onnx", gives, description=description, **keywords))
    assert isinstance(engine, ProbabilityEngine)
    assert (engine.name, engine.kind, engine.labels.classes) == ("theirs", "onnxruntime", NAMES)
    logits = rgb_logits(IMAGES)
    shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(engine.probabilities(IMAGES), shares.transpose(0, 3, 1, 2), atol=1e-4)
    prediction = engine.infer(IMAGES)
    np.testing.assert_array_equal(prediction.classes, logits.argmax(-1))
    assert np.abs(prediction.confidence - 255 * shares.max(-1)).max() <= 1


def test_normalization_and_channel_order(tmp_path: Path, rgb_logits: Logits) -> None:
    mean, std = [0.1, 0.2, 0.3], [0.5, 0.25, 0.2]
    described = PLAIN | {"mean": mean, "std": std, "channels": "bgr"}
    engine = opened(other_graph(tmp_path / "theirs.onnx", description=described))
    assert isinstance(engine, ProbabilityEngine)
    logits = rgb_logits((IMAGES[..., ::-1] / 255 - mean) / std * 255)
    expected = torch.from_numpy(logits).softmax(-1).permute(0, 3, 1, 2)
    np.testing.assert_allclose(engine.probabilities(IMAGES), expected, atol=1e-4)


def test_coarse_logits_are_resized_as_torch_does(tmp_path: Path, rgb_logits: Logits) -> None:
    engine = opened(other_graph(tmp_path / "theirs.onnx", stride=4, description=PLAIN))
    assert isinstance(engine, ProbabilityEngine)
    coarse = torch.from_numpy(rgb_logits(IMAGES[:, ::4, ::4])).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(coarse, size=(24, 40), mode="bilinear").softmax(1)
    np.testing.assert_allclose(engine.probabilities(IMAGES), expected, atol=1e-4)
    prediction = engine.infer(IMAGES)
    highest, classes = expected.max(dim=1)
    np.testing.assert_array_equal(prediction.classes, classes)
    assert np.abs(prediction.confidence - 255 * highest.numpy()).max() <= 0.51


@pytest.mark.parametrize("stride", [1, 4])
def test_a_class_map_alone_gives_hard_labels(tmp_path: Path, rgb_logits: Logits, stride: int) -> None:
    engine = opened(other_graph(tmp_path / "theirs.onnx", "classes", stride=stride, description=PLAIN))
    assert not isinstance(engine, ProbabilityEngine)
    prediction = engine.infer(IMAGES)
    expected = rgb_logits(IMAGES[:, ::stride, ::stride]).argmax(-1).repeat(stride, 1).repeat(stride, 2)
    np.testing.assert_array_equal(prediction.classes, expected)
    assert prediction.classes.dtype == np.uint8
    assert (prediction.confidence == 255).all()


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("stride", [1, 4])
@pytest.mark.parametrize(("gives", "scores"), [("green over red", "logits"), ("its probability", "probabilities")])
def test_one_channel_tells_two_classes_apart(
    tmp_path: Path, rgb_logits: Logits, gives: str, scores: str, stride: int, last: bool
) -> None:
    described = PLAIN | {"classes": NAMES[:2], "scores": scores}
    engine = opened(other_graph(tmp_path / "theirs.onnx", gives, stride=stride, last=last, description=described))
    assert isinstance(engine, ProbabilityEngine)
    logits = rgb_logits(IMAGES)
    second = torch.from_numpy(0.2 * (logits[..., 1] - logits[..., 0]))[:, None, ::stride, ::stride]
    if scores == "probabilities":  # what is enlarged are the logarithms of both
        both = torch.cat([1 - second.sigmoid(), second.sigmoid()], 1).log()
    else:
        both = torch.cat([torch.zeros_like(second), second], 1)
    expected = torch.nn.functional.interpolate(both, size=(24, 40), mode="bilinear").softmax(1)
    np.testing.assert_allclose(engine.probabilities(IMAGES), expected, atol=1e-4)
    prediction = engine.infer(IMAGES)
    np.testing.assert_array_equal(prediction.classes, expected.argmax(1))
    assert np.abs(prediction.confidence - 255 * expected.amax(1).numpy()).max() <= 0.51


def test_photos_are_resized_to_the_size_that_the_graph_takes(tmp_path: Path) -> None:
    engine = opened(other_graph(tmp_path / "theirs.onnx", "classes", shape=("n", 3, 12, 20), description=PLAIN))
    image = np.zeros((1, 48, 80, 3), np.uint8)
    image[:, :, :40, 0] = image[:, :, 40:, 2] = 255
    expected = np.repeat([[0] * 40 + [2] * 40], 48, axis=0)
    assert (engine.infer(image).classes[0] == expected).mean() > 0.9


@pytest.mark.parametrize(
    ("keywords", "description", "said"),
    [
        ({}, None, "describe this graph of another program in"),
        ({}, {"classes": NAMES}, "takes float, so how pixels become numbers is unknown; give mean and std"),
        ({"input_type": "uint8"}, PLAIN, "mean and std are for graphs that take float"),
        ({}, PLAIN | {"std": None}, "give mean and std together"),
        ({}, PLAIN | {"std": [1, 0, 1]}, "std must be above 0"),
        (
            {},
            PLAIN | {"mean": [123.675, 116.28, 103.53]},
            "belong to pixels from 0 to 255; add pixels: 0-255",
        ),
        ({}, PLAIN | {"maen": [0, 0, 0]}, "maen: unknown key"),
        ({}, PLAIN | {"palette": [[0, 0, 0]]}, "3 classes but 1 palette colors"),
        ({"shape": ("n", "c", "h", "w")}, PLAIN, "does not show its layout; give layout: nchw in theirs.yaml"),
        ({"shape": ("n", 3, 24, 40)}, PLAIN | {"size": [48, 80]}, "takes (24, 40) alone; leave size out"),
        ({}, PLAIN | {"classes": [*NAMES, "sky"]}, "names 4 classes; give the classes of this graph"),
        (
            {"gives": "classes"},
            PLAIN | {"classes": NAMES[:2]},
            "its class map holds 2, but theirs.yaml names 2 classes",
        ),
        (
            {"gives": "green over red"},
            PLAIN | {"classes": NAMES[:2]},
            "gives one channel of scores for two classes; say in theirs.yaml what they are: scores: logits",
        ),
        (
            {"gives": "green over red"},
            PLAIN | {"classes": NAMES[:2], "scores": "probabilities"},
            "no probabilities; say scores: logits in theirs.yaml",
        ),
        ({}, PLAIN | {"scores": "logits"}, "scores is for graphs of one channel"),
        ({"gives": "nan"}, PLAIN, "its scores are not numbers (NaN)"),
        ({}, PLAIN | {"classes": ["red", "green", "red"]}, "class names must be unique; given twice: red"),
        ({}, PLAIN | {"layout": "nhwc"}, "theirs.yaml: layout is nhwc, but theirs.onnx takes ['n', 3, 'h', 'w']"),
        ({}, PLAIN | {"output": "logits"}, "has no output 'logits'; give output in theirs.yaml: output"),
    ],
)
def test_what_is_ambiguous_or_wrong_is_one_line(
    tmp_path: Path, keywords: dict[str, Any], description: dict[str, Any] | None, said: str
) -> None:
    path = other_graph(tmp_path / "theirs.onnx", description=description, **keywords)
    with pytest.raises(UserError) as caught:
        opened(path)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_graph_of_one_photo_gets_one_at_a_time(tmp_path: Path, rgb_logits: Logits) -> None:
    engine = opened(other_graph(tmp_path / "theirs.onnx", shape=(1, 3, 24, 40), description=PLAIN))
    np.testing.assert_array_equal(engine.infer(IMAGES).classes, rgb_logits(IMAGES).argmax(-1))
