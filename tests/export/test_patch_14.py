"""A stride that is no power of two, as DINOv2's patches of 14 give, must export at every size, too."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer

from semseg_app import models
from semseg_app.artifact import ModelConfig
from semseg_app.export.onnx import export_onnx
from semseg_app.export.verification_set import generated_photos
from semseg_app.labels import LabelSpace


@pytest.mark.slow
def test_stride_of_14(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def create(name: str, pretrained: bool, **options: bool | int) -> VisionTransformer:
        return VisionTransformer(img_size=140, patch_size=14, embed_dim=64, depth=2, num_heads=2, **options)

    monkeypatch.setattr(timm, "create_model", create)
    torch.manual_seed(0)
    spec = models.ModelSpec(architecture="dpt", encoder="tu-test_vit", num_classes=3, decoder_channels=16)
    network = models.build(spec).eval()
    assert network.stride == 14
    photo = generated_photos(1)[0]
    pixels = torch.from_numpy(photo).permute(2, 0, 1).unsqueeze(0) / 255
    with torch.no_grad():  # no class wins everywhere
        network.classifier.bias -= network(pixels).mean(dim=(0, 2, 3))
        assert len(network(pixels).argmax(dim=1).unique()) == 3
    labels = LabelSpace(classes=["a", "b", "c"], palette=[(0, 0, 0)] * 3)
    models.save_network(tmp_path / "model", network, ModelConfig(name="14", model=spec, labels=labels))
    session = onnxruntime.InferenceSession(export_onnx(tmp_path / "model"), providers=["CPUExecutionProvider"])
    for height, width in ((127, 131), (42, 196), (1, 15)):
        images = np.stack([photo[:height, :width], photo[-height:, -width:]])
        with torch.inference_mode():
            logits = network.full_logits(torch.from_numpy(images).permute(0, 3, 1, 2) / 255)
        classes, confidence = session.run(None, {"images": images})
        probability, expected = logits.softmax(dim=1).max(dim=1)
        assert (classes != expected.numpy()).mean() <= 1e-3
        assert np.abs(confidence - 255 * probability.numpy()).max() < 0.5 + 0.05
