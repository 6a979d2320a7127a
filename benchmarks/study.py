"""The study on CamVid: how far 23 labeled photos and 344 unlabeled ones take a compact student.

    python benchmarks/study.py [--data CAMVID] [--rows "1/16 labels;UniMatch"] [--seeds 0,1,2]
    python benchmarks/study.py --table [--curve CURVE.png]

It trains the rows of benchmarks/comparisons/study.yaml in order, in runs/study of the folder where it is started, with
what has to come between them: lists of labeled photos, pseudo labels, the choice of the next photos. At the end the
best student is exported in int8 and scored. Every run that ends leaves a record in --records; what is recorded is not
run again, and an interrupted run goes on where it was: start the same command again.

--table prints what is recorded, and how many pixels of each class the methods are sure of, and how many of these are
right; --curve draws the scores over the number of labels. --set KEY=VALUE changes what a row does not set itself, for
other lengths on another machine, and --tiny, for a test, sets random weights, small crops and two steps. Start both in
a folder of their own, with --records there. Students and choices of photos of all seeds build on models of seed 0.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from semseg_app import machine
from semseg_app.files import atomic_file
from semseg_app.training.compare import Comparison, load_comparison, run_comparison, run_name

COMPARISON = Path(__file__).parent / "comparisons" / "study.yaml"
RECORDS = Path(__file__).parent / "records" / "study"
RUNS = Path("runs/study")
"""The comparison file names teachers and pseudo labels below it."""
BEST_STUDENT = "teacher's labels"
CHECKED = ("coverage", "precision")
CURVE = {
    "labels alone, lists drawn by `semseg data split`": (
        *("8 labels", "8 labels, second draw", "8 labels, third draw"),
        *("23 labels", "23 labels, second draw", "23 labels, third draw", "46 labels", "367 labels"),
    ),
    "labels alone, the list 1/16": ("1/16 labels",),
    "labels alone, 15 of 23 chosen by `semseg data next`": ("8 labels and 15 chosen",),
    "labels alone, 15 of 23 drawn at random": ("8 labels and 15 at random",),
    "student by KD, 344 unlabeled photos more": ("KD",),
    "student of the teacher's labels, 344 unlabeled photos more": ("teacher's labels", "teacher's labels, second draw"),
}
"""Series of the picture -> rows."""
TINY = {
    "model": {"architecture": "segformer", "encoder": "tu-test_efficientnet", "weights": None, "decoder_channels": 32},
    "view.crop": [64, 64],
    "schedule": {"steps": 2, "warmup": 0},
    "evaluate_every": 2,
    "batch_size": 2,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="camvid", help="root of the photos; lists are written into its splits/")
    parser.add_argument("--rows", help="separated by semicolons; default: all, and int8")
    parser.add_argument("--seeds", help="default: those of the file")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--records", type=Path, default=RECORDS)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("--curve", type=Path, metavar="PNG", help="picture of the scores over the number of labels")
    arguments = parser.parse_args()
    comparison = load_comparison(COMPARISON)
    comparison.set["data.root"] = arguments.data
    if arguments.tiny:
        comparison.set |= TINY
        for changes in comparison.rows.values():
            changes.pop("model", None)
            changes.pop("schedule.steps", None)
    for text in arguments.set:
        key, _, value = text.partition("=")
        comparison.set[key] = yaml.safe_load(value)
    if arguments.seeds:
        comparison.seeds = [int(seed) for seed in arguments.seeds.split(",")]
    rows = arguments.rows.split(";") if arguments.rows else [*comparison.rows, "int8"]
    if not arguments.table:
        for draw in (0, 1, 2):
            semseg("data", "split", arguments.data, "--sizes", "8,23,46", "--seed", draw)
        for row in rows:
            for seed in comparison.seeds:
                run(comparison, row, seed, arguments.records)
    print("| row | val mIoU | of each seed | steps | ms per step | peak MB |\n|---|---|---|---|---|---|")
    for row in rows:
        if records := recorded(arguments.records, row):
            print(line(row, records))
    if covered := [record for row in rows for record in recorded(arguments.records, row) if classes_of(record)]:
        print("\n" + coverage_table(covered))
    if arguments.curve:
        draw_curve(arguments.records, arguments.curve)


def run(comparison: Comparison, row: str, seed: int, records: Path) -> None:
    """One run and its record, where it has none."""
    record = record_file(records, row, seed)
    if record.exists():
        return
    data = comparison.set["data.root"]
    if row == "int8":
        model = folder(BEST_STUDENT, seed)
        content = semseg("export", model, "--data", data, "--precision", "int8", "--json", rejected=True)
        scores = semseg("evaluate", model, "--data", data, "--precision", "int8", "--force", "--json")
        content |= {"miou": scores["miou"]}
    else:
        prepare(row, seed, data)
        content = summary(trained(comparison, row, seed))
    record.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(record) as part:
        part.write_text(json.dumps({"row": row, "seed": seed, "processor": machine.processor()} | content, indent=1))


def prepare(row: str, seed: int, data: str) -> None:
    """What a row reads and no earlier row has written."""
    teachers = {
        "self-training": ("pseudo-labels-0", "1/16 labels, 300 steps", "1_16-unlabeled"),
        "teacher's labels": ("teacher-labels-0", "teacher", "23-unlabeled"),
        "teacher's labels, second draw": ("teacher-labels-second-draw-0", "teacher, second draw", "23-seed1-unlabeled"),
    }
    if row in teachers:
        name, teacher, photos = teachers[row]
        options = ("--data", data, "--list", photos, "--out", RUNS / name)
        semseg("data", "pseudo-label", folder(teacher, 0), *options)
    strategies = {"8 labels and 15 chosen": "cluster-uncertainty", "8 labels and 15 at random": "random"}
    if row in strategies:
        strategy = strategies[row]
        lists = ("--list", "8-unlabeled", "--labeled", "8-labeled", "--name", f"{strategy}-{seed}")
        options = ("--count", 15, "--strategy", strategy, "--seed", seed)
        semseg("data", "next", folder("8 labels", 0), data, *options, *lists)


def trained(comparison: Comparison, row: str, seed: int) -> dict[str, Any]:
    """The report of a row's run; of a row that has the time of another, after the runs that give its length."""
    rows = {row: comparison.rows[row]}
    baseline = row
    if other := comparison.rows[row].get("same_time_as"):
        baseline = comparison.baseline
        rows |= {name: comparison.rows[name] for name in (other, baseline)}
    one = comparison.model_copy(update={"rows": rows, "seeds": [seed], "baseline": baseline})
    return run_comparison(one, RUNS, say=print)[row][0]


