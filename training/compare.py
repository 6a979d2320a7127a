"""Fair comparisons: several runs side by side, over seeds, against a baseline of equal steps and of equal time.

A comparison is one YAML file:

    recipe: streets-teacher              what all rows share: a preset or a recipe file ...
    set: {data.root: demo/streets}       ... with these keys, as on the command line of `semseg train`
    seeds: [0, 1, 2]
    baseline: alone
    rows:                                what each row changes
      alone: {}
      KD: {method.kd.weight: 1.0}
      alone, as long as KD: {same_time_as: KD}

`{seed}` in a value is the seed: a student of seed 1 can have the teacher of seed 1. `same_time_as` gives a row as many
steps as the baseline could have made while the other row, with the same seed, made its own: by the median time of a
step in each, since all the seconds of a run tell what else the machine did and whether it was interrupted.
"""

import json
import re
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from semseg_app.data.dataset import read_yaml
from semseg_app.errors import UserError, explain
from semseg_app.training.recipe import Recipe, load_recipe

Report = dict[str, Any]


class Comparison(BaseModel):
    """The contents of the file."""

    model_config = ConfigDict(extra="forbid")

    recipe: str
    set: dict[str, Any] = Field(default_factory=dict)
    seeds: list[int] = Field(default=[0], min_length=1)
    baseline: str
    rows: dict[str, dict[str, Any]] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_exist(self) -> "Comparison":
        named = {"baseline": self.baseline}
        for row, changes in self.rows.items():
            if "same_time_as" in changes:
                named[f"rows.{row}.same_time_as"] = changes["same_time_as"]
        for place, name in named.items():
            if name not in self.rows or "same_time_as" in self.rows[name]:
                raise ValueError(f"{place}: {name!r} is no row with a length of its own; rows: {', '.join(self.rows)}")
        return self


class Row(NamedTuple):
    """One line of the table; scores in percent, of the last step of each run (nothing is selected on val)."""

    name: str
    steps: int
    scores: list[float]
    gain: float | None
    """Mean score minus the baseline's, in points."""
    seconds: float
    memory_mb: float

    @property
    def deviation(self) -> float:
        return statistics.stdev(self.scores) if len(self.scores) > 1 else 0.0


def load_comparison(path: Path) -> Comparison:
    """A comparison file. UserError names the key at fault."""
    try:
        return Comparison.model_validate(read_yaml(path))
    except ValidationError as error:
        raise explain(error, path) from None


def run_comparison(
    comparison: Comparison, out: Path, say: Callable[[str], None] | None = None
) -> dict[str, list[Report]]:
    """Train what is not in `out` yet and go on with what was interrupted; the reports of every row.

    Runs lie in <out>/<row>-<seed>. Several processes may share the work by taking different seeds.
    """
    # All recipes are read before the first run: a wrong key must not show after an hour.
    for row in comparison.rows:
        _recipe(comparison, row, comparison.seeds[0], out)
    # Rows that wait for another row's seconds come last.
    ordered = sorted(comparison.rows, key=lambda row: "same_time_as" in comparison.rows[row])
    reports: dict[str, list[Report]] = {row: [] for row in comparison.rows}
    for seed in comparison.seeds:
        for row in ordered:
            recipe = _recipe(comparison, row, seed, out)
            other = comparison.rows[row].get("same_time_as")
            if other:
                budget, measured = reports[other][-1], reports[comparison.baseline][-1]
                steps = max(1, round(budget["steps"] * _step_seconds(budget) / _step_seconds(measured)))
                recipe = _recipe(comparison, row, seed, out, steps)
            reports[row].append(_report(recipe, say))
    return reports


def read_runs(folders: Iterable[Path]) -> dict[str, list[Report]]:
    """Reports of finished run folders, grouped by the name of their recipe (seeds of one name become one row)."""
    rows: dict[str, list[Report]] = {}
    for folder in folders:
        path = folder / "report.json"
        try:
            report = json.loads(path.read_text(encoding="utf-8"))
            rows.setdefault(report["name"], []).append(report)
        except FileNotFoundError:
            raise UserError(f"{path}: missing; {folder} is no run folder, or its run has not ended") from None
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{path}: not a report of semseg train") from None
    return rows


def tabulate(reports: dict[str, list[Report]], baseline: str | None) -> list[Row]:
    """The table. UserError where rows were not scored on the same images."""
    if baseline is not None and baseline not in reports:
        raise UserError(f"--baseline {baseline}: no such row; there are: {', '.join(reports)}")
    scored_on: dict[str, str] = {}
    for name, runs in reports.items():
        for report in runs:
            if not report["last"]:
                raise UserError(f"{name}: its run had no data.val, so it has no score to compare")
            scored_on.setdefault(report["data"]["val"]["hash"], name)
    if len(scored_on) > 1:
        raise UserError(
            f"{' and '.join(scored_on.values())} were scored on different images; compare runs of one data.val"
        )
    scores = {name: [_score(report) for report in runs] for name, runs in reports.items()}
    level = statistics.mean(scores[baseline]) if baseline is not None else None
    return [
        Row(
            name,
            round(statistics.mean(report["steps"] for report in runs)),
            scores[name],
            statistics.mean(scores[name]) - level if level is not None and name != baseline else None,
            statistics.mean(report["seconds"] for report in runs),
            max(report["memory_mb"] for report in runs),
        )
        for name, runs in reports.items()
    ]


def _step_seconds(report: Report) -> float:
    """UserError when an older version, which did not note it, made the report."""
    if "step_seconds" not in report:
        raise UserError(f"{report['recipe']['output']}: an older version made this run; remove it, and it is run again")
    return float(report["step_seconds"])


def _score(report: Report) -> float:
    """mIoU in percent, at the last step, of what the method delivers."""
    delivered = next(iter(report["last"].values()))
    return 100 * float(delivered["miou"])


def _recipe(comparison: Comparison, row: str, seed: int, out: Path, steps: int | None = None) -> Recipe:
    changes = {key: value for key, value in comparison.rows[row].items() if key != "same_time_as"}
    name = re.sub(r"[^a-z0-9.]+", "-", row.lower()).strip("-") or "row"
    settings = comparison.set | changes | {"seed": seed, "name": name, "output": str(out / f"{name}-{seed}")}
    if steps is not None:
        settings["schedule.steps"] = steps
    written = {key: json.dumps(value).replace("{seed}", str(seed)) for key, value in settings.items()}
    return load_recipe(comparison.recipe, [f"{key}={value}" for key, value in written.items()])


def _report(recipe: Recipe, say: Callable[[str], None] | None) -> Report:
    path = recipe.run_folder / "report.json"
    if not path.exists():
        from semseg_app.training.loop import train

        train(recipe, resume=True, say=say)
    report: Report = json.loads(path.read_text(encoding="utf-8"))
    return report
