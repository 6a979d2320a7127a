"""Distillation runs: the student follows, the teacher does not move, and only the student is saved."""

import json
import math
from pathlib import Path

import onnx
import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import nn

from semseg_app.artifact import read_config
from semseg_app.errors import UserError
from semseg_app.export.onnx import export_onnx
from semseg_app.training.loop import train
from semseg_app.training.methods.distillation import Distillation
from semseg_app.training.recipe import Recipe, load_recipe
from semseg_app.training.run.gradient_norms import gradient_norms

NETWORK = {"architecture": "segformer", "encoder": "tu-test_efficientnet", "weights": None, "decoder_channels": 32}


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


def test_without_labels_the_teacher_alone_teaches_and_every_weight_takes_part(tiny_dataset, teacher):
    from semseg_app.data.layouts import open_dataset
    from semseg_app.models import load
    from semseg_app.training.data.streams import Batch, ImageDataset, LabeledBatch
    from semseg_app.training.methods.distillation import DistillationConfig

    data = open_dataset(tiny_dataset)
    dataset = ImageDataset(data, data.samples("few-labeled"), with_labels=True)
    student = load(teacher).train()
    config = DistillationConfig(teacher=teacher, labels=False, kd=None, fitnet={"features": -1})
    distillation = Distillation(config, student, dataset)
    images, pad = torch.rand(2, 3, 48, 64), torch.zeros(2, 48, 64, dtype=torch.bool)
    losses = [
        distillation(Batch(LabeledBatch(images, torch.full((2, 48, 64), label), pad, torch.tensor(1.0)), None), 0)
        for label in (0, 255)
    ]
    assert losses[0]["supervised"] == 0
    assert losses[0]["fitnet"] > 0
    torch.stack(list(losses[0].values())).sum().backward()
    gradients = {name: parameter.grad for name, parameter in student.named_parameters()}
    assert all(gradient is not None for gradient in gradients.values())
    assert gradients["classifier.weight"].abs().sum() == 0
    assert sum(float(g.abs().sum()) for name, g in gradients.items() if name.startswith("encoder.")) > 0


def test_an_untouched_student_that_is_the_teacher_has_no_kd_loss(tiny_dataset, teacher):
    from semseg_app.data.layouts import open_dataset
    from semseg_app.models import load
    from semseg_app.training.data.streams import Batch, ImageDataset, LabeledBatch
    from semseg_app.training.methods.distillation import DistillationConfig

    data = open_dataset(tiny_dataset)
    dataset = ImageDataset(data, data.samples("train"), with_labels=True)
    student = load(teacher)
    distillation = Distillation(DistillationConfig(teacher=teacher), student, dataset).eval()
    images = torch.rand(2, 3, 48, 64)
    labels = torch.zeros(2, 48, 64, dtype=torch.int64)
    batch = Batch(LabeledBatch(images, labels, labels.bool(), torch.tensor(float(labels.numel()))), None)
    assert distillation(batch, 0)["kd"].abs() < 1e-6
    assert not distillation.train().teacher.training


EVERYTHING = {
    "cwd": {},
    "skd": {},
    "ifvd": {},
    "attention_transfer": {},
    "fitnet": {},
    "mgd": {},
    "af_dcd": {"channel_groups": 8, "patch_size": 2, "pool_size": 0},
    "cirkd": {"pixel_queue": 50, "region_queue": 20},
    "maskd": {"token_steps": 2},
    "contrast": {"dimension": 16, "anchors_per_image": 50, "min_pixels": 1},
    "use_unlabeled": True,
}


def every_distiller(root: Path, output: Path, teacher: Path) -> Recipe:
    return recipe(
        root,
        output,
        data={"root": root, "labeled": "few-labeled", "unlabeled": "few-unlabeled"},
        method=method(teacher, **EVERYTHING),
        optimizer={"lr": 1e-4},
        schedule={"steps": 4},
        accumulate=2,
        checkpoint_every=1,
        log_every=2,
        log_gradient_norms=True,
    )


@pytest.fixture(scope="module")
def distilled(tiny_dataset, teacher, tmp_path_factory) -> tuple[Path, list[str]]:
    """A run with every distiller and contrast at once, and what it said."""
    lines: list[str] = []
    output = tmp_path_factory.mktemp("everything") / "run"
    train(every_distiller(tiny_dataset, output, teacher), say=lines.append)
    return output, lines


def test_every_distiller_at_once(distilled, teacher):
    run, lines = distilled
    report = json.loads((run / "report.json").read_text())
    known = json.loads((teacher.parent / "report.json").read_text())["best"]["student"]
    assert report["teacher"] == {"miou": known["miou"], "pixel_accuracy": known["pixel_accuracy"]}
    assert f"  before the first step: teacher val mIoU {100 * known['miou']:.2f} %" in lines
    entries = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    first, second = [entry for entry in entries if "losses" in entry]
    assert len(first["losses"]) == 18
    assert second["losses"].keys() == first["losses"].keys() - {"maskd_tokens"} | {"maskd"}
    for entry in (first, second):
        norms = entry["gradient_norms"]
        assert norms.keys() == entry["losses"].keys()
        assert all(norm > 0 for name, norm in norms.items() if name != "maskd_tokens")
    assert first["gradient_norms"]["maskd_tokens"] == 0


