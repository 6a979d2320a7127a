"""The exported graph against the network: its logits at full size, softmax and argmax, as torch does them."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
import torch

from semseg_app import artifact, models
from semseg_app.errors import UserError
from semseg_app.export import onnx as export_module
from semseg_app.export.onnx import export_onnx
from semseg_app.models.registry import ARCHITECTURES

SIZES = ((127, 131), (40, 200), (192, 96))
"""Height and width; the exporter saw 576x640."""
BATCH_SIZES = (1, 3)


QUICK = ("deeplabv3plus", "segformer")
"""The rest take minutes (-m slow)."""
NETWORKS = [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
    for name in (*ARCHITECTURES, "upernet/tu-swin_test")
]


@pytest.fixture(scope="module", params=NETWORKS)
def folder(request: pytest.FixtureRequest, exported: Callable[[str], Path]) -> Path:
    return exported(request.param)


def photos(batch: int, height: int, width: int) -> np.ndarray:
    """Noise on coarse blocks, uint8 [batch, height, width, 3]."""
    random = np.random.default_rng(height * width)
    blocks = random.integers(0, 256, (batch, -(-height // 32), -(-width // 32), 3))
    picture = blocks.repeat(32, axis=1).repeat(32, axis=2)[:, :height, :width]
    return (0.7 * picture + 0.3 * random.integers(0, 256, picture.shape)).astype(np.uint8)


def test_equals_the_network_at_every_size(folder: Path) -> None:
    network = models.load(folder)
    session = onnxruntime.InferenceSession(folder / "onnx" / "model.onnx", providers=["CPUExecutionProvider"])
    for height, width in SIZES:
        for batch in BATCH_SIZES:
            images = photos(batch, height, width)
            with torch.inference_mode():
                logits = network.full_logits(torch.from_numpy(images).permute(0, 3, 1, 2) / 255)
            assert logits.shape == (batch, 5, height, width)
            probability, expected = logits.softmax(dim=1).max(dim=1)
            assert len(expected.unique()) >= 3, "the test needs a network that uses its classes"

            classes, confidence = session.run(["classes", "confidence"], {"images": images})

            assert classes.dtype == confidence.dtype == np.uint8
            assert classes.shape == confidence.shape == (batch, height, width)
            differs = torch.from_numpy(classes) != expected
            assert differs.float().mean() <= 1e-4
            best, second = logits.topk(2, dim=1).values.unbind(dim=1)
            assert ((best - second)[differs] < 1e-3).all(), "a difference that is not a tie within float error"
            assert np.abs(confidence - 255 * probability.numpy()).max() < 0.5 + 0.05


def test_takes_any_image_down_to_one_pixel(folder: Path) -> None:
    session = onnxruntime.InferenceSession(folder / "onnx" / "model.onnx", providers=["CPUExecutionProvider"])
    for height, width in ((1, 1), (3, 90)):
        images = photos(1, height, width)
        classes, _ = session.run(None, {"images": images})
        with torch.inference_mode():
            logits = models.load(folder).full_logits(torch.from_numpy(images).permute(0, 3, 1, 2) / 255)
        assert (classes == logits.argmax(dim=1).numpy()).all()


def test_file_is_whole_names_its_axes_and_says_what_it_is(folder: Path) -> None:
    path = folder / "onnx" / "model.onnx"
    assert [file.name for file in path.parent.iterdir()] == ["model.onnx"]
    model = onnx.load(path, load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert not any(onnx.external_data_helper.uses_external_data(tensor) for tensor in model.graph.initializer)
    axes = {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert axes == {
        "images": ["batch", "height", "width", 3],
        "classes": ["batch", "height", "width"],
        "confidence": ["batch", "height", "width"],
    }
    config = artifact.read_config(folder)
    metadata = json.loads({entry.key: entry.value for entry in model.metadata_props}["semseg_app"])
    assert metadata.pop("producer").startswith("semseg_app ")
    (enlarged,) = (node for node in model.graph.node if node.op_type == "Resize" and metadata["logits"] in node.input)
    assert "Resize" not in {node.op_type for node in model.graph.node if set(node.input) & set(enlarged.output)}
    del metadata["logits"]
    assert metadata == {
        "format_version": 1,
        "name": config.name,
        "labels": {"classes": config.labels.classes, "palette": [list(color) for color in config.labels.palette]},
        "precision": "fp32",
        "stride": models.load(folder).stride,
        "opset": 20,
        "source_sha256": hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest(),
    }
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 20)]


def test_file_holds_no_path_of_the_machine_that_made_it(folder: Path) -> None:
    content = (folder / "onnx" / "model.onnx").read_bytes()
    assert b'.py"' not in content, "a line of a stack trace"
    assert str(Path(torch.__file__).parent).encode() not in content


def test_a_new_export_is_not_yet_verified(
    exported: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(exported("deeplabv3plus"), tmp_path / "model")
    passed = {"verdict": "passed"}
    exports = {"onnx/model.onnx": passed, "onnx/int8.onnx": passed}
    artifact.write_manifest(folder, {"format_version": 1, "exports": exports})
    traced = onnx_ir.load(folder / "onnx" / "model.onnx")
    monkeypatch.setattr(export_module, "trace", lambda network, opset: traced)
    export_onnx(folder)
    assert artifact.read_manifest(folder)["exports"] == {"onnx/int8.onnx": passed}


def test_refuses_what_it_cannot_export(
    exported: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"not a model folder"):
        export_onnx(tmp_path)
    monkeypatch.setattr(export_module, "LARGEST_FILE", 1000)
    with pytest.raises(UserError, match=r"model\.safetensors: .* GB of weights; one \.onnx file holds 2 GB"):
        export_onnx(exported("deeplabv3plus"))


def test_nothing_in_the_file_is_unused(exported: Callable[[str], Path]) -> None:
    graph = onnx_ir.load(exported("deeplabv3plus") / "onnx" / "model.onnx").graph
    assert [name for name, value in graph.initializers.items() if not value.uses()] == []
    assert "BatchNormalization" not in {node.op_type for node in graph}
