"""A large image read from top to bottom by libvips: only the rows at hand are in memory.

JPEG, PNG, TIFF and WebP. Pixels become RGB as `semseg_app.photos` says. A few files cannot be decoded by strips, and
libvips then works from a temporary file (those that EXIF turns, interlaced PNG) or from memory (progressive JPEG).
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from semseg_app import photos, tiff
from semseg_app.errors import UserError
from semseg_app.inference.tiling import Window

LARGE = 64_000_000
"""Pixels. Images above are read and answered by strips; up to here a whole image takes less than 1 GB."""

_ROWS = 64
"""Decoded at once, beside the strip that they go into."""
_OPTIONS = {
    # "truncated" would let through what libtiff calls an error: strips that are damaged, or of a codec that it was
    # built without (ZSTD, LZMA, LERC, JPEG XL). Their pixels are black.
    "fail_on": "error",
    # libvips remembers operations by file name, and a file may have been replaced since.
    "revalidate": True,
}
_LOADERS = {
    b"\xff\xd8\xff": "jpegload",
    b"\x89PNG": "pngload",
    **dict.fromkeys(tiff.MAGIC, "tiffload"),
    b"RIFF": "webpload",
}
"""How a file begins, and libvips's reader for it. Its others (PDF, SVG, ...) are never tried."""


_one_at_a_time = threading.Lock()
"""Held during each call of libvips: its buffer of error messages is the process's, and `_decode` reads it."""


def is_large(path: Path) -> bool:
    """By its header, whether an image is to be read by strips. False for what is no readable image at all."""
    try:
        with path.open("rb") as file:
            if tiff.is_tiff(file.read(4)):  # Pillow does not open all of them
                tags = tiff.read_tags(file)
                return tiff.number(tags, tiff.WIDTH, 0) * tiff.number(tags, tiff.HEIGHT, 0) > LARGE
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
            image = _plain(path, _open(path))
            self._region: Any = pyvips.Region.new(image)
        self._bands = int(image.bands)
        self._tiled = tiff.TILE_WIDTH in (_tiff_tags(path) or {})
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
            small = pyvips.Image.thumbnail(str(self.path), width, height=height, size="force", fail_on="error")
            small = _plain(self.path, small)
            if small.bands == 4:  # `read` has looked at the alpha of all rows
                small = small.flatten(background=[255])
            pixels: np.ndarray = small.numpy()
        return pixels

    def _decode(self, first: int, rows: np.ndarray) -> None:
        """Fill `rows` uint8 `[h, w, 3]` with the image's rows from `first` on."""
        for start in range(0, len(rows), _ROWS):
            part = rows[start : start + _ROWS]
            with _reading(self.path) as pyvips:
                pyvips.Error("")  # takes, and so empties, what is left of earlier errors
                # Image.numpy() would start threads that read ahead, and the rows that they passed are gone.
                pixels = self._region.fetch(0, first + start, self.width, len(part))
                if self._tiled and (swallowed := pyvips.Error("")).detail:
                    # Whatever `fail_on` says, libvips' cache of tiles answers a broken one in black.
                    raise swallowed
                values = np.frombuffer(pixels, np.uint8).reshape(len(part), self.width, self._bands)
                part[...] = values[..., :3]
                if self._bands == 4:
                    alpha = values[..., 3]
                    photos.check_alpha_of_tiff(alpha)
                    part[alpha == 0] = 255


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
        with _one_at_a_time:
            yield pyvips
    except (photos.UnsupportedPixels, tiff.TiffError) as error:
        raise UserError(f"{path}: {error}") from None
    except pyvips.Error as error:
        reasons = str(error).strip().splitlines() or ["libvips gives no reason"]
        raise _unreadable(path, reasons[-1].strip()) from None


def _unreadable(path: Path, reason: str) -> UserError:
    """The error of a file that libvips cannot decode, with the way out where its compression is the likely cause."""
    codec = _codec(path)
    if codec:
        return UserError(
            f"{path}: compressed with {codec}, which cannot be read by strips, or damaged ({reason}); save it with LZW "
            "or Deflate compression"
        )
    if "byte count" in reason:  # libtiff has no other word for parts that were never written
        return UserError(f"{path}: {photos.SPARSE}; or it is damaged ({reason})")
    return UserError(f"{path}: unreadable image ({reason}); replace it or take it out")


def _codec(path: Path) -> str | None:
    """The name of a TIFF's compression, where it is an uncommon one."""
    tags = _tiff_tags(path)
    return tiff.CODECS.get(tiff.number(tags, tiff.COMPRESSION, 1)) if tags else None


def _tiff_tags(path: Path) -> tiff.Tags | None:
    """The tags of a TIFF; None for other files."""
    with path.open("rb") as file:
        return tiff.read_tags(file) if tiff.is_tiff(file.read(4)) else None


def is_turned(path: Path) -> bool:
    """Whether the file is read upright and stored otherwise. UserError as for `Strips`."""
    with _reading(path):
        return _turned(_load(path, "sequential"))


def _turned(image: Any) -> bool:
    return bool(image.get_typeof("orientation")) and image.get("orientation") > 1


def _load(path: Path, access: str) -> Any:
    """The file as a libvips image, as it is stored; only its header is read."""
    import pyvips

    return getattr(pyvips.Image, _loader(path))(str(path), access=access, **_OPTIONS)


def _open(path: Path) -> Any:
    """The file as a libvips image, upright; only its header is read."""
    image = _load(path, "sequential")
    if _turned(image):
        # Its first row is the file's last, or a column: libvips keeps the pixels in a temporary file.
        image = _load(path, "random").autorot()
    return image


def _plain(path: Path, image: Any) -> Any:
    """An image of one to four bands as 8-bit RGB, or RGBA for a TIFF with alpha. UserError for other pixels."""
    tags = _tiff_tags(path)
    if tags:
        photos.check_tiff(tags)
        tile = tiff.number(tags, tiff.TILE_WIDTH, 0) * tiff.number(tags, tiff.TILE_HEIGHT, 0)
        if tile > LARGE:  # libtiff allocates a whole tile
            raise UserError(f"{path}: its tiles have {tile / 1e6:.0f} million pixels; save it with tiles of 512 x 512")
    if image.format != "uchar":
        raise UserError(f"{path}: {image.format} pixels; convert it to 8 bits a channel")
    if image.interpretation == "cmyk" or image.bands > 4:
        kind = "CMYK" if image.interpretation == "cmyk" else f"{image.bands} channels"
        raise UserError(f"{path}: {kind}; convert it to RGB")
    if image.bands in (2, 4) and not tags:
        image = image.flatten(background=[255])  # Pillow's rounding differs from libvips's by at most 1
    if image.bands == 1:
        return image.bandjoin([image, image])
    if image.bands == 2:
        gray = image[0]
        return gray.bandjoin([gray, gray, image[1]])
    return image


def _loader(path: Path) -> str:
    """The name of libvips's reader for a file."""
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        raise UserError(f"{path}: unreadable image ({error.strerror})") from None
    for magic, loader in _LOADERS.items():
        if start.startswith(magic):
            return loader
    raise UserError(
        f"{path}: {photos.what_it_is(start) or 'not a JPEG, PNG, TIFF or WebP file; convert it to one of them'}"
    )
