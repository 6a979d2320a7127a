"""What every method owes the loop, whichever it is: one tester for all."""

import copy
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.in_process import semseg
from support.train_frozen_statistics import train_all
from support.two_ranks import on_two_ranks

from semseg_app.data.layouts import open_dataset
from semseg_app.models import ModelSpec, build
from semseg_app.training.data.streams import Batch, ImageDataset, LabeledBatch, UnlabeledBatch
from semseg_app.training.loop import train
from semseg_app.training.methods import METHODS, build_method
from semseg_app.training.recipe import Recipe

CNN = {"architecture": "segformer", "encoder": "tu-test_efficientnet", "weights": None, "decoder_channels": 16}
VIT = {"architecture": "setr", "encoder": "tu-test_vit", "weights": None, "decoder_channels": 16}
S4 = {"name": "s4former", "shuffle_block": 32}

# Config and network; the losses of a step; what it delivers and what is evaluated beside it.
CASES = {
    "supervised": ({"name": "supervised"}, CNN, {"supervised"}, ["student"]),
    "mean-teacher": ({"name": "mean-teacher"}, CNN, {"supervised", "unsupervised"}, ["teacher", "student"]),
    "cutmix-seg": (
        {"name": "mean-teacher", "loss": "squared", "mix": "french"},
        CNN,
        {"supervised", "unsupervised"},
        ["teacher", "student"],
    ),
    "fixmatch": ({"name": "fixmatch"}, CNN, {"supervised", "unsupervised"}, ["student"]),
    "unimatch": ({"name": "unimatch"}, CNN, {"supervised", "strong", "feature"}, ["student"]),
    "augseg": ({"name": "augseg"}, CNN, {"supervised", "unsupervised"}, ["teacher", "student"]),
    "unimatch-v2": (
        {"name": "unimatch-v2"},
        VIT | {"architecture": "dpt"},
        {"supervised", "strong"},
        ["teacher", "student"],
    ),
    "pseudoseg": (
        {"name": "pseudoseg", "cutout_size": 16},
        CNN,
        {"supervised", "attention", "classifier", "unsupervised"},
        ["student"],
    ),
    "pc2seg": ({"name": "pc2seg", "cutout_size": 16}, CNN, {"supervised", "consistency", "contrast"}, ["student"]),
    "pc2seg-consistency": (
        {"name": "pc2seg", "cutout_size": 16, "contrast_weight": 0},
        CNN,
        {"supervised", "consistency"},
        ["student"],
    ),
    "s4former": (S4, VIT, {"supervised", "mixed", "pasa", "ncr"}, ["student", "teacher"]),
    "s4former-unimatch": (S4 | {"host": "unimatch"}, VIT, {"supervised", "mixed", "pasa", "ncr"}, ["student"]),
    "s4former-augseg": (
        S4 | {"host": "augseg"},
        VIT,
        {"supervised", "mixed", "pasa", "ncr"},
        ["student", "teacher"],
    ),
}
WITH_THRESHOLD = [
    name for name, (config, *_) in CASES.items() if config["name"] not in ("supervised", "pseudoseg", "pc2seg")
]


def recipe(root: Path, output: Path, case: str, **changes) -> dict:
    """Four steps without padding (the scale starts at 1), so that every batch has the same number of valid pixels."""
    config, network, *_ = CASES[case]
    content = {
        "name": case,
        "output": str(output),
        "data": {"root": str(root), "unlabeled": "train"},
        "model": network,
        "view": {"crop": [64, 64], "scale": [1.5, 2.0]},
        "method": {"threshold": 0.3} | config if case in WITH_THRESHOLD else config,
        "optimizer": {"lr": 0.02},
        "schedule": {"steps": 4},
        "batch_size": 4,
        "precision": "fp32",
        "threads": 1,
        "log_every": 1,
        "evaluate_every": 4,
        "checkpoint_every": 2,
    }
    return content | changes


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.fixture(scope="module")
def whole_runs(tiny_dataset, tmp_path_factory) -> Path:
    """One uninterrupted run of each method, made when first asked for."""
    return tmp_path_factory.mktemp("methods")


def whole_run(case: str, root: Path, folder: Path) -> Path:
    if not (folder / case).exists():
        train(Recipe.model_validate(recipe(root, folder / case, case)), say=lambda line: None)
    return folder / case


@pytest.mark.parametrize("case", CASES)
def test_losses_are_named_and_finite_and_the_roles_are_saved(case, tiny_dataset, whole_runs):
    _, _, names, roles = CASES[case]
    run = whole_run(case, tiny_dataset, whole_runs)
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "losses" in line]
    assert len(steps) == 4
    for line in steps:
        assert set(line["losses"]) == names
        assert all(math.isfinite(value) for value in line["losses"].values())
        assert ("pseudo_labels" in line) == (case != "supervised")
    # With a threshold that is reached, every loss has something to say.
    for name in names:
        assert any(line["losses"][name] > 0 for line in steps), name
    report = json.loads((run / "report.json").read_text())
    assert list(report["last"]) == roles
    for link in ["last", *[f"last-{role}" for role in roles[1:]]]:
        weights = load_file(run / link / "model.safetensors")
        assert all(name.startswith(("encoder.", "decoder.", "classifier.")) for name in weights)


