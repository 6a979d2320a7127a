"""Endless, reproducible training batches: image dataset -> augmented dataset -> batch sampler -> batches.

Position p of an augmented dataset (p = step * batch size + slot) always names the same sample in the same views,
whatever the number of workers, ranks or accumulation steps, and wherever a run was interrupted.
"""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Thread
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset

from semseg_app import machine
from semseg_app.data.dataset import Sample, SegmentationData
from semseg_app.errors import UserError
from semseg_app.training.data.randomness import generator, permutation
from semseg_app.training.data.strong_augmentation import photometric_distortion
from semseg_app.training.data.teacher_maps import TaughtMaps, TeacherMaps
from semseg_app.training.data.weak_augmentation import WeakView, weak_view

CACHE_LIMIT_BYTES = 4 << 30

StrongView = Callable[[Tensor, Generator], tuple[Tensor, Tensor]]
"""uint8 image `[3, h, w]` and a generator -> (uint8 image, bool `[h, w]` True where CutOut removed the image)."""


class LabeledBatch(NamedTuple):
    """Labeled crops on the device."""

    images: Tensor
    """float `[B, 3, h, w]`, RGB in [0, 1]."""
    labels: Tensor
    """int64 `[B, h, w]`, 255 = ignore (padding included)."""
    pad: Tensor
    """bool `[B, h, w]`, True where the crop lies outside the photo."""
    label_count: Tensor
    """Scalar: labeled pixels of the whole step, over all ranks and accumulation steps, divided by the number of
    micro-batches. A sum over this batch, divided by it, makes gradients independent of how the step was cut."""
    taught: TaughtMaps | None = None
    """The teacher's maps of the crops, where a cache holds them."""


class UnlabeledBatch(NamedTuple):
    """Unlabeled crops on the device: a weak view and as many strong views of it as the method asked for."""

    weak: Tensor
    """float `[B, 3, h, w]`, RGB in [0, 1]."""
    strong: list[Tensor]
    """Each float `[B, 3, h, w]`; every pixel shows the same point of the photo as in `weak`."""
    pad: Tensor
    """bool `[B, h, w]`, True where the crop lies outside the photo."""
    cut: list[Tensor]
    """For each strong view bool `[B, h, w]`, True where CutOut removed the image."""
    labels: Tensor | None = None
    """int64 `[B, h, w]`, 255 = ignore: what an earlier teacher wrote to files (self-training only)."""
    image_classes: Tensor | None = None
    """bool `[B, C]`: the classes of the whole photo, where the dataset has a table of them."""
    taught: TaughtMaps | None = None
    """The teacher's maps of the weak views, where a cache holds them."""


class Batch(NamedTuple):
    """One micro-batch, as a method sees it."""

    labeled: LabeledBatch
    unlabeled: UnlabeledBatch | None


class ImageDataset:
    """The images of a list, decoded once where they fit into memory.

    UserError for an empty list, and for a mask whose size is not that of its image.

    Args:
        data: the dataset folder.
        samples: which of its images.
        with_labels: decode masks too.
        cache: True, False, or None = when the decoded images stay under 4 GiB.
        image_classes: bool `[len(samples), C]`, the classes in each image (training/data/image_labels.py).
    """

    def __init__(
        self,
        data: SegmentationData,
        samples: list[Sample],
        with_labels: bool,
        cache: bool | None = None,
        image_classes: Tensor | None = None,
    ):
        if not samples:
            raise UserError(f"{data.root}: an empty list of images cannot be trained on")
        self.data = data
        self.samples = samples
        self.with_labels = with_labels
        self.image_classes = image_classes
        self.teacher_maps: TeacherMaps | None = None  # a distillation with a cache sets them
        self.cached: list[tuple[Tensor, Tensor | None]] | None = None
        if cache is None:
            cache = self._estimated_bytes() <= CACHE_LIMIT_BYTES
        if cache:
            with ThreadPoolExecutor(min(8, machine.cores())) as threads:
                self.cached = list(threads.map(self._decode, range(len(samples))))

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor | None]:
        """uint8 image `[3, H, W]` and uint8 label `[H, W]` or None."""
        return self.cached[index] if self.cached is not None else self._decode(index)

    def class_counts(self) -> Tensor:
        """int64 `[C]`: labeled pixels of each class, over all images."""
        counts = torch.zeros(256, dtype=torch.int64)
        for index, sample in enumerate(self.samples):
            label = self.cached[index][1] if self.cached else torch.from_numpy(self.data.read_label(sample))
            assert label is not None
            counts += torch.bincount(label.flatten(), minlength=256)
        return counts[: self.data.num_classes]

    def _decode(self, index: int) -> tuple[Tensor, Tensor | None]:
        sample = self.samples[index]
        image = torch.from_numpy(self.data.read_image(sample).copy()).permute(2, 0, 1).contiguous()
        label = torch.from_numpy(self.data.read_label(sample)) if self.with_labels else None
        if label is not None and label.shape != image.shape[1:]:
            raise UserError(
                f"{sample.label}: {label.shape[1]}x{label.shape[0]} pixels, but its image is "
                f"{image.shape[2]}x{image.shape[1]}; make them equal"
            )
        return image, label

    def _estimated_bytes(self) -> int:
        return self.data.read_image(self.samples[0]).nbytes // 3 * 4 * len(self.samples)


