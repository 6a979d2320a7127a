"""Encoded photos from strangers -> RGB uint8, within limits that are checked on the header before a pixel is decoded.

`semseg_app.photos` says what becomes of transparency, orientation, CMYK and 16 bits. Pillow reads headers and judges;
JPEG's pixels come from libjpeg-turbo directly, which gives the same pixels in half the time, and decodes no more than
the requested size needs.
"""

import contextlib
import io
import time
from collections.abc import Callable, Iterator

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from semseg_app import tiff
from semseg_app.errors import UserError
from semseg_app.photos import TURNS, NotAPhoto, UnsupportedPixels, open_photo, orientation, to_rgb

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
"""Pillow's names. Its other readers are never tried on a stranger's bytes (EPS alone starts another program)."""

MOST_SCANS = 500
"""Most scans of a JPEG; ten are usual."""
MOST_SCANNED = 3_000_000_000
"""Scans x pixels of a JPEG. Each scan goes over all pixels (10 to 30 ms per million), and libjpeg-turbo cannot be
interrupted: a small file with many scans would decode for minutes."""
MOST_SECONDS = 60.0
"""A decoder that reads its file in pieces (PNG, BMP, raw TIFF) is stopped after this time."""
DETAIL = 2
"""A photo is decoded at no less than this many times the requested size, so that it is as sharp as if decoded whole."""

_BYTES_PER_PIXEL = {
    # Peak memory of decode_image beside the file, measured at 31 million pixels with Pillow 12.3 and simplejpeg.
    "JPEG": 3.1,
    "JPEG progressive": 9.0,  # the coefficients of all scans; 6.1 with subsampled color
    "JPEG CMYK": 14.1,
    "RGB": 14.1,  # PNG, BMP, TIFF: Pillow holds 4 bytes per pixel, twice, and a copy leaves as 3
    "alpha": 20.1,
    "WEBP": 24.4,  # libwebp holds two canvases, also of a single frame
}

Resize = Callable[[int, int], tuple[int, int]]
"""Upright height and width of a photo -> the height and width to return."""


class UnsupportedImage(UserError):
    """Not one of FORMATS, or pixels of a kind that has no plain meaning as RGB."""


class ImageTooLarge(UserError):
    """More pixels than allowed, as its header says."""


class BrokenImage(UserError):
    """One of FORMATS, but truncated or damaged."""


class TooSlow(UserError):
    """Decoding took longer than MOST_SECONDS."""


def decode_image(
    data: bytes,
    max_pixels: int,
    admit: Callable[[int], None] = lambda pixels: None,
    resize: Resize | None = None,
    seconds: float = MOST_SECONDS,
) -> np.ndarray:
    """Decode an encoded photo to RGB uint8 [H, W, 3].

    Args:
        data: the file.
        max_pixels: largest width x height, of the image and of each tile in it.
        admit: called with width x height before a pixel is decoded; may wait until there is memory for them
            (`memory_needed` says how much).
        resize: the size to return; None = the size of the file.
        seconds: how long decoding may take after `admit`, for the formats that are read in pieces.

    Raises:
        UnsupportedImage: neither JPEG, PNG, WebP, BMP nor TIFF, or pixels without a plain meaning as 8-bit RGB.
        ImageTooLarge: width x height is above `max_pixels`; nothing was decoded.
        BrokenImage: empty, truncated or damaged.
        TooSlow: `seconds` passed.
    """
    file = _TimedFile(data)
    is_jpeg = data.startswith(b"\xff\xd8")
    # Reads of the timed file cost more, and the usual JPEG is decoded without them.
    with _opened(io.BytesIO(data) if is_jpeg else file, data, max_pixels) as image:
        admit(image.width * image.height)  # what it raises is its own
        if not is_jpeg:
            return _decode_with_pillow(image, file, seconds, max_pixels, resize)
        if image.mode in ("RGB", "L"):
            with contextlib.suppress(ValueError):  # damaged; what is wrong with it Pillow says in better words
                return _decode_jpeg(data, image, resize)
    with _opened(file, data, max_pixels) as image:
        return _decode_with_pillow(image, file, seconds, max_pixels, resize)


def memory_needed(data: bytes, max_pixels: int) -> int:
    """Bytes of memory that `decode_image` takes at its peak, beside `data`, by the header alone.

    Includes what it returns. Raises what `decode_image` raises before it decodes.
    """
    with _opened(io.BytesIO(data), data, max_pixels) as image:
        needed = image.width * image.height * _BYTES_PER_PIXEL[_kind(image)]
        tile_width, tile_height, channels = _tile(data) if image.format == "TIFF" else (0, 0, 0)
        return int(needed) + tile_width * tile_height * channels


@contextlib.contextmanager
def _opened(file: io.BytesIO, data: bytes, max_pixels: int) -> Iterator[Image.Image]:
    """The image with its header read, once all that the header asks for is within the limits."""
    if not data:
        raise BrokenImage("the image is empty")
    if data[:4] == b"RIFF":  # libwebp allocates two canvases as soon as it is opened
        _check_pixels("the image has", *_webp_canvas(data), max_pixels)
    with _explained(max_pixels):
        if tiff.is_tiff(data[:4]):
            _check_pixels("the image has tiles of", *_tile(data)[:2], max_pixels)
        image = open_photo(file, FORMATS)
    with image:
        pixels = _check_pixels("the image has", image.width, image.height, max_pixels)
        scans = _scans(data, pixels) if image.format in ("JPEG", "MPO") else 1
        if scans > MOST_SCANS or scans * pixels > MOST_SCANNED:
            raise BrokenImage(
                f"the image has {scans} scans of {pixels / 1e6:.3g} million pixels; save it again as an ordinary JPEG"
            )
        yield image


