"""Fair comparisons: several runs side by side, over seeds, against a baseline of equal steps and of equal time.

A comparison is one YAML file:

    recipe: streets-teacher              what all rows share: a preset or a recipe file ...
    set: {data.root: demo/streets}       ... with these keys, as on the command line of `semseg train`
    seeds: [0, 1, 2]
    baseline: alone
    rows:                                what each row changes; a section changes the keys that it names, no others
      alone: {}
      KD: {method.kd.weight: 1.0}
      alone, as long as KD: {same_time_as: KD}

`{seed}` in a value is the seed and `{out}` the folder of the runs: a student of seed 1 can follow the teacher of seed 1
that another row, above it, has trained (`teacher: "{out}/teacher-{seed}/best"`). A row may begin from a `recipe` of its
own. A row with `same_time_as` is the baseline's row, with its own changes on top, and gets as many steps as the
baseline could have made while the other row, or the other rows together, with the same seed, made their own: by the
median time of a step in each, since all the seconds of a run tell what else the machine did and whether it was
interrupted.
"""

import json
import re
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from semseg_app.data.dataset import read_yaml
from semseg_app.data.layouts import open_dataset
from semseg_app.errors import UserError, did_you_mean, explain
from semseg_app.training.recipe import Recipe, checked_recipe, parsed_override, recipe_file, set_key
from semseg_app.training.run.folder import RunFolder, changed_key

Report = dict[str, Any]
ROW_KEYS = ("same_time_as", "recipe")
"""Keys of a row that are no keys of a recipe."""


class Comparison(BaseModel):
    """The contents of the file."""

    model_config = ConfigDict(extra="forbid")

    recipe: str
    set: dict[str, Any] = Field(default_factory=dict)
    seeds: list[int] = Field(default=[0], min_length=1)
    baseline: str
    rows: dict[str, dict[str, Any]] = Field(min_length=1)
    _file: Path = PrivateAttr(Path("comparison"))
    _overrides: dict[str, Any] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _names_exist(self) -> "Comparison":
        named = {("baseline", self.baseline): self.baseline}
        folders: dict[str, str] = {}
        for row, changes in self.rows.items():
            for budget in _budgets(changes):
                named[f"rows.{row}.same_time_as", budget] = budget
            other = folders.setdefault(run_name(row), row)
            if other != row:
                raise ValueError(f"rows {other!r} and {row!r} would share the run folder {run_name(row)!r}; rename one")
        for (key, _), name in named.items():
            if name not in self.rows or "same_time_as" in self.rows[name]:
                raise ValueError(f"{key}: {name!r} is no row with a length of its own; rows: {', '.join(self.rows)}")
        return self


class ComparisonRow(NamedTuple):
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


def load_comparison(path: Path, overrides: Sequence[str] = (), rows: Sequence[str] = ()) -> Comparison:
    """Read a comparison file. UserError names the key at fault.

    Args:
        path: the file.
        overrides: key=value, for every row, above all that the file says.
        rows: names of the rows to keep, and the baseline if it is another; empty = all.
    """
    content = read_yaml(path)
    if "recipe" not in content and "data" in content:
        raise UserError(f"{path}: a recipe, not a comparison; run it with `semseg train {path}`")
    try:
        comparison = Comparison.model_validate(content)
    except ValidationError as error:
        raise explain(error, path) from None
    for row in rows:
        if row not in comparison.rows:
            near = did_you_mean(row, comparison.rows)
            raise UserError(f"{path}: no row {row!r}; rows: {', '.join(comparison.rows)}{near}")
    if rows:
        kept = {comparison.baseline, *rows, *(other for row in rows for other in _budgets(comparison.rows[row]))}
        comparison.rows = {name: changes for name, changes in comparison.rows.items() if name in kept}
    comparison._file = path
    comparison._overrides = dict(map(parsed_override, overrides))
    return comparison


