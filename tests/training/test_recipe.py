"""Recipes: what is refused, and with which words."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from pydantic import ValidationError
from torch import nn

from semseg_app.errors import UserError
from semseg_app.models import ModelSpec, build
from semseg_app.training.presets import PRESETS
from semseg_app.training.recipe import OptimizerSection, Recipe, ScheduleSection, load_recipe
from semseg_app.training.recipe_keys import FOREIGN
from semseg_app.training.run.folder import refuse_changed_recipe
from semseg_app.training.run.optimizer import make_optimizer

GOOD = {"name": "run", "data": {"root": "data"}}


def write(folder: Path, content: object) -> str:
    path = folder / "recipe.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return str(path)


def test_overrides_reach_every_section(tmp_path):
    source = write(tmp_path, GOOD)
    recipe = load_recipe(
        source, ["optimizer.lr=1e-3", "view.crop=[64, 96]", "data.val=null", "seed=7", "model.encoder=resnet34"]
    )
    assert recipe.optimizer.lr == 0.001
    assert recipe.view.crop == (64, 96)
    assert recipe.data.val is None
    assert (recipe.seed, recipe.model.encoder) == (7, "resnet34")


@pytest.mark.parametrize(
    ("content", "overrides", "message"),
    [
        (GOOD | {"optimzer": {}}, [], r"recipe.yaml: unknown key optimzer; did you mean optimizer\?"),
        (GOOD, ["model.pretrained=imagenet"], r"unknown key model.pretrained; it is called model.weights now"),
        (GOOD, ["optimizer.xyz=1"], "unknown key optimizer.xyz; known keys: clip_norm, "),
        (GOOD, ["learning_rate=1"], r"unknown key learning_rate; did you mean optimizer.lr\?"),
        (
            GOOD,
            ["model.epochs=9"],
            r"unknown key model.epochs; did you mean schedule.steps\? It counts steps, .*epoch",
        ),
        (GOOD, ["resume_from=run"], r"did you mean model.weights\? To go on with an interrupted run, add --resume"),
        (GOOD, ["model.name=resnet"], r"unknown key model.name; known keys: .*architecture, .*encoder, "),
        (GOOD, ["schedule.name=poly"], r"unknown key schedule.name; known keys: .*power, .*steps, "),
        (GOOD, ["lr=1"], r"unknown key lr; did you mean optimizer.lr\?"),
        (GOOD, ["encoder=resnet34"], r"unknown key encoder; did you mean model.encoder\?"),
        (GOOD, ["model.seed=3"], r"unknown key model.seed; did you mean seed\?"),
        (GOOD, ["tracking=tensorboard"], r"tracking: must be a list, in brackets: \[tensorboard, \.\.\.\]$"),
        (GOOD, ["view.crop=512"], r"view.crop: must be a list, in brackets: \[512, "),
        (GOOD, ["view.crop=512,512"], r"view.crop: must be a list, in brackets: \[512, 512\]$"),
        (GOOD, ["method=unimatch"], "method: must be a section of keys$"),
        (GOOD, ["name=my run"], "name: 'my run' names a folder and a model; write it with letters, digits, dots"),
        (
            GOOD | {"method": {"name": "distillation", "teacher": "m", "kd": {"wieght": 1}}},
            [],
            r"unknown key method.kd.wieght; did you mean weight\?",
        ),
        (GOOD, ["method.name=suprevised"], "method: .*'suprevised'"),
        (GOOD, ["schedule.step=10"], r"unknown key schedule.step; did you mean steps\?"),
        (
            GOOD,
            ["model.architecture=deeplab"],
            "unknown architecture 'deeplab'; choose one of .* did you mean deeplabv3",
        ),
        (
            GOOD,
            ["model.freeze=[encoder]"],
            r"model.freeze: must be encoder or a list of whole numbers, not \['encoder'\]$",
        ),
        (GOOD, ["model.freeze=first", "batch_size=0"], r"or a list of whole numbers, not 'first' \(and 1 more\)$"),
        (GOOD, ["model.lora=3"], "model.lora: must be a section of keys$"),
        (GOOD, ["schedule.warmup=1000"], "warmup .1000. must be shorter than steps .1000."),
        (GOOD, ["view.scale=[2, 0.5]"], "smallest, largest"),
        (GOOD, ["data.cache=true", "data.workers=2"], "cache: true needs workers: 0"),
        (GOOD, ["optimizer.lr"], "an override is written key=value"),
        (GOOD, ["model.weights="], "'model.weights=': has no value; write model.weights=null for none"),
        (GOOD, ["name.first=1"], "name is a value, not a section"),
        (GOOD, ["model.std=[0, 1, 1]"], "recipe.yaml: model.std.0: must be greater than 0"),
        (GOOD, ["optimizer.lr=.inf"], "recipe.yaml: optimizer.lr: must be a finite number"),
        (GOOD, ["model.mean=[.nan, 1, 1]"], "recipe.yaml: model.mean.0: must be a finite number"),
        (GOOD, ["method.treshold=1"], "unknown key method.treshold; .* Without method.name the method is supervised.$"),
        (
            GOOD,
            ["method.loss=focal"],
            r"unknown key method.loss; known keys: .*\w\. Without method.name the method is su",
        ),
        (GOOD, ["method.name=unimatch", "method.threshold=95"], "recipe.yaml: method.threshold: must be less than"),
        (GOOD, ["optimizer.name=AdamW"], r"choose one of sgd, adamw, adam; did you mean adamw\?$"),
        (GOOD, ["schedule.steps=1e3"], "schedule.steps: must be a whole number, not '1e3'$"),
        (GOOD, ["data.val=None"], "data.val: None is a word to YAML; write null$"),
        (GOOD, ["output=$UNSET_HERE/run"], "output: .UNSET_HERE/run: no such variable is set$"),
        (GOOD, ["model.mean=[123.675, 116.28, 103.53]"], r"not from 0 to 255; .* it is \[0.485, 0.456, 0.406\]$"),
        ("name: a\ndata:\n\troot: d", [], "recipe.yaml:3: not valid YAML .*; indent with spaces, not with tabs$"),
        (GOOD, ["optimizer={lr: 1, lr: 2}"], r"optimizer={lr: 1, lr: 2}: lr is written twice"),
        ("name: a\nseed: 1\nname: b\n", [], r"recipe.yaml:3: name is written twice \(also line 1\); keep one$"),
        ("name: a\ndata:\n  val: x\n  root: d\n  'val': y", [], r"recipe.yaml:5: val is written twice \(also line 3\)"),
        (GOOD, ["output=~absent-user/run"], "output: ~absent-user/run: no user of that name has a home folder"),
        ({"name": "run"}, [], "recipe.yaml: data: is missing"),
        ("name: [unclosed", [], "recipe.yaml:.*: not valid YAML"),
        ("- a list", [], "expected `key: value` lines"),
    ],
)
def test_mistakes_are_named(content, overrides, message, tmp_path):
    with pytest.raises(UserError, match=message):
        load_recipe(write(tmp_path, content), overrides)


def test_words_of_other_programs_are_no_keys_here_and_lead_to_one():
    for word, key in FOREIGN.items():
        section, _, name = key.partition(".")
        assert word not in Recipe.model_fields
        assert name in Recipe.model_fields[section].annotation.model_fields


def test_a_resumed_run_of_another_recipe_is_led_to_weights_that_are_there(tmp_path):
    keys = ["seed=1", f"output={tmp_path}/run"]
    before, now = (load_recipe(write(tmp_path, GOOD), keys[index:]) for index in (1, 0))
    message = "--resume: seed was 0 in the interrupted run and is 1 now; put it back, or start a new run with another"
    with pytest.raises(UserError, match=rf"^{message} output=$"):
        refuse_changed_recipe(before, now)
    (tmp_path / "run" / "last").mkdir(parents=True)
    with pytest.raises(UserError, match=rf"^{message} output= and, to .* model.weights={tmp_path}/run/last$"):
        refuse_changed_recipe(before, now)


def test_spaces_around_the_key_of_an_override(tmp_path):
    assert load_recipe(write(tmp_path, GOOD), ["optimizer.lr = 0.25"]).optimizer.lr == 0.25


def test_the_default_method_takes_keys_without_its_name(tmp_path):
    assert load_recipe(write(tmp_path, GOOD), ["method.class_balance=0.5"]).method.class_balance == 0.5
    recipe = load_recipe(write(tmp_path, GOOD | {"method": {"class_balance": 0.5}}), [])
    assert (recipe.method.name, recipe.method.class_balance) == ("supervised", 0.5)
    keys = ["method.name=unimatch", "data.unlabeled=train"]
    assert load_recipe(write(tmp_path, GOOD), keys).method.name == "unimatch"


def test_merge_keys_may_be_replaced(tmp_path):
    text = "name: a\ndata: {root: d}\noptimizer: &o {lr: 0.5, momentum: 0.1}\n"
    more = load_recipe(write(tmp_path, f"{text}model: {{<<: {{encoder: resnet34}}, encoder: resnet50}}\n"), [])
    assert (more.model.encoder, more.optimizer.lr) == ("resnet50", 0.5)


def test_paths_begin_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    keys = ["output=~/run", "data.root=~/d", "data.more_unlabeled=[{root: ~/more}]", "data.unlabeled=train"]
    keys += ["method.name=distillation", "method.teacher=~/teacher", "method.teacher_cache={folder: ~/cache}"]
    recipe = load_recipe(write(tmp_path, GOOD), keys)
    paths = [recipe.run_folder, recipe.data.root, recipe.data.more_unlabeled[0].root, recipe.method.teacher]
    paths.append(recipe.method.teacher_cache.folder)
    assert [str(path.relative_to(tmp_path / "home")) for path in paths] == ["run", "d", "more", "teacher", "cache"]


def test_variables_in_paths_are_read_as_in_a_shell(tmp_path, monkeypatch):
    monkeypatch.setenv("SCRATCH", str(tmp_path))
    recipe = load_recipe(write(tmp_path, GOOD), ["output=$SCRATCH/run", "data.root=${SCRATCH}/d"])
    assert (recipe.run_folder, recipe.data.root) == (tmp_path / "run", tmp_path / "d")


def test_a_root_that_lies_beside_the_recipe_is_told_so(tmp_path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(UserError, match=rf"no folder photos here; .* so write {tmp_path}/photos, or run it in "):
        load_recipe(write(tmp_path, GOOD), ["data.root=photos"])


def test_a_recipe_in_another_encoding_is_told_so(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("name: a\ndata: {root: d}\n", encoding="utf-16")
    with pytest.raises(UserError, match=r"recipe.yaml: not a text file in UTF-8; save it as UTF-8$"):
        load_recipe(str(path), [])


def test_a_missing_recipe_names_what_was_meant(tmp_path):
    with pytest.raises(
        UserError, match=r"no such recipe file, and no preset of that name; presets: .*camvid-supervised"
    ):
        load_recipe("xyz", [])
    (tmp_path / "recipe.yaml").write_text("name: mine")
    with pytest.raises(
        UserError, match=r"recpe.yaml: no such recipe file; `semseg init .*; did you mean recipe.yaml\?"
    ):
        load_recipe(str(tmp_path / "recpe.yaml"), [])
    with pytest.raises(UserError, match=r": is a folder; `semseg train --data .*` writes a recipe"):
        load_recipe(str(tmp_path), [])
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match=r": is a run folder; `semseg train .*/recipe.yaml --resume` goes on with it"):
        load_recipe(str(tmp_path), [])


@pytest.mark.parametrize("path", sorted(PRESETS.glob("*.yaml")), ids=lambda path: path.stem)
def test_presets_are_valid_and_say_what_they_aim_at(path):
    recipe = load_recipe(path.stem, [])
    assert recipe.name == path.stem
    assert recipe.aims_at


def test_schedule_by_hand():
    schedule = ScheduleSection(steps=100, warmup=4, power=1.0, floor=0.1)
    assert [schedule.rate(1, step) for step in (0, 3)] == [0.2, 0.8]
    assert schedule.rate(1, 50) == 0.5
    assert schedule.rate(3, 99) == pytest.approx(0.3)
    assert ScheduleSection(steps=10, power=0.9).rate(1, 5) == pytest.approx(0.5**0.9)
    cuts = ScheduleSection(steps=100, gamma=0.5, gamma_steps=30, floor=0.2)
    assert [cuts.rate(1, step) for step in (0, 29, 30, 60, 99)] == [1, 1, 0.5, 0.25, 0.2]


def test_adam_adds_its_weight_decay_to_the_gradient():
    """Against the formula: the first step of Adam is lr * sign(gradient + decay * weight), of AdamW it is not."""
    torch.manual_seed(0)
    network = build(ModelSpec(architecture="segformer", encoder="tu-test_efficientnet", num_classes=2))
    section = OptimizerSection(name="adam", lr=0.1, weight_decay=0.5)
    optimizer = make_optimizer(section, nn.ModuleDict({"network": network}))
    weight = network.classifier.weight
    before = weight.detach().clone()
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), before - 0.1 * before.sign(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("preset", ["voc-s4former", "cityscapes-s4former", "coco-s4former", "voc-mean-teacher"])
def test_s4formers_rates_are_those_of_mmcv(preset: str) -> None:
    """PolyLrUpdaterHook: coeff = (1 - progress / max_progress) ** power; (base_lr - min_lr) * coeff + min_lr."""
    recipe = load_recipe(preset, [])
    steps = {"voc": 80_000, "cityscapes": 40_000, "coco": 160_000}[preset.partition("-")[0]]
    for base in (0.001, 0.01):  # encoder, head
        for step in [part * steps // 9 - (part == 9) for part in range(10)]:
            coefficient = (1 - step / steps) ** 0.9
            assert recipe.schedule.rate(base, step) == pytest.approx((base - 1e-4) * coefficient + 1e-4, rel=1e-12)
    assert (recipe.optimizer.lr, recipe.optimizer.head_lr_factor) == (0.001, 10)


def test_where_the_rate_ends_is_said_once_and_not_above_its_beginning() -> None:
    with pytest.raises(ValidationError, match="leave one out"):
        ScheduleSection(steps=10, floor=0.1, min_lr=0.001)
    with pytest.raises(UserError, match=r"schedule.min_lr \(0.01\) is above the rate to begin with \(0.001\)"):
        load_recipe("voc-s4former", ["schedule.min_lr=0.01"])


def test_schema_for_editors_is_printed_and_fits():
    printed = subprocess.run(
        [sys.executable, "-m", "semseg_app.cli", "schema"], capture_output=True, text=True, check=True
    )
    assert json.loads(printed.stdout) == json.loads(json.dumps(Recipe.model_json_schema()))
