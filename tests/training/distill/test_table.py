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

import json
from semseg_app.cli.main import main
for command in json.loads(sys.argv.pop()):
    sys.argv[1:] = command
    try:
        main()
    except SystemExit as end:
        print("exit", end.code or 0)
    else:
        print("exit", 0)
"""


def run(folder: Path, *commands: list[str]) -> tuple[list[str], str]:
    """What each command printed, with its exit code, and the errors of all. One process, because torch loads slowly."""
    command = [sys.executable, "-c", PROGRAM, json.dumps(commands)]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return ended.stdout.splitlines(), ended.stderr


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
    taught = ["method.name=distillation", "method.teacher=runs/tiny/best", "method.kd=null"]
    printed, errors = run(
        tmp_path,
        ["train", "recipe.yaml"],
        ["train", "recipe.yaml", *taught, "name=taught", "method.gap.weight=0.25"],
        ["train", "recipe.yaml", *taught, "name=other", "method.gap.weight=2"],
        ["schema"],
    )
    assert printed[:7] == ["exit 0", *(["clipped", "stepped"] * 2), "exit 0", "exit 2"], errors
    assert "method.gap.weight: at most 1" in errors
    assert '"gap"' in "".join(printed[7:])
    lines = [json.loads(line) for line in (tmp_path / "runs/taught/log.jsonl").read_text().splitlines()]
    assert [line["losses"]["gap"] > 0 for line in lines if "losses" in line] == [True, True]


def test_every_distiller_is_in_the_table_of_the_docs():
    described = (ROOT / "docs" / "distill.md").read_text()
    assert not [name for name in DISTILLERS if f"| `{name}` |" not in described]
