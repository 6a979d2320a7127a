import base64
import io
import struct
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest
import pyvips
from PIL import Image, TiffImagePlugin
from support.sparse_tiff import sparse_tiff

from semseg_app import tiff
from semseg_app.errors import UserError
from semseg_app.inference.decode import (
    BrokenImage,
    ImageTooLarge,
    TooSlow,
    UnsupportedImage,
    decode_image,
    memory_needed,
)
from semseg_app.masks.png_encoder import encode_png


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decode(image: Image.Image, kind: str = "PNG", **options: object) -> np.ndarray:
    pixels = decode_image(encode(image, kind, **options), 10_000)
    assert pixels.dtype == np.uint8
    assert pixels.shape[2] == 3
    return pixels


@pytest.fixture
def photo() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (7, 5, 3), np.uint8))


def test_lossless_formats_keep_every_pixel(photo):
    for kind, options in {"PNG": {}, "BMP": {}, "TIFF": {}, "WEBP": {"lossless": True}}.items():
        np.testing.assert_array_equal(decode(photo, kind, **options), np.asarray(photo))


# What a viewer must undo, by the EXIF standard: orientation -> the way the stored image was turned from upright.
STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: np.rot90(upright, 2).transpose(1, 0, 2),
    8: lambda upright: np.rot90(upright, -1),
}


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation_is_applied(orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = ramps(48, 80)
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    pixels = decode(stored, kind, exif=exif, **({"quality": 100, "subsampling": 0} if kind == "JPEG" else {}))
    np.testing.assert_allclose(pixels, upright, atol=0 if kind == "PNG" else 4)


def ramps(height: int, width: int) -> np.ndarray:
    """RGB of which every corner looks different, and which survives JPEG and reduction."""
    rows, columns = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    return np.stack([255 * rows, 255 * columns, 255 * rows * columns], axis=2).round().astype(np.uint8)


def test_a_jpeg_of_very_many_scans_is_refused(photo):
    """Each would go over all pixels: a file of megabytes could hold a hundred thousand of them."""
    data = encode(photo, "JPEG", progressive=True)
    start_of_scan = data.index(b"\xff\xda")
    assert data.count(b"\xff\xda") == 10
    scan = data[start_of_scan : data.index(b"\xff", start_of_scan + 2)]
    many = data[:start_of_scan] + 500 * scan + data[start_of_scan:]
    with pytest.raises(BrokenImage, match=r"51[0-9] scans of .* million pixels; save it again as an ordinary JPEG"):
        decode_image(many, 10_000)
    assert decode_image(data, 10_000).shape == (7, 5, 3)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 1, "quality": 30}])
