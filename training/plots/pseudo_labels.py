"""What the pseudo labels of a run are made of, and how far their confidence can be trusted.

As in Zou et al., "PseudoSeg", ICLR 2021: figure 2 (the parts of a pseudo label) and figure 5a (their calibration, after
Guo et al., "On Calibration of Modern Neural Networks", ICML 2017).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from semseg_app.data.dataset import Sample
from semseg_app.errors import UserError
from semseg_app.labels import IGNORE
from semseg_app.metrics.calibration import CalibrationError
from semseg_app.models import SegmentationNetwork
from semseg_app.training.data.image_labels import read_image_labels
from semseg_app.training.data.streams import AugmentedDataset, ImageDataset, UnlabeledBatch, to_unlabeled
from semseg_app.training.losses.pseudo_label import sure_pixels
from semseg_app.training.methods.self_training import SelfTrainingConfig
from semseg_app.training.run.trained import Trained


class LabeledCrops(NamedTuple):
    """Unlabeled crops as a step of the run sees them, with what they truly show, and the run's opinion."""

    names: list[str]
    """Names of the photos."""
    batch: UnlabeledBatch
    """`labels` is the truth, IGNORE in the padding."""
    parts: dict[str, Tensor]
    """Class probabilities `[B, C, H, W]` on the crops, by name; the last is what is learned from."""
    learned: Tensor
    """bool `[B, H, W]`: pixels whose pseudo label is learned from."""
    selects: bool
    """Whether the method learns from the sure pixels alone."""


def labeled_crops(trained: Trained, samples: list[Sample], run: Path, device: str = "cpu") -> Iterator[LabeledCrops]:
    """Crops of labeled photos in weak and strong views, in batches as large as the run's, every photo once.

    Order and views are drawn as in the first epoch of a run on these photos; no label plays a part in them.

    Raises:
        UserError: the method computes no pseudo labels.
    """
    recipe, method = trained.recipe, trained.method.to(device)
    if isinstance(recipe.method, SelfTrainingConfig):
        raise UserError(f"{run}: the pseudo labels of self-training are masks, in {recipe.method.pseudo_labels}")
    table = recipe.method.image_label_table()
    in_photos = read_image_labels(trained.data.root / table, trained.data, samples) if table else None
    dataset = ImageDataset(trained.data, samples, with_labels=True, cache=False, image_classes=in_photos)
    view = recipe.view.model_copy(update={"max_class_share": None})  # which only crops with labels obey
    augmented = AugmentedDataset(dataset, "unlabeled", recipe.seed, view, method.strong_views)
    size = recipe.unlabeled_batch_size or recipe.batch_size
    network = next(iter(method.networks().values()))
    for first in range(0, len(samples), size):
        positions = range(first, min(first + size, len(samples)))
        raw = default_collate([augmented[position] for position in positions])
        batch = to_unlabeled(raw, torch.device(device))
        with torch.inference_mode():
            coarse = method.pseudo_label_parts(batch)
        if not coarse:
            raise UserError(f"{run}: {recipe.method.name} computes no pseudo labels; name a run of another method")
        parts = {name: on_crop(values, network, batch) for name, values in coarse.items()}
        confidence, classes = list(parts.values())[-1].max(dim=1)
        learned, selects, monitor = ~batch.pad, False, method.monitor
        if monitor is not None:
            selects = monitor.threshold > 0 or monitor.surest_share is not None
            learned = sure_pixels(classes, confidence, learned, monitor.threshold, monitor.surest_share)
        names = [samples[augmented.index_at(position)].stem for position in positions]
        yield LabeledCrops(names, batch, parts, learned, selects)


def on_crop(probabilities: Tensor, network: SegmentationNetwork, batch: UnlabeledBatch) -> Tensor:
    """Probabilities on a grid of the network's -> `[B, C, H, W]`, one for each pixel of the crops."""
    with torch.inference_mode():
        return network.upsample(probabilities.float(), *batch.weak.shape[2:])


class Reliability(NamedTuple):
    """How far the confidence of one part can be trusted."""

    error: CalibrationError
    right: int
    """Labeled pixels that it has right."""

    def to_json(self) -> dict[str, Any]:
        """Expected calibration error, accuracy and mean confidence as fractions of 1, and the diagram's bins."""
        pixels = int(self.error.counts[0].sum())
        bins = self.error.bins()
        return {
            "expected_calibration_error": self.error.result(),
            "accuracy": self.right / pixels,
            "confidence": sum(each.confidence * each.pixels for each in bins) / pixels,
            "pixels": pixels,
            "bins": [each._asdict() for each in bins],
        }


def reliability(crops: Iterator[LabeledCrops]) -> dict[str, Reliability]:
    """Calibration of every part over all labeled pixels of the crops, by its name. UserError without labeled pixels."""
    errors: dict[str, CalibrationError] = {}
    for crop in crops:
        assert crop.batch.labels is not None
        label = crop.batch.labels.cpu().numpy().astype(np.uint8)
        for name, probabilities in crop.parts.items():
            confidence, classes = (values.cpu().numpy() for values in probabilities.max(dim=1))
            counted = errors.setdefault(name, CalibrationError())
            counted.add(classes.astype(np.uint8), label, np.rint(255 * confidence).clip(0, 255).astype(np.uint8))
    if not errors or not next(iter(errors.values())).counts[0].any():
        raise UserError("no labeled pixels to compare pseudo labels with; choose another --split")
    return {name: Reliability(error, int(error.counts[1].sum())) for name, error in errors.items()}


def part_numbers(crop: LabeledCrops, index: int) -> dict[str, Any]:
    """Numbers of one crop, over its labeled pixels: accuracy of each part, and of the pixels that are learned from."""
    assert crop.batch.labels is not None
    label = crop.batch.labels[index]
    labeled = label != IGNORE
    pixels = max(int(labeled.sum()), 1)
    right = {name: (values[index].argmax(dim=0) == label) & labeled for name, values in crop.parts.items()}
    learned = crop.learned[index] & labeled
    last = list(right.values())[-1]
    return {
        "photo": crop.names[index],
        "labeled_pixels": int(labeled.sum()),
        "accuracy": {name: int(pixel.sum()) / pixels for name, pixel in right.items()},
        "learned_pixels": int(learned.sum()),
        "learned_accuracy": int((last & learned).sum()) / max(int(learned.sum()), 1),
    }