def recipes_of(comparison: Comparison, out: Path, seed: int) -> dict[str, Recipe]:
    """The recipe of every row; one with `same_time_as` has the length of its recipe, because no run is there yet."""
    return {row: _recipe(comparison, row, seed, out) for row in comparison.rows}


def run_name(row: str) -> str:
    """The name of a row's runs: its own in lower case, with a hyphen for whatever a file name should not hold."""
    return re.sub(r"[^a-z0-9.]+", "-", row.lower()).strip("-") or "row"


def run_comparison(
    comparison: Comparison, out: Path, say: Callable[[str], None] | None = None
) -> dict[str, list[Report]]:
    """Train what is not in `out` yet, continue what was interrupted, and return the reports of every row.

    Runs lie in <out>/<row>-<seed>. Several processes may share the work by taking different seeds. UserError names the
    comparison file and the row whose changes are wrong, or the run folder whose run was made by another recipe.
    """
    # All recipes and run folders are read before the first run: a wrong key must not show after an hour.
    for row, changes in comparison.rows.items():
        for seed in comparison.seeds:
            recipe = _recipe(comparison, row, seed, out)
            if "same_time_as" not in changes:  # the length of the others follows from runs that have yet to end
                _refuse_other_run(recipe)
    # Rows whose length depends on another row's time come last.
    ordered = sorted(comparison.rows, key=lambda row: "same_time_as" in comparison.rows[row])
    reports: dict[str, list[Report]] = {row: [] for row in comparison.rows}
    for seed in comparison.seeds:
        for row in ordered:
            recipe = _recipe(comparison, row, seed, out)
            others = _budgets(comparison.rows[row])
            if others:
                budgets, measured = [reports[other][-1] for other in others], reports[comparison.baseline][-1]
                seconds = sum(budget["steps"] * _step_seconds(budget) for budget in budgets)
                steps = max(1, round(seconds / _step_seconds(measured)))
                recipe = _recipe(comparison, row, seed, out, steps)
            reports[row].append(_report(recipe, say))
    return reports


def tabulate(reports: dict[str, list[Report]], baseline: str | None) -> list[ComparisonRow]:
    """The table. UserError where rows were not scored on the same images."""
    if baseline is not None and baseline not in reports:
        near = did_you_mean(baseline, reports)
        raise UserError(f"--baseline {baseline}: no such row; choose one of {', '.join(reports)}{near}")
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
        ComparisonRow(
            name,
            round(statistics.mean(report["steps"] for report in runs)),
            scores[name],
            statistics.mean(scores[name]) - level if level is not None and name != baseline else None,
            statistics.mean(report["seconds"] for report in runs),
            max(report["memory_mb"] for report in runs),
        )
        for name, runs in reports.items()
    ]


def _budgets(changes: dict[str, Any]) -> list[str]:
    """The rows whose time a row has; empty for one with a length of its own."""
    budgets = changes.get("same_time_as", [])
    return [budgets] if isinstance(budgets, str) else list(budgets)


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
    """The recipe of one run. A UserError names the recipe file, or the part of the comparison file that is wrong."""
    path = recipe_file(comparison.rows[row].get("recipe", comparison.recipe))
    name = run_name(row)
    settings: dict[str, Any] = {"seed": seed, "name": name, "output": str(out / f"{name}-{seed}")}
    shared, known = comparison.set, {"seed": str(seed), "out": str(out)}
    if steps is not None:
        settings["schedule.steps"] = steps
    changes = [comparison.rows[row]]
    if "same_time_as" in comparison.rows[row]:
        changes.insert(0, comparison.rows[comparison.baseline])
    fault = ""
    try:
        return _merged(path, shared, [*changes, comparison._overrides, settings], known)
    except UserError as error:
        fault = str(error)
    for where, part in ((None, {}), ("set", shared)):  # who made the mistake: the first that makes it alone
        try:
            _merged(path, part, [], known)
        except UserError as error:
            if str(error) == fault:
                raise UserError(_told_of(comparison, where, fault, path)) from None
    raise UserError(_told_of(comparison, f"rows.{row}", fault, path))