@pytest.mark.parametrize("case", CASES)
def test_interrupted_is_uninterrupted(case, tiny_dataset, whole_runs, tmp_path, monkeypatch):
    method = METHODS[CASES[case][0]["name"]].method
    after_step = method.after_step

    def die(self, step: int) -> None:
        after_step(self, step)
        if step == 2:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(method, "after_step", die)
        with pytest.raises(Killed):
            train(Recipe.model_validate(recipe(tiny_dataset, tmp_path / "run", case)), say=lambda line: None)
    # With a loader process, to which the strong views must travel.
    again = recipe(
        tiny_dataset, tmp_path / "run", case, data={"root": str(tiny_dataset), "unlabeled": "train", "workers": 1}
    )
    train(Recipe.model_validate(again), resume=True, say=lambda line: None)
    whole = whole_run(case, tiny_dataset, whole_runs)
    for model in whole.glob("last*/model.safetensors"):
        ours, theirs = load_file(model), load_file(tmp_path / "run" / model.parent.name / model.name)
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.slow
def test_two_ranks_are_one_process_that_accumulates(tiny_dataset, tmp_path):
    """Both see the same micro-batches with the same random draws; gradients differ by rounding only."""
    one = [recipe(tiny_dataset, tmp_path / "one" / case, case, accumulate=2) for case in CASES]
    two = [recipe(tiny_dataset, tmp_path / "two" / case, case) for case in CASES]
    train_all(copy.deepcopy(one))
    (tmp_path / "recipes.json").write_text(json.dumps(two))
    script = Path(__file__).parents[2] / "support" / "train_frozen_statistics.py"
    on_two_ranks(str(script), str(tmp_path / "recipes.json"))
    different = []
    for case in CASES:
        for model in (tmp_path / "one" / case).glob("last*/model.safetensors"):
            ours, theirs = load_file(model), load_file(tmp_path / "two" / case / model.parent.name / model.name)
            learned = [name for name in ours if not name.endswith("num_batches_tracked")]
            if not all(torch.allclose(ours[name], theirs[name], rtol=1e-3, atol=1e-5) for name in learned):
                different.append(f"{case}/{model.parent.name}")
    assert not different


@pytest.fixture(scope="module")
def labeled(tiny_dataset) -> ImageDataset:
    data = open_dataset(tiny_dataset)
    return ImageDataset(data, data.samples("train"), with_labels=True)


@pytest.mark.parametrize("case", WITH_THRESHOLD)
def test_without_confidence_unlabeled_images_teach_exactly_nothing(case, labeled):
    """No gradient ever reaches a teacher, and the losses are what the method documents."""
    config, network, *_ = CASES[case]
    content = recipe(Path("nowhere"), Path("run"), case, method={"threshold": 1.0} | config)
    torch.manual_seed(0)
    spec = ModelSpec(**{key: value for key, value in network.items() if key != "weights"}, num_classes=3)
    method = build_method(Recipe.model_validate(content).method, build(spec), labeled).train()
    labels = torch.randint(0, 3, (2, 64, 64))
    if "augseg" in case:  # it pastes labeled pixels, which are always sure: leave it none
        labels = torch.full_like(labels, 255)
    nothing = torch.zeros(2, 64, 64, dtype=torch.bool)
    strong = [torch.rand(2, 3, 64, 64) for _ in method.strong_views]
    batch = Batch(
        LabeledBatch(torch.rand(2, 3, 64, 64), labels, nothing, torch.tensor(float(labels.numel()))),
        UnlabeledBatch(torch.rand(2, 3, 64, 64), strong, nothing, [nothing] * len(strong)),
    )
    losses = method(batch, 0)
    unlabeled = {name: float(loss.detach()) for name, loss in losses.items() if name != "supervised"}
    assert unlabeled
    assert set(unlabeled.values()) == {0.0}
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in method.named_parameters():
        if name.startswith("teacher."):
            assert parameter.grad is None
        else:
            assert parameter.grad is None or bool(torch.isfinite(parameter.grad).all())


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES)
def test_a_gpu_trains_it_and_a_cpu_scores_it_alike(tiny_dataset, tmp_path, case):
    changes = {"data": {"root": str(tiny_dataset), "unlabeled": "train", "workers": 0}}
    report = train(
        Recipe.model_validate(recipe(tiny_dataset, tmp_path / "run", case, **changes)), say=lambda line: None
    )
    assert report["device"] == torch.cuda.get_device_name()
    scored = semseg("evaluate", tmp_path / "run" / "last", "--data", tiny_dataset, "--device", "cpu", "--json")
    assert scored.returncode == 0, scored.stderr
    delivered = next(iter(report["last"].values()))
    assert json.loads(scored.stdout)["miou"] == pytest.approx(delivered["miou"], abs=0.01)


@pytest.mark.gpu
@pytest.mark.parametrize("changes", [{"precision": "bf16"}, {"precision": "fp16"}, {"compile": True}], ids=str)
def test_a_gpu_learns_as_in_fp32(tiny_dataset, tmp_path, changes):
    losses = []
    for name, keys in (("fp32", {}), ("changed", changes)):
        data = {"root": str(tiny_dataset), "workers": 0}
        content = recipe(tiny_dataset, tmp_path / name, "supervised", data=data, **{"precision": "fp32"} | keys)
        train(Recipe.model_validate(content), say=lambda line: None)
        lines = (tmp_path / name / "log.jsonl").read_text().splitlines()
        losses.append([entry["losses"]["supervised"] for entry in map(json.loads, lines) if "losses" in entry])
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
