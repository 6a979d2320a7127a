"""Which photos to label next: the default strategy of `semseg data next` against a random choice, on generated streets.

    python benchmarks/label_rounds.py [--seeds 0,1,2] [--strategies cluster-uncertainty,random] [--data FOLDER]
    python benchmarks/label_rounds.py --table

A seed starts from 8 labeled photos drawn at random. Then each strategy goes its own way: train on what is labeled,
score on val, let `next_photos` choose 8 more with the model of that round; 3 times. Every training has the same number
of steps and starts from the same ImageNet weights. Each training leaves a record in benchmarks/records/label-rounds/,
and what is recorded is not run again: start the same command again to go on. --table only prints what is recorded.
The streets are written to --data first. --tiny is for a test: two rounds of two photos, two steps, random weights.
"""

import argparse
import json
import statistics
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from semseg_app import machine
from semseg_app.data.dataset import SegmentationData, open_folder
from semseg_app.data.selection.strategies import DEFAULT
from semseg_app.data.splits import write_lists
from semseg_app.files import atomic_file
from semseg_app.inference.model_threads import open_threads
from semseg_app.inference.next_photos import next_photos
from semseg_app.synthetic import generate
from semseg_app.training.loop import train
from semseg_app.training.recipe import load_recipe


@dataclass(frozen=True)
class Bed:
    """What all trainings of a study share."""

    photos: int
    val: int
    size: tuple[int, int]
    labels: int
    """At the start, and more in each round."""
    rounds: int
    """Of choosing; one training more than that."""
    settings: dict[str, Any]


NETWORK = {"architecture": "segformer", "encoder": "tu-tf_efficientnet_lite0", "weights": "imagenet"}
FULL = Bed(
    photos=256,
    val=64,
    size=(192, 256),
    labels=8,
    rounds=3,
    settings={
        "model": NETWORK | {"decoder_channels": 64},
        "view": {"crop": [192, 192], "scale": [0.9, 1.5]},
        "optimizer": {"name": "adamw", "lr": 3e-4, "weight_decay": 0.01, "head_lr_factor": 5},
        "schedule": {"steps": 150, "warmup": 15},
        "evaluate_every": 150,
    },
)
TINY = Bed(
    photos=16,
    val=2,
    size=(64, 96),
    labels=2,
    rounds=2,
    settings={
        "model": NETWORK | {"encoder": "tu-test_efficientnet", "weights": None, "decoder_channels": 32},
        "view": {"crop": [64, 64]},
        "schedule": {"steps": 2, "warmup": 0},
        "evaluate_every": 2,
    },
)
COMMON = {"batch_size": 4, "threads": 1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("runs/label-rounds/streets"))
    parser.add_argument("--out", type=Path, default=Path("runs/label-rounds"), help="folder of the runs")
    parser.add_argument("--records", type=Path, default=Path(__file__).parent / "records" / "label-rounds")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--strategies", default=f"{DEFAULT},random")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--table", action="store_true", help="run nothing")
    arguments = parser.parse_args()
    bed = TINY if arguments.tiny else FULL
    strategies = arguments.strategies.split(",")
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    if not arguments.table:
        if not arguments.data.exists():
            generate(arguments.data, bed.photos, bed.val, size=bed.size)
        for seed in seeds:
            for strategy in strategies:
                Study(open_folder(arguments.data), bed, arguments.out, arguments.records, seed, strategy).run()
    print_table(arguments.records, bed, seeds, strategies)


@dataclass(frozen=True)
class Study:
    """One strategy with one seed."""

    data: SegmentationData
    bed: Bed
    out: Path
    records: Path
    seed: int
    strategy: str

    def run(self) -> None:
        """Train, score, choose, for every round that is not recorded."""
        photos = self.data.samples("train")
        start = np.random.default_rng(self.seed).permutation(len(photos))[: self.bed.labels]
        labeled = [photos[index].stem for index in sorted(start.tolist())]
        for number in range(self.bed.rounds + 1):
            # The start is the same for every strategy, and is trained once.
            way = self.strategy if number else "start"
            record = record_file(self.records, self.seed, way, number)
            if not record.exists():
                self._train(way, number, labeled, record)
            if number < self.bed.rounds:
                labeled = labeled + self._choose(way, number, labeled)

    def _train(self, way: str, number: int, labeled: list[str], record: Path) -> None:
        began = time.process_time()
        output = self._output(way, number)
        chosen = {"data.root": str(self.data.root), "data.labeled": self._list(way, number, labeled), "seed": self.seed}
        settings = self.bed.settings | COMMON | chosen | {"output": str(output)}
        overrides = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
        report = train(load_recipe("streets-teacher", overrides), resume=True)
        scores = json.loads((output / "report.json").read_text())["last"]["student"]
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
        content = {
            "seed": self.seed,
            "strategy": way,
            "labels": len(labeled),
            "miou": scores["miou"],
            "pixel_accuracy": scores["pixel_accuracy"],
            "steps": report["steps"],
            "data": report["data"]["labeled"],
            "labeled": labeled,
            "cpu_seconds": round(time.process_time() - began, 1),
            "processor": machine.processor(),
            "commit": commit.stdout.strip(),
        }
        with atomic_file(record) as part:
            part.write_text(json.dumps(content, indent=1) + "\n")

    def _choose(self, way: str, number: int, labeled: list[str]) -> list[str]:
        """Stems of the next photos; those that the next record names, where there is one."""
        following = record_file(self.records, self.seed, self.strategy, number + 1)
        if following.exists():
            known: list[str] = json.loads(following.read_text())["labeled"]
            return known[len(labeled) :]
        if not (self._output(way, number) / "report.json").exists():  # the record came from another machine
            self._train(way, number, labeled, record_file(self.records, self.seed, way, number))
        model = open_threads(self._output(way, number) / "last", threads=1)
        name = self._list(way, number, labeled)
        choice = next_photos(self.data, model, self.bed.labels, self.strategy, "train", name, self.seed + number)
        return [sample.stem for sample in choice.samples]

    def _list(self, way: str, number: int, labeled: list[str]) -> str:
        """Name of the list of the labeled photos, which is written."""
        name = f"label-rounds/{self.seed}-{way}-{number}"
        samples = [self.data.by_entry[f"train/{stem}"][0] for stem in labeled]
        write_lists(self.data, {name: samples}, force=True)
        return name

    def _output(self, way: str, number: int) -> Path:
        return self.out / f"{self.seed}-{way}-{number}"


def record_file(records: Path, seed: int, way: str, number: int) -> Path:
    return records / f"{seed}-{way}-{number}.json"


def print_table(records: Path, bed: Bed, seeds: list[int], strategies: list[str]) -> None:
    """Val mIoU in percent after each round: mean, deviation and every seed."""
    print("| labels | " + " | ".join(strategies) + " |")
    print("|---|" + "---|" * len(strategies))
    for number in range(bed.rounds + 1):
        cells = []
        for strategy in strategies:
            files = [record_file(records, seed, strategy if number else "start", number) for seed in seeds]
            scores = [100 * json.loads(file.read_text())["miou"] for file in files if file.exists()]
            deviation = f" ± {statistics.stdev(scores):.1f}" if len(scores) > 1 else ""
            each = ", ".join(f"{score:.1f}" for score in scores)
            cells.append(f"{statistics.mean(scores):.1f}{deviation} ({each})" if scores else "")
        print(f"| {bed.labels * (number + 1)} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
