"""What a run folder holds, read for a report."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semseg_app.errors import UserError


@dataclass(frozen=True)
class RunContent:
    """One run, finished or not."""

    folder: Path
    recipe: str
    """The text of recipe.yaml."""
    lines: list[dict[str, Any]]
    """Of log.jsonl, on training."""
    evaluations: list[dict[str, Any]]
    """Of log.jsonl, on evaluations."""
    newest: dict[str, Any] | None
    """evaluation.json; None before the first evaluation."""
    final: dict[str, Any] | None
    """report.json; None while the run goes on."""

    @property
    def facts(self) -> dict[str, Any]:
        """Provenance: recipe, data, lineage, versions; empty where the run wrote none yet."""
        return self.final or (self.newest or {}).get("facts", {})

    @property
    def name(self) -> str:
        return str(self.facts.get("recipe", {}).get("name", self.folder.name))

    @property
    def role(self) -> str | None:
        """Of the network that the run delivers; None before its first evaluation."""
        return next(iter(self.evaluations[-1]["evaluation"])) if self.evaluations else None

    def curve(self, role: str, metric: str) -> list[tuple[float, float]]:
        """(step, value) of a metric over the evaluations."""
        scores = ((entry["step"], entry["evaluation"].get(role, {})) for entry in self.evaluations)
        return [(step, values[metric]) for step, values in scores if values.get(metric) is not None]

    def class_curve(self, role: str, name: str) -> list[tuple[float, float]]:
        """(step, IoU) of a class over the evaluations."""
        scores = ((entry["step"], entry.get("class_iou", {}).get(role, {}).get(name)) for entry in self.evaluations)
        return [(step, iou) for step, iou in scores if iou is not None]

    def best(self) -> tuple[int, float] | None:
        """(step, val mIoU) of the best evaluation of what the run delivers; None before the first."""
        points = self.curve(self.role, "miou") if self.role else []
        if not points:
            return None
        step, miou = max(points, key=lambda point: point[1])
        return round(step), miou


def read_run(folder: Path) -> RunContent:
    """UserError where it is no run folder, or where a file of it is damaged."""
    recipe = folder / "recipe.yaml"
    if not recipe.is_file():
        raise UserError(
            f"{folder}: not a run folder, since recipe.yaml is missing; give the folder that training wrote"
        )
    entries = _lines(folder / "log.jsonl")
    final = _json(folder / "report.json")
    newest = _json(folder / "evaluation.json")
    if newest is not None and all(entry["step"] < newest["step"] for entry in entries):
        newest = None  # of a part of the run that is being run again
    return RunContent(
        folder,
        recipe.read_text(encoding="utf-8"),
        [entry for entry in entries if "losses" in entry],
        [entry for entry in entries if "evaluation" in entry],
        newest,
        final,
    )


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    entries = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entries.append(json.loads(line))
        except ValueError:
            break  # the last line of a run that was killed, or is being written
    return entries


def _json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise UserError(f"{path}: damaged; remove it and write the report again") from None
    return content