class AugmentedDataset(Dataset[dict[str, Any]]):
    """Position -> one sample in its weak and strong views, as a dict of tensors that the data loader collates.

    The order of an epoch is a permutation drawn from (seed, name, epoch); the views are drawn from (seed, name,
    position).

    Args:
        dataset: the images.
        name: "labeled" or "unlabeled": two datasets of one run draw different numbers.
        seed: the recipe's.
        weak: how the weak view is drawn.
        strong: the strong views to add to each sample.
    """

    def __init__(
        self, dataset: ImageDataset, name: str, seed: int, weak: WeakView, strong: tuple[StrongView, ...] = ()
    ):
        self.dataset = dataset
        self.name = name
        self.seed = seed
        self.weak = weak
        self.strong = strong
        self._order: tuple[int, Any] = (-1, None)

    def index_at(self, position: int) -> int:
        """Which image of the dataset stands at a position."""
        epoch, rank = divmod(position, len(self.dataset))
        if self._order[0] != epoch:
            self._order = (epoch, permutation(self.seed, f"order/{self.name}", len(self.dataset), epoch))
        return int(self._order[1][rank])

    def __getitem__(self, position: int) -> dict[str, Any]:
        index = self.index_at(position)
        image, label = self.dataset[index]
        random = generator(self.seed, f"views/{self.name}", position)
        view = weak_view(image, label, self.weak, random)
        strong = [make(view.image, random) for make in self.strong]
        weak = photometric_distortion(view.image, random)[0] if self.weak.photometric else view.image
        sample: dict[str, Any] = {"image": weak, "pad": view.pad}
        if view.label is not None:
            sample["label"] = view.label
        if strong:
            sample["strong"] = [image for image, _ in strong]
            sample["cut"] = [cut for _, cut in strong]
        if self.dataset.image_classes is not None:
            sample["image_classes"] = self.dataset.image_classes[index]
        if self.dataset.teacher_maps is not None:
            sample["taught"] = self.dataset.teacher_maps.of_crop(index, image.shape[1:], view.window, view.flipped)
        return sample


class StepBatchSampler:
    """The positions that one process reads, one list per micro-batch, from `first_step` to the last of `steps`.

    A step's batch is cut into `accumulate` micro-batches for each of `world` processes, of which this one is `rank`.
    """

    def __init__(self, batch_size: int, accumulate: int, rank: int, world: int, first_step: int, steps: int):
        self.micro = batch_size // (accumulate * world)
        self.batch_size, self.accumulate, self.rank, self.world = batch_size, accumulate, rank, world
        self.first_step, self.steps = first_step, steps

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.first_step, self.steps):
            for part in range(self.accumulate):
                start = step * self.batch_size + (part * self.world + self.rank) * self.micro
                yield list(range(start, start + self.micro))

    def __len__(self) -> int:
        return (self.steps - self.first_step) * self.accumulate


def batches(
    dataset: AugmentedDataset, positions: StepBatchSampler, workers: int, pin_memory: bool
) -> Iterator[dict[str, Any]]:
    """Collated samples, micro-batch by micro-batch.

    Crops are too small to share between threads: on a busy machine the threads' waiting for each other costs far more
    than the work (50 against 0.7 ms per sample). So samples are made on one thread, as in a worker process.

    Worker processes come from a fork server: a fork of this process, which holds threads, may inherit a lock whose
    owner does not exist in the child, and then waits forever.
    """
    context = None
    if workers:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
    loader = DataLoader(
        dataset,
        batch_sampler=positions,
        num_workers=workers,
        multiprocessing_context=context,
        worker_init_fn=_end_with_the_run if workers else None,
        pin_memory=pin_memory,
        persistent_workers=False,
        prefetch_factor=4 if workers else None,
        # Without this the loader draws its base seed from the global generator and so disturbs the step's own.
        generator=torch.Generator(),
    )
    iterator = iter(loader)
    while True:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            batch = next(iterator)
        except StopIteration:
            return
        except UserError as error:
            raise UserError(_message_of(error)) from None
        finally:
            torch.set_num_threads(threads)
        yield batch


def _message_of(error: UserError) -> str:
    """The message alone: from a worker process it arrives as the last line of a traceback."""
    return str(error).strip().splitlines()[-1].removeprefix(f"{UserError.__module__}.UserError: ")


def _end_with_the_run(worker: int) -> None:
    """Let a worker process end with the run, neither earlier nor later.

    Not earlier: a terminal sends Ctrl-C to every process, but the run finishes its step first and needs its workers for
    that. Not later: PyTorch's worker watches its parent, which is the fork server here, and not the run.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    run = multiprocessing.parent_process()
    assert run is not None

    def exit_after_the_run() -> None:
        run.join()
        os._exit(1)

    Thread(target=exit_after_the_run, daemon=True).start()


def to_labeled(raw: dict[str, Any], device: torch.device, label_count: Tensor) -> LabeledBatch:
    """Move a collated labeled batch to the device and to float."""
    labels = raw["label"].to(device, non_blocking=True).long()
    pad = raw["pad"].to(device, non_blocking=True)
    return LabeledBatch(_images(raw["image"], device), labels, pad, label_count, _taught(raw, device))


def to_unlabeled(raw: dict[str, Any], device: torch.device) -> UnlabeledBatch:
    """Move a collated unlabeled batch to the device and to float."""
    return UnlabeledBatch(
        _images(raw["image"], device),
        [_images(images, device) for images in raw.get("strong", [])],
        raw["pad"].to(device, non_blocking=True),
        [cut.to(device, non_blocking=True) for cut in raw.get("cut", [])],
        raw["label"].to(device, non_blocking=True).long() if "label" in raw else None,
        raw["image_classes"].to(device, non_blocking=True) if "image_classes" in raw else None,
        _taught(raw, device),
    )


def _taught(raw: dict[str, Any], device: torch.device) -> TaughtMaps | None:
    maps = raw.get("taught")
    return maps and {name: values.to(device, non_blocking=True) for name, values in maps.items()}


def _images(images: Tensor, device: torch.device) -> Tensor:
    return images.to(device, non_blocking=True).float().div_(255)
