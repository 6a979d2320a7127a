"""What the training loop costs over a bare PyTorch loop on the same network, the same crops and the same precision.

    python benchmarks/loop_overhead.py DATA [--steps 24] [--rounds 3]

Both run in turn in one process. A block's first steps warm up; the figure is the median time of a step after them.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch.nn import functional

from semseg_app.data.layouts import open_dataset
from semseg_app.models import build
from semseg_app.training.data.streams import AugmentedDataset, ImageDataset, StepBatchSampler, batches
from semseg_app.training.loop import train
from semseg_app.training.recipe import Recipe

WARM_UP = 4


def product(recipe: Recipe) -> list[float]:
    """Seconds of every step after the warm-up, from the loop's own log (one line per step)."""
    train(recipe, say=lambda line: None)
    assert recipe.output is not None
    lines = [json.loads(line) for line in (recipe.output / "log.jsonl").read_text().splitlines()]
    return [recipe.batch_size / line["images_per_second"] for line in lines if "losses" in line][WARM_UP:]


def bare(recipe: Recipe) -> list[float]:
    """The loop that anybody would write: no schedule, no log, no checkpoint, no check."""
    data = open_dataset(recipe.data.root)
    dataset = ImageDataset(data, data.samples(recipe.data.labeled), with_labels=True)
    augmented = AugmentedDataset(dataset, "labeled", recipe.seed, recipe.view)
    positions = StepBatchSampler(recipe.batch_size, 1, 0, 1, 0, recipe.schedule.steps)
    spec = recipe.model.spec(data.num_classes)
    network = build(spec).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    seconds, before = [], time.perf_counter()
    for batch in batches(augmented, positions, workers=0, pin_memory=False):
        images, labels = batch["image"].float() / 255, batch["label"].long()
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(images)
        full = functional.interpolate(logits.float(), size=labels.shape[1:], mode="bilinear")
        functional.cross_entropy(full, labels, ignore_index=255).backward()
        optimizer.step()
        optimizer.zero_grad()
        now = time.perf_counter()
        seconds.append(now - before)
        before = now
    return seconds[WARM_UP:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    times: dict[str, list[float]] = {"product": [], "bare": []}
    ratios = []
    for round_ in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as folder:
            recipe = Recipe.model_validate(
                {
                    "name": "overhead",
                    "output": Path(folder) / "run",
                    "data": {"root": arguments.data, "val": None},
                    "model": {"weights": None},
                    "view": {"crop": [192, 256]},
                    "schedule": {"steps": arguments.steps},
                    "log_every": 1,
                    "checkpoint_every": arguments.steps,
                }
            )
            block = {"product": product(recipe), "bare": bare(recipe)}
        for name, seconds in block.items():
            times[name] += seconds
        ratios.append(statistics.median(block["product"]) / statistics.median(block["bare"]))
        print(f"round {round_ + 1}: product / bare = {ratios[-1]:.3f}", flush=True)
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    print("| loop | median step, ms |\n|---|---|")
    for name, seconds in medians.items():
        print(f"| {name} | {1000 * seconds:.1f} |")
    print(f"\nmedian ratio {statistics.median(ratios):.3f}, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
