"""Speed and memory of the distillation and contrast losses against plain transcriptions of the published algorithms.

    python benchmarks/distill_losses.py [--threads 2] [--rounds 3] [--only CASE ...]

Every case runs forward and backward on the same inputs; the two implementations take turns in one process and the
fastest round counts. Memory is the peak of the resident set above the inputs, each in a process of its own (Linux). The
result is a Markdown table; the values of both must agree, or the run fails.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from semseg_app.training.distill.af_dcd import omni_contrast
from semseg_app.training.distill.cirkd import CIRKD, CIRKDConfig, cross_image_similarity
from semseg_app.training.distill.ifvd import ifvd
from semseg_app.training.losses.class_sampling import sample_anchors
from semseg_app.training.losses.info_nce import class_contrast

CLASSES = 19


class Case(NamedTuple):
    """Two implementations of one loss, each a function without arguments, and the tensor whose gradient is taken."""

    plain: Callable[[], Tensor]
    ours: Callable[[], Tensor]
    leaf: Tensor
    tolerance: float | None = 1e-3
    """Relative difference of the losses; None where both draw at random."""


def omni_case(distance: str, power: float) -> Case:
    """Af-DCD's contrast on two CamVid crops, unpooled."""
    student, teacher = torch.randn(2, 2048, 44, 44, requires_grad=True), torch.randn(2, 2048, 44, 44)
    return Case(
        lambda: plain_omni_contrast(student, teacher, 0.07, 16, 4, power),
        lambda: omni_contrast(student, teacher, 0.07, 16, 4, 0, distance=distance),
        student,
    )


