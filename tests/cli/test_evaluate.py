import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semseg_app.cli.main import main
from semseg_app.metrics.confusion import ConfusionMatrix
from semseg_app.metrics.scores import METRICS, Metric

MakeGraph = Callable[..., Path]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two photos of three equal stripes, red, green, blue; the label calls the blue one green in the second photo."""
    root = tmp_path / "data"
    photo = np.zeros((20, 30, 3), np.uint8)
    label = np.zeros((20, 30), np.uint8)
    for index in range(3):
        photo[:, 10 * index : 10 * index + 10, index] = 255
        label[:, 10 * index : 10 * index + 10] = index
    for kind in ("images", "labels"):
        (root / kind / "val").mkdir(parents=True)
    for stem, written in (("a", label), ("b", np.minimum(label, 1))):
        Image.fromarray(photo).save(root / "images" / "val" / f"{stem}.png")
        Image.fromarray(written).save(root / "labels" / "val" / f"{stem}.png")
    (root / "dataset.yaml").write_text("name: stripes\nclasses: [red, green, blue]\n")
    return root


@pytest.fixture
def evaluate(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run the verb in this process; -> exit code."""

    def run(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["semseg", "evaluate", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        assert isinstance(caught.value.code, int)
        return caught.value.code

    return run


def test_scores_as_json_and_files(
    make_graph: MakeGraph, data: Path, tmp_path: Path, evaluate: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "scores"
    assert evaluate(make_graph(), "--data", data, "--out", out, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    # red 400/400; green 400 hits of 600 in the union; blue 200 hits of 400 in the union
    assert report["classes"]["red"]["iou"] == 1
    assert report["classes"]["green"]["iou"] == pytest.approx(2 / 3)
    assert report["classes"]["blue"]["iou"] == pytest.approx(1 / 2)
    assert report["miou"] == pytest.approx((1 + 2 / 3 + 1 / 2) / 3)
    assert report["pixel_accuracy"] == pytest.approx(5 / 6)
    assert (report["images"], report["pixels"], report["split"], report["data"]) == (2, 1200, "val", "stripes")
    assert (report["model"], report["engine"]) == ("rgb", "onnxruntime")
    assert json.loads((out / "evaluation.json").read_text()) == report
    matrix = json.loads((out / "confusion_matrix.json").read_text())
    assert matrix["counts"] == [[400, 0, 0], [0, 400, 200], [0, 0, 200]]
    assert matrix["classes"] == ["red", "green", "blue"]
    assert 0 < report["boundary_iou"] < 1
    assert sum(each["pixels"] for each in report["reliability"]) == 1200
    error = sum(each["pixels"] * abs(each["accuracy"] - each["confidence"]) for each in report["reliability"]) / 1200
    assert report["calibration_error"] == pytest.approx(error)
    for name in ("confusion_matrix.png", "reliability.png"):
        with Image.open(out / name) as picture:
            assert picture.format == "PNG"


def test_a_row_is_all_that_a_new_metric_needs(
    make_graph: MakeGraph,
    data: Path,
    evaluate: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def worst_class(matrix: ConfusionMatrix) -> float:
        return float(np.nanmin(matrix.result().iou))

    row = Metric("IoU of the worst class", "the lowest IoU of any class", ConfusionMatrix, worst_class)
    monkeypatch.setitem(METRICS, "worst_iou", row)
    assert evaluate(make_graph(), "--data", data) == 0
    assert "IoU of the worst class 50.00" in capsys.readouterr().out
    assert evaluate(make_graph(), "--data", data, "--json") == 0
    assert json.loads(capsys.readouterr().out)["worst_iou"] == pytest.approx(0.5)


def test_every_metric_is_in_the_table_of_the_docs() -> None:
    described = (Path(__file__).parents[2] / "docs" / "evaluate.md").read_text()
    assert not [row.title for row in METRICS.values() if f"| {row.title} | {row.description} |" not in described]


def test_a_table_for_people(
    make_graph: MakeGraph, data: Path, evaluate: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(make_graph(), "--data", data, "--split", "val") == 0
    said = capsys.readouterr().out
    assert "rgb on stripes val" in said
    green = next(line for line in said.splitlines() if "green" in line)
    assert "66.67" in green
    assert "50.00" in green
    assert "mIoU 72.22   pixel accuracy 83.33   mean class accuracy 88.89   boundary IoU " in said
    assert re.search(r"calibration error \d+\.\d\d   2 images", said)


def test_averaging_takes_the_torch_engine_of_a_folder_that_has_both(
    make_graph: MakeGraph,
    network_folder: Path,
    data: Path,
    evaluate: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_graph(network_folder / "onnx" / "model.onnx")
    options = ("--slide", 16, "--stride", 8, "--scales", "0.5,1,1.5", "--flip", "--json", "--device", "cpu")
    assert evaluate(network_folder, "--data", data, *options) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["model"], report["engine"]) == ("tiny", "torch")
    whole = {"short_side": None, "long_side": None}
    assert report["protocol"] == {"window": 16, "stride": 8, "scales": [0.5, 1.0, 1.5], "flip": True, **whole}
    assert evaluate(network_folder, "--data", data, "--engine", "onnxruntime", "--flip") == 2
    assert "--engine torch" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--split", "test"], "no split or list named 'test'; choose one of val"),
        (["--scales", "1;2"], "--scales 1;2: numbers with commas"),
        (["--flip"], "onnxruntime does not give"),
        (["--stride", "4"], "needs sliding windows"),
    ],
)
def test_misuse_is_one_line_and_exits_with_2(
    make_graph: MakeGraph,
    data: Path,
    evaluate: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    assert evaluate(make_graph(), "--data", data, *arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err
    lines = [line for line in said.err.splitlines() if not line.startswith(f"{data}: ")]  # what the data was taken for
    assert len(lines) == 1
