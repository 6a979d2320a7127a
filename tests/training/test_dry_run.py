"""A dry run of every preset: it is built, takes a step on made-up photos, and leaves nothing behind."""

import json
from pathlib import Path

import pytest
from support import tiny_encoders  # noqa: F401, adds its small encoders to timm
from typer.testing import CliRunner

from semseg_app.cli.main import app
from semseg_app.errors import UserError
from semseg_app.training.dry_run import dry_run
from semseg_app.training.methods.distillation import DistillationKeys
from semseg_app.training.presets import PRESETS
from semseg_app.training.recipe import Recipe, load_recipe

NAMES = sorted(path.stem for path in PRESETS.glob("*.yaml"))
SMALL = ["batch_size=2", "precision=fp32", "threads=1"]


def small_crop(recipe: Recipe) -> list[str]:
    """As small as its network and method take it."""
    if recipe.method.name == "s4former":
        return ["view.crop=[128, 128]"]
    if isinstance(recipe.method, DistillationKeys) and "af_dcd" in recipe.method.sections():
        return ["view.crop=[512, 512]"]  # a map that holds a patch
    patch = 14 if "patch14" in recipe.model.encoder else 16
    return [f"view.crop=[{4 * patch}, {4 * patch}]"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_preset_takes_a_step(name: str) -> None:
    whole = load_recipe(name, [])
    report = dry_run(load_recipe(name, [*SMALL, *small_crop(whole)]), whole, generated=True)
    assert report["losses"]
    assert report["projected"]["steps"] == whole.schedule.steps


QUICK = {
    "voc-unimatch": ["model.encoder=tu-test_resnet"],
    "voc-self-training": ["model.encoder=tu-test_resnet"],
    "coco-pseudoseg": ["model.encoder=tu-test_resnet"],
    "voc-s4former": ["model.encoder=tu-test_vit", "model.decoder_channels=16"],
    "streets-student": ["model.decoder_channels=16"],
}
"""A method of each kind, over small encoders."""


@pytest.mark.parametrize("name", QUICK)
def test_a_preset_takes_a_step_and_is_projected(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    whole = load_recipe(name, QUICK[name])
    report = dry_run(load_recipe(name, [*QUICK[name], *SMALL, *small_crop(whole)]), whole, generated=True)
    projected = report["projected"]
    unlabeled = (whole.batch_size,) if whole.data.unlabeled else ()
    assert (projected["steps"], projected["batch_size"]) == (whole.schedule.steps, whole.batch_size)
    larger = whole.view.crop[0] * whole.view.crop[1] * (whole.batch_size + sum(unlabeled))
    larger /= report["crop"][0] * report["crop"][1] * (2 + 2 * len(unlabeled))
    assert projected["seconds_per_step"] == pytest.approx(report["seconds_per_step"] * larger, rel=0.02, abs=0.01)
    assert projected["hours"] == pytest.approx(
        projected["seconds_per_step"] * whole.schedule.steps / 3600, rel=0.02, abs=0.02
    )
    assert projected["memory_mb"] >= report["memory_mb"] * 0.9
    assert not list(tmp_path.iterdir()), "a run folder"


def test_the_command_prints_the_network_the_schedule_and_the_projection(tmp_path: Path, tiny_dataset: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    model = {"architecture": "segformer", "encoder": "tu-test_resnet", "weights": None, "decoder_channels": 16}
    content = {"name": "mine", "data": {"root": str(tiny_dataset)}, "model": model, "view": {"crop": [64, 64]}}
    recipe.write_text(json.dumps(content | {"schedule": {"steps": 500}, "precision": "fp32"}))
    arguments = ["train", str(recipe), "--dry-run", "view.crop=[32, 32]", "batch_size=2", "optimizer.lr=0.02"]
    answer = CliRunner().invoke(app, arguments)
    assert answer.exit_code == 0, answer.output
    assert "mine: supervised, segformer/tu-test_resnet, 3 classes" in answer.output
    assert "one step of 2 crops of 32x32: supervised " in answer.output
    assert "schedule: 500 steps, sgd, lr 0.02" in answer.output
    assert "projected for 8 crops of 64x64: about " in answer.output
    report = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert report["parameters"] < 1_000_000
    assert report["projected"]["batch_size"] == 8


def test_what_cannot_be_made_up_is_refused(tmp_path: Path) -> None:
    recipe = load_recipe("voc-unimatch", ["data.root=photos/mine"])
    known = "voc, cityscapes, ade20k, camvid, coco-stuff, pascal-context, cadis, coco, streets"
    with pytest.raises(UserError, match=f"--generated knows the photos of {known}"):
        dry_run(recipe, recipe, generated=True)
