"""Distillation runs: the student follows, the teacher does not move, and only the student is saved."""

import json

import pytest
import torch
from safetensors.torch import load_file

from semseg_app.artifact import read_config
from semseg_app.errors import UserError
from semseg_app.training.loop import train
from semseg_app.training.recipe import Recipe

NETWORK = {"architecture": "segformer", "encoder": "tu-test_efficientnet", "pretrained": None, "decoder_channels": 32}


def recipe(root, output, **changes) -> Recipe:
    content = {
        "name": "tiny",
        "output": output,
        "data": {"root": root},
        "model": NETWORK,
        "view": {"crop": [48, 64]},
        "optimizer": {"lr": 0.05},
        "schedule": {"steps": 12},
        "batch_size": 4,
        "precision": "fp32",
        "threads": 1,
        "log_every": 4,
    }
    return Recipe.model_validate(content | changes)


@pytest.fixture(scope="module")
def teacher(tiny_dataset, tmp_path_factory):
    output = tmp_path_factory.mktemp("teacher") / "run"
    train(recipe(tiny_dataset, output, schedule={"steps": 40}), say=lambda line: None)
    return output / "best"


def method(teacher, **changes) -> dict:
    return {"name": "distillation", "teacher": str(teacher)} | changes


def kd_values(run) -> list[float]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line["losses"]["kd"] for line in lines if "losses" in line]


def test_the_student_comes_closer_and_only_it_is_saved(tiny_dataset, teacher, tmp_path):
    before = (teacher / "model.safetensors").read_bytes()
    train(recipe(tiny_dataset, tmp_path / "run", method=method(teacher)), say=lambda line: None)
    values = kd_values(tmp_path / "run")
    assert values[-1] < 0.8 * values[0]
    assert (teacher / "model.safetensors").read_bytes() == before
    saved = load_file(tmp_path / "run" / "best" / "model.safetensors")
    assert saved.keys() == load_file(teacher / "model.safetensors").keys()
    assert read_config(tmp_path / "run" / "best").provenance["training"]["recipe"]["method"]["teacher"] == str(teacher)


def test_unlabeled_images_are_followed_too(tiny_dataset, teacher, tmp_path):
    data = {"root": str(tiny_dataset), "labeled": "few-labeled", "unlabeled": "few-unlabeled"}
    chosen = recipe(tiny_dataset, tmp_path / "run", data=data, method=method(teacher, use_unlabeled=True))
    report = train(chosen, say=lambda line: None)
    assert report["data"]["unlabeled"]["images"] == 8
    values = kd_values(tmp_path / "run")
    assert values[-1] < values[0]
    without = recipe(
        tiny_dataset, tmp_path / "x", data={"root": str(tiny_dataset)}, method=method(teacher, use_unlabeled=True)
    )
    with pytest.raises(UserError, match=r"data.unlabeled: distillation needs unlabeled images"):
        train(without, say=lambda line: None)


def test_a_teacher_of_other_classes_is_refused(tiny_dataset, teacher, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    config = json.loads((teacher / "config.json").read_text())
    config["labels"]["classes"] = ["disc", "box", "ground"]
    (other / "config.json").write_text(json.dumps(config))
    (other / "model.safetensors").write_bytes((teacher / "model.safetensors").read_bytes())
    with pytest.raises(UserError, match=r"knows disc, box, ground, but .* has ground, box, disc"):
        train(recipe(tiny_dataset, tmp_path / "run", method=method(other)), say=lambda line: None)


def test_an_untouched_student_that_is_the_teacher_has_no_kd_loss(tiny_dataset, teacher):
    from semseg_app.data.layouts import open_dataset
    from semseg_app.models import load
    from semseg_app.training.data import Batch, LabeledBatch, Pool
    from semseg_app.training.methods.distillation import Distillation, DistillationConfig

    data = open_dataset(tiny_dataset)
    pool = Pool(data, data.samples("train"), with_labels=True)
    student = load(teacher)
    distillation = Distillation(DistillationConfig(teacher=teacher), student, pool).eval()
    images = torch.rand(2, 3, 48, 64)
    labels = torch.zeros(2, 48, 64, dtype=torch.int64)
    batch = Batch(LabeledBatch(images, labels, labels.bool(), torch.tensor(float(labels.numel()))), None)
    assert distillation(batch, 0)["kd"].abs() < 1e-6
    assert not distillation.train().teacher.training
