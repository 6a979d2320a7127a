import json

import pytest
from support.color_engine import ColorEngine

from semseg_app.serve.model_facts import ModelFacts, model_facts


def running(kind: str, precision: str) -> ColorEngine:
    engine = ColorEngine()
    engine.kind, engine.precision = kind, precision
    return engine


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model folder as training and export leave it, with files of known sizes instead of weights."""
    folder = tmp_path_factory.mktemp("model")
    config = {
        "name": "streets",
        "model": {"architecture": "deeplabv3plus", "encoder": "resnet18", "num_classes": 3},
        "labels": ColorEngine.labels.model_dump(),
        "provenance": {"training": {"val": {"miou": 0.52}}},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(bytes(4000))
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_bytes(bytes(3000))
    (folder / "onnx" / "model-int8.onnx").write_bytes(bytes(1000))
    scores = {"trained": 0.52, "exported": 0.51, "difference": -0.01, "images": 12}
    manifest = {"weights": {}, "exports": {"onnx/model-int8.onnx": {"miou": scores}}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_each_engine_has_the_score_and_the_size_of_its_own_file(folder):
    assert model_facts(folder, running("torch", "fp32")) == ModelFacts(4000, 0.52)
    assert model_facts(folder, running("onnxruntime", "int8")) == ModelFacts(1000, 0.51)
    # Exported without labeled photos: nothing was measured, and the training's score is not this file's.
    assert model_facts(folder, running("openvino", "fp32")) == ModelFacts(3000, None)
    assert model_facts(folder / "onnx" / "model-int8.onnx", running("onnxruntime", "int8")) == ModelFacts(1000, 0.51)


def test_what_is_not_known_is_none(tmp_path):
    (tmp_path / "other.onnx").write_bytes(bytes(500))
    assert model_facts(tmp_path / "other.onnx", running("onnxruntime", "fp32")) == ModelFacts(500, None)
