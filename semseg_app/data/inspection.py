"""What the doctor learns from one photo and one mask: each file is read once, and only small facts are kept."""

import hashlib
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from semseg_app.data.listing import Sample
from semseg_app.data.mask_pixels import INDEX_MODES, UnsupportedMask, check_mask, count_pages, numbers, stretched
from semseg_app.labels import Color
from semseg_app.photos import DECODING_ERRORS, open_photo, orientation, to_rgb, too_large

MOST_COLORS = 4096
"""A mask with more colors than this was blurred or is a photo; they are not listed."""

TURNED = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""


@dataclass
class ImageFacts:
    """One photo."""

    error: str | None = None
    """Why it cannot be read; then nothing below is set but `digest`."""
    size: tuple[int, int] = (0, 0)
    """(width, height), upright."""
    orientation: int = 1
    """EXIF orientation; 1 = stored upright."""
    digest: bytes = b""
    """16 bytes over the file."""
    thumbnail: bytes = b""
    """16x16 gray pixels."""
    pages: int = 1
    """Pictures of its size in a TIFF."""
    shades: int = 0
    """Values that its red, its green or its blue takes, whichever takes most."""
    pixels: int = 0
    sums: np.ndarray = field(default_factory=lambda: np.zeros(3))
    """Sum of the values 0..255, per channel."""
    squares: np.ndarray = field(default_factory=lambda: np.zeros(3))
    """Sum of their squares, per channel."""


@dataclass
class MaskFacts:
    """One mask, as it lies in the file: no class is assumed here."""

    error: str | None = None
    unsupported: bool = False
    """Whether the file is sound, and `error` says what to save instead."""
    size: tuple[int, int] = (0, 0)
    mode: str = ""
    lossy: bool = False
    """A JPEG, whatever its name says."""
    values: dict[int, int] | None = None
    """Value -> pixels, for masks of one number per pixel."""
    palette: dict[int, Color] = field(default_factory=dict)
    """For values of a palette PNG: the color it shows them in."""
    shade: int = 1
    """How much lighter each value is shown than the one before, of 255."""
    colors: dict[Color, int] | None = None
    """Color -> pixels, for masks that are pictures; empty = more than MOST_COLORS."""


def inspect(sample: Sample) -> tuple[ImageFacts, MaskFacts | None]:
    """Facts on a photo and on its mask, if it has one."""
    return inspect_image(sample.image), inspect_mask(sample.label) if sample.label else None


def inspect_image(path: Path) -> ImageFacts:
    """Read one photo."""
    facts = ImageFacts()
    try:
        content = path.read_bytes()
        facts.digest = hashlib.blake2b(content, digest_size=16).digest()
        with open_photo(BytesIO(content)) as image:
            facts.orientation = orientation(image)
            facts.pages = count_pages(image) if image.format == "TIFF" else 1
            rgb = to_rgb(image)
    except DECODING_ERRORS as error:
        facts.error = _reason(path, error)
        return facts
    histogram = np.array(rgb.histogram(), np.float64).reshape(3, 256)
    facts.size, facts.pixels = rgb.size, rgb.width * rgb.height
    facts.sums = histogram @ np.arange(256.0)
    facts.squares = histogram @ np.arange(256.0) ** 2
    facts.shades = int((histogram > 0).sum(axis=1).max())
    facts.thumbnail = rgb.convert("L").resize((16, 16), Image.Resampling.BOX).tobytes()
    return facts


def inspect_mask(path: Path) -> MaskFacts:
    """Read one mask."""
    facts = MaskFacts()
    try:
        with Image.open(BytesIO(path.read_bytes())) as mask:
            check_mask(mask)
            facts.shade = stretched(mask)
            mask.load()
            facts.size, facts.mode, facts.lossy = mask.size, mask.mode, mask.format == "JPEG"
            if mask.mode in INDEX_MODES:
                facts.values = _count_values(mask, facts.shade)
                if mask.mode == "P":
                    flat = mask.getpalette("RGB") or []
                    shown = list(zip(flat[::3], flat[1::3], flat[2::3], strict=True))
                    facts.palette = {value: shown[value] for value in facts.values if value < len(shown)}
            else:
                counted = mask.convert("RGB").getcolors(MOST_COLORS)
                facts.colors = {_color(color): count for count, color in counted or []}
    except DECODING_ERRORS as error:
        facts.error, facts.unsupported = _reason(path, error), isinstance(error, UnsupportedMask)
    return facts


def _count_values(mask: Image.Image, shade: int) -> dict[int, int]:
    if mask.mode in ("L", "P"):
        counts = np.array(mask.histogram())
        return {int(value) // shade: int(counts[value]) for value in np.flatnonzero(counts)}
    values, counts = np.unique(numbers(mask), return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def _color(values: object) -> Color:
    red, green, blue = (int(value) for value in np.asarray(values))
    return red, green, blue


def _reason(path: Path, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "a link to nothing" if path.is_symlink() else "there is no such file"
    if isinstance(error, Image.DecompressionBombError):
        return too_large()
    if isinstance(error, UnidentifiedImageError):
        if not path.stat().st_size:
            return "the file is empty"
        return "no image that can be read" if str(error).startswith("cannot identify") else str(error)
    return str(error).strip() or type(error).__name__