def test_jpeg_gives_the_pixels_that_pillow_gives(mode, options):
    random = np.random.default_rng(0)
    noise = Image.fromarray(random.integers(0, 256, (45, 67, 3), np.uint8)).convert(mode)
    pillow = np.asarray(Image.open(io.BytesIO(encode(noise, "JPEG", **options))).convert("RGB"))
    np.testing.assert_array_equal(decode(noise, "JPEG", **options), pillow)


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("factor", [1, 1.7, 3, 4, 8, 20])
def test_a_photo_gets_the_size_that_is_asked_for(factor, kind, orientation):
    """As if it were decoded whole and then reduced: to within what a ramp's rounding takes."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = ramps(203, 341)
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    asked = []

    def resize(height: int, width: int) -> tuple[int, int]:
        asked.append((height, width))
        return round(height / factor), round(width / factor)

    data = encode(stored, kind, exif=exif, **({"quality": 95} if kind == "JPEG" else {}))
    pixels = decode_image(data, 1_000_000, resize=resize)
    assert asked == [(203, 341)]
    size = (round(341 / factor), round(203 / factor))
    expected = np.asarray(Image.fromarray(upright).resize(size, Image.Resampling.BILINEAR))
    assert pixels.shape == expected.shape
    difference = np.abs(pixels.astype(int) - expected)
    assert difference.mean() < 2.5
    assert difference.max() < 20


def test_sixteen_megapixels_decode_and_encode_in_half_of_pillows_time():
    """A photo with noise, and a mask with ragged borders; what is promised on the page about serving."""
    random = np.random.default_rng(0)
    blurred = Image.fromarray(random.integers(0, 256, (34, 46, 3), np.uint8)).resize((4624, 3464))
    noise = random.integers(-12, 13, (3464, 4624, 1), np.int16)
    data = encode(Image.fromarray((np.asarray(blurred) + noise).clip(0, 255).astype(np.uint8)), "JPEG", quality=90)
    regions = random.integers(0, 12, (29, 39), np.uint8).repeat(120, 0).repeat(120, 1)[:3464, :4624]
    mask = np.where(random.random(regions.shape) < 0.002, 3, regions).astype(np.uint8)

    def seconds(decode_it, encode_it) -> float:
        """Of the processor, so that other processes do not count."""
        start = time.process_time()
        decode_it()
        encode_it()
        return time.process_time() - start

    def by_us() -> float:
        return seconds(lambda: decode_image(data, 20_000_000), lambda: encode_png(mask, np.zeros((256, 3), np.uint8)))

    def by_pillow() -> float:
        return seconds(
            lambda: np.asarray(Image.open(io.BytesIO(data)).convert("RGB")), lambda: encode(Image.fromarray(mask))
        )

    ours, pillow = (min(times) for times in zip(*((by_us(), by_pillow()) for _ in range(3)), strict=True))
    print(f"decode and encode 16 megapixels: {1000 * ours:.0f} ms, Pillow {1000 * pillow:.0f} ms")
    assert ours < pillow / 2


def test_alpha_is_laid_over_white():
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0] = [(200, 100, 0, 255), (200, 100, 0, 0), (200, 100, 0, 51)]  # opaque, clear, a fifth
    expected = [(200, 100, 0), (255, 255, 255), (244, 224, 204)]
    np.testing.assert_array_equal(decode(Image.fromarray(rgba))[0], expected)
    clear_index = Image.new("P", (2, 1), 1)
    clear_index.putpalette([10, 20, 30, 40, 50, 60])
    np.testing.assert_array_equal(decode(clear_index)[0, 0], (40, 50, 60))
    np.testing.assert_array_equal(decode(clear_index, transparency=1)[0, 0], (255, 255, 255))


def test_cmyk_jpeg():
    pixels = decode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)
    np.testing.assert_allclose(pixels.mean(axis=(0, 1)), (255, 0, 0), atol=3)


def test_gray_of_1_and_8_bits():
    np.testing.assert_array_equal(decode(Image.new("L", (2, 2), 77)), 77)
    np.testing.assert_array_equal(decode(Image.new("1", (2, 2), 1)), 255)


def png(bits: int, color: int, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of 2 x 1 pixels made by hand, with chunks before the pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, bits, color, 0, 0, 0))
    before = b"".join(chunk(*one) for one in chunks)
    return b"\x89PNG\r\n\x1a\n" + header + before + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_sixteen_bits_are_refused_not_cut():
    deep = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
    for kind in ("PNG", "TIFF"):
        with pytest.raises(UnsupportedImage, match="16-bit"):
            decode(Image.fromarray(deep), kind)
    for color, channels in ((0, 1), (2, 3), (4, 2), (6, 4)):
        with pytest.raises(UnsupportedImage, match="16-bit"):
            decode_image(png(16, color, bytes(1 + 2 * 2 * channels)), 10)


def test_damaged_exif_and_xmp_do_not_turn_or_refuse_sound_pixels():
    """Browsers take the orientation from EXIF alone."""
    row = b"\0" + bytes([255, 0, 0, 0, 0, 255])
    expected = [[(255, 0, 0), (0, 0, 255)]]
    np.testing.assert_array_equal(decode_image(png(8, 2, row, (b"eXIf", b"no TIFF header")), 10), expected)
    xmp = b"XML:com.adobe.xmp\0\0\0\0\0<rdf:Description tiff:Orientation='6' tiff:Orientation=\"6\"/>"
    np.testing.assert_array_equal(decode_image(png(8, 2, row, (b"iTXt", xmp)), 10), expected)


@pytest.mark.parametrize("kind", ["VP8X", "VP8L", "VP8 "])
def test_a_canvas_above_the_limit_is_refused_before_the_decoder_is_opened(kind, monkeypatch):
    """libwebp allocates the canvas when it is opened."""
    options = {
        "VP8X": {"save_all": True, "append_images": [Image.new("RGB", (40, 30), "red")]},
        "VP8L": {"lossless": True},
    }
    data = encode(Image.new("RGB", (40, 30)), "WEBP", **options.get(kind, {}))
    assert data[12:16] == kind.encode()
    assert decode_image(data, 1200).shape == (30, 40, 3)
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("the decoder was opened"))
    with pytest.raises(ImageTooLarge, match="40 x 30 pixels"):
        decode_image(data, 1199)


def test_tiles_above_the_limit_are_refused():
    """A tile is decoded whole, however small the image is."""
    buffer = pyvips.Image.black(8, 8, bands=3).tiffsave_buffer(tile=True, tile_width=64, tile_height=64)
    assert decode_image(buffer, 4096).shape == (8, 8, 3)
    with pytest.raises(ImageTooLarge, match="tiles of 64 x 64 pixels, above the limit"):
        decode_image(buffer, 4095)


def test_metadata_of_a_tiff_is_bounded(monkeypatch):
    monkeypatch.setattr(tiff, "MOST_METADATA", 2**20)
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[700] = bytes(2**21)
    with pytest.raises(BrokenImage, match="more than 1 MiB of metadata"):
        decode_image(encode(Image.new("RGB", (8, 8)), "TIFF", tiffinfo=tags), 100)


def test_a_slow_decode_ends_at_its_deadline():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (500, 500, 3), np.uint8))
    with pytest.raises(TooSlow, match="took too long to decode"):
        decode_image(encode(noise), 250_000, seconds=0)


def test_memory_needed_grows_with_what_the_header_says():
    photo = Image.new("RGB", (100, 100), "red")
    kinds = [
        encode(photo, "JPEG"),
        encode(photo, "JPEG", progressive=True),
        encode(photo.convert("CMYK"), "JPEG"),
        encode(photo.convert("RGBA"), "PNG"),
        encode(photo, "WEBP", save_all=True, append_images=[Image.new("RGB", (100, 100))]),
    ]
    needed = [memory_needed(data, 10_000) for data in kinds]
    assert needed == sorted(set(needed))
    assert needed[0] >= 30_000  # what is returned
    with pytest.raises(ImageTooLarge):
        memory_needed(kinds[0], 9_999)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "mode", "options"), [("JPEG", "RGB", {"progressive": True}), ("PNG", "RGBA", {})])
def test_memory_needed_is_what_a_process_takes(tmp_path, kind, mode, options):
    path = tmp_path / "photo"
    path.write_bytes(encode(Image.effect_noise((4000, 3000), 50).convert(mode), kind, **options))
    code = """
