"""Models that are made in a moment, as fixtures: a conftest.py imports those that its tests use."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

COLORS = np.array([[3, -1, 0], [0, 2.5, -1], [-1, 0, 2]], np.float32) / 50
"""[RGB, class]: logits of the tiny graph are pixel @ COLORS, so reddish is class 0, greenish 1, bluish 2."""
METADATA = {
    "format_version": 1,
    "name": "rgb",
    "labels": {"classes": ["red", "green", "blue"], "palette": [[200, 0, 0], [0, 200, 0], [0, 0, 200]]},
    "precision": "fp32",
}


@pytest.fixture(scope="session")
def rgb_logits() -> Callable[[np.ndarray], np.ndarray]:
    """What the tiny graph computes, in numpy: uint8 `[..., 3]` -> float32 `[..., 3]`."""
    return lambda images: images.astype(np.float32) @ COLORS


@pytest.fixture
def make_graph(tmp_path: Path) -> Callable[..., Path]:
    """Write a deployed graph of one matrix product; keywords change its metadata, `metadata=None` leaves it out."""
    from onnx import TensorProto, helper, numpy_helper, save

    def make(path: Path = tmp_path / "rgb.onnx", metadata: Any = METADATA, images: str = "images") -> Path:
        nodes = [
            helper.make_node("Cast", [images], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("MatMul", ["pixels", "colors"], ["logits"]),
            helper.make_node("ArgMax", ["logits"], ["index"], axis=3, keepdims=0),
            helper.make_node("Cast", ["index"], ["classes"], to=TensorProto.UINT8),
            helper.make_node("Softmax", ["logits"], ["probabilities"], axis=3),
            helper.make_node("ReduceMax", ["probabilities", "last"], ["highest"], keepdims=0),
            helper.make_node("Mul", ["highest", "full"], ["scaled"]),
            helper.make_node("Round", ["scaled"], ["rounded"]),
            helper.make_node("Cast", ["rounded"], ["confidence"], to=TensorProto.UINT8),
        ]
        shape = ["batch", "height", "width"]
        graph = helper.make_graph(
            nodes,
            "rgb",
            [helper.make_tensor_value_info(images, TensorProto.UINT8, [*shape, 3])],
            [helper.make_tensor_value_info(name, TensorProto.UINT8, shape) for name in ("classes", "confidence")],
            [
                numpy_helper.from_array(COLORS, "colors"),
                numpy_helper.from_array(np.array([3], np.int64), "last"),
                numpy_helper.from_array(np.array(255, np.float32), "full"),
            ],
        )
        # Unless told, onnx writes a newer IR version than ONNX Runtime reads.
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        if metadata is not None:
            helper.set_model_props(model, {"semseg_app": json.dumps(metadata)})
        path.parent.mkdir(parents=True, exist_ok=True)
        save(model, path)
        return path

    return make


@pytest.fixture
def network_folder(tmp_path: Path) -> Path:
    """A model folder of a small network with random weights and the classes red, green, blue; yours to change."""
    return shutil.copytree(_network_folder(tmp_path.parent / "tiny_network"), tmp_path / "tiny")


def _network_folder(folder: Path) -> Path:
    """Made once a test session."""
    import torch

    from semseg_app.artifact import ModelConfig
    from semseg_app.labels import LabelSpace
    from semseg_app.models import ModelSpec, build, save_network

    if not folder.exists():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            spec = ModelSpec(architecture="deeplabv3plus", encoder="resnet18", num_classes=3, decoder_channels=16)
            network = build(spec)
        labels = LabelSpace.model_validate(METADATA["labels"])
        save_network(folder, network, ModelConfig(name="tiny", model=spec, labels=labels))
    return folder
