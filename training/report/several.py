"""One page for several runs: scores, curves and classes side by side, and where their recipes differ."""

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from semseg_app.files import atomic_file
from semseg_app.plots.svg import line_chart
from semseg_app.training.report.content import RunContent, read_run
from semseg_app.training.report.style import duration, page, percent, section
from semseg_app.training.run.folder import leaves
from semseg_app.yaml_text import load_yaml

SAME_FOR_ALL = ("name", "output")
"""Keys that tell runs apart and do nothing else."""


def write_several(folders: Sequence[Path], out: Path) -> Path:
    """Write a page of several run folders and return its path. UserError where one holds no run."""
    runs = [read_run(folder) for folder in folders]
    labels = _labels(runs)
    content = [
        f"<h1>{len(runs)} runs</h1>",
        section("Scores", _scores(runs, labels)),
        section("Curves", _charts(runs, labels)),
        section("IoU of each class, at the last evaluation", _classes(runs, labels)),
        section("Recipes", _differences(runs, labels)),
    ]
    with atomic_file(out) as part:
        part.write_text(page(f"{len(runs)} runs side by side", "".join(content)), encoding="utf-8")
    return out


def _labels(runs: Sequence[RunContent]) -> list[str]:
    """Names of the runs; of those that share one, the folder."""
    names = [run.name for run in runs]
    return [run.name if names.count(run.name) == 1 else str(run.folder) for run in runs]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = "".join(f"<th>{escape(text)}</th>" for text in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>" for row in rows)
    return f'<div class="card scroll"><table><tr>{cells}</tr>{body}</table></div>'


def _scores(runs: Sequence[RunContent], labels: Sequence[str]) -> str:
    rows = []
    for run, label in zip(runs, labels, strict=True):
        best, last = run.best(), run.curve(run.role, "miou") if run.role else []
        final = run.final or {}
        seconds = final.get("seconds") or (run.newest or {}).get("seconds")
        rows.append(
            [
                label,
                percent(last[-1][1], 2) if last else "–",
                f"{percent(best[1], 2)} at step {best[0]:,}" if best else "–",
                f"{final['steps']:,}" if final else f"{run.lines[-1]['step']:,}, running" if run.lines else "–",
                duration(seconds) if seconds else "–",
                f"{max((line['memory_mb'] for line in run.lines), default=0):,.0f}",
            ]
        )
    lists = {json.dumps(run.facts.get("data", {}).get("val")) for run in runs}
    warning = '<div class="card warning">These runs were scored on different photos: their scores do not compare.</div>'
    head = ("run", "last val mIoU", "best val mIoU", "steps", "time", "peak MB")
    return (warning if len(lists) > 1 else "") + _table(head, rows)


def _charts(runs: Sequence[RunContent], labels: Sequence[str]) -> str:
    miou, losses = {}, {}
    for run, label in zip(runs, labels, strict=True):
        miou[label] = [(step, 100 * value) for step, value in run.curve(run.role, "miou")] if run.role else []
        losses[label] = [(line["step"], sum(line["losses"].values())) for line in run.lines]
    charts = line_chart(miou, "val mIoU", " %") + line_chart(losses, "sum of losses", log=True)
    return f'<div class="charts">{charts}</div>' if charts else ""


def _classes(runs: Sequence[RunContent], labels: Sequence[str]) -> str:
    columns = [run.newest["classes"] if run.newest else {} for run in runs]
    names = list(dict.fromkeys(name for column in columns for name in column))
    rows = [[name, *(percent(column.get(name, {}).get("iou")) for column in columns)] for name in names]
    return _table(["class", *labels], rows) if rows else ""


def _differences(runs: Sequence[RunContent], labels: Sequence[str]) -> str:
    flat: list[dict[str, Any]] = [leaves(load_yaml(run.recipe)) for run in runs]
    keys = [key for key in dict.fromkeys(key for recipe in flat for key in recipe) if key not in SAME_FOR_ALL]
    rows = [
        [key, *(json.dumps(recipe.get(key)) for recipe in flat)]
        for key in keys
        if len({json.dumps(recipe.get(key)) for recipe in flat}) > 1
    ]
    return _table(["key", *labels], rows) if rows else "<p>The recipes differ in nothing but their names.</p>"
