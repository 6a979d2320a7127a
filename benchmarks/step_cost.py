"""What a step of each method costs over the network passes that it cannot do without.

    python benchmarks/step_cost.py [--only fixmatch,pc2seg] [--rounds 5] [--crop 192] [--batch 4] [--threads 1]

The kinds of pass are in PASSES. For each method they are timed one by one in the same round as its step (forward and
backward, without the optimizer); the ratio is the median over rounds. What exceeds 1 is a step's own work: mixing,
fused labels, attention, contrast, statistics. Views are made by the loader.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from semseg_app.data.layouts import open_dataset
from semseg_app.models import ModelSpec, SegmentationNetwork, build
from semseg_app.synthetic import generate
from semseg_app.training.data.streams import Batch, ImageDataset, LabeledBatch, UnlabeledBatch
from semseg_app.training.methods import build_method
from semseg_app.training.methods.hard_labels import pseudo_labels
from semseg_app.training.recipe import Recipe

CNN = {"architecture": "deeplabv3plus", "encoder": "resnet18", "decoder_channels": 128}
VIT = {"architecture": "setr", "encoder": "tu-vit_tiny_patch16_224", "decoder_channels": 64}
CLASSES = 11
L, U = "labeled", "unlabeled"

# Method, network, and the passes of a step: (kind, which images are in the batch).
METHODS: dict[str, tuple[dict[str, Any], dict[str, Any], list[tuple[str, list[str]]]]] = {
    "supervised": ({"name": "supervised"}, CNN, [("train", [L])]),
    "mean teacher": ({"name": "mean-teacher"}, CNN, [("train", [L]), ("eval", [U]), ("train", [U])]),
    "FixMatch": ({"name": "fixmatch"}, CNN, [("train", [L, U]), ("train", [U])]),
    "PseudoSeg": (
        {"name": "pseudoseg"},
        CNN,
        [("train", [L]), ("train", [U]), ("forward", [U]), ("encode", [U])],
    ),
    "PC2Seg (label consistency)": (
        {"name": "pc2seg", "contrast_weight": 0},
        CNN,
        [("train", [L]), ("train", [U]), ("forward", [U])],
    ),
    "PC2Seg": (
        {"name": "pc2seg"},
        CNN,
        [("train", [L]), ("train", [U]), ("train-encoder", [U]), ("head", [U])],
    ),
    "UniMatch": ({"name": "unimatch"}, CNN, [("train", [L, U]), ("train-head", [U]), ("train", [U, U])]),
    "AugSeg": ({"name": "augseg"}, CNN, [("eval", [U]), ("train", [L, U, U])]),
    "UniMatch V2": ({"name": "unimatch-v2"}, CNN, [("eval", [U]), ("train", [L]), ("train", [U, U])]),
    "S4Former": (
        {"name": "s4former", "shuffle_block": 48},
        VIT,
        [("train", [L]), ("eval", [U]), ("train", [U]), ("train", [U])],
    ),
}


def train(network: SegmentationNetwork, images: Tensor, labels: Tensor) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(images)
    logits_loss(network, logits, labels).backward()


def train_encoder(network: SegmentationNetwork, images: Tensor, labels: Tensor) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        maps = network.encode(images)
    maps[-1].float().sum().backward()


def train_head(network: SegmentationNetwork, images: Tensor, labels: Tensor) -> None:
    maps = [one.requires_grad_() for one in encoded(network, images)]
    with torch.autocast("cpu", torch.bfloat16):
        logits = network.head(maps)
    logits_loss(network, logits, labels).backward()


@torch.no_grad()
def head(network: SegmentationNetwork, images: Tensor, labels: Tensor) -> None:
    maps = encoded(network, images)
    with torch.autocast("cpu", torch.bfloat16):
        network.head(maps)


@torch.no_grad()
def evaluate(network: SegmentationNetwork, images: Tensor, labels: Tensor) -> None:
    network.eval()
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(images)
    pseudo_labels(network, logits, *labels.shape[1:])
    network.train()


@torch.no_grad()
def forward(network: SegmentationNetwork, images: Tensor, labels: Tensor) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        network(images)


@torch.no_grad()
def encode(network: SegmentationNetwork, images: Tensor, labels: Tensor) -> None:
    network.eval()
    with torch.autocast("cpu", torch.bfloat16):
        network.encode(images)
    network.train()


PASSES: dict[str, Callable[[SegmentationNetwork, Tensor, Tensor], None]] = {
    "train": train,  # network, upsampling to the crop, cross-entropy; and backward
    "train-encoder": train_encoder,
    "train-head": train_head,
    "eval": evaluate,  # eval mode, no gradient; to class and confidence of every pixel
    "forward": forward,  # train mode, no gradient
    "encode": encode,  # the encoder alone, eval mode, no gradient
    "head": head,  # the decoder alone, no gradient
}
_maps: dict[tuple[int, ...], list[Tensor]] = {}


def encoded(network: SegmentationNetwork, images: Tensor) -> list[Tensor]:
    """Maps for the decoder, made once: their making is not what is timed."""
    key = (id(network), *images.shape)
    if key not in _maps:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            _maps[key] = network.encode(images)
    return [one.detach() for one in _maps[key]]


def logits_loss(network: SegmentationNetwork, logits: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(network.upsample(logits.float(), *labels.shape[1:]), labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="methods, comma-separated; default all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--crop", type=int, default=192)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "streets"
        generate(root, train=2, val=2, labeled_counts=[])
        data = open_dataset(root)
        dataset = ImageDataset(data, data.samples("train"), with_labels=True)
    print("| method | passes, ms | step, ms | ratio |\n|---|---|---|---|")
    for name in arguments.only.split(",") if arguments.only else METHODS:
        passes, steps = measure(name, dataset, arguments.rounds, arguments.crop, arguments.batch)
        ratio = statistics.median(step / needed for step, needed in zip(steps, passes, strict=True))
        cells = [name, f"{1000 * statistics.median(passes):.0f}", f"{1000 * statistics.median(steps):.0f}"]
        print(f"| {' | '.join(cells)} | {ratio:.2f} |", flush=True)


def measure(name: str, dataset: ImageDataset, rounds: int, crop: int, batch: int) -> tuple[list[float], list[float]]:
    """Seconds of the passes together and of the step, a pair a round; a first round warms up."""
    section, choice, passes = METHODS[name]
    content = {"name": "cost", "data": {"root": "nowhere"}, "method": section, "view": {"crop": [crop, crop]}}
    classes = dataset.data.num_classes
    network = build(ModelSpec(**choice, num_classes=classes)).to(memory_format=torch.channels_last).train()
    method = build_method(Recipe.model_validate(content).method, network, dataset).train()
    images, labels = torch.rand(batch, 3, crop, crop), torch.randint(0, classes, (batch, crop, crop))
    nothing = torch.zeros(batch, crop, crop, dtype=torch.bool)
    labeled = LabeledBatch(images, labels, nothing, torch.tensor(float(labels.numel())))
    strong = [torch.rand_like(images) for _ in method.strong_views]
    unlabeled = UnlabeledBatch(torch.rand_like(images), strong, nothing, [nothing] * len(strong))

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            losses = method(Batch(labeled, unlabeled), 0)
        torch.stack(list(losses.values())).sum().backward()

    def needed() -> None:
        for kind, parts in passes:
            PASSES[kind](network, torch.cat([images] * len(parts)), torch.cat([labels] * len(parts)))

    pairs = []
    for _ in range(rounds + 1):
        pairs.append((seconds(needed), seconds(step)))
        method.zero_grad(set_to_none=True)
    return [first for first, _ in pairs[1:]], [second for _, second in pairs[1:]]


def seconds(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
