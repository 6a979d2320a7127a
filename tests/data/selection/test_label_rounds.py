"""The study of the default strategy, in its smallest form: what it records, and that it goes on where it stopped."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "label_rounds.py"


@pytest.fixture
def study() -> ModuleType:
    spec = importlib.util.spec_from_file_location("label_rounds", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_rounds_are_recorded_and_not_run_again(
    study: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    places = [f"--{name}={tmp_path / name}" for name in ("data", "out", "records")]
    monkeypatch.setattr(sys, "argv", ["label_rounds.py", "--tiny", "--seeds=3", *places])
    study.main()
    table = capsys.readouterr().out
    records = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "records").iterdir()}
    ways = ("cluster-uncertainty", "random")
    assert set(records) == {"3-start-0", *(f"3-{way}-{number}" for way in ways for number in (1, 2))}
    for way in ways:
        first, second, third = (records[f"3-{name}"]["labeled"] for name in ("start-0", f"{way}-1", f"{way}-2"))
        assert (len(set(first)), len(set(second)), len(set(third))) == (2, 4, 6)
        assert (second[:2], third[:4]) == (first, second)
        assert f"{100 * records[f'3-{way}-2']['miou']:.1f}" in table.splitlines()[-1]

    # Interrupted after a training of the last round: only that one is run again, with the same photos.
    gone = tmp_path / "records" / "3-random-2.json"
    gone.unlink()
    trained = []
    train = study.train
    monkeypatch.setattr(study, "train", lambda recipe, resume: trained.append(recipe.output) or train(recipe, resume))
    study.main()
    assert [Path(output).name for output in trained] == ["3-random-2"]
    assert json.loads(gone.read_text())["labeled"] == records["3-random-2"]["labeled"]
