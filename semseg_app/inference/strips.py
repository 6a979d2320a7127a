"""A large image read from top to bottom by libvips: only the rows at hand are in memory.

JPEG, PNG, TIFF and WebP. Pixels become RGB as `semseg_app.data.dataset.to_rgb` has it: EXIF orientation applied, gray
repeated, what is transparent laid over white, no color profiles. A few files cannot be decoded by strips, and libvips
then works from a temporary file or, for progressive JPEG, from memory: those that EXIF turns, interlaced PNG.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from semseg_app.errors import UserError
from semseg_app.inference.tiling import Window

LARGE = 64_000_000
"""Pixels. Images above are read and answered by strips; up to here a whole image takes less than 1 GB."""

_ROWS = 64
"""Decoded at once, beside the strip that they go into."""
_EXTRA_SAMPLES = 338
"""TIFF's tag: what the channels beyond the colors are; 1 and 2 are alpha."""
_LOADERS = {
    b"\xff\xd8\xff": "jpegload",
    b"\x89PNG": "pngload",
    b"II*\0": "tiffload",
    b"MM\0*": "tiffload",
    b"II+\0": "tiffload",
    b"MM\0+": "tiffload",
    b"RIFF": "webpload",
}
"""How a file begins, and libvips's reader for it. Its others (PDF, SVG, ...) are never tried."""


def is_large(path: Path) -> bool:
    """By its header, whether an image is to be read by strips. False for what is no readable image at all."""
    try:
        with Image.open(path) as image:
            return image.width * image.height > LARGE
    except Image.DecompressionBombError:  # Pillow opens nothing above 179 million pixels
        return True
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError):
        return False


class Strips:
    """An image file whose windows are read in rows from the top, as `tiles` gives them.

    UserError, with the file's name, when it cannot be read.
    """

    def __init__(self, path: Path):
        self.path = path
        with _reading(path) as pyvips:
            image = _rgb(path, _open(path))
            self._region: Any = pyvips.Region.new(image)
        self.height, self.width = int(image.height), int(image.width)
        self._top = 0
        self._rows = np.empty((0, self.width, 3), np.uint8)  # of the image, from row _top

    def read(self, window: Window) -> np.ndarray:
        """uint8 RGB `[h, w, 3]`. No window may begin above one that was read."""
        if window.top < self._top:
            raise ValueError(f"{self.path}: row {window.top} after row {self._top}; strips are read once, downwards")
        bottom = window.top + window.height
        have = self._top + len(self._rows)
        if bottom > have or window.top > self._top:
            kept = self._rows[window.top - self._top : bottom - self._top]
            rows = np.empty((window.height, self.width, 3), np.uint8)
            rows[: len(kept)] = kept
            self._decode(max(window.top, have), rows[len(kept) :])  # rows between the two are passed over
            self._top, self._rows = window.top, rows
        return self._rows[: window.height, window.left : window.left + window.width]

    def preview(self, height: int, width: int) -> np.ndarray:
        """The whole image at another size, smoothed: uint8 RGB `[height, width, 3]`. Reads the file once more."""
        with _reading(self.path) as pyvips:
            small = pyvips.Image.thumbnail(str(self.path), width, height=height, size="force", fail_on="truncated")
            pixels: np.ndarray = _rgb(self.path, small).numpy()
        return pixels

    def _decode(self, first: int, rows: np.ndarray) -> None:
        """Fill `rows` uint8 `[h, width, 3]` with the image's rows from `first` on."""
        with _reading(self.path):
            for start in range(0, len(rows), _ROWS):
                part = rows[start : start + _ROWS]
                # Image.numpy() would start threads that read ahead, and the rows that they passed are gone.
                pixels = self._region.fetch(0, first + start, self.width, len(part))
                part[...] = np.frombuffer(pixels, np.uint8).reshape(part.shape)


@contextmanager
def _reading(path: Path) -> Iterator[Any]:
    """Yield the module pyvips; what goes wrong with it becomes a UserError about `path`."""
    try:
        import pyvips
    except (ImportError, OSError) as error:
        raise UserError(
            f"{path}: more than {LARGE / 1e6:g} million pixels are read by strips, which needs the extra `large` "
            f"({error}): pip install 'semseg-app[large]'"
        ) from error
    try:
        yield pyvips
    except pyvips.Error as error:
        reason = str(error).strip().splitlines() or ["libvips gives no reason"]
        raise UserError(f"{path}: unreadable image ({reason[-1].strip()}); replace it or take it out") from None


def _open(path: Path) -> Any:
    """The file as a libvips image, upright; nothing but its header is read."""
    import pyvips

    load = getattr(pyvips.Image, _loader(path))
    image = load(str(path), access="sequential", fail_on="truncated")
    if image.get_typeof("orientation") and image.get("orientation") > 1:
        # Its first row is the file's last, or a column: libvips keeps the pixels in a temporary file.
        image = load(str(path), access="random", fail_on="truncated").autorot()
    return image


def _rgb(path: Path, image: Any) -> Any:
    """8-bit RGB of an image of one to four bands. UserError for other pixels, which have no plain meaning as RGB."""
    if image.format != "uchar":
        raise UserError(f"{path}: {image.format} pixels; convert it to 8 bits a channel")
    if image.interpretation == "cmyk" or image.bands > 4:
        kind = "CMYK" if image.interpretation == "cmyk" else f"{image.bands} channels"
        raise UserError(f"{path}: {kind}; convert it to RGB")
    if image.bands in (2, 4):
        # Pillow's rounding differs from libvips's by at most 1.
        opaque = image.bands - 1
        image = image.flatten(background=[255]) if _last_band_is_alpha(path) else image.extract_band(0, n=opaque)
    return image if image.bands == 3 else image.bandjoin([image, image])


def _loader(path: Path) -> str:
    """The name of libvips's reader for a file."""
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise UserError(f"{path}: unreadable image ({error.strerror})") from None
    for magic, loader in _LOADERS.items():
        if start.startswith(magic):
            return loader
    raise UserError(f"{path}: not a JPEG, PNG, TIFF or WebP file; convert it to one of them")


def _last_band_is_alpha(path: Path) -> bool:
    """False for TIFFs whose fourth channel is another (near infrared, say): libvips does not tell them apart."""
    if _loader(path) != "tiffload":
        return True
    with path.open("rb") as file:  # its header alone; Image.open would refuse the size
        extra: tuple[int, ...] = TiffImagePlugin.TiffImageFile(file).tag_v2.get(_EXTRA_SAMPLES, (0,))
        return extra[-1] in (1, 2)
