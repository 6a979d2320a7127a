"""Finished run folders as rows of a table: seeds of one recipe become one row, and nothing else does."""

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from semseg_app.errors import UserError
from semseg_app.training.recipe import checked_recipe
from semseg_app.training.run.folder import FREE_TO_CHANGE, leaves

FREE_IN_A_ROW = (FREE_TO_CHANGE | {"seed"}) - {"patience", "val_window"}
"""Keys in which the runs of one row may differ. The two that are left out move the scores of a run that has ended."""
LENGTH = "schedule.steps"


def read_runs(folders: Iterable[Path], say: Callable[[str], None]) -> dict[str, list[dict[str, Any]]]:
    """Reports of finished run folders, grouped by the name of their recipe (seeds of one name become one row).

    UserError where a folder or a seed comes twice, or where recipes of one name differ in more than seed and output.
    """
    rows: dict[str, dict[Path, dict[str, Any]]] = {}
    known: dict[Path, Path] = {}
    for folder in folders:
        path = folder / "report.json"
        try:
            report = json.loads(path.read_text(encoding="utf-8"))
            name, _ = report["name"], report["recipe"]["seed"]
        except FileNotFoundError:
            raise UserError(f"{path}: missing; {folder} is no run folder, or its run has not ended") from None
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{path}: not a report of semseg train") from None
        if folder.resolve() in known:
            raise UserError(f"{folder}: named twice; name every run once")
        known[folder.resolve()] = folder
        rows.setdefault(name, {})[folder] = report
    for name, runs in rows.items():
        if len(runs) > 1:
            _refuse_mixture(name, runs, say)
    return {name: list(runs.values()) for name, runs in rows.items()}


def _refuse_mixture(name: str, runs: dict[Path, dict[str, Any]], say: Callable[[str], None]) -> None:
    """UserError where the runs of a row are not one recipe with several seeds."""
    (first, expected), *others = ((folder, _values(folder, report)) for folder, report in runs.items())
    seeds: dict[int, Path] = {}
    for folder, report in runs.items():
        other = seeds.setdefault(report["recipe"]["seed"], folder)
        if other != folder:
            raise UserError(
                f"{other} and {folder} are both called {name!r} and have the same seed, {report['recipe']['seed']}; "
                "name one of them, or train the other with its own seed or name"
            )
    fix = "compare them under their own names: train one again with another name="
    for folder, values in others:
        for key in {**expected, **values}:
            was, is_now = json.dumps(expected.get(key)), json.dumps(values.get(key))
            follows_seed = _seedless(was, runs[first]) == _seedless(is_now, runs[folder])
            if was != is_now and not follows_seed and not (key == LENGTH and _of_a_comparison(name, runs)):
                raise UserError(
                    f"{first} and {folder} are both called {name!r}, but {key} is {was} in one and {is_now} in the "
                    f"other; {fix}"
                )
    lengths = sorted({report["recipe"]["schedule"]["steps"] for report in runs.values()})
    if len(lengths) > 1:
        steps = ", ".join(map(str, lengths))
        say(f"warning: the runs of {name!r} have {steps} steps, as rows of equal time do; the table has their mean")


def _values(folder: Path, report: dict[str, Any]) -> dict[str, Any]:
    """What decides a run's numbers, by dotted key."""
    recipe = checked_recipe(report["recipe"], folder / "report.json")
    return {key: value for key, value in leaves(recipe.model_dump(mode="json")).items() if key not in FREE_IN_A_ROW}


def _seedless(value: str, report: dict[str, Any]) -> str:
    """A value as JSON; a text with {seed} where it holds the run's seed, as in "teacher-1/best"."""
    seed = report["recipe"]["seed"]
    return re.sub(rf"(?<!\d){seed}(?!\d)", "{seed}", value) if value.startswith('"') else value


def _of_a_comparison(name: str, runs: Iterable[Path]) -> bool:
    """Whether these are folders as a comparison file names them, whose rows of equal time differ in their steps."""
    return all(re.fullmatch(rf"{re.escape(name)}-\d+", folder.resolve().name) for folder in runs)
