"""Frozen, adapted and checkpointed encoders in whole runs: exact resume, what is saved, what the optimizer holds."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support import tiny_encoders  # noqa: F401, adds its small encoders to timm
from timm.optim import param_groups_layer_decay
from torch import nn

from semseg_app.errors import UserError
from semseg_app.models import ModelSpec, build, load
from semseg_app.models.adaptation import LoraSection, adapt
from semseg_app.training.contracts import Method
from semseg_app.training.loop import train
from semseg_app.training.methods import METHODS, build_method
from semseg_app.training.recipe import OptimizerSection, Recipe, ScheduleSection, load_recipe
from semseg_app.training.run.optimizer import make_optimizer

ADAPTED = {
    "frozen": ({"freeze": "encoder"}, {}),
    "stages": ({"freeze": [0, 1]}, {}),
    "lora": ({"lora": {"rank": 2, "dropout": 0.1}}, {}),
    "layer decay": ({}, {"layer_decay": 0.5}),
    "checkpointed": ({"activation_checkpointing": True}, {}),
    "all": ({"lora": {"layers": "all"}, "activation_checkpointing": True}, {"layer_decay": 0.7}),
}


def recipe(root: Path, output: Path, model: dict, optimizer: dict, method: str = "supervised") -> Recipe:
    unlabeled = {} if method == "supervised" else {"labeled": "few-labeled", "unlabeled": "few-unlabeled"}
    network = {"architecture": "dpt", "encoder": "tu-dinov3_test", "weights": None, "decoder_channels": 16}
    content = {
        "name": "tiny",
        "output": output,
        "data": {"root": root, **unlabeled},
        "model": network | model,
        "view": {"crop": [48, 64]},
        "method": {"name": method},
        "optimizer": {"name": "adamw", "lr": 1e-3} | optimizer,
        "schedule": {"steps": 4},
        "batch_size": 4,
        "precision": "fp32",
        "threads": 1,
        "evaluate_every": 4,
        "checkpoint_every": 2,
    }
    return Recipe.model_validate(content)


class Killed(BaseException):
    """Stands for the end of the process: nothing catches it."""


@pytest.mark.parametrize("method", ["supervised", "unimatch-v2"])
@pytest.mark.parametrize(("model", "optimizer"), ADAPTED.values(), ids=ADAPTED)
def test_killed_and_resumed_is_the_same_run(model, optimizer, method, tiny_dataset, tmp_path, monkeypatch):
    if method == "unimatch-v2" and model.get("freeze") != "encoder" and "lora" not in model:
        pytest.skip("the method matters only where a teacher copies what is frozen or adapted")
    whole = recipe(tiny_dataset, tmp_path / "whole", model, optimizer, method)
    train(whole, say=lambda line: None)
    chosen = METHODS[method].method
    finish = chosen.after_step

    def finish_and_die(self: Method, at: int) -> None:
        finish(self, at)
        if at == 2:  # the checkpoint is that of step 2, one step before
            raise Killed

    broken = recipe(tiny_dataset, tmp_path / "broken", model, optimizer, method)
    with monkeypatch.context() as patch:
        patch.setattr(chosen, "after_step", finish_and_die)
        with pytest.raises(Killed):
            train(broken, say=lambda line: None)
    train(broken, resume=True, say=lambda line: None)
    ours, theirs = (load_file(tmp_path / run / "last" / "model.safetensors") for run in ("broken", "whole"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert load(tmp_path / "whole" / "last").state_dict().keys() == ours.keys()


def test_frozen_parameters_have_no_optimizer_state():
    torch.manual_seed(0)
    network = build(ModelSpec(architecture="linear", encoder="tu-dinov3_test", num_classes=3))
    adapt(network, freeze="encoder")
    method = build_method(load_recipe("camvid-supervised-1_8", []).method, network, None)  # type: ignore[arg-type]
    optimizer = make_optimizer(OptimizerSection(name="adamw"), method)
    network(torch.rand(2, 3, 32, 32)).square().mean().backward()
    optimizer.step()
    names = {parameter: name for name, parameter in network.named_parameters()}
    assert {names[parameter] for parameter in optimizer.state} == {
        "decoder.norm.weight",
        "decoder.norm.bias",
        "classifier.weight",
        "classifier.bias",
    }


@pytest.mark.parametrize("lora", [None, LoraSection(rank=2)])
def test_layer_wise_rates_are_those_of_timm(lora):
    torch.manual_seed(0)
    network = build(ModelSpec(architecture="dpt", encoder="tu-dinov3_test", num_classes=3, decoder_channels=16))
    adapt(network, lora=lora)
    method = build_method(load_recipe("camvid-supervised-1_8", []).method, network, None)  # type: ignore[arg-type]
    optimizer = make_optimizer(
        OptimizerSection(name="adamw", lr=0.1, head_lr_factor=40, layer_decay=0.75, weight_decay=0.01), method
    )
    rates = {id(one): group["base_lr"] for group in optimizer.param_groups for one in group["params"]}
    model = network.encoder.model
    model.head = nn.Linear(64, 3)  # timm's layer above the blocks
    groups = param_groups_layer_decay(model, layer_decay=0.75)
    expected = {id(one): 0.1 * group["lr_scale"] for group in groups for one in group["params"]}
    ours = {name: rates[id(one)] for name, one in model.named_parameters() if id(one) in rates}
    assert ours == pytest.approx(
        {name: expected[id(one)] for name, one in model.named_parameters() if id(one) in rates}
    )
    assert len(set(ours.values())) == (4 if lora else 5)
    assert {rates[id(one)] for one in network.decoder.parameters()} == {4.0}


def test_layer_wise_rates_of_a_pyramid():
    network = build(ModelSpec(num_classes=3, decoder_channels=16))
    method = build_method(load_recipe("camvid-supervised-1_8", []).method, network, None)  # type: ignore[arg-type]
    optimizer = make_optimizer(OptimizerSection(lr=1.0, layer_decay=0.5), method)
    rates = {id(one): group["base_lr"] for group in optimizer.param_groups for one in group["params"]}
    found = {name.partition(".")[0]: rates[id(one)] for name, one in network.encoder.named_parameters()}
    assert found == {
        "conv1": 1 / 32,
        "bn1": 1 / 32,
        "layer1": 1 / 16,
        "layer2": 1 / 8,
        "layer3": 1 / 4,
        "layer4": 1 / 2,
    }
    assert rates[id(network.classifier.weight)] == 1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.freeze=[9]", r"model.freeze: tu-dinov3_test has stages 0 to 3, not 9"),
        ("model.lora={rank: 0}", r"model.lora.rank"),
        ("optimizer.layer_decay=1.5", r"optimizer.layer_decay"),
    ],
)
def test_errors_name_the_key(override, message, tiny_dataset, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"name: a\noutput: {tmp_path}/run\ndata: {{root: {tiny_dataset}}}\nprecision: fp32\n"
        "model: {architecture: dpt, encoder: tu-dinov3_test, weights: null, decoder_channels: 16}\n"
        "view: {crop: [48, 64]}\n"
    )
    with pytest.raises(UserError, match=message):
        train(load_recipe(str(path), [override]), say=lambda line: None)


def test_started_from_a_run_it_scores_as_that_run(tiny_dataset, tmp_path):
    """One step with a learning rate of almost zero; the statistics of the batch norm have settled before it."""
    chosen = {"architecture": "linear", "encoder": "tu-dinov3_test", "decoder_channels": None}
    whole = {"schedule": ScheduleSection(steps=60), "evaluate_every": 60, "checkpoint_every": 60}
    first = train(recipe(tiny_dataset, tmp_path / "first", chosen, {}).model_copy(update=whole), say=lambda line: None)
    source = str(tmp_path / "first" / "best")
    once = {"schedule": ScheduleSection(steps=1), "evaluate_every": 1}
    lines: list[str] = []
    again = train(
        recipe(tiny_dataset, tmp_path / "again", chosen | {"weights": source}, {"lr": 1e-12}).model_copy(update=once),
        say=lines.append,
    )
    assert again["last"]["student"]["miou"] == pytest.approx(first["last"]["student"]["miou"], abs=0.01)
    assert first["last"]["student"]["miou"] > 0.4
    assert any(f"from {source}" in line for line in lines)
