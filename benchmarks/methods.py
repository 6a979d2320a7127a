"""Every semi-supervised method on the same data, network, length and seeds. Prints a table with mean and deviation.

    python benchmarks/methods.py DATA [--only fixmatch,unimatch] [--seeds 0,1,2] [--out FOLDER] [key=value ...]

Runs lie in FOLDER/<row>-<seed> and are not repeated: start it again to go on, or start several at once with
different --only or --seeds, and a last time for the table. DATA is a folder of `semseg data generate`.
"""

import argparse
import json
import re
import statistics
from pathlib import Path
from typing import Any

from semseg_app.training.loop import train
from semseg_app.training.recipe import load_recipe

LABELED_LOSS = {"class_balance": 0.2, "dice_weight": 1.0}
CNN = {"architecture": "deeplabv3plus", "encoder": "tu-resnet10t", "pretrained": None, "decoder_channels": 64}
VIT = {"architecture": "setr", "encoder": "tu-vit_tiny_patch16_224", "pretrained": None, "decoder_channels": 64}
COMMON: dict[str, Any] = {
    "data.labeled": "16-labeled",
    "data.unlabeled": "16-unlabeled",
    "view": {"crop": [96, 128], "scale": [0.9, 1.5]},
    "schedule": {"steps": 1000, "warmup": 40},
    "evaluate_every": 1000,
    "batch_size": 4,
    "threads": 1,
}
# The published momentum, threshold and weights are for runs a hundred times as long, from pretrained weights.
EMA = {"momentum": 0.99}
SOFT = {"ramp_up": 100}
HARD = SOFT | {"threshold": 0.8, "pseudo_label_balance": 0.5}
CUTOUT = {"cutout_size": 24}  # of a crop of 96, as 100 of 513

S4 = {"name": "s4former", "ema": EMA, "shuffle_block": 32, "reduction": "valid", **HARD}
OFF = {"shuffle": False, "pasa": False, "ncr": False}

ROWS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "supervised": (CNN, {"name": "supervised"}),
    "supervised (all labels)": (CNN, {"name": "supervised"}),
    "mean teacher + CutMix": (CNN, {"name": "mean-teacher", "ema": EMA, **HARD}),
    "CutMix-Seg": (CNN, {"name": "mean-teacher", "ema": EMA, "loss": "squared", "mix": "french", **HARD}),
    "FixMatch": (CNN, {"name": "fixmatch", **HARD}),
    "FixMatch (threshold 0.95)": (CNN, {"name": "fixmatch", **SOFT, "threshold": 0.95}),
    "PseudoSeg": (CNN, {"name": "pseudoseg", **SOFT, **CUTOUT}),
    "PC2Seg (label consistency)": (CNN, {"name": "pc2seg", "contrast_weight": 0, **SOFT, **CUTOUT}),
    "PC2Seg": (CNN, {"name": "pc2seg", "negatives": 64, **SOFT, **CUTOUT}),
    "UniMatch": (CNN, {"name": "unimatch", **HARD}),
    "AugSeg": (CNN, {"name": "augseg", "ema": EMA, **HARD}),
    "UniMatch V2": (CNN, {"name": "unimatch-v2", "ema": EMA, **HARD}),
    "ViT supervised": (VIT, {"name": "supervised"}),
    "ViT S4Former-Base": (VIT, S4 | OFF),
    "ViT + PatchShuffle": (VIT, S4 | OFF | {"shuffle": True}),
    "ViT + PASA": (VIT, S4 | OFF | {"pasa": True}),
    "ViT + NCR": (VIT, S4 | OFF | {"ncr": True}),
    "ViT S4Former": (VIT, S4),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", help="rows, comma-separated; default all")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--out", type=Path, default=Path("runs/methods"))
    parser.add_argument("overrides", nargs="*", help="key=value for every run")
    arguments = parser.parse_intermixed_args()
    rows = arguments.only.split(",") if arguments.only else list(ROWS)
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    reports = {
        row: [run(row, seed, arguments.data, arguments.out, arguments.overrides) for seed in seeds] for row in rows
    }
    print("| method | val mIoU | of each seed | teacher | coverage | agreement | seconds | peak MB |")
    print("|---|---|---|---|---|---|---|---|")
    for row, results in reports.items():
        print(line(row, results))


def run(row: str, seed: int, data: Path, out: Path, overrides: list[str]) -> dict[str, Any]:
    """The report of a row's run; made now if it is not there."""
    output = out / f"{slug(row)}-{seed}"
    report = output / "report.json"
    if not report.exists():
        network, method = ROWS[row]
        settings = COMMON | {"data.root": str(data), "model": network, "method": LABELED_LOSS | method, "seed": seed}
        if row.endswith("(all labels)"):
            settings["data.labeled"] = "train"
        chosen = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
        train(load_recipe("streets-teacher", [*chosen, f"output={output}", *overrides]), resume=True)
    content: dict[str, Any] = json.loads(report.read_text())
    return content


def slug(row: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", row.lower()).strip("-")


def line(row: str, reports: list[dict[str, Any]]) -> str:
    """One row of the table. Scores are of the last step, nothing is selected on the validation set."""
    students = [100 * report["last"]["student"]["miou"] for report in reports]
    teachers = [100 * report["last"]["teacher"]["miou"] for report in reports if "teacher" in report["last"]]
    pseudo = [report["last"].get("teacher", report["last"]["student"]) for report in reports]
    cells = [
        row,
        spread(students),
        ", ".join(f"{score:.1f}" for score in students),
        spread(teachers) if teachers else "",
        *(
            f"{100 * statistics.mean(one[key] for one in pseudo):.0f} %" if key in pseudo[0] else ""
            for key in ("coverage", "agreement")
        ),
        f"{statistics.mean(report['seconds'] for report in reports):.0f}",
        f"{max(report['memory_mb'] for report in reports):.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values) if len(values) > 1 else 0:.1f}"


if __name__ == "__main__":
    main()