def summary(report: dict[str, Any]) -> dict[str, Any]:
    """What a record keeps of a report: the last step's scores of what the method delivers; nothing is selected."""
    kept = ("steps", "seconds", "step_seconds", "memory_mb", "last", "pseudo_label_classes", "data", "commit", "time")
    delivered = next(iter(report["last"].values()))
    facts = {key: report[key] for key in (*kept, "versions", "threads", "device", "recipe")}
    return {"miou": delivered["miou"], "pixel_accuracy": delivered["pixel_accuracy"]} | facts


def folder(row: str, seed: int) -> Path:
    """The model folder of a finished run."""
    return RUNS / f"{run_name(row)}-{seed}" / "last"


def record_file(records: Path, row: str, seed: int) -> Path:
    return records / f"{run_name(row)}-{seed}.json"


def recorded(records: Path, row: str) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in sorted(records.glob(f"{run_name(row)}-[0-9].json"))]


def line(row: str, records: Sequence[dict[str, Any]]) -> str:
    """A row of the table."""
    scores = [100 * record["miou"] for record in records]
    deviation = f" ± {statistics.stdev(scores):.1f}" if len(scores) > 1 else ""
    cells = [row, f"{statistics.mean(scores):.1f}{deviation}", ", ".join(f"{score:.1f}" for score in scores)]
    for key, factor in (("steps", 1), ("step_seconds", 1000), ("memory_mb", 1)):
        values = [factor * record[key] for record in records if key in record]
        cells.append(f"{statistics.mean(values):.0f}" if values else "")
    return f"| {' | '.join(cells)} |"


def classes_of(record: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """What the pseudo labels of a run's last step are like, by class: of its EMA teacher, where it has one."""
    found: dict[str, dict[str, dict[str, float | None]]] = record.get("pseudo_label_classes", {})
    return next(iter(found.values()), {})


def coverage_table(records: Sequence[dict[str, Any]]) -> str:
    """A column per class: of the pixels predicted as it, percent sure enough to learn from / percent of them right."""
    names = list(classes_of(records[0]))
    lines = [f"| coverage / precision, % | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for record in records:
        cells = [
            " / ".join("-" if (value := facts[key]) is None else f"{100 * value:.0f}" for key in CHECKED)
            for facts in classes_of(record).values()
        ]
        lines.append(f"| {record['row']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw_curve(records: Path, file: Path) -> None:
    """Scores over the number of labeled photos: a mark per run, a line through the means of the drawn lists."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    ticks = set()
    for number, (name, rows) in enumerate(CURVE.items()):
        points: dict[int, list[float]] = {}
        for record in (record for row in rows for record in recorded(records, row)):
            points.setdefault(record["data"]["labeled"]["images"], []).append(100 * record["miou"])
        if not points:
            continue
        ticks |= points.keys()
        pairs = [(images, score) for images, scores in points.items() for score in scores]
        # Beside each other, where several series have the same number of labels.
        axes.scatter(
            [images * 1.07 ** (number - 1) for images, _ in pairs],
            [score for _, score in pairs],
            marker="osDP^v"[number],
            label=name,
            color=f"C{number}",
        )
        if number == 0:
            means = sorted((images, statistics.mean(scores)) for images, scores in points.items())
            axes.plot([images * 1.07**-1 for images, _ in means], [score for _, score in means], alpha=0.4)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted(ticks), [str(images) for images in sorted(ticks)])
    axes.set_xlabel("labeled photos")
    axes.set_ylabel("val mIoU, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(file)


def semseg(*arguments: object, rejected: bool = False) -> dict[str, Any]:
    """What a verb answers, if it is asked for JSON. `rejected`: a graph that fails verification is an answer."""
    command = [sys.executable, "-m", "semseg_app.cli", *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode and not (rejected and done.returncode == 1 and done.stdout):
        sys.exit(f"semseg {' '.join(command[3:])}: failed")
    answer: dict[str, Any] = json.loads(done.stdout) if "--json" in arguments else {}
    return answer


if __name__ == "__main__":
    main()
