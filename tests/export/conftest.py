"""Model folders of random networks whose class maps hold every class, and photos to run them on."""

import functools
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from support import tiny_encoders  # noqa: F401, adds hrnet_test and swin_test to timm
from torch import nn

from semseg_app import models
from semseg_app.artifact import ModelConfig
from semseg_app.export.onnx import export_onnx
from semseg_app.export.verification_set import generated_photos
from semseg_app.files import atomic_folder
from semseg_app.labels import LabelSpace
from semseg_app.model_spec import ModelSpec

CLASSES = ["road", "sky", "tree", "car", "pole"]
PALETTE = [(128, 64, 128), (70, 130, 180), (107, 142, 35), (0, 0, 142), (153, 153, 153)]
ENCODERS = {
    "setr": "tu-test_vit",
    "dpt": "tu-test_vit",
    "linear": "tu-test_vit",
    "ocr": "tu-hrnet_test",
    "pidnet": "pidnet_s",
}


def lively_network(architecture: str) -> models.SegmentationNetwork:
    """A random network as a trained one would be: batch norms that do something, every class somewhere the largest.

    "architecture/encoder" takes that encoder instead of a small one that fits.
    """
    torch.manual_seed(0)
    architecture, _, encoder = architecture.partition("/")
    encoder = encoder or ENCODERS.get(architecture, "tu-test_resnet")
    width = None if architecture == "linear" else 32
    spec = ModelSpec(
        architecture=architecture,
        encoder=encoder,
        num_classes=len(CLASSES),
        decoder_channels=width,
        align_corners=architecture == "deeplabv3plus-plain",
    )
    network = models.build(spec).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
    with torch.no_grad():
        # Every class's logits to mean 0 and deviation 2 over the photos: no class wins everywhere.
        pixels = torch.stack([torch.from_numpy(photo) for photo in generated_photos(2)])
        logits = network(pixels.permute(0, 3, 1, 2).float() / 255)
        deviation, mean = torch.std_mean(logits, dim=(0, 2, 3))
        network.classifier.weight.mul_((2 / deviation).view(-1, 1, 1, 1))
        network.classifier.bias.copy_((network.classifier.bias - mean) * 2 / deviation)
    return network


@pytest.fixture(scope="session")
def lively() -> Callable[[str], models.SegmentationNetwork]:
    """`lively_network`."""
    return lively_network


@pytest.fixture(scope="session")
def saved() -> Callable[[str, Path], Path]:
    """(architecture, new folder) -> the folder, as a model folder of `lively_network` without a graph."""

    def save(architecture: str, folder: Path) -> Path:
        network = lively_network(architecture)
        labels = LabelSpace(classes=CLASSES, palette=PALETTE)
        config = ModelConfig(name=f"lively {architecture}", model=network.spec, labels=labels)
        models.save_network(folder, network, config)
        return folder

    return save


@pytest.fixture(scope="session")
def exported(saved: Callable[[str, Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Architecture -> a model folder with its exported graph, made once by all processes. Copy it to change it."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    @functools.cache
    def export(architecture: str) -> Path:
        folder = shared / f"exported-{architecture.replace('/', '-')}"
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                with atomic_folder(folder) as part:
                    assert export_onnx(saved(architecture, part / "model")) == part / "model" / "onnx" / "model.onnx"
        return folder / "model"

    return export
