"""What a step of each method costs over the network passes that it cannot do without.

    python benchmarks/step_cost.py [--only fixmatch,pc2seg] [--rounds 5] [--crop 192] [--batch 4] [--threads 1]
    python benchmarks/step_cost.py --device cuda --only Af-DCD --crop 512x1024 [--precision fp32] [--compile]

The kinds of pass are in PASSES. For each method they are timed one by one in the same round as its step (forward and
backward, without the optimizer); the ratio is the median over rounds. What exceeds 1 is a step's own work: mixing,
fused labels, attention, contrast, statistics. Views are made by the loader. Images per second counts the labeled images
of a step; memory is the peak of one step: of the GPU's allocator, or of the process on a CPU.

"Af-DCD" is distillation from DeepLabV3 on ResNet-101 to ResNet-18, at stride 8, as its paper trains on Cityscapes. It
runs when it is named; its passes are not timed.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from semseg_app.artifact import ModelConfig
from semseg_app.data.layouts import open_dataset
from semseg_app.errors import UserError
from semseg_app.files import atomic_file
from semseg_app.labels import LabelSpace
from semseg_app.models import ModelSpec, SegmentationNetwork, build, save_network
from semseg_app.synthetic import generate
from semseg_app.training.data.streams import Batch, ImageDataset, LabeledBatch, UnlabeledBatch
from semseg_app.training.methods import build_method
from semseg_app.training.methods.hard_labels import pseudo_labels
from semseg_app.training.recipe import Recipe
from semseg_app.training.run.progress import forget_peak_memory, peak_memory_mb

CNN = {"architecture": "deeplabv3plus", "encoder": "resnet18", "decoder_channels": 128}
VIT = {"architecture": "setr", "encoder": "tu-vit_tiny_patch16_224", "decoder_channels": 64}
PAIR = "Af-DCD"
L, U = "labeled", "unlabeled"
Cast = Callable[[], AbstractContextManager[Any]]
"""Makes the context in which forward passes run in the chosen precision."""

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


@dataclass(frozen=True)
class Setting:
    """How steps are made."""

    device: str
    precision: str
    compiled: bool
    crop: tuple[int, int]
    batch: int
    rounds: int

    def cast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bf16")


def train(network: SegmentationNetwork, images: Tensor, labels: Tensor, cast: Cast) -> None:
    with cast():
        logits = network(images)
    logits_loss(network, logits, labels).backward()


def train_encoder(network: SegmentationNetwork, images: Tensor, labels: Tensor, cast: Cast) -> None:
    with cast():
        maps = network.encode(images)
    maps[-1].float().sum().backward()


def train_head(network: SegmentationNetwork, images: Tensor, labels: Tensor, cast: Cast) -> None:
    maps = [one.requires_grad_() for one in encoded(network, images, cast)]
    with cast():
        logits = network.head(maps)
    logits_loss(network, logits, labels).backward()


@torch.no_grad()
def head(network: SegmentationNetwork, images: Tensor, labels: Tensor, cast: Cast) -> None:
    maps = encoded(network, images, cast)
    with cast():
        network.head(maps)


@torch.no_grad()
def evaluate(network: SegmentationNetwork, images: Tensor, labels: Tensor, cast: Cast) -> None:
    network.eval()
    with cast():
        logits = network(images)
    pseudo_labels(network, logits, *labels.shape[1:])
    network.train()


@torch.no_grad()
def forward(network: SegmentationNetwork, images: Tensor, labels: Tensor, cast: Cast) -> None:
    with cast():
        network(images)


@torch.no_grad()
def encode(network: SegmentationNetwork, images: Tensor, labels: Tensor, cast: Cast) -> None:
    network.eval()
    with cast():
        network.encode(images)
    network.train()


PASSES: dict[str, Callable[[SegmentationNetwork, Tensor, Tensor, Cast], None]] = {
    "train": train,  # network, upsampling to the crop, cross-entropy; and backward
    "train-encoder": train_encoder,
    "train-head": train_head,
    "eval": evaluate,  # eval mode, no gradient; to class and confidence of every pixel
    "forward": forward,  # train mode, no gradient
    "encode": encode,  # the encoder alone, eval mode, no gradient
    "head": head,  # the decoder alone, no gradient
}
_maps: dict[tuple[int, ...], list[Tensor]] = {}


def encoded(network: SegmentationNetwork, images: Tensor, cast: Cast) -> list[Tensor]:
    """Maps for the decoder, made once: their making is not what is timed."""
    key = (id(network), *images.shape)
    if key not in _maps:
        with torch.no_grad(), cast():
            _maps[key] = network.encode(images)
    return [one.detach() for one in _maps[key]]


def logits_loss(network: SegmentationNetwork, logits: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(network.upsample(logits.float(), *labels.shape[1:]), labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help=f"methods, comma-separated; default: all but {PAIR}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--crop", default="192", help="a side, or height x width: 512x1024")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--compile", action="store_true", help="the network, as the recipe's key compile does")
    parser.add_argument("--json", type=Path, help="write the figures to this file too, after each method")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    height, _, width = arguments.crop.partition("x")
    setting = Setting(
        device=arguments.device,
        precision=arguments.precision,
        compiled=arguments.compile,
        crop=(int(height), int(width or height)),
        batch=arguments.batch,
        rounds=arguments.rounds,
    )
    records: list[dict[str, Any]] = []
    print("| method | passes, ms | step, ms | ratio | images/s | peak MB |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "streets"
        generate(root, train=2, val=2, labeled_counts=[])
        data = open_dataset(root)
        dataset = ImageDataset(data, data.samples("train"), with_labels=True)
        for name in arguments.only.split(",") if arguments.only else METHODS:
            try:
                record = measure(name, dataset, setting)
                print(line(record), flush=True)
            except (RuntimeError, UserError) as error:  # no memory, say: the other methods are still worth measuring
                record = {"method": name, "error": str(error).partition("\n")[0]}
                print(f"| {name} | {record['error']} |", flush=True)
            records.append(record | asdict(setting))
            if arguments.json:
                with atomic_file(arguments.json) as part:
                    part.write_text(json.dumps(records, indent=1))
    if any("error" in record for record in records):
        sys.exit("not every method could be measured")


def line(record: dict[str, Any]) -> str:
    """A row of the table."""
    passes = f"{record['passes_ms']:.0f}" if record["passes_ms"] is not None else ""
    ratio = f"{record['ratio']:.2f}" if record["ratio"] is not None else ""
    cells = [record["method"], passes, f"{record['step_ms']:.0f}", ratio]
    return f"| {' | '.join(cells)} | {record['images_per_second']:.1f} | {record['memory_mb']:.0f} |"


def measure(name: str, dataset: ImageDataset, setting: Setting) -> dict[str, Any]:
    """Milliseconds of the passes together and of the step, in pairs, one pair per round; the first rounds warm up."""
    device = torch.device(setting.device)
    batch, (crop_height, crop_width) = setting.batch, setting.crop
    section, choice, passes = METHODS[name] if name != PAIR else af_dcd(dataset)
    content = {"name": "cost", "data": {"root": "nowhere"}, "method": section, "view": {"crop": list(setting.crop)}}
    classes = dataset.data.num_classes
    network = build(ModelSpec(**choice, num_classes=classes)).to(memory_format=torch.channels_last).train()
    method = build_method(Recipe.model_validate(content).method, network, dataset).to(device).train()
    if setting.compiled:
        for part in ("encode", "decode", "head"):  # those that the loop compiles
            setattr(network, part, torch.compile(getattr(network, part)))
    images = torch.rand(batch, 3, crop_height, crop_width, device=device)
    labels = torch.randint(0, classes, (batch, crop_height, crop_width), device=device)
    nothing = torch.zeros(batch, crop_height, crop_width, dtype=torch.bool, device=device)
    labeled = LabeledBatch(images, labels, nothing, torch.tensor(float(labels.numel()), device=device))
    strong = [torch.rand_like(images) for _ in method.strong_views]
    unlabeled = UnlabeledBatch(torch.rand_like(images), strong, nothing, [nothing] * len(strong))

    def step() -> None:
        with setting.cast():
            losses = method(Batch(labeled, unlabeled), 0)
        torch.stack(list(losses.values())).sum().backward()

    def needed() -> None:
        for kind, parts in passes:
            stacked = torch.cat([images] * len(parts)), torch.cat([labels] * len(parts))
            PASSES[kind](network, *stacked, setting.cast)

    pairs = []
    # The compiler makes its second version of a graph when it has seen a second size.
    warm_up = 3 if setting.compiled else 1
    began = time.perf_counter()
    for number in range(warm_up + setting.rounds):
        if number == warm_up:
            warm_up_seconds = time.perf_counter() - began
        pairs.append((seconds(needed, device), seconds(step, device)))
        method.zero_grad(set_to_none=True)
    _maps.clear()  # what the passes alone hold is no memory of the step
    forget_peak_memory(device)
    step()
    memory = peak_memory_mb(device)
    pairs = pairs[warm_up:]
    taken = statistics.median(second for _, second in pairs)
    return {
        "method": name,
        "passes_ms": 1000 * statistics.median(first for first, _ in pairs) if passes else None,
        "step_ms": 1000 * taken,
        "ratio": statistics.median(second / first for first, second in pairs) if passes else None,
        "images_per_second": batch / taken,
        "memory_mb": memory,
        "warm_up_seconds": warm_up_seconds,
    }


def af_dcd(dataset: ImageDataset) -> tuple[dict[str, Any], dict[str, Any], list[tuple[str, list[str]]]]:
    """The row of the pair, whose teacher has random weights: they do not change what a step costs."""
    folder = dataset.data.root.parent / "teacher"
    spec = ModelSpec(architecture="deeplabv3", encoder="resnet101", num_classes=dataset.data.num_classes)
    if not folder.exists():
        labels = LabelSpace(classes=dataset.data.info.classes, palette=dataset.data.info.palette)
        save_network(folder, build(spec), ModelConfig(name="teacher", model=spec, labels=labels))
    section = {"name": "distillation", "teacher": str(folder), "preset": "af-dcd-parity-cityscapes"}
    return section, {"architecture": "deeplabv3", "encoder": "resnet18"}, []


def seconds(work: Callable[[], None], device: torch.device) -> float:
    """What the work takes, to its end on the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
