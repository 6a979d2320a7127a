"""Shape buckets: the photo sizes that an engine is made for, given or chosen from a dataset's size histogram.

Each bucket is an optimization profile of one size, so that its kernels are chosen and its CUDA graph captured for
exactly that size. One more profile takes every other size up to the largest, slower. A photo is never padded to a
bucket: the network would see the border, and in small random networks 1 to 87 % of the pixels change their class.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from PIL import ExifTags, Image

from semseg_app.data.dataset import DECODING_ERRORS, SegmentationData
from semseg_app.errors import UserError
from semseg_app.inference.engines.plans import Profile, Shape
from semseg_app.inference.tiling import tile_side

MOST = 3
"""Buckets that are chosen. Each makes the engine larger and its build longer."""
SMALLEST_SHARE = 0.05
"""A size that fewer photos have runs well enough in the general profile."""
LARGEST_SIDE = 8192
TRANSPOSED = (5, 6, 7, 8)
"""EXIF orientations that swap height and width."""


class Size(NamedTuple):
    """Size of a photo in pixels."""

    height: int
    width: int


class Buckets(NamedTuple):
    """What an engine is made for."""

    sizes: tuple[Size, ...]
    """The buckets, the most frequent size first."""
    largest: Size
    """No photo is higher or wider."""


def parse_buckets(text: str) -> Buckets:
    """`--buckets 512x512,480x360`: width x height, the most frequent first. UserError when it does not read so."""
    sizes = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)x(\d+)\s*", part)
        size = Size(height=int(match[2]), width=int(match[1])) if match else None
        if size is None or not all(1 <= side <= LARGEST_SIDE for side in size):
            raise UserError(
                f"--buckets {text}: {part.strip()!r} is no size; give width x height, sides of 1 to {LARGEST_SIDE} "
                "pixels, as in 512x512,480x360"
            )
        sizes.append(size)
    return Buckets(tuple(dict.fromkeys(sizes)), _enclosing(sizes))


def choose_buckets(sizes: Counter[Size]) -> Buckets:
    """The buckets for photos of these sizes (size -> number of photos, not empty).

    What counts is the size of what an engine gets, which for photos longer than a tile is the size of their tiles. The
    most frequent sizes become buckets, at most MOST and each with a share of at least SMALLEST_SHARE; the most frequent
    one always. Equally frequent: the larger first, then the higher. The order of the counter plays no part.
    """
    runs: Counter[Size] = Counter()
    for size, photos in sizes.items():
        runs[Size(tile_side(size.height), tile_side(size.width))] += photos
    ranked = sorted(runs, key=lambda size: (runs[size], size.height * size.width, size.height), reverse=True)
    least = SMALLEST_SHARE * runs.total()
    first, *others = ranked[:MOST]
    return Buckets((first, *(size for size in others if runs[size] >= least)), _enclosing(ranked))


def count_sizes(data: SegmentationData) -> Counter[Size]:
    """The size of every photo of a dataset, each file once, from the files' headers. UserError without photos."""
    photos = {sample.image for name in data.folders for sample in data.samples(name)}
    if not photos:
        raise UserError(f"{data.root}: no photos to choose buckets by; give --buckets, as in 512x512,480x360")
    sizes: Counter[Size] = Counter()
    for path in sorted(photos):
        try:
            with Image.open(path) as image:
                width, height = image.size
                turned = image.getexif().get(ExifTags.Base.Orientation) in TRANSPOSED
        except DECODING_ERRORS as error:
            raise UserError(f"{path}: unreadable image ({error}); replace it or take it out of the dataset") from error
        sizes[Size(width, height) if turned else Size(height, width)] += 1
    return sizes


def profiles(buckets: Buckets, batch: int) -> list[Profile]:
    """One profile a bucket, and a last one for every other size from one pixel up; batches of 1 to `batch`."""
    exact = [
        Profile(Shape(1, *size), Shape(batch, *size), Shape(batch, *size)) for size in dict.fromkeys(buckets.sizes)
    ]
    general = Profile(Shape(1, 1, 1), Shape(batch, *buckets.sizes[0]), Shape(batch, *buckets.largest))
    return [*exact, general]


def _enclosing(sizes: Iterable[Size] | Sequence[Size]) -> Size:
    sizes = list(sizes)
    return Size(max(size.height for size in sizes), max(size.width for size in sizes))
