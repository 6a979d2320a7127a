"""From the images of a recipe to the batches of a run."""

from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator

from semseg_app.data.dataset import Sample, SegmentationData
from semseg_app.data.layouts import open_dataset
from semseg_app.data.pseudo_label_folder import as_labeled
from semseg_app.errors import UserError
from semseg_app.labels import IGNORE
from semseg_app.training.contracts import Method
from semseg_app.training.data.image_labels import read_image_labels
from semseg_app.training.data.streams import (
    AugmentedDataset,
    Batch,
    ImageDataset,
    StepBatchSampler,
    StrongView,
    batches,
    to_labeled,
    to_unlabeled,
)
from semseg_app.training.recipe import Recipe


def unlabeled_images(recipe: Recipe, data: SegmentationData, method: Method, cache: bool | None) -> ImageDataset | None:
    """The unlabeled images, with the image labels or pseudo labels that the method reads; None where it reads none.

    UserError where the method needs unlabeled images and the recipe names no list of them.
    """
    if not method.uses_unlabeled:
        return None
    if recipe.data.unlabeled is None:
        raise UserError(
            f"data.unlabeled: {recipe.method.name} needs unlabeled images; name a split or list of {data.root}"
        )
    samples = data.samples(recipe.data.unlabeled)
    folder, table = recipe.method.pseudo_label_folder(), recipe.method.image_label_table()
    if folder and recipe.data.more_unlabeled:
        raise UserError(
            f"data.more_unlabeled: {folder} holds no pseudo labels of photos in other roots; leave more_unlabeled out"
        )
    classes = [read_image_labels(data.root / table, data, samples)] if table else []
    for more in recipe.data.more_unlabeled:
        if (more.image_labels is None) != (table is None):
            raise UserError(
                f"data.more_unlabeled: {more.root}: image labels are for all unlabeled photos or for none; name "
                "image_labels both there and in method, or in neither"
            )
        other = open_dataset(more.root, more.layout)
        joined = other.samples(more.split)
        if more.image_labels is not None:
            classes.append(read_image_labels(more.root / more.image_labels, other, joined, data.info.classes))
        # Their stems say where they come from: two roots may hold photos of one name.
        samples = samples + [Sample(f"{more.root.name}/{sample.stem}", sample.image, None) for sample in joined]
    if folder:
        data, samples = as_labeled(folder, data, samples, recipe.data.unlabeled)
    return ImageDataset(data, samples, bool(folder), cache, torch.cat(classes) if classes else None)


def load_batches(
    recipe: Recipe,
    accelerator: Accelerator,
    labeled: ImageDataset,
    unlabeled: ImageDataset | None,
    method: Method,
    first_step: int,
    workers: int,
) -> Iterator[Iterator[Batch]]:
    """Yields, for every step from `first_step`, an iterator over its micro-batches, on the accelerator's device."""
    device = accelerator.device
    cuda = device.type == "cuda"
    rank, world = accelerator.process_index, accelerator.num_processes

    def load(
        dataset: ImageDataset, name: str, batch_size: int, strong: tuple[StrongView, ...] = ()
    ) -> Iterator[dict[str, Any]]:
        positions = StepBatchSampler(batch_size, recipe.accumulate, rank, world, first_step, recipe.schedule.steps)
        return batches(
            AugmentedDataset(dataset, name, recipe.seed, recipe.view, strong), positions, workers, pin_memory=cuda
        )

    labeled_batches = load(labeled, "labeled", recipe.batch_size)
    unlabeled_size = recipe.unlabeled_batch_size or recipe.batch_size
    unlabeled_batches = load(unlabeled, "unlabeled", unlabeled_size, method.strong_views) if unlabeled else None
    for _ in range(first_step, recipe.schedule.steps):
        raw = [next(labeled_batches) for _ in range(recipe.accumulate)]
        count = torch.stack([(part["label"] != IGNORE).sum() for part in raw]).sum().to(device)
        label_count = accelerator.reduce(count.float(), "mean") / recipe.accumulate
        yield (
            Batch(
                to_labeled(part, device, label_count),
                to_unlabeled(next(unlabeled_batches), device) if unlabeled_batches else None,
            )
            for part in raw
        )
