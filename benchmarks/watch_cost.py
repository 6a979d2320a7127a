"""What watching a run costs: the log, the page and a tracker, against the processor time of the whole run.

    python benchmarks/watch_cost.py --data DATA [--rounds 3] [--steps 12] [--json FILE]

Runs with each tracker and with none take turns, in this process, with one thread and the same seed; DATA is a dataset
folder with a `val` list. What goes into the log, the page and the tracker is timed inside of each run, and the whole
runs are compared, too. The network of the defaults is small, so that a step is cheap and the shares are upper limits.
A run evaluates every third of its steps here; a recipe that leaves evaluate_every out does so once per minute at most.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from semseg_app.training.loop import train
from semseg_app.training.recipe import Recipe, load_recipe
from semseg_app.training.run.watch import Watch

TRACKERS = ("none", "tensorboard", "trackio")
PARTS = ("log", "evaluated", "finish")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--trackers", default=",".join(TRACKERS))
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in arguments.trackers.split(",")}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(arguments.rounds + 1):  # the first round imports and warms up
            for tracker, runs in rows.items():
                cost = watched(recipe(arguments, tracker, Path(folder) / f"{tracker}-{number}"))
                if number:
                    runs.append(cost)
    figures = {}
    for tracker, runs in rows.items():
        middle = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        share = statistics.median(sum(run[part] for part in PARTS) / run["run"] for run in runs)
        figures[tracker] = {name: round(value, 4) for name, value in middle.items()} | {"share": round(share, 4)}
        print(
            f"{tracker}: {middle['run']:.2f} s of processor time per run, {100 * share:.2f} % of it for log, page and "
            f"tracker; {1000 * middle['evaluated'] / 3:.0f} ms per evaluation"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps({"steps": arguments.steps, "trackers": figures}, indent=2) + "\n")


def recipe(arguments: argparse.Namespace, tracker: str, output: Path) -> Recipe:
    """A supervised run on DATA that evaluates three times."""
    keys = {
        "data.root": arguments.data,
        "output": output,
        "model.weights": "null",
        "schedule.steps": arguments.steps,
        "schedule.warmup": 0,
        "log_every": max(1, arguments.steps // 12),
        "evaluate_every": arguments.steps // 3,
        "threads": 1,
        "precision": "fp32",
        "tracking": "[]" if tracker == "none" else f"[{tracker}]",
    }
    return load_recipe(
        "streets-student", ["method={name: supervised}", *(f"{key}={value}" for key, value in keys.items())]
    )


def watched(chosen: Recipe) -> dict[str, float]:
    """Seconds of processor time: of the run, and of each thing that watches it."""
    spent = dict.fromkeys(PARTS, 0.0)
    inner: dict[str, Callable[..., Any]] = {part: getattr(Watch, part) for part in PARTS}
    depth = 0

    def timed(part: str) -> Callable[..., Any]:
        def call(self: Watch, *given: Any) -> Any:
            nonlocal depth
            depth += 1
            began = time.process_time()
            try:
                return inner[part](self, *given)
            finally:
                depth -= 1
                if depth == 0:  # an evaluation logs, too
                    spent[part] += time.process_time() - began

        return call

    for part in PARTS:
        setattr(Watch, part, timed(part))
    try:
        began = time.process_time()
        train(chosen, say=lambda line: None)
        return {"run": time.process_time() - began, **spent}
    finally:
        for part in PARTS:
            setattr(Watch, part, inner[part])


if __name__ == "__main__":
    main()
