"""Whole networks against the outputs of their authors' code, with the same weights."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support.official_networks import DEEPLABV3PLUS, PIDNET, filled, golden_input, golden_network, golden_weights

from semseg_app.artifact import ModelConfig
from semseg_app.labels import LabelSpace
from semseg_app.models import ModelSpec, load
from semseg_app.models.initial import start_network


def parameters(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def assert_close(ours: torch.Tensor, golden: np.ndarray) -> None:
    expected = torch.from_numpy(golden)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("encoder", ["pidnet_s", "pidnet_l"])
def test_pidnet_equals_the_official_network_with_its_heads_for_training(encoder: str) -> None:
    golden = golden_network(encoder)
    # Layers of a single block, which are no list there: S has one, L two.
    single = r"^(layer3_d)\.0\." if encoder == "pidnet_s" else r"^(layer[34]_d)\.0\."
    spec = ModelSpec(architecture="pidnet", encoder=encoder, num_classes=19)
    network = filled(spec, PIDNET | {single: r"\1."}, golden["entries"])
    assert parameters(network) == golden["parameters"]
    with torch.inference_mode():
        features = network.features(golden_input())
    assert_close(features.logits, golden["logits"])
    assert_close(features.auxiliary[0], golden["detail"])
    assert features.boundary is not None
    assert_close(features.boundary, golden["boundary"])


def test_plain_deeplabv3plus_equals_the_official_network() -> None:
    golden = golden_network("deeplabv3plus_resnet50")
    spec = ModelSpec(architecture="deeplabv3plus-plain", encoder="tu-resnet50s", num_classes=21, align_corners=True)
    network = filled(spec, DEEPLABV3PLUS, golden["entries"])
    assert parameters(network) == golden["parameters"]
    assert parameters(network) - parameters(network.encoder) == golden["head_parameters"]
    with torch.inference_mode():
        assert_close(network.full_logits(golden_input())[..., ::4, ::4], golden["logits"])


@pytest.fixture(scope="module")
def old_pidnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder as the package wrote it before there were revisions, with one ReLU more and one norm less."""
    folder = tmp_path_factory.mktemp("old") / "model"
    folder.mkdir()
    spec = ModelSpec(architecture="pidnet", encoder="pidnet_s", num_classes=3, decoder_channels=16)
    labels = LabelSpace(classes=["a", "b", "c"], palette=[(0, 0, 0)] * 3)
    config = ModelConfig(name="old", model=spec, labels=labels).model_dump(mode="json")
    (folder / "config.json").write_text(json.dumps(config | {"model": _before_revisions(config["model"])}))
    weights = golden_weights(golden_network("pidnet_revision1")["entries"])
    counters = {f"{name.removesuffix('running_mean')}num_batches_tracked" for name in weights if "running_mean" in name}
    save_file(weights | {name: torch.tensor(0) for name in counters}, folder / "model.safetensors")
    return folder


def _before_revisions(spec: dict[str, object]) -> dict[str, object]:
    known = ("architecture", "encoder", "output_stride", "decoder_channels", "num_classes", "mean", "std")
    return {key: spec[key] for key in known}


def _raw(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images.astype(np.float32))


def test_an_old_pidnet_gives_its_old_logits(old_pidnet: Path) -> None:
    """The logits are what the package wrote at the time."""
    network = load(old_pidnet)
    assert network.spec.revision == 1
    with torch.inference_mode():
        logits = network(_raw(np.random.default_rng(0).random(size=(1, 3, 64, 128))))
    assert_close(logits, golden_network("pidnet_revision1")["logits"])


def test_training_goes_on_from_an_old_pidnet_in_its_old_form(old_pidnet: Path) -> None:
    spec = ModelSpec(architecture="pidnet", encoder="pidnet_s", num_classes=3, decoder_channels=16)
    assert spec.revision == 2
    start = start_network(spec, str(old_pidnet), ["a", "b", "c"], fetch=Path)
    assert start.network.spec.revision == 1
    with torch.inference_mode():
        logits = start.network.eval()(_raw(np.random.default_rng(0).random(size=(1, 3, 64, 128))))
    assert_close(logits, golden_network("pidnet_revision1")["logits"])
