"""The photos and masks of a dataset as pictures for an annotation tool."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from semseg_app.data.dataset import DECODING_ERRORS, Sample, SegmentationData
from semseg_app.data.exporters.picture import Picture
from semseg_app.data.parallel import ordered_map
from semseg_app.errors import UserError
from semseg_app.photos import TURNS, open_photo, orientation

SIDEWAYS = {turn for turn in TURNS if turn >= 5}
"""EXIF orientations that swap width and height."""


def labeled_splits(data: SegmentationData) -> list[str]:
    """The splits (not the lists) that have at least one mask."""
    return [name for name in data.folders if any(sample.label for sample in data.samples(name))]


def dataset_pictures(data: SegmentationData, samples: Sequence[tuple[str, Sample]]) -> Iterator[Picture]:
    """Pictures with the masks of (split, sample); those without a mask have none. UserError where sizes differ."""
    return ordered_map(lambda pair: _picture(data, *pair), samples)


def _picture(data: SegmentationData, split: str, sample: Sample) -> Picture:
    width, height = photo_size(sample.image)
    classes = None if sample.label is None else data.read_label(sample)
    if classes is not None and classes.shape != (height, width):
        raise UserError(
            f"{sample.label}: is {classes.shape[1]}x{classes.shape[0]} but its photo is {width}x{height}; run "
            f"`semseg check {data.root}`"
        )
    return Picture(split, file_name(sample), sample.image, width, height, classes)


def file_name(sample: Sample) -> str:
    """The name that a photo has in an annotation tool: its stem, with sub-folders, and its suffix."""
    return f"{sample.stem}{sample.image.suffix}"


def photo_size(path: Path) -> tuple[int, int]:
    """(width, height) as a viewer shows the photo; from its header. UserError where it cannot be read."""
    try:
        with open_photo(path) as image:
            width, height = image.size
            return (height, width) if orientation(image) in SIDEWAYS else (width, height)
    except FileNotFoundError:
        raise UserError(f"{path}: no such image") from None
    except DECODING_ERRORS as error:
        raise UserError(f"{path}: unreadable image ({error}); replace it or take it out of the dataset") from error
