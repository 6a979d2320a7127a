"""Every semi-supervised method on the same data, network, length and seeds. Prints a table with mean and deviation.

    python benchmarks/methods.py DATA [--only FixMatch,UniMatch] [--seeds 0,1,2] [--out FOLDER] [key=value ...]
    python benchmarks/methods.py --table

Runs lie in FOLDER/<row>-<seed>, and what came out of each in benchmarks/records/methods/<row>-<seed>.json; what is
recorded is not run again. So start it again to go on, or start several with different --only or --seeds. --table only
prints what is recorded. DATA is a folder of `semseg data generate --size 96x128`.
"""

import argparse
import json
import re
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

from semseg_app.data.layouts import open_dataset
from semseg_app.inference.engines.open import open_engine
from semseg_app.inference.pseudo_label_writer import write_pseudo_labels
from semseg_app.training.loop import train
from semseg_app.training.recipe import load_recipe

LABELED_LOSS = {"class_balance": 0.2, "dice_weight": 1.0}
CNN = {"architecture": "deeplabv3plus", "encoder": "tu-resnet10t", "weights": None, "decoder_channels": 64}
VIT = {"architecture": "setr", "encoder": "tu-vit_tiny_patch16_224", "weights": None, "decoder_channels": 64}
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
    "self-training": (CNN, {"name": "self-training"}),
    "CutMix-Seg": (CNN, {"name": "mean-teacher", "ema": EMA, "loss": "squared", "mix": "french", **HARD}),
    "FixMatch": (CNN, {"name": "fixmatch", **HARD}),
    "FixMatch (threshold 0.95)": (CNN, {"name": "fixmatch", **SOFT, "threshold": 0.95}),
    "FixMatch (surest 30 % of each class)": (CNN, {"name": "fixmatch", **SOFT, "surest_share": 0.3}),
    "mean teacher + CutMix (threshold 0.95)": (CNN, {"name": "mean-teacher", "ema": EMA, **SOFT, "threshold": 0.95}),
    "UniMatch (threshold 0.95)": (CNN, {"name": "unimatch", **SOFT, "threshold": 0.95}),
    "AugSeg (threshold 0.95)": (CNN, {"name": "augseg", "ema": EMA, **SOFT, "threshold": 0.95}),
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


RECORDS = Path(__file__).parent / "records" / "methods"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--only", help="rows, comma-separated; default all")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--out", type=Path, default=Path("runs/methods"))
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("overrides", nargs="*", help="key=value for every run")
    arguments = parser.parse_intermixed_args()
    rows = arguments.only.split(",") if arguments.only else list(ROWS)
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    if not arguments.table:
        if arguments.data is None:
            parser.error("DATA is missing")
        for seed in seeds:
            for row in rows:
                if not record_file(row, seed).exists():
                    start = time.process_time()
                    report = run(row, seed, arguments.data, arguments.out, arguments.overrides)
                    record(row, seed, report, time.process_time() - start)
    print("| method | val mIoU | of each seed | gain | EMA teacher | coverage | agreement | CPU s | peak MB |")
    print("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        if results := recorded(row, seeds):
            print(line(row, results, recorded("ViT supervised" if row.startswith("ViT") else "supervised", seeds)))


def run(row: str, seed: int, data: Path, out: Path, overrides: list[str]) -> dict[str, Any]:
    """The report of a row's run."""
    output = out / f"{slug(row)}-{seed}"
    network, method = ROWS[row]
    settings = COMMON | {"data.root": str(data), "model": network, "method": LABELED_LOSS | method, "seed": seed}
    if row.endswith("(all labels)"):
        settings["data.labeled"] = "train"
    if row == "self-training":
        teacher = out / f"supervised-{seed}" / "last"
        if not teacher.exists():
            run("supervised", seed, data, out, overrides)
        method = method | {"pseudo_labels": str((out / f"{slug(row)}-{seed}-labels").resolve())}
        pseudo_labels(teacher, data, method["pseudo_labels"])
        settings["method"] = LABELED_LOSS | method
    chosen = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    train(load_recipe("streets-teacher", [*chosen, f"output={output}", *overrides]), resume=True)
    report: dict[str, Any] = json.loads((output / "report.json").read_text())
    return report


def pseudo_labels(teacher: Path, data: Path, folder: str) -> None:
    """What the supervised network of the same seed is sure of, as masks."""
    write_pseudo_labels(teacher, open_engine(str(teacher)), open_dataset(data), COMMON["data.unlabeled"], Path(folder))


def record(row: str, seed: int, report: dict[str, Any], cpu_seconds: float) -> None:
    """Keep the figures of the last step; nothing is selected on the validation images. On one thread the processor's
    seconds are those of the clock on a machine that does nothing else, which it seldom is."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout
    keys = ("miou", "coverage", "agreement")
    content = {
        "row": row,
        "seed": seed,
        "commit": commit.strip(),
        "last": {role: {key: one[key] for key in keys if key in one} for role, one in report["last"].items()},
        "cpu_seconds": round(cpu_seconds, 1),
        "memory_mb": report["memory_mb"],
    }
    RECORDS.mkdir(parents=True, exist_ok=True)
    record_file(row, seed).write_text(json.dumps(content, indent=1) + "\n")


def record_file(row: str, seed: int) -> Path:
    return RECORDS / f"{slug(row)}-{seed}.json"


def recorded(row: str, seeds: list[int]) -> list[dict[str, Any]]:
    """What there is of a row."""
    files = [record_file(row, seed) for seed in seeds]
    return [json.loads(file.read_text()) for file in files if file.exists()]


def slug(row: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", row.lower()).strip("-")


def line(row: str, reports: list[dict[str, Any]], baseline: list[dict[str, Any]]) -> str:
    """One row of the table. Its gain is the mean of the differences to `baseline` with the same seed."""
    seconds = [report["cpu_seconds"] for report in reports if report.get("cpu_seconds")]
    students = [100 * report["last"]["student"]["miou"] for report in reports]
    teachers = [100 * report["last"]["teacher"]["miou"] for report in reports if "teacher" in report["last"]]
    base = {report["seed"]: 100 * report["last"]["student"]["miou"] for report in baseline}
    gains = [
        score - base[report["seed"]]
        for report, score in zip(reports, students, strict=True)
        if report["seed"] in base and report["row"] != baseline[0]["row"]
    ]
    pseudo = [report["last"].get("teacher", report["last"]["student"]) for report in reports]
    cells = [
        row,
        spread(students),
        ", ".join(f"{score:.1f}" for score in students),
        f"{statistics.mean(gains):+.1f}" if gains else "",
        spread(teachers) if teachers else "",
        *(
            f"{100 * statistics.mean(one[key] for one in pseudo):.0f} %" if key in pseudo[0] else ""
            for key in ("coverage", "agreement")
        ),
        f"{statistics.mean(seconds):.0f}" if seconds else "",
        f"{max(report['memory_mb'] for report in reports):.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values) if len(values) > 1 else 0:.1f}"


if __name__ == "__main__":
    main()
