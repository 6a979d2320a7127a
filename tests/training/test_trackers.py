"""Trackers read back by their own readers; the whole way through a run is in test_watched_runs.py."""

import json

import numpy as np
import pytest

from semseg_app.training.recipe import Recipe
from semseg_app.training.run.launch import make_accelerator
from semseg_app.training.run.trackers import Trackers, flat


def test_names_are_paths_and_what_is_no_number_is_left_out() -> None:
    entry = {"step": 3, "losses": {"a:b": 0.5}, "class_iou": {"student": {"car": None, "sky": 1}}, "warnings": ["low"]}
    assert flat(entry) == {"losses/a_b": 0.5, "class_iou/student/sky": 1}


def test_trackio_holds_every_entry_once_after_a_resume(tmp_path, monkeypatch, capsys):
    """Killed after step 3, resumed at step 2: step 3 comes again and is not sent again."""
    pytest.importorskip("trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    from trackio.sqlite_storage import SQLiteStorage

    recipe = Recipe.model_validate(
        {
            "name": "tiny",
            "output": tmp_path / "run",
            "data": {"root": "x"},
            "tracking": ["trackio"],
            "precision": "fp32",
        }
    )
    for first_step, steps in ((0, (1, 2, 3)), (2, (3, 4))):
        trackers = Trackers(recipe, make_accelerator(recipe), tmp_path / "run", first_step, print)
        for step in steps:
            trackers.log({"step": step, "losses": {"supervised": 1 / step}, "lr": 0.1})
            trackers.log({"step": step, "evaluation": {"student": {"miou": step / 10}}})
            trackers.overlays(step, {"photo": np.full((8, 8, 3), step, np.uint8)})
        trackers.finish()
    said = capsys.readouterr()
    assert said.out == ""  # which holds the answer of `semseg train --json`
    assert "Trackio" in said.err
    name = f"tiny-{json.loads((tmp_path / 'run' / 'tracking' / 'sent.json').read_text())['id']}"
    entries = SQLiteStorage.get_logs("tiny", name)
    for key, expected in (
        ("losses/supervised", [1, 1 / 2, 1 / 3, 1 / 4]),
        ("evaluation/student/miou", [0.1, 0.2, 0.3, 0.4]),
    ):
        assert [(entry["step"], entry[key]) for entry in entries if key in entry] == list(enumerate(expected, 1))
    assert [entry["step"] for entry in entries if "overlays/photo" in entry] == [1, 2, 3, 4]
