import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semseg_app.cli.main import main

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
    with Image.open(out / "confusion_matrix.png") as picture:
        assert picture.format == "PNG"


def test_a_table_for_people(
    make_graph: MakeGraph, data: Path, evaluate: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(make_graph(), "--data", data, "--split", "val") == 0
    said = capsys.readouterr().out
    assert "rgb on stripes val" in said
    green = next(line for line in said.splitlines() if "green" in line)
    assert "66.67" in green
    assert "50.00" in green
    assert "mIoU 72.22   pixel accuracy 83.33   mean class accuracy 88.89   2 images" in said


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
    assert report["protocol"] == {"window": 16, "stride": 8, "scales": [0.5, 1.0, 1.5], "flip": True}
    assert evaluate(network_folder, "--data", data, "--engine", "onnxruntime", "--flip") == 2
    assert "--engine torch" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--split", "test"], "no split named 'test'; there are: val"),
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
    assert len(said.err.splitlines()) == 1
