"""A recipe whose run takes a second: a network of 94,000 weights, one thread, fp32."""

from pathlib import Path
from typing import Any

from semseg_app.training.recipe import Recipe


def small_recipe(root: Path, output: Path, **changes: Any) -> Recipe:
    """Keys of `changes` replace those of the same name, sections as a whole."""
    content = {
        "name": "tiny",
        "output": output,
        "data": {"root": root},
        "model": {
            "architecture": "segformer",
            "encoder": "tu-test_efficientnet",
            "weights": None,
            "decoder_channels": 32,
        },
        "view": {"crop": [48, 64]},
        "optimizer": {"lr": 0.05},
        "schedule": {"steps": 8},
        "batch_size": 2,
        "precision": "fp32",
        "threads": 1,
        "log_every": 2,
    }
    return Recipe.model_validate(content | changes)
