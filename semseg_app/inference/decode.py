"""Image bytes from a stranger -> RGB uint8, within limits that are checked on the header before a pixel is decoded.

What a photo may hold beside 8-bit RGB, and what becomes of it:

    EXIF orientation    applied: the class map lies as a viewer shows the photo
    alpha               laid over white
    CMYK, gray, palette converted to RGB without color profiles
    16 bits a channel   the upper 8 bits
    32 bits a channel   refused: its range is anyone's guess
    several frames      the first

Pillow reads headers and judges; JPEG's pixels come from libjpeg-turbo directly, which gives the same pixels in half the
time, and of what is to become small it decodes no more than that needs.
"""

import contextlib
import io
from collections.abc import Callable, Iterator

import numpy as np
import simplejpeg
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from semseg_app.data.dataset import to_rgb
from semseg_app.errors import UserError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
"""Pillow's names. Its other readers are never tried on a stranger's bytes (EPS alone starts another program)."""


TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what makes it upright; from 5 on it swaps height and width."""
MOST_SCANS = 500
"""Of a JPEG; ten are usual. Each goes over all pixels, so a small file of many scans would decode for minutes."""
DETAIL = 2
"""A photo is decoded at this many times the size that it gets at least, so that it is as sharp as if decoded whole."""

Resize = Callable[[int, int], tuple[int, int]]
"""Upright height and width of a photo -> those that it gets."""


class UnsupportedImage(UserError):
    """Not one of FORMATS, or pixels of a kind that has no plain meaning as RGB."""


class ImageTooLarge(UserError):
    """More pixels than allowed, as its header says."""


class BrokenImage(UserError):
    """One of FORMATS, but truncated or damaged."""


def decode_image(
    data: bytes,
    max_pixels: int,
    admit: Callable[[int], None] = lambda pixels: None,
    resize: Resize | None = None,
) -> np.ndarray:
    """Decode an encoded photo to RGB uint8 [H, W, 3].

    Args:
        data: the file.
        max_pixels: largest width x height.
        admit: called with width x height before a pixel is decoded; may wait until there is memory for them.
        resize: what size it gets; as it is unless told.

    Raises:
        UnsupportedImage: neither JPEG, PNG, WebP, BMP nor TIFF, or 32-bit pixels.
        ImageTooLarge: width x height is above `max_pixels`; nothing was decoded.
        BrokenImage: empty, truncated or damaged.
    """
    if not data:
        raise BrokenImage("the image is empty")
    with _explained(max_pixels):
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    with image:
        if image.width * image.height > max_pixels:
            raise ImageTooLarge(
                f"the image has {image.width} x {image.height} pixels, above the limit of "
                f"{max_pixels / 1e6:g} million; send a smaller one"
            )
        if image.format in ("JPEG", "MPO") and _scans(data) > MOST_SCANS:
            raise BrokenImage(f"the image has more than {MOST_SCANS} scans; save it again as an ordinary JPEG")
        admit(image.width * image.height)
        with _explained(max_pixels):
            if image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L"):
                with contextlib.suppress(ValueError):  # damaged; what is wrong with it Pillow says in better words
                    return _decode_jpeg(data, image, resize)
            upright = to_rgb(_eight_bits(image))
            return _sized(np.asarray(upright), resize(upright.height, upright.width) if resize else None)


def _scans(data: bytes) -> int:
    """How many scans a JPEG has, or more. One byte is counted in a tenth of the time of two, and is mostly enough."""
    most = data.count(b"\xda")
    return most if most <= MOST_SCANS else data.count(b"\xff\xda")


@contextlib.contextmanager
def _explained(max_pixels: int) -> Iterator[None]:
    """What Pillow raises, as ours."""
    try:
        yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageTooLarge(
            f"the image is above the limit of {max_pixels / 1e6:g} million pixels; send a smaller one"
        ) from None
    except UnidentifiedImageError:
        raise UnsupportedImage("this is not an image that can be read; send JPEG, PNG, WebP, BMP or TIFF") from None
    except (UserError, MemoryError):
        raise
    except Exception as error:  # damaged bytes make Pillow's readers fail in a dozen ways: struct, index, key, ...
        raise BrokenImage(f"the image is truncated or damaged ({error})") from error


def _decode_jpeg(data: bytes, header: Image.Image, resize: Resize | None) -> np.ndarray:
    """`data` by libjpeg-turbo, at the reduction that `resize` allows. ValueError when it is damaged."""
    orientation = header.getexif().get(ExifTags.Base.Orientation, 1)
    target = None
    height, width = 0, 0  # the least to decode
    if resize is not None:
        lies = orientation >= 5
        target = resize(header.width, header.height) if lies else resize(header.height, header.width)
        height, width = (DETAIL * side for side in (target[::-1] if lies else target))
    # Reductions by less than 2 cost more than they save.
    pixels: np.ndarray = simplejpeg.decode_jpeg(data, "RGB", min_height=height, min_width=width, min_factor=2)
    if orientation in TURNS:
        pixels = np.asarray(Image.fromarray(pixels).transpose(TURNS[orientation]))
    return _sized(pixels, target)


def _sized(pixels: np.ndarray, target: tuple[int, int] | None) -> np.ndarray:
    """Resized to `target`, height and width, by a triangle as wide as the reduction."""
    if target is None or target == pixels.shape[:2]:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize(target[::-1], Image.Resampling.BILINEAR))


def _eight_bits(image: Image.Image) -> Image.Image:
    """Gray of 16 bits as 8 bits, upright; Pillow reads colors of 16 bits as 8 by itself."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(ImageOps.exif_transpose(image)) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise UnsupportedImage("the image has 32 bits a pixel; convert it to 8 or 16 bits")
    return image
