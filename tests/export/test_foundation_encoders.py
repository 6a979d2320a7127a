"""Foundation encoders with free sizes: the exported graph is torch's network at three odd sizes."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from support import tiny_encoders  # noqa: F401, adds its small encoders to timm
from torch import nn

from semseg_app import models
from semseg_app.artifact import ModelConfig
from semseg_app.errors import UserError
from semseg_app.export.onnx import export_onnx
from semseg_app.export.verification_set import generated_photos
from semseg_app.labels import LabelSpace
from semseg_app.models.adaptation import LoraSection, adapt

SIZES = ((127, 131), (45, 196), (1, 15))
ENCODERS = [
    pytest.param("tu-dinov3_test", "dpt"),
    pytest.param("tu-dinov2_test", "linear"),
    *(
        pytest.param(encoder, "dpt", marks=pytest.mark.slow)
        for encoder in (
            "tu-dinov2_test",
            "tu-lingbot_test",
            "tu-pe_spatial_test",
            "tu-eva02_test",
            "tu-rope_mixed_test",
        )
    ),
]


@pytest.mark.parametrize(("encoder", "architecture"), ENCODERS)
def test_exported_with_free_sizes_it_is_torchs_network(encoder, architecture, tmp_path: Path) -> None:
    torch.manual_seed(0)
    width = None if architecture == "linear" else 16
    spec = models.ModelSpec(architecture=architecture, encoder=encoder, num_classes=3, decoder_channels=width)
    network = models.build(spec)
    for name, parameter in network.encoder.named_parameters():  # as they start, some do next to nothing
        if any(part in name for part in ("gamma", "pos", "token")):
            nn.init.normal_(parameter)
    if encoder == "tu-dinov3_test":  # as trained with adapters, which are merged on the way
        adapt(network, lora=LoraSection())
        for name, parameter in network.named_parameters():
            if ".lora_B." in name:
                nn.init.normal_(parameter, std=0.1)
    network.eval()
    photo = generated_photos(1)[0]
    pixels = torch.from_numpy(photo).permute(2, 0, 1).unsqueeze(0) / 255
    with torch.no_grad():  # no class wins everywhere
        network.classifier.bias -= network(pixels).mean(dim=(0, 2, 3))
        assert len(network(pixels).argmax(dim=1).unique()) == 3
    labels = LabelSpace(classes=["a", "b", "c"], palette=[(0, 0, 0)] * 3)
    models.save_network(tmp_path / "model", network, ModelConfig(name="tiny", model=spec, labels=labels))
    session = onnxruntime.InferenceSession(export_onnx(tmp_path / "model"), providers=["CPUExecutionProvider"])
    for height, width in SIZES:
        images = np.stack([photo[:height, :width], photo[-height:, -width:]])
        with torch.inference_mode():
            logits = network.full_logits(torch.from_numpy(images).permute(0, 3, 1, 2) / 255)
        classes, confidence = session.run(None, {"images": images})
        probability, expected = logits.softmax(dim=1).max(dim=1)
        assert (classes != expected.numpy()).mean() <= 1e-3
        assert np.abs(confidence - 255 * probability.numpy()).max() < 0.5 + 0.1


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["tu-sam_test", "tu-xcit_test"])
def test_what_torch_cannot_export_is_one_line(encoder, tmp_path: Path) -> None:
    spec = models.ModelSpec(architecture="dpt", encoder=encoder, num_classes=3, decoder_channels=16)
    labels = LabelSpace(classes=["a", "b", "c"], palette=[(0, 0, 0)] * 3)
    models.save_network(tmp_path / "model", models.build(spec), ModelConfig(name="tiny", model=spec, labels=labels))
    with pytest.raises(UserError, match=f"^dpt on {encoder}: torch .* cannot export .*; take another encoder"):
        export_onnx(tmp_path / "model")
