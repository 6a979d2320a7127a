"""What is counted of pseudo labels, when it warns and when it stops; and where the numbers appear in a run."""

import json
from types import SimpleNamespace

import pytest
import torch
from support.small_recipe import small_recipe
from torch import Tensor

from semseg_app.data.layouts import open_dataset
from semseg_app.errors import UserError
from semseg_app.models import load
from semseg_app.training.loop import train
from semseg_app.training.methods.guardrails import GuardrailConfig, PseudoLabelMonitor
from semseg_app.training.recipe import Recipe

CLASSES = ["sky", "road", "car"]


def monitor(labeled: tuple[int, int, int] = (50, 30, 20), threshold: float = 0.8, **limits) -> PseudoLabelMonitor:
    """Over a labeled set with so many pixels of each class."""
    data = SimpleNamespace(info=SimpleNamespace(classes=CLASSES))
    dataset = SimpleNamespace(data=data, class_counts=lambda: torch.tensor(labeled))
    return PseudoLabelMonitor(GuardrailConfig(**limits), dataset, threshold)


def counts(unsure: list[int], sure: list[int]) -> Tensor:
    return torch.tensor([unsure, sure])


def test_numbers_against_a_plain_count():
    torch.manual_seed(0)
    watch = monitor()
    predicted, confident = [0, 0, 0], [0, 0, 0]
    for _ in range(2):
        labels = torch.randint(0, 2, (3, 5, 7))  # never a car
        confidence, valid = torch.rand(3, 5, 7), torch.rand(3, 5, 7) < 0.7
        confidence[0, 0, 0] = 0.8  # counts as confident
        watch.observe(labels, confidence, valid)
        for label, sure, counted in zip(labels.flatten(), confidence.flatten(), valid.flatten(), strict=True):
            if counted:
                predicted[int(label)] += 1
                confident[int(label)] += int(sure >= torch.tensor(0.8))
    taken = watch.take()
    assert taken.sum(0).tolist() == predicted
    assert taken[1].tolist() == confident
    assert watch.take().tolist() == [[0, 0, 0], [0, 0, 0]]

    entry, warnings = watch.judge(taken, steps=1, step=1)
    assert warnings == []
    assert entry["coverage"] == pytest.approx(sum(confident) / sum(predicted), abs=1e-5)
    share = [count / sum(predicted) for count in predicted]
    assert entry["drift"] == pytest.approx((abs(share[0] - 0.5) + abs(share[1] - 0.3) + 0.2) / 2, abs=1e-5)
    assert entry["share_of_sure"]["road"] == pytest.approx(confident[1] / sum(confident), abs=1e-5)
    by_class = entry["coverage_by_class"]
    assert by_class["road"] == pytest.approx(confident[1] / predicted[1], abs=1e-5)
    assert by_class["car"] is None
    assert watch.judge(watch.take(), steps=1, step=2) == ({}, [])


def test_low_coverage_is_said_once_a_patience():
    watch = monitor(patience=200, low_coverage=0.02)
    low, high = counts([50, 29, 20], [0, 1, 0]), counts([40, 30, 20], [10, 0, 0])

    def warnings(*intervals: Tensor) -> list[bool]:
        return [watch.judge(interval, steps=80, step=0)[1] != [] for interval in intervals]

    assert warnings(low, low, high, low, low, low) == [False] * 5 + [True]
    assert warnings(low, low, low) == [False, False, True]
    entry, [warning] = monitor(patience=1, low_coverage=0.02).judge(low, steps=20, step=20)
    assert entry["coverage"] == 0.01
    assert warning == (
        "only 1.00 % of the unlabeled pixels reach the confidence of 0.8: the unlabeled images teach next to nothing; "
        "lower method.threshold, or train longer on the labeled ones first"
    )


def test_drift_is_said():
    watch = monitor(patience=100)
    near, far = counts([0, 0, 0], [45, 30, 25]), counts([0, 0, 0], [0, 20, 80])
    assert watch.judge(far, steps=80, step=0)[1] == []
    assert watch.judge(near, steps=80, step=0)[1] == []
    assert watch.judge(far, steps=80, step=0)[1] == []
    assert watch.judge(far, steps=80, step=0)[1] == [
        "the pseudo labels have drifted by 0.60: 80 % of the unlabeled pixels are predicted as car (20 % of the "
        "labeled ones); take a method with an EMA teacher, raise method.threshold, or lower optimizer.lr"
    ]


