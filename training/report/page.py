"""report.html of one run: curves, classes, confusion, photos, guardrails, timing, recipe and lineage in one file."""

import statistics
from html import escape
from pathlib import Path
from typing import Any

from semseg_app.files import atomic_file
from semseg_app.labels import hex_color
from semseg_app.plots.svg import line_chart, sparkline
from semseg_app.training.report.content import RunContent, read_run
from semseg_app.training.report.style import duration, page, pairs, percent, section, tiles

REFRESH = 30
"""Seconds after which the page of a run that goes on loads itself anew."""
MOST_NUMBERS = 24
"""Classes up to which the confusion matrix shows numbers: more would be too small to read."""


def write_page(folder: Path, out: Path | None = None) -> Path:
    """Write the report of a run folder, by default to its report.html, and return its path.

    UserError where the folder holds no run.
    """
    run = read_run(folder)
    path = out or folder / "report.html"
    with atomic_file(path) as part:
        part.write_text(_html(run), encoding="utf-8")
    return path


def _html(run: RunContent) -> str:
    parts = [
        _head(run),
        section("Curves", _charts(run)),
        section("Classes", _classes(run)),
        section("Confusion", _confusion(run)),
        section("Photos", _photos(run)),
        section("Guardrails", _guardrails(run)),
        section("Timing", _timing(run)),
        section("Data and lineage", _lineage(run)),
        section(
            "Recipe", f'<details class="card"><summary>recipe.yaml</summary><pre>{escape(run.recipe)}</pre></details>'
        ),
    ]
    return page(f"{run.name}: run report", "".join(parts), None if run.final else REFRESH)


def _head(run: RunContent) -> str:
    facts, step = run.facts, _step(run)
    total = facts.get("recipe", {}).get("schedule", {}).get("steps")
    if run.final is None:
        state = f"running, step {step:,} of {total:,}" if total else f"running, step {step:,}"
    else:
        state = f"stopped early after {step:,} of {total:,} steps" if run.final.get("stopped_early") else "finished"
    figures = {}
    if best := run.best():
        figures[f"best val mIoU, at step {best[0]:,}"] = percent(best[1], 2)
        figures["last val mIoU"] = percent(run.curve(str(run.role), "miou")[-1][1], 2)
    if run.newest:
        figures["pixel accuracy, last"] = percent(run.newest["pixel_accuracy"])
    figures["steps"] = f"{step:,}"
    if run.lines:
        figures["images per second"] = f"{_rate(run):.1f}"
        figures["peak memory"] = f"{max(line['memory_mb'] for line in run.lines) / 1024:.1f} GiB"
    model = facts.get("recipe", {}).get("model", {})
    network = " on ".join(str(model[key]) for key in ("architecture", "encoder") if model.get(key))
    method = facts.get("recipe", {}).get("method", {}).get("name", "")
    line = ", ".join(text for text in (method, network, facts.get("device", ""), facts.get("time", "")) if text)
    return f'<h1>{escape(run.name)}</h1><p><span class="state">{escape(state)}</span></p><p>{escape(line)}</p>' + tiles(
        figures
    )


def _step(run: RunContent) -> int:
    if run.final:
        return int(run.final["steps"])
    return max((int(entry["step"]) for entry in (*run.lines[-1:], *run.evaluations[-1:])), default=0)


def _rate(run: RunContent) -> float:
    return statistics.median(line["images_per_second"] for line in run.lines)


def _charts(run: RunContent) -> str:
    roles = list(run.evaluations[-1]["evaluation"]) if run.evaluations else []
    miou = {role: [(step, 100 * value) for step, value in run.curve(role, "miou")] for role in roles}
    charts = [line_chart(miou, "val mIoU", " %")]
    losses = list(dict.fromkeys(name for line in run.lines for name in line["losses"]))
    curves = {
        name: [(line["step"], line["losses"][name]) for line in run.lines if name in line["losses"]] for name in losses
    }
    charts.append(line_chart(curves, "losses", log=True))
    watched = [(line["step"], line["pseudo_labels"]) for line in run.lines if line.get("pseudo_labels")]
    shares = {
        name: [(step, 100 * entry[name]) for step, entry in watched if entry.get(name) is not None]
        for name in ("coverage", "drift")
    }
    for role in roles[:1]:
        right = [(step, 100 * value) for step, value in run.curve(role, "agreement")]
        shares[f"confident pixels of {role} on val that are right"] = right
    charts.append(line_chart(shares, "pseudo labels", " %"))
    norms = list(dict.fromkeys(name for line in run.lines for name in line.get("gradient_norms", {})))
    charts.append(
        line_chart(
            {
                name: [
                    (line["step"], line["gradient_norms"][name])
                    for line in run.lines
                    if name in line.get("gradient_norms", {})  # a loss may begin or end within the run
                ]
                for name in norms
            },
            "gradient norms",
            log=True,
        )
    )
    charts.append(line_chart({"learning rate": [(line["step"], line["lr"]) for line in run.lines]}, "learning rate"))
    speed = [(line["step"], line["images_per_second"]) for line in run.lines]
    charts.append(line_chart({"images per second": speed}, "speed"))
    drawn = "".join(charts)
    return f'<div class="charts">{drawn}</div>' if drawn else ""


