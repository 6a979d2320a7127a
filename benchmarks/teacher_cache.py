"""What a step of a distillation costs, with the teacher and with its answers in a cache, over the student's own step.

    python benchmarks/teacher_cache.py [--rounds 12] [--teacher tu-resnet10t] [--width 64] [--json FILE]

The student of docs/results.md on generated streets, 4 labeled and 4 unlabeled crops of 96x128; "the student's own step"
is supervised training on 8 crops, and "4 crops" what it is without unlabeled images. Whole steps of `semseg train` are
measured: loader, both networks, losses, optimizer. Processor time of one thread, all rows in turn in every round; the
ratio is the median over rounds. The teacher has random weights, which costs what trained ones cost.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from semseg_app.artifact import ModelConfig
from semseg_app.data.dataset import default_palette
from semseg_app.labels import LabelSpace
from semseg_app.models import ModelSpec, build, save_network
from semseg_app.synthetic import CLASSES, generate
from semseg_app.training.loop import set_up
from semseg_app.training.recipe import Recipe
from semseg_app.training.run.folder import RunFolder, provenance
from semseg_app.training.run.launch import make_accelerator
from semseg_app.training.run.run import Run

LISTS = {"labeled": "16-labeled", "unlabeled": "16-unlabeled", "val": None}
CWD: dict[str, Any] = {"cwd": {}}
CACHED: dict[str, Any] = {"teacher_cache": {}}
OWN = "the student's own step"
FEWER = "the same, 4 crops"
ROWS: dict[str, dict[str, Any] | None] = {
    OWN: None,
    FEWER: None,
    "KD": {},
    "KD, cached": CACHED,
    "CWD": CWD,
    "CWD, cached": CWD | CACHED,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--teacher", default="tu-resnet10t", help="encoder of a DeepLabV3+")
    parser.add_argument("--width", type=int, default=64, help="channels of the teacher's decoder")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        generate(folder / "streets", train=40, val=2, labeled_counts=[16], size=(96, 128))
        spec = ModelSpec(encoder=arguments.teacher, num_classes=len(CLASSES), decoder_channels=arguments.width)
        labels = LabelSpace(classes=CLASSES, palette=default_palette(len(CLASSES)))
        save_network(folder / "teacher", build(spec), ModelConfig(name="teacher", model=spec, labels=labels))
        runs = {row: started(row, section, folder) for row, section in ROWS.items()}
        milliseconds = measured(runs, arguments.rounds)
        cache = runs["CWD, cached"].facts["teacher_cache"]
    print("| step | CPU ms | over the student's own |\n|---|---|---|")
    table = {}
    for row, times in milliseconds.items():
        ratio = statistics.median(time / own for time, own in zip(times, milliseconds[OWN], strict=True))
        table[row] = {"cpu_ms": round(statistics.median(times), 1), "ratio": round(ratio, 2)}
        print(f"| {row} | {table[row]['cpu_ms']:.0f} | {ratio:.2f} |", flush=True)
    print(f"cache of {cache['photos']} photos: {cache['bytes'] / 1e6:.1f} MB")
    if arguments.json:
        teacher = {"encoder": arguments.teacher, "decoder_channels": arguments.width}
        sizes = {name: cache[name] for name in ("photos", "bytes")}
        record = {"teacher": teacher, "rounds": arguments.rounds, "rows": table, "cache": sizes} | provenance()
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")


def started(row: str, section: dict[str, Any] | None, folder: Path) -> Run:
    """A run before its first step."""
    name = row.replace(", ", "-").replace(" ", "-").replace("'", "").lower()
    loss = {"class_balance": 0.2, "dice_weight": 1.0}
    taught = {"name": "distillation", "teacher": folder / "teacher", "use_unlabeled": True}
    recipe = Recipe.model_validate(
        {
            "name": name,
            "output": folder / "runs" / name,
            "data": {"root": folder / "streets", **LISTS},
            "model": {
                "architecture": "segformer",
                "encoder": "tu-mobilenetv3_small_100",
                "weights": None,
                "decoder_channels": 64,
            },
            "view": {"crop": [96, 128], "scale": [0.9, 1.5]},
            "method": loss | ({"name": "supervised"} if section is None else taught | section),
            "optimizer": {"name": "adamw", "lr": 0.0015, "weight_decay": 0.01},
            "batch_size": 8 if row == OWN else 4,
            "unlabeled_batch_size": 4,
            "threads": 1,
        }
    )
    return set_up(recipe, False, make_accelerator(recipe), RunFolder(recipe.run_folder), print)


def measured(runs: dict[str, Run], rounds: int) -> dict[str, list[float]]:
    """CPU milliseconds of each row's steps; two rounds warm up."""
    times: dict[str, list[float]] = {row: [] for row in runs}
    for step in range(rounds + 2):
        for row, run in runs.items():
            began = time.process_time()
            run.learn(step)
            times[row].append(1000 * (time.process_time() - began))
    return {row: values[2:] for row, values in times.items()}


if __name__ == "__main__":
    main()
