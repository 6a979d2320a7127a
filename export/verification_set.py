"""Photos to compare on and to calibrate with: of a dataset, or generated."""

from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from semseg_app.artifact import read_config
from semseg_app.data.dataset import Sample, SegmentationData
from semseg_app.data.listing import evenly_spaced
from semseg_app.errors import UserError
from semseg_app.labels import LabelSpace

GENERATED_SIZE = (360, 480)
LONGEST_SIDE = 2048
"""Longest side in pixels at which photos are compared and timed; larger ones would not fit into memory."""
LONGEST_CALIBRATION_SIDE = 1024
"""Photos that calibrate are smaller still: all activations of a photo are in memory at once."""
CalibrationMethod = Literal["minmax", "percentile", "entropy"]
"""How the range of an activation is chosen; calibration.py has them."""


class VerificationSet(NamedTuple):
    """Labeled samples to compare on."""

    data: SegmentationData
    split: str
    samples: list[Sample]


class ExportData(NamedTuple):
    """The dataset that verifies an export and calibrates its reduced precisions."""

    data: SegmentationData
    split: str = "val"
    """Split or list that verifies, with labels; one that was not trained on."""
    limit: int = 200
    """Most labeled photos to score on, evenly spaced."""
    calibration_split: str | None = None
    """Split or list whose photos calibrate; None = "train", or `split` in a dataset that has no such split."""
    calibration_images: int = 32
    """Most photos to calibrate on, evenly spaced."""
    calibration_method: CalibrationMethod = "minmax"

    def verification(self, labels: LabelSpace) -> VerificationSet:
        """The labeled samples that verify a model of these classes. UserError: see `gather_photos`."""
        return gather_photos(labels, self.data, self.split, self.limit)


def check_data(folder: Path, precision: str, dataset: ExportData | None) -> VerificationSet | None:
    """The labeled samples that verify an export of a model folder; None without a dataset.

    UserError for int8 without a dataset, and for a dataset of other classes or without labels.
    """
    if dataset is not None:
        return dataset.verification(read_config(folder).labels)
    if precision == "int8":
        raise UserError(
            f"{folder}: int8 is calibrated on photos of the kind that it will see and judged by their labels; "
            "add --data DATASET"
        )
    return None


def gather_photos(labels: LabelSpace, data: SegmentationData, split: str, limit: int) -> VerificationSet:
    """At most `limit` labeled samples, evenly spaced over a split. UserError when the data is not of these classes."""
    if data.info.classes != labels.classes:
        raise UserError(
            f"{data.root}: its classes ({', '.join(data.info.classes)}) are not those of the model "
            f"({', '.join(labels.classes)}); give the dataset that it was trained for"
        )
    samples = [sample for sample in data.samples(split) if sample.label]
    if not samples:
        raise UserError(f"{data.root}: {split} has no labels; give --split one that has")
    return VerificationSet(data, split, evenly_spaced(samples, limit))


def calibration_photos(data: SegmentationData, split: str, limit: int) -> list[np.ndarray]:
    """At most `limit` photos, evenly spaced over a split, labeled or not; large ones scaled down."""
    photos = [data.read_image(sample) for sample in evenly_spaced(data.samples(split), limit)]
    return [resized(photo, bounded(photo, LONGEST_CALIBRATION_SIDE)) for photo in photos]


def generated_photos(count: int) -> list[np.ndarray]:
    """Photos uint8 `[360, 480, 3]` with structure at every scale and noise on top, always the same ones."""
    height, width = GENERATED_SIZE
    random = np.random.default_rng(0)
    photos = []
    for _ in range(count):
        photo = random.normal(0, 8, (height, width, 3))
        for cells in (2, 5, 16, 48):
            grid = random.integers(0, 256, (cells, cells, 3), np.uint8)
            # Blocks with edges from the coarse grids, soft texture from the fine ones.
            filter = Image.Resampling.NEAREST if cells < 16 else Image.Resampling.BICUBIC
            photo += np.asarray(Image.fromarray(grid).resize((width, height), filter)) / 4
        photos.append(photo.clip(0, 255).astype(np.uint8))
    return photos


def bounded(photo: np.ndarray, longest_side: int = LONGEST_SIDE) -> tuple[int, int]:
    """Height and width of a photo, scaled down where its longer side passes the limit."""
    height, width = photo.shape[:2]
    scale = min(1.0, longest_side / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def resized(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A photo [H, W, 3] (bilinear) or a label [H, W] (nearest) at another size."""
    filter = Image.Resampling.BILINEAR if pixels.ndim == 3 else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(pixels).resize((size[1], size[0]), filter))
