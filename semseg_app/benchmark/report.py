"""What was measured, as JSON, as a Markdown table and as a plot."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from semseg_app import machine
from semseg_app.benchmark import BenchmarkPlan, Scoring
from semseg_app.benchmark.group import TURN_SECONDS, WARM_UP_TURNS, BenchmarkRow
from semseg_app.errors import UserError
from semseg_app.files import atomic_file

HEADINGS = (
    "model",
    "engine",
    "precision",
    "size",
    "batch",
    "clients",
    "p50 ms",
    "p95 ms",
    "p99 ms",
    "images/s",
    "speed-up",
    "MB",
    "GPU MB",
    "mIoU %",
)
COLORS = {"torch": "#b45309", "onnxruntime": "#0f766e", "openvino": "#7e22ce", "tensorrt": "#1d4ed8"}
MARKERS = {"fp32": "o", "fp16": "s", "bf16": "D", "int8": "^"}


def describe(rows: Sequence[BenchmarkRow], plan: BenchmarkPlan, scoring: Scoring | None, split: str) -> dict[str, Any]:
    """The whole report as JSON values: protocol, hardware and versions, data, then the rows."""
    data = None
    if scoring is not None:
        data = {
            "name": scoring.data.info.name,
            "split": split,
            "images": len(scoring.samples),
            "fingerprint": scoring.data.fingerprint(scoring.samples),
        }
    return {
        "format_version": 1,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": machine.hardware(),
        "versions": machine.versions(),
        "protocol": {**asdict(plan), "turn_seconds": TURN_SECONDS, "warm_up_turns": WARM_UP_TURNS},
        "data": data,
        "rows": [asdict(row) for row in rows],
    }


def to_markdown(report: dict[str, Any]) -> str:
    """A table, and below it the conditions in a sentence or two."""
    rows = report["rows"]
    lines = [_cells(row) for row in rows]
    # Empty columns are left out: without a GPU or data, or with too few calls for a percentile.
    columns = [column for column in range(len(HEADINGS)) if any(line[column] for line in lines)]
    table = [[HEADINGS[column] for column in columns], ["---"] * len(columns)]
    table += [[line[column] or "-" for column in columns] for line in lines]
    text = "\n".join(f"| {' | '.join(cells)} |" for cells in table)
    failed = [
        f"- {row['model']}, {row['engine']} {row['precision']}, {row['width']}x{row['height']}, batch {row['batch']}, "
        f"{row['concurrency']} clients: {row['error']}"
        for row in rows
        if row["error"]
    ]
    hardware, versions, protocol, data = (report[key] for key in ("hardware", "versions", "protocol", "data"))
    machine_text = ", ".join([hardware["processor"], f"{hardware['cores']} cores", *hardware["gpus"]])
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    scored = f" mIoU: {data['images']} images of {data['name']} {data['split']}, whole." if data else ""
    conditions = (
        f"{machine_text}; threads: {protocol['threads']}; rounds, in which all take turns: {protocol['rounds']}. Times "
        f"are of a batch, from uint8 photos to class maps; MB is the peak of the process.{scored} {packages}."
    )
    return "\n\n".join([text, *(["\n".join(failed)] if failed else []), conditions]) + "\n"


def draw_pareto(rows: Sequence[BenchmarkRow], path: Path) -> None:
    """Draw mIoU over latency, one panel per size, at the smallest batch and concurrency, with Pareto front.

    UserError without matplotlib.
    """
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    sizes = list(dict.fromkeys((row.width, row.height) for row in rows))
    smallest = min((row.batch, row.concurrency) for row in rows)
    figure = Figure(figsize=(5.4 * len(sizes), 3.8), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, size in zip(figure.subplots(1, len(sizes), squeeze=False)[0], sizes, strict=True):
        points = [
            row
            for row in rows
            if (row.width, row.height) == size and (row.batch, row.concurrency) == smallest and row.p50_ms is not None
        ]
        front = pareto_front([(row.p50_ms or 0, 100 * (row.miou or 0)) for row in points])
        if front:
            axes.plot(*zip(*front, strict=True), color="#94a3b8", zorder=1)
        several = len({row.model for row in points}) > 1
        for row in sorted(points, key=lambda row: row.p50_ms or 0):
            score = 100 * (row.miou or 0)
            style = {"color": COLORS.get(row.engine, "#475569"), "marker": MARKERS.get(row.precision, "x")}
            text = f"{row.model}, " * several + f"{row.engine} {row.precision}"
            axes.scatter(row.p50_ms, score, s=36, zorder=2, label=text, **style)
        if points:
            axes.legend(fontsize=7)
            # A hundredth of a point must not look like a fall: at least two points from bottom to top.
            scores = [100 * (row.miou or 0) for row in points]
            middle, reach = (max(scores) + min(scores)) / 2, max(1.0, 0.7 * (max(scores) - min(scores)))
            axes.set_ylim(middle - reach, middle + reach)
        axes.margins(x=0.2)
        latencies = [row.p50_ms or 0 for row in points]
        if points and max(latencies) > 10 * min(latencies):
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(ScalarFormatter())
            axes.xaxis.set_minor_formatter(NullFormatter())
        else:
            axes.set_xlim(left=0)
        axes.set(title=f"{size[0]}x{size[1]}, batch {smallest[0]}", xlabel="p50 of a batch, ms", ylabel="mIoU, %")
        axes.grid(alpha=0.3)
    with atomic_file(path) as part:
        figure.savefig(part, format="png")


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The (latency, score) pairs that no other one beats in both, by latency."""
    front: list[tuple[float, float]] = []
    for point in sorted(set(points), key=lambda point: (point[0], -point[1])):
        if not front or point[1] > front[-1][1]:
            front.append(point)
    return front


def require_matplotlib() -> None:
    """Raise a UserError where it is missing: better before minutes of measuring than after."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise UserError(f"the plot of --data needs matplotlib ({error}): pip install matplotlib") from error


def write(folder: Path, report: dict[str, Any], rows: Sequence[BenchmarkRow]) -> None:
    """Write results.json, results.md and, where mIoU was measured, pareto.png; that of an earlier run does not stay."""
    for name, text in (("results.json", json.dumps(report, indent=2) + "\n"), ("results.md", to_markdown(report))):
        with atomic_file(folder / name) as part:
            part.write_text(text, encoding="utf-8")
    plot = folder / "pareto.png"
    if report["data"] is None:
        plot.unlink(missing_ok=True)
    else:
        draw_pareto(rows, plot)


def _cells(row: dict[str, Any]) -> list[str]:
    verdict = f" ({row['verdict']})" if row["verdict"] in ("rejected", "other weights") else ""
    return [
        row["model"],
        row["engine"] + ("" if row["device"] == "cpu" else f" on {row['device']}"),
        row["precision"] + verdict,
        f"{row['width']}x{row['height']}",
        str(row["batch"]),
        str(row["concurrency"]),
        *(_number(row[key], 1) for key in ("p50_ms", "p95_ms", "p99_ms", "images_per_second")),
        _number(row["speedup"], 2),
        _number(row["peak_memory_mb"], 0),
        _number(row["gpu_memory_mb"], 0),
        "" if row["miou"] is None else f"{100 * row['miou']:.2f}",
    ]


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
