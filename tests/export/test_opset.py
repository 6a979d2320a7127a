"""Graphs for runtimes of an older operator set: the same answers, and the IR version that such a runtime reads."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from semseg_app import artifact, models
from semseg_app.errors import UserError
from semseg_app.export.onnx import export_onnx
from semseg_app.inference.engines.open import open_engine
from semseg_app.labels import LabelSpace


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its graph pads, resizes and takes maxima over axes: what opset 18 changed."""
    torch.manual_seed(0)
    spec = models.ModelSpec(architecture="unet", encoder="tu-test_resnet", decoder_channels=8, num_classes=3)
    folder = tmp_path_factory.mktemp("models") / "model"
    labels = LabelSpace(classes=["a", "b", "c"], palette=[(0, 0, 0), (1, 1, 1), (2, 2, 2)])
    models.save_network(folder, models.build(spec), artifact.ModelConfig(name="model", model=spec, labels=labels))
    return folder


def answers(file: Path, images: np.ndarray) -> list[np.ndarray]:
    return onnxruntime.InferenceSession(file).run(None, {"images": images})


@pytest.mark.parametrize(
    ("opset", "ir"), [pytest.param(16, 8, marks=pytest.mark.slow), (17, 8), pytest.param(19, 9, marks=pytest.mark.slow)]
)
def test_another_opset_gives_the_same_answers(opset, ir, folder, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (2, 61, 97, 3), np.uint8)
    file = export_onnx(folder, opset)
    model = onnx.load(file)
    onnx.checker.check_model(model)
    assert [(entry.domain, entry.version) for entry in model.opset_import if not entry.domain] == [("", opset)]
    assert model.ir_version == ir
    classes, confidence = answers(file, images)
    expected = open_engine(folder, "torch", "cpu", threads=1).infer(images)
    assert (classes != expected.classes).mean() <= 1e-4  # ties within float error
    assert np.abs(confidence.astype(int) - expected.confidence).max() <= 1


def test_an_opset_that_is_not_offered(folder):
    with pytest.raises(UserError, match="--opset 12: choose one of 16, 17, 18, 19, 20, 21"):
        export_onnx(folder, 12)
