"""A run on two processes of this machine, as `accelerate launch` starts it."""

import json
import os
import subprocess
import sys
from pathlib import Path

from semseg_app.training.recipe import Recipe


def train_on_two_ranks(recipe: Recipe, folder: Path) -> str:
    """Train, and return what was said on stderr; the recipe's file goes to `folder`."""
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe.model_dump(mode="json")))
    return on_two_ranks("-m", "semseg_app.training", str(path))


def on_two_ranks(*arguments: str) -> str:
    """Run a script or a module with one thread per process, and return what was said on stderr."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    result = subprocess.run(
        [*launch, *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stderr