def plain_omni_contrast(
    student: Tensor, teacher: Tensor, temperature: float, groups: int, patch: int, power: float
) -> Tensor:
    """cdist, boolean gather, concatenation, cross-entropy."""

    def items(feature: Tensor) -> Tensor:
        batch, channels, height, width = feature.shape
        cells = feature.view(batch, groups, channels // groups, height // patch, patch, width // patch, patch)
        return cells.permute(0, 3, 5, 4, 6, 1, 2).reshape(-1, patch * patch * groups, channels // groups)

    similarity = -torch.cdist(items(student), items(teacher), p=power)
    patches, count, _ = similarity.shape
    positive = torch.eye(count, dtype=torch.bool).repeat(patches, 1, 1)
    group = torch.arange(groups).repeat(patch * patch)
    negative = (group[None] != group[:, None]).repeat(patches, 1, 1)
    rows = patches * count
    logits = torch.cat([similarity[positive].view(rows, -1), similarity[negative].view(rows, -1)], dim=1) / temperature
    pixels = student.shape[0] * student.shape[2] * student.shape[3]
    return functional.cross_entropy(logits, torch.zeros(rows, dtype=torch.long), reduction="sum") / pixels


def contrast_case() -> Case:
    """Balanced sampling and InfoNCE at stride 4 of eight 512x1024 crops, 10000 anchors in all."""
    features = torch.randn(8, 256, 128, 256, requires_grad=True)
    labels = torch.randint(0, CLASSES, (8, 16, 32)).repeat_interleave(8, 1).repeat_interleave(8, 2)
    labels[:, :4] = 255

    def ours() -> Tensor:
        places = sample_anchors(labels, CLASSES, budget=10000)
        vectors = features[places.image, :, places.pixel // 256, places.pixel % 256]
        vectors = functional.normalize(vectors, dim=1)
        return class_contrast(vectors, places.label, vectors, places.label, 0.1)

    return Case(lambda: plain_contrast(features, labels, 10000), ours, features, tolerance=0.02)


def plain_contrast(features: Tensor, labels: Tensor, budget: int) -> Tensor:
    """A loop over (image, class) for the samples; the loss on full n x n matrices."""
    flat, flat_labels = features.flatten(2), labels.flatten(1)
    member = flat_labels.unsqueeze(2) == torch.arange(CLASSES)  # [B, HW, C]
    counts = member.sum(1)
    pairs = (counts >= 5).nonzero().tolist()
    views = min(int(counts[counts >= 5].min()), 2500, budget // len(pairs))
    sampled = torch.zeros(len(pairs), features.shape[1], views)
    for row, (image, name) in enumerate(pairs):
        where = member[image, :, name].nonzero().squeeze(1)
        sampled[row] = flat[image, :, where[torch.randperm(len(where))[:views]]]
    vectors = functional.normalize(sampled, dim=1).transpose(1, 2).reshape(-1, features.shape[1])
    names = torch.tensor([name for _, name in pairs]).repeat_interleave(views)
    same = (names[:, None] == names[None]).float()
    logits = vectors @ vectors.T / 0.1
    negatives = (logits.exp() * (1 - same)).sum(1, keepdim=True)
    positive = same.scatter(1, torch.arange(len(names))[:, None], 0)
    log_probability = logits - torch.log(logits.exp() + negatives)
    return -((positive * log_probability).sum(1) / positive.sum(1)).mean()


def ifvd_case() -> Case:
    """Four 512x1024 crops at stride 8."""
    student, teacher = torch.randn(4, 128, 64, 128, requires_grad=True), torch.randn(4, 256, 64, 128)
    labels = torch.randint(0, CLASSES, (4, 512, 1024))
    return Case(lambda: plain_ifvd(student, teacher, labels), lambda: ifvd(student, teacher, labels, CLASSES), student)


def plain_ifvd(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """A loop over classes, each over both whole maps."""
    nearest = functional.interpolate(labels[:, None].float(), student.shape[2:], mode="nearest")
    maps = []
    for feature in (student, teacher):
        center = feature.clone()
        for name in range(CLASSES):
            mask = (nearest.expand(feature.shape) == name).float()
            mean = (mask * feature).sum((2, 3), keepdim=True) / (mask.sum((2, 3), keepdim=True) + 1e-6)
            center = (1 - mask) * center + mask * mean
        maps.append(functional.cosine_similarity(feature, center, dim=1))
    return functional.mse_loss(*maps)


def cross_image_case() -> Case:
    """CIRKD's mini-batch term on four maps of 48x48."""
    student, teacher = torch.randn(4, 128, 48, 48, requires_grad=True), torch.randn(4, 256, 48, 48)
    return Case(
        lambda: plain_cross_image(student, teacher, 0.1),
        lambda: cross_image_similarity(student, teacher, 0.1),
        student,
    )


def plain_cross_image(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """A loop over ordered pairs of images."""
    own, others = (functional.normalize(feature, dim=1).flatten(2) for feature in (student, teacher))
    total = torch.zeros(())
    for first in range(len(own)):
        for second in range(len(own)):
            wanted = (others[first].T @ others[second] / temperature).softmax(1)
            given = (own[first].T @ own[second] / temperature).log_softmax(1)
            total = total + functional.kl_div(given, wanted, reduction="batchmean")
    return total / len(own) ** 2


def memory_case() -> Case:
    """CIRKD's queue terms on four maps of 48x48, queue update included."""
    config = CIRKDConfig(weight=0, pixel_weight=1, region_weight=1, pixel_queue=2000)
    module = CIRKD(config, 128, 256, CLASSES)
    pixels, regions = (functional.normalize(torch.randn(CLASSES, 2000, 256), dim=2) for _ in range(2))
    pointers = torch.zeros(2, CLASSES, dtype=torch.long)
    student, teacher = torch.randn(4, 128, 48, 48, requires_grad=True), torch.randn(4, 256, 48, 48)
    labels = torch.randint(0, CLASSES, (4, 48, 48))
    return Case(
        lambda: plain_memory(module.project(student), teacher, labels, pixels, regions, pointers),
        lambda: torch.stack(list(module({"decoder": (student, teacher)}, labels).values())).sum(),
        student,
        tolerance=None,
    )


def plain_memory(
    student: Tensor, teacher: Tensor, labels: Tensor, pixels: Tensor, regions: Tensor, pointers: Tensor
) -> Tensor:
    """Loops over images and classes for the queues, over classes for the keys; whole similarity matrices."""
    student, teacher = functional.normalize(student, dim=1), functional.normalize(teacher, dim=1)
    with torch.no_grad():
        for image in range(len(labels)):
            flat, names = teacher[image].flatten(1), labels[image].flatten()
            for name in names.unique().tolist():
                where = (names == name).nonzero().squeeze(1)
                regions[name, pointers[0, name]] = functional.normalize(flat[:, where].mean(1), dim=0)
                pointers[0, name] = (pointers[0, name] + 1) % regions.shape[1]
                chosen = where[torch.randperm(len(where))[:16]]
                places = (pointers[1, name] + torch.arange(len(chosen))) % pixels.shape[1]
                pixels[name, places] = flat[:, chosen].T
                pointers[1, name] = (pointers[1, name] + len(chosen)) % pixels.shape[1]
    rows, targets = (feature.permute(0, 2, 3, 1).reshape(-1, feature.shape[1]) for feature in (student, teacher))
    total = torch.zeros(())
    for queue, count in ((pixels, 4096 // CLASSES + 1), (regions, 1024 // CLASSES + 1)):
        chosen = torch.randperm(queue.shape[1])[:count]
        keys = torch.cat([queue[name, chosen] for name in range(CLASSES)])
        given, wanted = (rows @ keys.T / 0.1).log_softmax(1), (targets @ keys.T / 0.1).softmax(1)
        total = total + functional.kl_div(given, wanted, reduction="batchmean")
    return total


CASES: dict[str, Callable[[], Case]] = {
    "omni-contrast, L1": lambda: omni_case("l1", 1.0),
    "omni-contrast, L2": lambda: omni_case("l2", 2.0),
    "class contrast with sampling": contrast_case,
    "IFVD": ifvd_case,
    "CIRKD, mini-batch": cross_image_case,
    "CIRKD, queues": memory_case,
}


def run(loss: Callable[[], Tensor], leaf: Tensor) -> tuple[float, float]:
    """Seconds of one forward and backward, and the value."""
    leaf.grad = None
    start = time.perf_counter()
    value = loss()
    value.backward()
    return time.perf_counter() - start, value.item()


def status(field: str) -> float:
    """A field of /proc/self/status, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def measure(name: str, what: str, rounds: int) -> dict[str, float]:
    """In a process of its own: the times of both implementations ("time"), or the memory of one ("plain", "ours")."""
    torch.manual_seed(0)
    case = CASES[name]()
    if what != "time":
        before = status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # forget earlier peaks
        run(getattr(case, what), case.leaf)
        return {"memory": status("VmHWM") - before}
    seconds: dict[str, list[float]] = {"plain": [], "ours": []}
    values = {}
    for _ in range(rounds + 1):
        for which in seconds:
            taken, values[which] = run(getattr(case, which), case.leaf)
            seconds[which].append(taken)
    if case.tolerance and abs(values["ours"] / values["plain"] - 1) > case.tolerance:
        raise SystemExit(f"{name}: {values['ours']} instead of {values['plain']}")
    return {which: min(times[1:]) for which, times in seconds.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=CASES, default=list(CASES))
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.child:
        print(json.dumps(measure(*options.child, options.rounds)))
        return

    def child(name: str, what: str) -> dict[str, float]:
        common = ["--threads", str(options.threads), "--rounds", str(options.rounds)]
        command = [sys.executable, __file__, *common, "--child", name, what]
        return dict(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))

    print("| loss | plain, s | ours, s | speed | plain, MB | ours, MB | memory |")
    print("|---|---|---|---|---|---|---|")
    for name in options.only:
        times = child(name, "time")
        memory = {which: child(name, which)["memory"] for which in ("plain", "ours")}
        print(
            f"| {name} | {times['plain']:.3f} | {times['ours']:.3f} | x {times['plain'] / times['ours']:.1f} "
            f"| {memory['plain']:.0f} | {memory['ours']:.0f} | x {memory['ours'] / memory['plain']:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