def _merged(path: Path, shared: dict[str, Any], changes: list[dict[str, Any]], known: dict[str, str]) -> Recipe:
    content = read_yaml(path)
    for key, value in shared.items():
        set_key(content, key, _filled(value, known))
    for level in changes:
        for key, value in level.items():
            if key not in ROW_KEYS:
                _merge(content, key, _filled(value, known))
    return checked_recipe(content, path)


def _merge(content: dict[str, Any], key: str, value: Any) -> None:
    """Change a key; of a section only the keys that the change names, unless it chooses another method."""
    if not isinstance(value, dict):
        set_key(content, key, value)
        return
    present: Any = content
    for part in key.split("."):
        present = present.get(part) if isinstance(present, dict) else None
    if not isinstance(present, dict) or (
        key == "method" and value.get("name", present.get("name")) != present.get("name")
    ):
        set_key(content, key, {})
    for inner, inner_value in value.items():
        _merge(content, f"{key}.{inner}", inner_value)


def _filled(value: Any, known: dict[str, str]) -> Any:
    """The value with what `{seed}` and `{out}` stand for in their places, at any depth."""
    if isinstance(value, dict):
        return {key: _filled(inner, known) for key, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, known) for inner in value]
    if isinstance(value, str):
        for name, meaning in known.items():
            value = value.replace(f"{{{name}}}", meaning)
    return value


def _told_of(comparison: Comparison, where: str | None, fault: str, path: Path) -> str:
    return fault if where is None else f"{comparison._file}: {where}: {fault.removeprefix(f'{path}: ')}"


def _report(recipe: Recipe, say: Callable[[str], None] | None) -> Report:
    """The report of a run, which is trained first where it has none. UserError for a run of another recipe."""
    _refuse_other_run(recipe)
    path = recipe.run_folder / "report.json"
    if not path.exists():
        from semseg_app.training.loop import train

        train(recipe, resume=True, say=say)
    report: Report = json.loads(path.read_text(encoding="utf-8"))
    return report


def _refuse_other_run(recipe: Recipe) -> None:
    """UserError where the run folder holds a run, finished or interrupted, of another recipe or of other images."""
    folder = RunFolder(recipe.run_folder)
    fix = "remove that folder and it is run again, put the change back, or choose another --out"
    report = folder.report()
    made_by = folder.recipe() if report is not None or folder.has_run() else None
    if made_by is None:
        return
    change = changed_key(made_by, recipe)
    if change:
        key, was, is_now = change
        raise UserError(f"{folder.path}: {key} is {is_now} now, but {was} in the run there; {fix}")
    if report is None:
        return
    if made_by.val_window != recipe.val_window:  # free to change in an interrupted run, but it changes the scores
        window, now = made_by.val_window, recipe.val_window
        raise UserError(f"{folder.path}: val_window is {now} now, but the scores there were made with {window}; {fix}")
    if made_by.data.root != recipe.data.root and not _same_images(recipe, report):
        raise UserError(
            f"{folder.path}: data.root is {recipe.data.root} now, whose images are not those of {made_by.data.root}, "
            f"which the run there read; {fix}"
        )


def _same_images(recipe: Recipe, report: Report) -> bool:
    """Whether the recipe's lists name the images and masks that the report's run read."""
    data = open_dataset(recipe.data.root, recipe.data.layout)
    lists = {"labeled": recipe.data.labeled, "val": recipe.data.val}
    if recipe.method.pseudo_label_folder() is None:  # pseudo labels have a folder of their own, whatever the root
        lists["unlabeled"] = recipe.data.unlabeled
    return all(
        report["data"][name]["hash"] == data.fingerprint(data.samples(entry))
        for name, entry in lists.items()
        if entry and name in report["data"]
    )
