"""An architecture is one row: added there, it is found everywhere."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from semseg_app.models import ModelSpec, build
from semseg_app.models.registry import ALL_SCALES, ARCHITECTURES, Architecture
from semseg_app.training.losses.contrast import ContrastConfig, own_stages
from semseg_app.training.recipe import ModelSection

ROOT = Path(__file__).parents[2]


class LastMap(nn.Module):
    """A decoder of one convolution."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.mix = nn.Conv2d(channels, width, 1)

    def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
        return self.mix(maps[-1])


def test_a_row_is_all_that_a_new_architecture_needs(monkeypatch):
    unet = ARCHITECTURES["unet"]
    row = Architecture(unet.encoder, lambda parts: LastMap(parts.channels[-1], parts.width), width=24)
    monkeypatch.setitem(ARCHITECTURES, "last-map", row)
    chosen = ModelSection(architecture="last-map", encoder="tu-resnet10t")
    assert "last-map" in ModelSection.model_json_schema()["properties"]["architecture"]["enum"]
    network = build(ModelSpec(architecture=chosen.architecture, encoder=chosen.encoder, num_classes=3)).eval()
    assert network.decoder_channels == 24
    assert network.full_logits(torch.rand(1, 3, 61, 97)).shape == (1, 3, 61, 97)
    assert own_stages(ContrastConfig(), network) == ALL_SCALES
    with pytest.raises(ValidationError, match=r"unknown architecture 'last-mop'; choose .* did you mean last-map"):
        ModelSection(architecture="last-mop")


def test_every_architecture_is_in_the_table_of_the_docs():
    rows = [line for line in (ROOT / "docs" / "train.md").read_text().splitlines() if line.startswith("| `")]
    described = " ".join(row.split("|")[1] for row in rows)
    assert not [name for name in ARCHITECTURES if f"`{name}`" not in described]


def test_a_model_folder_is_described_without_torch():
    """model_spec.py, which config.json is read with, imports no network code."""
    program = "import sys; sys.modules['torch'] = None; from semseg_app.model_spec import ModelSpec; "
    program += "print(ModelSpec(num_classes=3).model_dump_json())"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(result.stdout)["architecture"] in ARCHITECTURES
