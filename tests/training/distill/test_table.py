"""A distiller is one row: added there before the recipes are read, it is found everywhere."""

import json
import subprocess
import sys
from pathlib import Path

import yaml

from semseg_app.training.distill import DISTILLERS

ROOT = Path(__file__).parents[3]
PROGRAM = """
import sys
from torch import Tensor
from semseg_app.training import distill
from semseg_app.training.contracts import Distiller, PartConfig

class GapConfig(PartConfig):
    weight: float = 0.5
    def check(self, recipe):
        if self.weight > 1:
            raise ValueError("method.gap.weight: at most 1")

class Gap(Distiller):
    reads = ("logits",)
    def __init__(self, config):
        super().__init__()
        self.config, self.steps = config, 0
    def forward(self, pairs, labels):
        student, teacher = pairs["logits"]
        return {"gap": self.config.weight * (student - teacher).abs().mean()}
    def clip_gradients(self):
        print("clipped")
    def after_step(self):
        print("stepped")

distill.DISTILLERS["gap"] = distill.Row(GapConfig, lambda config, pair: Gap(config))

from semseg_app.cli.main import main
main()
"""


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", PROGRAM, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_a_row_is_all_that_a_new_distiller_needs(tiny_dataset, tmp_path):
    recipe = {
        "name": "tiny",
        "data": {"root": str(tiny_dataset)},
        "model": {"architecture": "unet", "encoder": "tu-resnet10t", "weights": None, "decoder_channels": 8},
        "view": {"crop": [32, 32]},
        "schedule": {"steps": 2},
        "batch_size": 2,
        "log_every": 1,
        "precision": "fp32",
        "threads": 1,
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    taught = ("method.name=distillation", "method.teacher=runs/tiny/best", "method.kd=null")
    assert run(tmp_path, "train", "recipe.yaml").returncode == 0
    result = run(tmp_path, "train", "recipe.yaml", *taught, "name=taught", "method.gap.weight=0.25")
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["clipped", "stepped"] * 2
    lines = [json.loads(line) for line in (tmp_path / "runs/taught/log.jsonl").read_text().splitlines()]
    assert [line["losses"]["gap"] > 0 for line in lines if "losses" in line] == [True, True]
    refused = run(tmp_path, "train", "recipe.yaml", *taught, "name=other", "method.gap.weight=2")
    assert refused.returncode == 2
    assert "method.gap.weight: at most 1" in refused.stderr
    assert '"gap"' in run(tmp_path, "schema").stdout


def test_every_distiller_is_in_the_table_of_the_docs():
    described = (ROOT / "docs" / "distill.md").read_text()
    assert not [name for name in DISTILLERS if f"| `{name}` |" not in described]
