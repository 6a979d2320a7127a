"""What can be watched of a run: the page, the trackers, early stopping, averaged weights, when evaluations are due."""

import base64
import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from support.small_recipe import small_recipe

from semseg_app.errors import UserError
from semseg_app.training import loop
from semseg_app.training.loop import train
from semseg_app.training.recipe import Recipe
from semseg_app.training.report.page import write_page
from semseg_app.training.report.several import write_several


def recipe(root: Path, output: Path, **changes) -> Recipe:
    return small_recipe(root, output, **{"schedule": {"steps": 6}, "evaluate_every": 2} | changes)


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def quiet(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def finished(tiny_dataset, tmp_path_factory) -> Path:
    """A run with averaged weights."""
    run = tmp_path_factory.mktemp("watched") / "run"
    train(recipe(tiny_dataset, run, method={"name": "supervised", "ema": {"momentum": 0.5}}), say=quiet)
    return run


def test_the_page_needs_no_network_and_shows_the_scores_of_the_log(finished):
    page = (finished / "report.html").read_text()
    assert "http:" not in page
    assert "https:" not in page
    assert "<script" not in page
    assert "url(" not in page
    newest = [entry for entry in lines(finished) if "evaluation" in entry][-1]
    assert f"{100 * newest['evaluation']['average']['miou']:.2f} %" in page
    for name, iou in newest["class_iou"]["average"].items():
        assert name in page
        assert f"{100 * iou:.1f} %" in page
    assert 'http-equiv="refresh"' not in page  # the run is over
    assert "finished" in page


def test_confusion_and_photos_are_those_of_the_delivered_network(finished, tiny_dataset):
    """Against predictions of the saved model, one photo after another."""
    from semseg_app.data.layouts import open_dataset
    from semseg_app.models import load

    shown = json.loads((finished / "evaluation.json").read_text())
    data, network = open_dataset(tiny_dataset), load(finished / "last").eval()
    counts = np.zeros((3, 3), int)
    predicted = {}
    with torch.inference_mode():
        for sample in data.samples("val"):
            image, label = data.read_pair(sample)
            pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255
            predicted[sample.stem] = network.full_logits(pixels)[0].argmax(0).numpy()
            valid = label != 255
            np.add.at(counts, (label[valid], predicted[sample.stem][valid]), 1)
    assert shown["confusion"] == counts.tolist()
    assert shown["role"] == "average"
    photos = shown["photos"]
    assert [photo["name"] for photo in photos["watched"]] == ["val00", "val01", "val02", "val03"]
    scores = [photo["miou"] for photo in (*photos["worst"], *photos["best"][::-1])]
    assert scores == sorted(scores)
    assert len({photo["name"] for photo in (*photos["worst"], *photos["best"])}) == len(scores) == 5
    with Image.open(BytesIO(base64.b64decode(photos["worst"][0]["photo"]))) as picture:
        assert picture.size == (64, 48)


def test_averaged_weights_are_the_mean_that_was_asked_for(tiny_dataset, tmp_path, monkeypatch):
    """Momentum 0.5: every step moves the average half the way to the weights after that step."""
    seen: list[dict[str, torch.Tensor]] = []
    after = loop.Run.learn

    def learn(self, step: int) -> None:
        after(self, step)
        seen.append({name: tensor.detach().clone() for name, tensor in self.network.state_dict().items()})

    monkeypatch.setattr(loop.Run, "learn", learn)
    method = {"name": "supervised", "ema": {"momentum": 0.5}}
    report = train(recipe(tiny_dataset, tmp_path / "run", method=method, schedule={"steps": 3}), say=quiet)
    average = load_file(tmp_path / "run" / "last" / "model.safetensors")
    for name, tensor in average.items():
        if tensor.is_floating_point():
            expected = 0.5 * (0.5 * (seen[0][name] + seen[1][name])) + 0.5 * seen[2][name]
            assert torch.allclose(tensor, expected, atol=1e-6), name
    assert list(report["last"]) == ["average", "student"]
    student = load_file(tmp_path / "run" / "last-student" / "model.safetensors")
    assert all(torch.equal(tensor, seen[-1][name]) for name, tensor in student.items())


def test_patience_stops_and_a_resume_stops_at_once(tiny_dataset, tmp_path):
    """A learning rate of almost nothing: no evaluation is better than the first."""
    run, said = tmp_path / "run", list[str]()
    still = recipe(tiny_dataset, run, optimizer={"lr": 1e-12}, schedule={"steps": 40}, patience=2, evaluate_every=3)
    report = train(still, say=said.append)
    evaluated = [entry["step"] for entry in lines(run) if "evaluation" in entry]
    assert report["stopped_early"]
    assert report["steps"] == evaluated[-1] < 40
    best = report["best"]["student"]["step"]
    assert evaluated[evaluated.index(best) :] == [best, best + 3, best + 6]
    assert any("2 evaluations in a row" in line for line in said)
    assert "stopped early" in (run / "report.html").read_text()
    before = (run / "log.jsonl").read_text()
    again = train(still, resume=True, say=quiet)
    assert again["steps"] == report["steps"]
    assert (run / "log.jsonl").read_text() == before


def test_without_evaluate_every_evaluations_are_a_minute_apart(tiny_dataset, tmp_path, monkeypatch):
    """Ten are planned; on a clock where a step takes 25 seconds only every third is a minute after the last."""
    run = tmp_path / "run"
    clock = {"now": 0.0}
    learn = loop.Run.learn

    def slow(self, step: int) -> None:
        learn(self, step)
        clock["now"] += 25.0

    monkeypatch.setattr(loop.Run, "learn", slow)
    monkeypatch.setattr(loop.Run, "seconds", lambda self: clock["now"])
    train(recipe(tiny_dataset, run, schedule={"steps": 10}, evaluate_every=None, checkpoint_every=10), say=quiet)
    assert [entry["step"] for entry in lines(run) if "evaluation" in entry] == [3, 6, 9, 10]


def test_a_tracker_that_is_not_installed_is_one_line(tiny_dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"tracking: wandb is not installed: pip install 'semseg-app\[tracking\]'"):
        train(recipe(tiny_dataset, tmp_path / "run", tracking=["wandb"]), say=quiet)


def test_a_page_of_several_runs_names_what_differs(finished, tiny_dataset, tmp_path):
    other = tmp_path / "other"
    train(recipe(tiny_dataset, other, name="other", schedule={"steps": 2}, seed=3), say=quiet)
    page = write_several([finished, other], tmp_path / "both.html").read_text()
    assert "<td>seed</td><td>0</td><td>3</td>" in page
    assert "batch_size" not in page
    assert "different photos" not in page
    assert page.count("<polyline") >= 2


def test_a_killed_run_has_a_page_and_no_run_is_one_line(finished, tmp_path):
    broken = tmp_path / "run"
    broken.mkdir()
    (broken / "recipe.yaml").write_bytes((finished / "recipe.yaml").read_bytes())
    (broken / "log.jsonl").write_text((finished / "log.jsonl").read_text()[:-30])  # cut in its last line
    page = write_page(broken).read_text()
    assert "running" in page
    assert "losses" in page
    with pytest.raises(UserError, match=r"recipe.yaml is missing"):
        write_page(tmp_path)