def test_collapse_stops_with_an_explanation():
    watch = monitor(patience=200)
    collapsed, healthy = counts([0, 0, 0], [0, 999, 1]), counts([0, 0, 0], [0, 980, 20])
    for interval in (collapsed, collapsed, healthy, collapsed, collapsed):
        watch.judge(interval, steps=80, step=0)
    with pytest.raises(UserError) as stopped:
        watch.judge(collapsed, steps=80, step=480)
    assert str(stopped.value) == (
        "step 480: the pseudo labels have collapsed: 99.9 % of the unlabeled pixels are predicted as road (30.0 % of "
        "the labeled ones) for 240 steps; lower optimizer.lr, set method.ramp_up, or use pretrained weights"
    )


def test_a_class_that_rules_the_labels_may_rule_the_predictions():
    watch = monitor(labeled=(995, 5, 0), patience=1)
    for _ in range(5):
        watch.judge(counts([0, 0, 0], [1000, 0, 0]), steps=100, step=0)
    with pytest.raises(UserError, match="predicted as car"):
        watch.judge(counts([0, 0, 1000], [0, 0, 0]), steps=100, step=0)


def recipe(root, output, **method) -> Recipe:
    return small_recipe(
        root,
        output,
        name="watched",
        data={"root": root, "labeled": "few-labeled", "unlabeled": "few-unlabeled"},
        method={"name": "mean-teacher", **method},
        log_every=4,
        evaluate_every=8,
    )


def test_a_run_shows_them_in_its_log_its_lines_and_its_report(tiny_dataset, tmp_path):
    lines: list[str] = []
    report = train(recipe(tiny_dataset, tmp_path / "run", threshold=0.5), say=lines.append)
    logged = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    entries = [line["pseudo_labels"] for line in logged if "losses" in line]
    assert len(entries) == 2
    assert all(entry.keys() == {"coverage", "drift", "coverage_by_class", "share_of_sure"} for entry in entries)
    assert report["pseudo_labels"] == entries[-1]
    progress = [line for line in lines if line.startswith("step ")]
    for line, entry in zip(progress, entries, strict=True):
        assert f"  coverage {100 * entry['coverage']:.1f} %  drift {entry['drift']:.2f}  " in line

    data = open_dataset(tiny_dataset)
    for role, link in (("teacher", "last"), ("student", "last-student")):
        network = load(tmp_path / "run" / link)
        labeled = sure = right = 0
        by_class = torch.zeros(3, 2)  # of each predicted class: sure pixels, right ones of them
        for sample in data.samples("val"):
            image = torch.from_numpy(data.read_image(sample).copy()).permute(2, 0, 1).unsqueeze(0) / 255
            label = torch.from_numpy(data.read_label(sample)).long()
            with torch.no_grad():
                confidence, predicted = network.full_logits(image).softmax(1)[0].max(0)
            known = label != 255
            labeled += int(known.sum())
            sure += int((known & (confidence >= 0.5)).sum())
            right += int((known & (confidence >= 0.5) & (predicted == label)).sum())
            for kind in range(3):
                chosen = known & (confidence >= 0.5) & (predicted == kind)
                by_class[kind] += torch.tensor([chosen.sum(), (chosen & (label == kind)).sum()])
        scores = report["last"][role]
        assert 0 < sure < labeled
        assert scores["coverage"] == pytest.approx(sure / labeled, abs=1e-3)
        assert scores["agreement"] == pytest.approx(right / sure, abs=1e-3)
        classes = report["pseudo_label_classes"][role]
        for name, (of_class, of_these) in zip(data.info.classes, by_class.tolist(), strict=True):
            assert classes[name]["share_of_sure"] == pytest.approx(of_class / sure, abs=1e-3)
            expected = None if of_class == 0 else pytest.approx(of_these / of_class, abs=5e-3)
            assert classes[name]["precision"] == expected
        said = next(line for line in lines if f"{role} val mIoU" in line)
        assert f"({100 * scores['coverage']:.1f} %) {100 * scores['agreement']:.1f} % are right" in said


def test_a_run_warns_and_says_nothing_of_pixels_that_are_not_there(tiny_dataset, tmp_path):
    lines: list[str] = []
    limits = {"patience": 4}
    report = train(recipe(tiny_dataset, tmp_path / "run", threshold=1.0, guardrails=limits), say=lines.append)
    warned = [line for line in lines if line.startswith("warning: step ")]
    assert [line.split(": ")[1] for line in warned] == ["step 4", "step 8"]
    assert "only 0.00 % of the unlabeled pixels reach the confidence of 1.0" in warned[0]
    assert report["last"]["teacher"]["coverage"] == 0
    assert "agreement" not in report["last"]["teacher"]
    assert not any("are right" in line for line in lines)