def _check_pixels(what: str, width: int, height: int, max_pixels: int) -> int:
    """Width x height. ImageTooLarge above the limit."""
    if width * height > max_pixels:
        raise ImageTooLarge(
            f"{what} {width} x {height} pixels, above the limit of {max_pixels / 1e6:g} million; send a smaller one"
        )
    return width * height


def _kind(image: Image.Image) -> str:
    """The row of _BYTES_PER_PIXEL that an opened image belongs to."""
    if image.format in ("JPEG", "MPO"):
        if image.mode == "CMYK":
            return "JPEG CMYK"
        return "JPEG progressive" if image.info.get("progressive") else "JPEG"
    if image.format == "WEBP":
        return "WEBP"
    return "alpha" if image.has_transparency_data else "RGB"


def _tile(data: bytes) -> tuple[int, int, int]:
    """Width, height and channels of what a TIFF is decoded by: a tile, or a strip of rows."""
    tags = tiff.read_tags(io.BytesIO(data))
    height = tiff.number(tags, tiff.HEIGHT, 0)
    width = tiff.number(tags, tiff.TILE_WIDTH, tiff.number(tags, tiff.WIDTH, 0))
    rows = tiff.number(tags, tiff.TILE_HEIGHT, min(height, tiff.number(tags, tiff.ROWS_PER_STRIP, height)))
    return width, rows, tiff.number(tags, tiff.SAMPLES_PER_PIXEL, 1)


def _webp_canvas(data: bytes) -> tuple[int, int]:
    """Width and height by the header of a WebP file (RFC 9649); (0, 0) where libwebp is to say what is wrong."""
    kind, body = data[12:16], data[20:30]
    if len(body) < 10:
        return 0, 0
    if kind == b"VP8X":
        return int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF


def _scans(data: bytes, pixels: int) -> int:
    """At least as many as a JPEG of so many pixels has scans, exact above the limits.

    One byte is counted in a tenth of the time of two, and mostly that suffices.
    """
    most = data.count(b"\xda")
    return most if most <= MOST_SCANS and most * pixels <= MOST_SCANNED else data.count(b"\xff\xda")


class _TimedFile(io.BytesIO):
    """Bytes that Pillow's decoders read in pieces, up to a deadline."""

    deadline = float("inf")

    def read(self, size: int | None = -1, /) -> bytes:
        if time.monotonic() > self.deadline:
            raise TooSlow("the image took too long to decode; save it again, as an ordinary JPEG or PNG")
        return super().read(size)


@contextlib.contextmanager
def _explained(max_pixels: int) -> Iterator[None]:
    """Turn what Pillow raises into the exceptions of this module."""
    try:
        yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageTooLarge(
            f"the image is above the limit of {max_pixels / 1e6:g} million pixels; send a smaller one"
        ) from None
    except NotAPhoto as error:
        raise UnsupportedImage(str(error)) from None
    except UnidentifiedImageError:
        raise UnsupportedImage("this is not an image that can be read; send JPEG, PNG, WebP, BMP or TIFF") from None
    except UnsupportedPixels as error:
        raise UnsupportedImage(str(error)) from None
    except (UserError, MemoryError):
        raise
    except Exception as error:  # damaged bytes make Pillow's readers fail in a dozen ways: struct, index, key, ...
        raise BrokenImage(f"the image is truncated or damaged ({error})") from error


def _decode_with_pillow(
    image: Image.Image, file: _TimedFile, seconds: float, max_pixels: int, resize: Resize | None
) -> np.ndarray:
    """RGB of an opened image whose bytes come from `file`, within so many seconds."""
    file.deadline = time.monotonic() + seconds
    with _explained(max_pixels):
        rgb = to_rgb(image)
    return _sized(np.asarray(rgb), resize(rgb.height, rgb.width) if resize else None)


def _decode_jpeg(data: bytes, header: Image.Image, resize: Resize | None) -> np.ndarray:
    """`data` by libjpeg-turbo, at the reduction that `resize` allows. ValueError when it is damaged."""
    turn = orientation(header)
    target = None
    height, width = 0, 0  # the least to decode
    if resize is not None:
        lies = turn >= 5
        target = resize(header.width, header.height) if lies else resize(header.height, header.width)
        height, width = (DETAIL * side for side in (target[::-1] if lies else target))
    # Reductions by less than 2 cost more than they save.
    pixels: np.ndarray = simplejpeg.decode_jpeg(data, "RGB", min_height=height, min_width=width, min_factor=2)
    if turn in TURNS:
        pixels = np.asarray(Image.fromarray(pixels).transpose(TURNS[turn]))
    return _sized(pixels, target)


def _sized(pixels: np.ndarray, target: tuple[int, int] | None) -> np.ndarray:
    """The pixels at `target` height and width, by a triangle filter as wide as the reduction."""
    if target is None or target == pixels.shape[:2]:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize(target[::-1], Image.Resampling.BILINEAR))
