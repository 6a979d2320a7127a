"""Image bytes from a stranger -> RGB uint8, within limits that are checked on the header before a pixel is decoded.

What a photo may hold beside 8-bit RGB, and what becomes of it:

    EXIF orientation    applied: the class map lies as a viewer shows the photo
    alpha               laid over white
    CMYK, grey, palette converted to RGB without colour profiles
    16 bits a channel   the upper 8 bits
    32 bits a channel   refused: its range is anyone's guess
    several frames      the first
"""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from semseg_app.data.dataset import to_rgb
from semseg_app.errors import UserError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
"""Pillow's names. Its other readers are never tried on a stranger's bytes (EPS alone starts another program)."""


class UnsupportedImage(UserError):
    """Not one of FORMATS, or pixels of a kind that has no plain meaning as RGB."""


class ImageTooLarge(UserError):
    """More pixels than allowed, as its header says."""


class BrokenImage(UserError):
    """One of FORMATS, but truncated or damaged."""


def decode_image(data: bytes, max_pixels: int, admit: Callable[[int], None] = lambda pixels: None) -> np.ndarray:
    """Decode an encoded photo to RGB uint8 [H, W, 3].

    Args:
        data: the file.
        max_pixels: largest width x height.
        admit: called with width x height before a pixel is decoded; may wait until there is memory for them.

    Raises:
        UnsupportedImage: neither JPEG, PNG, WebP, BMP nor TIFF, or 32-bit pixels.
        ImageTooLarge: width x height is above `max_pixels`; nothing was decoded.
        BrokenImage: empty, truncated or damaged.
    """
    if not data:
        raise BrokenImage("the image is empty")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > max_pixels:
                raise ImageTooLarge(
                    f"the image has {image.width} x {image.height} pixels, above the limit of "
                    f"{max_pixels / 1e6:g} million; send a smaller one"
                )
            admit(image.width * image.height)
            return np.asarray(to_rgb(_eight_bits(image)))
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


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits as 8 bits, upright; Pillow reads colours of 16 bits as 8 by itself."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(ImageOps.exif_transpose(image)) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise UnsupportedImage("the image has 32 bits a pixel; convert it to 8 or 16 bits")
    return image