import re, sys
from pathlib import Path
from semseg_app.inference.decode import decode_image, memory_needed
data = Path(sys.argv[1]).read_bytes()
kib = lambda name: int(re.search(name + r":\\s*(\\d+)", Path("/proc/self/status").read_text())[1])
needed, before = memory_needed(data, 12_000_000), kib("VmRSS")
decode_image(data, 12_000_000)
print((kib("VmHWM") - before) * 1024 / needed)
"""
    ran = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert 0.4 < float(ran.stdout) < 1.1  # subsampled color takes less


def test_several_frames_give_the_first():
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "blue")]
    for kind in ("TIFF", "WEBP", "PNG", "MPO"):  # MPO is what many phones write as .jpg
        first = decode(frames[0], kind, save_all=True, append_images=frames[1:])
        np.testing.assert_allclose(first.reshape(-1, 3), np.tile((255, 0, 0), (256, 1)), atol=3)


def test_what_is_refused():
    with pytest.raises(UnsupportedImage, match="16-bit or float pixels"):
        decode(Image.new("I", (2, 2)), "TIFF")
    with pytest.raises(UnsupportedImage, match="send JPEG, PNG, WebP, BMP or TIFF"):
        decode(Image.new("RGB", (2, 2)), "PPM")
    for start, words in {
        b"\0\0\0\x18ftypheic": "a HEIC photo, whatever its name says; convert it to JPEG",
        b"version https://git-lfs": "a pointer of Git LFS",
        b"<!DOCTYPE html>": "a web page",
        base64.b64encode(encode(Image.new("RGB", (2, 2)))): "a photo in base64, as text",
        b"data:image/png;base64,": "a photo in base64, as text",
    }.items():
        with pytest.raises(UnsupportedImage, match=words):
            decode_image(start + bytes(32), 10)
    with pytest.raises(UnsupportedImage, match=r"parts of it were never written .*gdal_translate"):
        decode_image(sparse_tiff(Image.new("RGB", (8, 8), "red")), 100)
    with pytest.raises(BrokenImage, match="empty"):
        decode_image(b"", 10)
    with pytest.raises(ImageTooLarge, match="3 x 4 pixels, above the limit of 1e-05 million"):
        decode_image(encode(Image.new("RGB", (3, 4))), 10)
    assert decode_image(encode(Image.new("RGB", (3, 4))), 12).shape == (4, 3, 3)


def test_damaged_bytes_decode_or_are_refused_in_one_line(photo):
    """Nothing but a UserError may come out, whatever byte is wrong: the API would answer 500 to anything else."""
    random = np.random.default_rng(1)
    exif = Image.Exif()
    exif[0x0112] = 6
    refused = []
    for kind in ("JPEG", "PNG", "WEBP", "BMP", "TIFF"):
        whole = encode(photo.resize((50, 70)), kind, exif=exif)
        for _ in range(150):
            damaged = bytearray(whole[: random.integers(1, len(whole) + 1)] if random.random() < 0.3 else whole)
            for place in random.integers(0, min(len(damaged), 200), random.integers(1, 6)):
                damaged[place] = random.integers(256)
            try:
                assert decode_image(bytes(damaged), 10_000).size <= 30_000
            except UserError as error:
                refused.append(str(error))
    assert 100 < len(refused) < 750
    assert not [message for message in refused if "\n" in message]
