"""What the pixels of a mask mean, decided in one place for the doctor and for training.

one number per pixel   of 1 to 32 bits, or the index into a palette; float pixels where all are whole numbers
colors                 RGB, and what converts to it; transparency is left aside
cut-outs               refused: one color, and the shape lies in the transparency
several pages          refused, since one of them would be read; the smaller copies in a TIFF are no pages
"""

from pathlib import Path

import numpy as np
from PIL import Image

from semseg_app.errors import UserError
from semseg_app.labels import hex_color
from semseg_app.photos import DECODING_ERRORS, UnsupportedPixels, check_written

INDEX_MODES = ("L", "P", "1", "I;16", "I;16B", "I", "F")
"""Pillow's modes for masks that hold one number per pixel."""
LOWEST, HIGHEST = -32768, 65535
"""Values that a label_map may name: those of 16 bits, with a sign or without."""
_SUBFILE, _COPY_OR_TRANSPARENCY = 254, 1 | 4
"""TIFF's NewSubfileType, and its bits for a reduced copy of another page and for the transparency of one."""


class UnsupportedMask(ValueError):
    """Sound pixels that say no class; the message says what to save instead."""


def check_mask(mask: Image.Image) -> None:
    """UnsupportedMask where an opened mask has several pages, parts that were never written, or a shape in its
    transparency alone."""
    try:
        check_written(mask)
    except UnsupportedPixels as error:
        raise UnsupportedMask(str(error)) from None
    pages = count_pages(mask)
    if pages > 1:
        raise UnsupportedMask(
            f"holds {pages} pages, of which only the first would be read; join them into one page, in which each pixel "
            "is the number of its class"
        )
    if mask.mode in ("RGBA", "LA", "PA"):
        pixels = np.asarray(mask.convert("RGBA")).reshape(-1, 4)
        varies = (pixels != pixels[0]).any(axis=0).tolist()
        if varies == [False, False, False, True]:
            color = hex_color((int(pixels[0, 0]), int(pixels[0, 1]), int(pixels[0, 2])))
            raise UnsupportedMask(
                f"is a cut-out: all of it is {color}, and the shape lies in the transparency; save the alpha channel "
                "as a grayscale mask"
            )


def stretched(mask: Image.Image) -> int:
    """By how much Pillow multiplies numbers of 2 or 4 bits, as GDAL's NBITS writes them. Ask before it reads pixels."""
    layout = mask.tile[0].args if getattr(mask, "tile", None) else None  # type: ignore[attr-defined]
    bits = str(layout[0] if isinstance(layout, tuple) and layout else layout)[:3]
    return {"L;2": 85, "L;4": 17}.get(bits, 1)


def numbers(mask: Image.Image) -> np.ndarray:
    """`[H, W]`, uint8 or wider integers, of a mask of INDEX_MODES. UnsupportedMask for fractions and nan."""
    step = stretched(mask)
    values = np.asarray(mask)
    if values.dtype == np.bool_:
        return values.astype(np.uint8)
    if step > 1:
        return values // step
    if mask.mode != "F":
        return values
    whole = (np.abs(values) < 2**31) & (values == np.rint(values))  # false for nan
    if not whole.all():
        raise UnsupportedMask(
            f"holds {values[~whole][0]:g}, and a class is a whole number; save classes as 8-bit grayscale, 255 where "
            "there is no label"
        )
    return values.astype(np.int32)


def read_mask(path: Path) -> np.ndarray:
    """Decode an indexed mask to `[H, W]`, uint8 or wider integers, values as in the file.

    UserError for masks of colors and for unreadable ones.
    """
    try:
        with Image.open(path) as mask:
            check_mask(mask)
            if mask.mode not in INDEX_MODES:
                raise UserError(
                    f"{path}: mask has mode {mask.mode}, not one number per pixel; `semseg check` shows which colors "
                    "it holds, and its --fix-map proposes a color_map"
                )
            return numbers(mask)
    except DECODING_ERRORS as error:
        raise unreadable(path, error) from error


def read_color_mask(path: Path) -> np.ndarray:
    """Decode a mask of colors to int32 [H, W], 0xRRGGBB per pixel. UserError when it cannot be read."""
    try:
        with Image.open(path) as mask:
            check_mask(mask)
            if mask.mode in INDEX_MODES and mask.mode not in ("L", "P", "1"):
                gray = numbers(mask).astype(np.int32)
                if ((gray < 0) | (gray > 255)).any():
                    wrong = gray[(gray < 0) | (gray > 255)][0]
                    raise UserError(f"{path}: holds {wrong}, which is no color of the color_map; save it as a picture")
                return gray << 16 | gray << 8 | gray
            colors = np.asarray(mask.convert("RGB"), np.int32)
    except DECODING_ERRORS as error:
        raise unreadable(path, error) from error
    return colors[..., 0] << 16 | colors[..., 1] << 8 | colors[..., 2]


def unreadable(path: Path, error: Exception | str) -> UserError:
    """One line for a mask that is missing, broken or unsupported."""
    if isinstance(error, FileNotFoundError):
        return UserError(f"{path}: no such label")
    if isinstance(error, UnsupportedMask):
        return UserError(f"{path}: {error}")
    return UserError(f"{path}: unreadable label ({error}); replace it or take it out of the dataset")


def count_pages(mask: Image.Image) -> int:
    """Pictures in an opened file; the smaller copies and the transparency in a TIFF do not count."""
    count: int = getattr(mask, "n_frames", 1)
    if count == 1 or mask.format != "TIFF":
        return count
    pages, size = 0, mask.size
    for page in range(count):
        mask.seek(page)
        kind = int(getattr(mask, "tag_v2", {}).get(_SUBFILE, 0))
        pages += mask.size == size and not kind & _COPY_OR_TRANSPARENCY
    mask.seek(0)
    return pages
