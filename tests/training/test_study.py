"""The study on CamVid in its smallest form, on generated streets: its records, and that it goes on where it stopped."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

from semseg_app.synthetic import generate
from semseg_app.training.compare import Comparison, load_comparison, run_name

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "study.py"


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("study", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    monkeypatch.chdir(tmp_path)
    generate(tmp_path / "streets", train=48, val=2, size=(64, 64), labeled_counts=())
    (tmp_path / "streets" / "splits").mkdir(exist_ok=True)
    stems = sorted(path.stem for path in (tmp_path / "streets" / "images" / "train").iterdir())
    for name, listed in (("1_16-labeled", stems[:3]), ("1_16-unlabeled", stems[3:])):
        (tmp_path / "streets" / "splits" / f"{name}.txt").write_text("\n".join(listed))
    return module


def start(study: ModuleType, monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
    arguments = ["study.py", "--tiny", "--data=streets", "--records=records", *options]
    monkeypatch.setattr(sys, "argv", arguments)
    study.main()


def test_rows_are_recorded_and_not_run_again(
    study: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    options = ("--rows=1/16 labels, 300 steps;self-training", "--set=view.flip=0")
    start(study, monkeypatch, *options)
    table = capfd.readouterr().out
    records = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "records").iterdir()}
    assert set(records) == {"1-16-labels-300-steps-0", "self-training-0"}
    for record in records.values():
        assert f"{100 * record['miou']:.1f}" in table
        assert record["recipe"]["view"]["flip"] == 0
        assert record["data"]["labeled"]["images"] == 3
    assert records["self-training-0"]["data"]["unlabeled"]["images"] == 45
    assert len(list((tmp_path / "runs/study/pseudo-labels-0").rglob("*.png"))) == 45

    gone = tmp_path / "records" / "self-training-0.json"
    gone.unlink()
    trained: list[str] = []
    run_comparison = study.run_comparison

    def noted(comparison: Comparison, *rest: Any, **names: Any) -> Any:
        trained.extend(comparison.rows)
        return run_comparison(comparison, *rest, **names)

    monkeypatch.setattr(study, "run_comparison", noted)
    start(study, monkeypatch, *options)
    assert trained == ["self-training"]
    assert json.loads(gone.read_text()) == records["self-training-0"]


def test_the_table_of_classes_and_the_curve(
    study: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    classes = {
        "road": {"coverage": 0.912, "precision": 0.987, "share_of_sure": 0.6},
        "fence": {"coverage": 0.0, "precision": None, "share_of_sure": 0.0},
        "pole": {"coverage": None, "precision": None, "share_of_sure": 0.0},
    }
    facts = {"seed": 0, "miou": 0.5, "data": {"labeled": {"images": 23}}}
    (tmp_path / "records").mkdir()
    for row, more in (("KD", {}), ("AugSeg", {"pseudo_label_classes": {"teacher": classes, "student": {}}})):
        file = tmp_path / "records" / f"{run_name(row)}-0.json"
        file.write_text(json.dumps(facts | {"row": row} | more))
    start(study, monkeypatch, "--table", "--curve=curve.png")
    lines = capsys.readouterr().out.splitlines()
    assert "| coverage / precision, % | road | fence | pole |" in lines
    assert "| AugSeg | 91 / 99 | 0 / - | - / - |" in lines
    with Image.open(tmp_path / "curve.png") as picture:
        assert len(picture.convert("RGB").getcolors(1 << 20) or []) > 100


@pytest.mark.slow
def test_every_row(study: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start(study, monkeypatch)
    rows = [*load_comparison(study.COMPARISON).rows, "int8"]
    assert {path.name for path in (tmp_path / "records").iterdir()} == {f"{run_name(row)}-0.json" for row in rows}
