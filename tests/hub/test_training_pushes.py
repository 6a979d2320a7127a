"""Training with push_to: every best model becomes a revision, and nothing that happens there matters to the run."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hub_stand_in import Fault, StandIn
from support.hub_machines import Machine

from semseg_app.errors import UserError

RECIPE = """
name: rgb
license: mit
push_to: ann/rgb
data: {root: DATA}
model: {architecture: segformer, encoder: tu-test_efficientnet, weights: null, decoder_channels: 32}
view: {crop: [32, 64]}
schedule: {steps: 12}
optimizer: {name: adamw, lr: 0.003}
batch_size: 2
precision: fp32
threads: 1
evaluate_every: 2
"""


@pytest.fixture
def train(
    tiny_dataset: Path, tmp_path: Path, machine: Callable[..., Machine], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[list[str], Path]]:
    """train(token) -> what it said, its folder. The Hub is known to the process that pushes, by its environment."""
    from semseg_app.training.loop import train
    from semseg_app.training.recipe import load_recipe

    (tmp_path / "data").mkdir()
    for child in tiny_dataset.iterdir():
        if child.name != "dataset.yaml":
            (tmp_path / "data" / child.name).symlink_to(child)
    info = (tiny_dataset / "dataset.yaml").read_text()
    (tmp_path / "data" / "dataset.yaml").write_text(f"{info}\nlicense: cc0-1.0\n")
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("DATA", str(tmp_path / "data")))

    def run(token: str | None = "hf_ann", *overrides: str) -> tuple[list[str], Path]:
        for name, value in machine("here", token).environment.items():
            if name.startswith("HF_"):
                monkeypatch.setenv(name, value)
        if token is None:
            monkeypatch.delenv("HF_TOKEN", raising=False)
            monkeypatch.setattr("huggingface_hub.get_token", lambda: None)  # the developer's own
        said: list[str] = []
        recipe = load_recipe(str(tmp_path / "recipe.yaml"), [f"output={tmp_path / 'run'}", *overrides])
        train(recipe, say=said.append)
        return said, tmp_path / "run"

    return run


def test_every_best_model_is_a_revision(hub: StandIn, train: Callable[..., tuple[list[str], Path]]) -> None:
    hub.faults.append(Fault("PUT /lfs/", 503))
    said, folder = train()
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    scores = {one["step"]: one["evaluation"]["student"]["miou"] for one in entries if "evaluation" in one}
    best = [step for step, score in scores.items() if score > max((scores[s] for s in scores if s < step), default=-1)]
    assert len(best) > 1
    repo = hub.repo("ann/rgb")
    assert repo.private
    assert repo.titles[1:] == [f"rgb: student, step {step}, val mIoU {100 * scores[step]:.2f} %" for step in best]
    assert said[-1].startswith("done in")
    assert f"{len(best)} best models pushed to ann/rgb" in said
    assert not (folder / "push").exists()
    weights = repo.files(f"rgb-student-{best[-1]:07d}")["model.safetensors"]
    assert weights == (folder / "best" / "model.safetensors").read_bytes()
    assert repo.files(f"rgb-student-{best[0]:07d}")["model.safetensors"] != weights


def test_a_hub_that_hangs_or_refuses_changes_nothing(
    hub: StandIn, train: Callable[..., tuple[list[str], Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("semseg_app.training.run.publisher.AT_THE_END", 5.0)
    hub.faults.append(Fault("POST /api/repos/create", "hang", times=99))
    start = time.monotonic()
    said, folder = train("hf_ann", "schedule.steps=2")
    assert time.monotonic() - start < 60
    assert (folder / "report.json").exists()
    assert hub.count("hung POST /api/repos/create") == 1
    warning = next(line for line in said if "did not reach ann/rgb" in line)
    assert "semseg push --weights-only" in warning
    (kept,) = (folder / "push").iterdir()
    assert (kept / "model.safetensors").read_bytes() == (folder / "best" / "model.safetensors").read_bytes()


def test_what_is_missing_is_said_at_the_start(
    hub: StandIn, train: Callable[..., tuple[list[str], Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("semseg_app.training.run.publisher.AT_THE_END", 20.0)
    said, folder = train(None, "schedule.steps=1")
    assert any("no token of the Hub" in line for line in said[:4])
    assert any("was not pushed: ann/rgb: writing to the Hub needs a token" in line for line in said)
    assert (folder / "report.json").exists()
    assert not hub.repos


def test_push_to_is_an_id(tmp_path: Path) -> None:
    from semseg_app.training.recipe import load_recipe

    (tmp_path / "recipe.yaml").write_text(RECIPE)
    with pytest.raises(UserError, match="push_to"):
        load_recipe(str(tmp_path / "recipe.yaml"), ["push_to=just-a-name"])
