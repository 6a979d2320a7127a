"""What a photo's pixels mean, decided in one place for training, prediction and the server.

EXIF orientation       applied, as browsers do; XMP's is ignored, as browsers do
transparency           laid over white
CMYK, gray, palette    converted to RGB without color profiles
alpha of a TIFF        laid over white where it is a mask (0 and 255 alone); else refused: GDAL marks the fourth of
                       four 8-bit bands as alpha, infrared too
other fourth channels  refused, as are five and more
16 and 32 bits         refused: cut to 8 bits, most scientific images are black
several frames         the first
sparse TIFF            refused: Pillow takes bytes of the header for the parts that were never written
"""

import contextlib
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from semseg_app import tiff

DECODING_ERRORS = (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError)
"""What Pillow raises for files that are broken, foreign or absurdly large."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what makes the image upright; from 5 on it swaps height and width."""

FOURTH_CHANNEL = "the image has a fourth channel that is not transparency (infrared?); save its RGB channels alone"
ALPHA_OF_TIFF = (
    "the fourth channel is marked as alpha but holds more than 0 and 255 (infrared bands often are marked so); "
    "save the RGB channels alone"
)
SPARSE = "parts of it were never written (a sparse TIFF); `gdal_translate IN.tif OUT.tif` writes them"
_CMYK = 5
"""TIFF's photometric interpretation with four color channels."""
_SIGNED = 2
"""TIFF's sample format of signed numbers."""
_PREVIEW = 1
"""In TIFF's kind of image: one of reduced size."""
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
"""Brands by which HEIC files begin."""
_BASE64 = (b"data:image/", b"/9j/", b"iVBORw0KGgo", b"UklGR")
"""How data URLs, and JPEG, PNG and WebP in base64, begin."""


class NotAPhoto(UnidentifiedImageError):
    """Something else under the name of a photo; the message says what."""


class UnsupportedPixels(ValueError):
    """Sound pixels that have no plain meaning as 8-bit RGB."""


def open_photo(source: str | Path | BinaryIO, formats: tuple[str, ...] | None = None) -> Image.Image:
    """Open an encoded photo and judge its header; no pixel is decoded.

    Args:
        source: where it lies, or the open file itself.
        formats: Pillow's names of the formats to try; None = all.

    Raises:
        UnsupportedPixels: 16 or 32 bits per channel, channels beyond RGB that are not alpha, or a sparse TIFF.
        NotAPhoto: something that people have under the name of a photo.
        tiff.TiffError: a TIFF header that is damaged or asks for too much.
        OSError, ValueError, ...: what Pillow raises for damaged files.
    """
    if isinstance(source, str | Path):
        with Path(source).open("rb") as file:
            start, tags = _start(file)
    else:
        start, tags = _start(source)
        source.seek(0)
    try:
        image = Image.open(source, formats=formats)
    except UnidentifiedImageError as error:
        if tags is not None:
            raise UnsupportedPixels(_described(tags)) from None
        if (found := what_it_is(start)) is not None:
            raise NotAPhoto(found) from None
        raise error
    try:
        _check_mode(image)
        check_written(image)
    except UnsupportedPixels:
        image.close()
        raise
    return image


def too_large() -> str:
    """What to say of a photo with more pixels than Pillow decodes."""
    return f"more than {2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6:,.0f} million pixels; cut it, and its mask, into tiles"


def _start(file: BinaryIO) -> tuple[bytes, tiff.Tags | None]:
    """The first bytes, and the tags of a TIFF whose pixels are of a kind that is read; None for another file."""
    start = file.read(16)
    if not tiff.is_tiff(start):
        return start, None
    tags = tiff.read_tags(file)
    check_tiff(tags)
    return start, tags


def what_it_is(start: bytes) -> str | None:
    """What people have under the name of a photo, by its first bytes. None for what is not among it."""
    if not start:
        return "the file is empty"
    if start[4:8] == b"ftyp" and start[8:12] in _HEIC:
        return "a HEIC photo, whatever its name says; convert it to JPEG"
    if start.startswith(b"version https"):
        return "a pointer of Git LFS, not the photo; fetch that with `git lfs pull`"
    if start.lower().startswith((b"<!doctype", b"<html")):
        return "a web page, not a photo; download it again"
    if start.startswith(_BASE64):
        return "a photo in base64, as text; send or save the bytes that it stands for"
    return None


def _described(tags: tiff.Tags) -> str:
    """Why a sound TIFF may not be read, and what to do about it."""
    names = {"bits per channel": tiff.BITS_PER_SAMPLE, "photometric": tiff.PHOTOMETRIC, "compression": tiff.COMPRESSION}
    facts = [f"{name} {tiff.number(tags, tag, 1)}" for name, tag in names.items()]
    if (codec := tiff.CODECS.get(tiff.number(tags, tiff.COMPRESSION, 1))) is not None:
        facts[-1] = f"compression {codec}"
    channels = tiff.number(tags, tiff.SAMPLES_PER_PIXEL, 1)
    return (
        f"a TIFF of a form that is not read ({channels} channel{'s' * (channels > 1)}, {', '.join(facts)}); save it as "
        "8-bit RGB or gray with LZW or Deflate compression"
    )