def test_queues_tokens_and_heads_survive_an_interruption(distilled, tiny_dataset, teacher, tmp_path, monkeypatch):
    run, _ = distilled

    class Killed(BaseException):
        pass

    follow = Distillation.after_step

    def die(self: Distillation, step: int) -> None:
        follow(self, step)
        if step == 2:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Distillation, "after_step", die)
        with pytest.raises(Killed):
            train(every_distiller(tiny_dataset, tmp_path / "run", teacher), say=lambda line: None)
    train(every_distiller(tiny_dataset, tmp_path / "run", teacher), resume=True, say=lambda line: None)
    ours, theirs = (state_of(one, 4) for one in (tmp_path / "run", run))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def state_of(run: Path, step: int) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / f"step-{step:07d}.pt", weights_only=True)["method"]


@pytest.mark.slow
@pytest.mark.timeout(900)  # tracing takes minutes where other work is done
def test_the_exported_graph_is_that_of_a_student_without_a_teacher(tiny_dataset, teacher, tmp_path):
    """Also with contrast: heads, alignment and generator are in the checkpoint and nowhere else."""
    paths = []
    model = NETWORK | {"encoder": "tu-test_resnet"}
    contrast = {"dimension": 16, "anchors_per_image": 50}
    for name, chosen in (("distilled", method(teacher, mgd={}, contrast=contrast)), ("alone", {"name": "supervised"})):
        made = recipe(tiny_dataset, tmp_path / name, model=model, method=chosen, schedule={"steps": 1})
        train(made, say=lambda line: None)
        paths.append(export_onnx(tmp_path / name / "last"))
    ours, theirs = (onnx.load(path).graph for path in paths)
    assert [node.op_type for node in ours.node] == [node.op_type for node in theirs.node]
    sizes = [[(one.name, list(one.dims)) for one in graph.initializer] for graph in (ours, theirs)]
    assert sizes[0] == sizes[1]
    assert paths[0].stat().st_size == paths[1].stat().st_size
    saved = load_file(tmp_path / "distilled" / "last" / "model.safetensors")
    trained = state_of(tmp_path / "distilled", 1)
    assert all(torch.equal(value, trained[f"network.{name}"]) for name, value in saved.items())
    assert {name for name in trained if not name.startswith(("network.", "teacher."))}  # kept for --resume only


def test_only_af_dcd_s_own_gradients_are_clipped(tiny_dataset, teacher, tmp_path):
    """To nothing, after all parts of a step: its modules stay where they are, and the student learns."""
    chosen = method(teacher, af_dcd=EVERYTHING["af_dcd"] | {"clip_norm": 1e-30})
    plain = {"lr": 1e-4, "momentum": 0, "weight_decay": 0}
    train(
        recipe(tiny_dataset, tmp_path / "run", method=chosen, optimizer=plain, accumulate=2, checkpoint_every=6),
        say=lambda line: None,
    )
    before, after = state_of(tmp_path / "run", 6), state_of(tmp_path / "run", 12)
    own = [name for name in before if name.startswith("distillers.af_dcd.")]
    assert own
    assert all(torch.equal(before[name], after[name]) for name in own)
    assert not torch.equal(before["network.classifier.weight"], after["network.classifier.weight"])


def test_gradient_norms_by_hand():
    weight, other = nn.Parameter(torch.tensor([3.0, 4.0])), nn.Parameter(torch.tensor(2.0))
    losses = {
        "square": weight.square().sum() / 2 + other,
        "product": other * weight.sum(),
        "constant": torch.tensor(1.0),
        "elsewhere": nn.Parameter(torch.tensor(1.0)) * 2,
    }
    for scale in (1.0, 1024.0):
        norms = gradient_norms(losses, [weight, other], scale)
        expected = {"square": math.sqrt(26), "product": math.sqrt(57), "constant": 0.0, "elsewhere": 0.0}
        assert norms == pytest.approx(expected)
    assert weight.grad is None
    torch.stack(list(losses.values())).sum().backward()  # the graph is still there


def test_wrong_recipes_are_refused_in_one_line(tiny_dataset, teacher, tmp_path):
    path = tmp_path / "recipe.yaml"
    for changes, message in (
        ({"method": method(teacher, cwd={"wieght": 1})}, r"unknown key method.cwd.wieght; did you mean .*weight"),
        ({"method": method(teacher, kdd={})}, r"unknown key method.kdd; did you mean kd\?"),
        ({"method": method(teacher, preset="af-dcd-best")}, r"method.*preset.*af-dcd-recommended"),
        ({"method": method(teacher, cwd={"features": "neck"})}, r"method.*cwd.*features.*decoder"),
        ({"method": method(teacher, maskd={"token_steps": 12})}, r"token_steps \(12\) must be below schedule.steps"),
        ({"log_gradient_norms": True, "compile": True}, r"log_gradient_norms .* turn one off"),
    ):
        content = recipe(tiny_dataset, tmp_path / "run").model_dump(mode="json") | changes
        path.write_text(yaml.safe_dump(content))
        with pytest.raises(UserError, match=message) as refusal:
            load_recipe(str(path), [])
        assert "\n" not in str(refusal.value)
