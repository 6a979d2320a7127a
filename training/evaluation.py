"""Scores of a network while it trains: fp32, every image counted once by however many processes.

Photos are shown whole, as `semseg evaluate` shows them, up to WHOLE_PIXELS; larger ones, or all that exceed a given
window, in overlapping windows of which the middles are kept, as `semseg predict` does it. Memory is then bounded by the
window, not by the photo.

Only the metrics of the confusion matrix are computed here (3.4 ms for a 512x512 photo of 19 classes, on one core).
Boundary IoU (2.7 ms) and the calibration error (1.0 ms, and softmax and its transfer from the device) would about
double that and choose nothing in a run: `semseg evaluate` prints them.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from semseg_app.inference.tiling import GRID, OVERLAP, TILE, tile_side, tiles
from semseg_app.labels import IGNORE
from semseg_app.metrics.confusion import ConfusionMatrix
from semseg_app.metrics.scores import WHILE_TRAINING, Scorer, Scores
from semseg_app.training.contracts import Segmenter
from semseg_app.training.data.streams import ImageDataset
from semseg_app.training.run.examples import Examples

BATCH = 4
"""Most photos that the network sees at once."""
PIXELS_AT_ONCE = 2 << 20
"""Photos are shown together only while they have no more pixels than this: one of 2048x1024, four of 724x724."""
WHOLE_PIXELS = 4 << 20
"""Photos with more pixels are shown in windows of TILE pixels, where no other window is chosen."""


class Evaluation(NamedTuple):
    """What a network's predictions are worth."""

    scores: Scores
    pseudo_labels: dict[str, float]
    """`coverage` and `agreement`: the share of labeled pixels that reach the threshold, and how many of those are
    right (left out where none does). A held-out measure of what unlabeled images are taught. Empty without a
    threshold."""
    by_class: dict[str, dict[str, float | None]]
    """The same for the pixels that are predicted as each class: `coverage`, `precision` (how many of the sure ones are
    right), and `share_of_sure`, its part of all sure pixels; None where it is 0 of 0. Empty without a threshold."""


def evaluate_network(
    network: Segmenter,
    dataset: ImageDataset,
    accelerator: Accelerator,
    threshold: float | None = None,
    window: int | None = None,
    examples: Examples | None = None,
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Scores over a labeled dataset; the same on every process.

    Args:
        network: its mode, training or evaluation, is restored afterwards.
        dataset: images with labels.
        accelerator: its processes share the images.
        threshold: confidence of a pseudo label; None = pseudo labels are not judged.
        window: longest side of what the network sees at once, a multiple of GRID; None = photos of up to WHOLE_PIXELS
            whole, larger ones in windows of TILE.
        examples: takes the photos that a report will show; None = none are kept.
        progress: takes the number of photos that this process has scored, after each few.
    """
    scorer = Scorer(dataset.data.num_classes, WHILE_TRAINING)
    num_classes = dataset.data.num_classes
    # Of the labeled pixels predicted as each class: all, confident ones, right ones of those.
    confident = torch.zeros(3, num_classes, dtype=torch.int64)
    was_training = network.training
    network.train(False)
    mine = range(accelerator.process_index, len(dataset), accelerator.num_processes)
    position = 0
    with torch.inference_mode():
        for images, labels in _equal_sized(dataset, mine, window):
            predicted, sure = _segmented(network, images.to(accelerator.device), threshold, window)
            for image, label, classes in zip(images.numpy(), labels.numpy(), predicted.numpy(), strict=True):
                before = scorer.confusion.counts.copy()
                scorer.add(classes, label)
                if examples is not None:
                    alone = ConfusionMatrix(dataset.data.num_classes)
                    alone.counts = scorer.confusion.counts - before
                    examples.add(mine[position], alone.result().miou, image, label, classes)
                position += 1
            if progress is not None:
                progress(position)
            if threshold is not None:
                labeled = labels != IGNORE
                sure &= labeled
                right = sure & (predicted == labels)
                confident += torch.stack(
                    [torch.bincount(predicted[of].long(), minlength=num_classes) for of in (labeled, sure, right)]
                )
    network.train(was_training)
    counts = [torch.from_numpy(array).to(accelerator.device) for array in scorer.counts]
    scorer.set_counts([np.asarray(accelerator.reduce(array, "sum").cpu()) for array in counts])
    scores = scorer.result()
    counted = accelerator.reduce(confident.to(accelerator.device), "sum").cpu()
    labeled, sure, right = counted.sum(dim=1).tolist()
    if not labeled:
        return Evaluation(scores, {}, {})
    by_class: dict[str, dict[str, float | None]] = {
        name: {
            "coverage": _share(sure_of_class, of_class),
            "precision": _share(right_of_class, sure_of_class),
            "share_of_sure": _share(sure_of_class, sure),
        }
        for name, (of_class, sure_of_class, right_of_class) in zip(
            dataset.data.info.classes, counted.T.tolist(), strict=True
        )
    }
    overall = {"coverage": sure / labeled} | ({"agreement": right / sure} if sure else {})
    return Evaluation(scores, overall, by_class)


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 5) if whole else None


def _segmented(
    network: Segmenter, images: Tensor, threshold: float | None, window: int | None
) -> tuple[Tensor, Tensor]:
    """Class maps uint8 and where confidence reaches the threshold bool, both `[n, H, W]` on the CPU."""
    count, _, height, width = images.shape
    classes = torch.empty((count, height, width), dtype=torch.uint8)
    sure = torch.zeros((count, height, width), dtype=torch.bool)
    side = _side(height, width, window)
    overlap = min(OVERLAP, -(-side // 4 // GRID) * GRID)
    sides = (tile_side(height, side, overlap), tile_side(width, side, overlap))
    for (top, left, rows, columns), keep in tiles(height, width, *sides, overlap, GRID):
        pixels = images[:, :, top : top + rows, left : left + columns].float().div_(255)
        logits = network.full_logits(pixels)
        logits = logits[:, :, keep.top - top :, keep.left - left :][:, :, : keep.height, : keep.width]
        kept = (slice(None), slice(keep.top, keep.top + keep.height), slice(keep.left, keep.left + keep.width))
        classes[kept] = logits.argmax(dim=1).to(torch.uint8).cpu()
        if threshold is not None:
            sure[kept] = (logits.softmax(dim=1).amax(dim=1) >= threshold).cpu()
    return classes, sure


def _side(height: int, width: int, window: int | None) -> int:
    """Longest side of what the network sees at once of such a photo."""
    whole = max(height, width)
    if window is not None:
        return min(window, whole)
    return whole if height * width <= WHOLE_PIXELS else TILE


def _equal_sized(dataset: ImageDataset, indices: range, window: int | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Consecutive images of one size, a few at a time: uint8 `[n, 3, H, W]` and `[n, H, W]`."""
    group: list[tuple[Tensor, Tensor]] = []
    most = 1
    for index in indices:
        image, label = dataset[index]
        assert label is not None
        if group and (group[0][0].shape != image.shape or len(group) == most):
            yield _stack(group)
            group = []
        if not group:
            height, width = label.shape
            in_windows = _side(height, width, window) < max(height, width)
            most = 1 if in_windows else max(1, min(BATCH, PIXELS_AT_ONCE // (height * width)))
        group.append((image, label))
    if group:
        yield _stack(group)


def _stack(group: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return torch.stack([image for image, _ in group]), torch.stack([label for _, label in group])