def check_tiff(tags: tiff.Tags) -> None:
    """UnsupportedPixels when the tags of a TIFF say that its pixels are no 8-bit gray, RGB, CMYK or palette."""
    channels = tiff.number(tags, tiff.SAMPLES_PER_PIXEL, 1)
    bits = int(max(tags.get(tiff.BITS_PER_SAMPLE, (1,))))
    if tiff.number(tags, tiff.NEW_SUBFILE_TYPE, 0) & _PREVIEW:
        raise UnsupportedPixels(
            "its first image is the preview of another one (a camera's raw file?); develop it to JPEG"
        )
    if channels > 4:
        raise UnsupportedPixels(f"the image has {channels} channels (bands); save three of them as RGB")
    if bits > 8:
        raise UnsupportedPixels(f"16-bit or float pixels ({bits} bits per channel); convert it to 8 bits a channel")
    if _SIGNED in tags.get(tiff.SAMPLE_FORMAT, ()):
        raise UnsupportedPixels("signed pixels, -128 to 127; convert it to unsigned 8 bits a channel")
    cmyk = tiff.number(tags, tiff.PHOTOMETRIC, 0) == _CMYK
    if channels in (2, 4) and not cmyk and not alpha_is_last(tags):
        raise UnsupportedPixels(FOURTH_CHANNEL.replace("fourth", "second") if channels == 2 else FOURTH_CHANNEL)


def alpha_is_last(tags: tiff.Tags) -> bool:
    """Whether a TIFF calls its last channel alpha (ExtraSamples 1, premultiplied, or 2)."""
    return tags.get(tiff.EXTRA_SAMPLES, (0,))[-1] in (1, 2)


def check_written(image: Image.Image) -> None:
    """UnsupportedPixels for a TIFF whose offsets are 0 in part: GDAL's SPARSE_OK leaves out what holds no data."""
    tags = getattr(image, "tag_v2", {})
    if any(0 in tags.get(tag, ()) for tag in (tiff.STRIP_OFFSETS, tiff.TILE_OFFSETS)):
        raise UnsupportedPixels(SPARSE)


def to_rgb(image: Image.Image) -> Image.Image:
    """A photo as 8-bit RGB, upright, transparency laid over white. UnsupportedPixels as the module's table says."""
    _check_mode(image)
    is_tiff = image.format == "TIFF"
    image = upright(image)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        if is_tiff:
            check_alpha_of_tiff(np.asarray(layer.getchannel("A")))
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert("RGB")


def check_alpha_of_tiff(alpha: np.ndarray) -> None:
    """UnsupportedPixels unless uint8 `alpha` is a mask, 0 and 255 alone."""
    if ((alpha != 0) & (alpha != 255)).any():
        raise UnsupportedPixels(ALPHA_OF_TIFF)


def orientation(image: Image.Image) -> int:
    """EXIF orientation of an opened image, 1 to 8; 1 where the file has none, or a damaged one.

    XMP is not read, and Pillow's own `getexif` would read it.
    """
    if image.format == "PNG":
        image.load()  # eXIf may follow the pixels
    value: object = 1
    with contextlib.suppress(Exception):  # damaged metadata must not cost sound pixels
        exif = Image.Exif()
        if image.format == "TIFF":
            exif = image.getexif()
        else:
            exif.load(image.info.get("exif", b""))
        value = exif.get(ExifTags.Base.Orientation, 1)
    return value if isinstance(value, int) and value in TURNS else 1


def upright(image: Image.Image) -> Image.Image:
    """The image as a viewer shows it."""
    if image.format == "TIFF":
        _load_tiff(image)  # Pillow turns it while it decodes
        return image
    turn = TURNS.get(orientation(image))
    if turn is None:
        return image
    turned = image.transpose(turn)
    turned.info = {key: value for key, value in image.info.items() if key not in ("exif", "xmp")}
    return turned


def _load_tiff(image: Image.Image) -> None:
    try:
        image.load()
    except OSError as error:
        codec = tiff.CODECS.get(getattr(image, "tag_v2", {}).get(tiff.COMPRESSION, 1))
        if codec is None:
            raise
        raise UnsupportedPixels(
            f"compressed with {codec}, which is not read here, or damaged ({error}); save it with LZW or Deflate "
            "compression"
        ) from error


def _check_mode(image: Image.Image) -> None:
    if image.mode.startswith(("I", "F")):
        raise UnsupportedPixels(f"16-bit or float pixels, mode {image.mode}; convert it to 8 bits a channel")
    tiles = image.tile if image.format == "PNG" and isinstance(image, ImageFile.ImageFile) else []
    if tiles and ";16" in str(tiles[0][3]):
        raise UnsupportedPixels("16-bit pixels; convert it to 8 bits a channel")