def _classes(run: RunContent) -> str:
    if run.newest is None:
        return ""
    rows = []
    for (name, scores), color in zip(run.newest["classes"].items(), run.newest["palette"], strict=True):
        iou = scores["iou"]
        bar = f'<span class="bar"><i style="width:{100 * (iou or 0):.0f}%"></i></span>'
        rows.append(
            f'<tr><td><span class="swatch" style="background:{hex_color(color)}"></span>{escape(name)}</td>'
            f"<td>{percent(iou)}{bar}</td><td>{percent(scores['accuracy'])}</td>"
            f"<td>{percent(scores['label_share'], 2)}</td>"
            f"<td>{sparkline(run.class_curve(run.newest['role'], name))}</td></tr>"
        )
    head = "<tr><th>class</th><th>IoU</th><th>found</th><th>share of labels</th><th>IoU over the run</th></tr>"
    note = f"{run.newest['role']} at step {run.newest['step']:,}; found = fraction of its label pixels"
    return f'<p>{escape(note)}</p><div class="card scroll"><table>{head}{"".join(rows)}</table></div>'


def _confusion(run: RunContent) -> str:
    if run.newest is None:
        return ""
    names = list(run.newest["classes"])
    head = "".join(f'<th class="top">{escape(name)}</th>' for name in names)
    rows = []
    for name, counts in zip(names, run.newest["confusion"], strict=True):
        total = sum(counts)
        cells = []
        for other, count in zip(names, counts, strict=True):
            share = count / total if total else 0.0
            text = f"{100 * share:.0f}" if len(names) <= MOST_NUMBERS and share >= 0.005 else ""
            told = f"{name} predicted as {other}: {percent(share)}"
            color = f"background:rgba(var(--heat),{0.06 + 0.74 * share:.2f})" if total else ""
            cells.append(f'<td style="{color}" title="{escape(told)}">{text}</td>')
        rows.append(f'<tr><th class="label">{escape(name)}</th>{"".join(cells)}</tr>')
    note = "Rows are labels, columns predictions, in percent of the label's pixels."
    matrix = f'<table class="matrix"><tr><th></th>{head}</tr>{"".join(rows)}</table>'
    return f'<p>{note}</p><div class="card scroll">{matrix}</div>'


def _photos(run: RunContent) -> str:
    if run.newest is None:
        return ""
    titles = {
        "worst": "Worst of the validation photos",
        "best": "Best of the validation photos",
        "watched": "The same photos at every evaluation",
    }
    colors = zip(run.newest["classes"], run.newest["palette"], strict=True)
    swatches = (f'<span><i style="background:{hex_color(color)}"></i>{escape(name)}</span>' for name, color in colors)
    parts = [f'<div class="legend">{"".join(swatches)}</div>']
    for kind, title in titles.items():
        cards = [_photo(photo) for photo in run.newest["photos"].get(kind, [])]
        if cards:
            parts.append(f'<h3>{title}</h3><div class="photos">{"".join(cards)}</div>')
    return "".join(parts)


def _photo(photo: dict[str, Any]) -> str:
    captions = {"photo": "photo", "label": "label", "predicted": "prediction"}
    views = "".join(
        f'<span><img alt="{escape(photo["name"])}: {caption}" src="data:image/jpeg;base64,{photo[key]}">'
        f"<small>{caption}</small></span>"
        for key, caption in captions.items()
    )
    score = "" if photo["miou"] is None else f"mIoU {percent(photo['miou'])}"
    return f'<div class="card photo"><div><span>{escape(photo["name"])}</span><span>{score}</span></div>{views}</div>'


def _guardrails(run: RunContent) -> str:
    warnings = [(line["step"], text) for line in run.lines for text in line.get("warnings", [])]
    told = "".join(f'<div class="card warning">step {step:,}: {escape(text)}</div>' for step, text in warnings[-20:])
    if told:
        return told
    if any(line.get("pseudo_labels") for line in run.lines):
        return "<p>No warning: coverage and drift of the pseudo labels stayed within the recipe's limits.</p>"
    return "<p>This method writes no pseudo labels; losses are finite, or the run would have stopped.</p>"


def _timing(run: RunContent) -> str:
    facts = {}
    if run.final:
        facts["whole run"] = duration(run.final["seconds"])
    elif run.newest:
        facts["up to the newest evaluation"] = duration(run.newest["seconds"])
    if run.lines:
        size = run.facts.get("recipe", {}).get("batch_size")
        if size:
            facts["median step"] = f"{size / max(_rate(run), 0.01):.3f} s"
        rates = [line["images_per_second"] for line in run.lines]
        facts["images per second"] = f"{_rate(run):.1f} (from {min(rates):.1f} to {max(rates):.1f})"
    if run.newest:
        facts["newest evaluation"] = f"{duration(run.newest['evaluation_seconds'])}, ended {run.newest['time']}"
    return pairs(facts) if facts else ""


def _lineage(run: RunContent) -> str:
    facts = run.facts
    if not facts:
        return ""
    data, lineage = facts["data"], facts["lineage"]
    told = {"data": f"{data['name']}, license {data.get('license') or 'unknown'}", "source": data.get("source") or ""}
    for name in ("labeled", "unlabeled", "val"):
        if name in data:
            told[name] = f"{data[name]['images']:,} images, {data[name]['hash']}"
    for number, weights in enumerate(lineage.get("weights", []), 1):
        told[f"weights {number}"] = f"{weights['name']} ({weights['role']}), license {weights['license'] or 'unknown'}"
    for number, teacher in enumerate(lineage.get("teachers", []), 1):
        told[f"teacher {number}"] = f"{teacher['name']}, by {teacher['by']}, {teacher['sha256']}"
    if not lineage.get("weights"):
        told["weights"] = "random"
    told["license of the model"] = lineage.get("license") or "none given"
    told["versions"] = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    told["semseg-app"] = f"{facts['semseg_app']}" + (f", commit {facts['commit']}" if facts.get("commit") else "")
    told["device"] = f"{facts['device']} x{facts['processes']}, {facts['threads']} threads"
    return pairs(told)
