"""Runs of one step on scenes of 48x64."""

from pathlib import Path

import pytest

from semseg_app.training.loop import train
from semseg_app.training.recipe import Recipe

SMALL = {"architecture": "segformer", "encoder": "tu-test_efficientnet", "weights": None, "decoder_channels": 16}
LISTS = {"labeled": "few-labeled", "unlabeled": "few-unlabeled"}


def run_of(folder: Path, root: Path, method: dict, **changed) -> Path:
    """The run folder of a recipe with this method."""
    content = {
        "name": "tiny",
        "output": folder,
        "data": {"root": root, **LISTS},
        "model": SMALL,
        "view": {"crop": [32, 48], "max_class_share": 0.9},
        "method": method,
        "schedule": {"steps": 1},
        "batch_size": 2,
        "precision": "fp32",
    }
    train(Recipe.model_validate(content | changed), say=lambda line: None)
    return folder


@pytest.fixture(scope="session")
def pseudoseg_run(tiny_dataset, tmp_path_factory) -> Path:
    method = {"name": "pseudoseg", "background": "ground", "cutout_size": 8}
    return run_of(tmp_path_factory.mktemp("runs") / "pseudoseg", tiny_dataset, method)


@pytest.fixture(scope="session")
def distilled_run(pseudoseg_run, tiny_dataset, tmp_path_factory) -> Path:
    """A student of half the width of its teacher's decoder, with MGD on the decoder's map."""
    mgd = {"features": "decoder", "logit_weight": 0}
    method = {"name": "distillation", "teacher": str(pseudoseg_run / "best"), "kd": None, "mgd": mgd}
    student = {"model": SMALL | {"decoder_channels": 8}}
    return run_of(tmp_path_factory.mktemp("runs") / "mgd", tiny_dataset, method, **student)
