"""Inputs are normalized as the source library itself does it, for every family of encoders that the docs name."""

import json

import pytest
import timm
import torch
from segmentation_models_pytorch.encoders import get_preprocessing_fn

from semseg_app.errors import UserError
from semseg_app.models.normalization import IMAGENET, published_normalization

TIMM = {
    "tu-deit_base_patch16_224": 0.485,
    "tu-vit_small_patch14_dinov2": 0.485,
    "tu-vit_tiny_patch16_224": 0.5,
    "tu-beit_base_patch16_224": 0.5,
    "tu-vit_base_patch16_siglip_224": 0.5,
    "tu-vit_base_patch16_clip_224.openai": 0.48145466,
    "tu-swin_tiny_patch4_window7_224": 0.485,
    "tu-hrnet_w18": 0.485,
    "tu-resnet18": 0.485,
    "tu-convnext_tiny": 0.485,
    "tu-tf_efficientnet_lite0": 0.5,
    "tu-xception41": 0.5,
}
"""Encoder -> its mean of red, as a check that the families differ at all."""


@pytest.mark.parametrize("encoder", TIMM)
def test_timm(encoder):
    theirs = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(encoder[3:]).to_dict())
    ours = published_normalization(encoder, "imagenet")
    assert (ours.mean, ours.std) == (tuple(theirs["mean"]), tuple(theirs["std"]))
    assert ours.mean[0] == TIMM[encoder]


@pytest.mark.parametrize("encoder", ["resnet18", "mobilenet_v2", "mit_b0", "xception"])
@pytest.mark.parametrize(
    "settings",
    [
        {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "input_range": [0, 1]},
        {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
        {"mean": [124.0, 117.0, 104.0], "std": [1.0, 2.0, 3.0], "input_range": [0, 255]},
    ],
)
def test_segmentation_models_pytorch(encoder, settings, monkeypatch, tmp_path):
    """Its own preprocessing of 8-bit pixels, from a configuration as the Hub holds it."""
    (tmp_path / "config.json").write_text(json.dumps(settings))
    monkeypatch.setattr(
        "segmentation_models_pytorch.encoders.hf_hub_download", lambda *_, **__: str(tmp_path / "config.json")
    )
    pixels = torch.randint(0, 256, (8, 8, 3)).numpy()
    ours = published_normalization(encoder, "imagenet")
    theirs = get_preprocessing_fn(encoder, "imagenet")(pixels)
    assert torch.allclose(
        torch.from_numpy(pixels / 255 - ours.mean) / torch.tensor(ours.std, dtype=torch.float64),
        torch.from_numpy(theirs),
        atol=1e-9,
    )


def test_other_color_orders_are_refused(monkeypatch, tmp_path):
    settings = {"mean": [1, 1, 1], "std": [1, 1, 1], "input_space": "BGR"}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    monkeypatch.setattr(
        "segmentation_models_pytorch.encoders.hf_hub_download", lambda *_, **__: str(tmp_path / "config.json")
    )
    with pytest.raises(UserError, match=r"^model.weights: the weights of resnet18 expect BGR images"):
        published_normalization("resnet18", "imagenet")


def test_encoders_without_a_configuration_get_imagenet_s():
    assert published_normalization("pidnet_s", "imagenet") is IMAGENET
