import io
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from semseg_app.errors import UserError
from semseg_app.inference.decode import BrokenImage, ImageTooLarge, UnsupportedImage, decode_image
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
    with pytest.raises(BrokenImage, match="more than 500 scans; save it again as an ordinary JPEG"):
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


def test_sixteen_megapixels_decode_and_encode_in_a_third_of_pillows_time():
    """A photo with noise, and a mask with ragged borders; what is promised on the page about serving."""
    random = np.random.default_rng(0)
    blurred = Image.fromarray(random.integers(0, 256, (34, 46, 3), np.uint8)).resize((4624, 3464))
    noise = random.integers(-12, 13, (3464, 4624, 1), np.int16)
    data = encode(Image.fromarray((np.asarray(blurred) + noise).clip(0, 255).astype(np.uint8)), "JPEG", quality=90)
    regions = random.integers(0, 12, (29, 39), np.uint8).repeat(120, 0).repeat(120, 1)[:3464, :4624]
    mask = np.where(random.random(regions.shape) < 0.002, 3, regions).astype(np.uint8)

    def seconds(decode_it, encode_it) -> float:
        best = []
        for _ in range(3):
            start = time.perf_counter()
            decode_it()
            encode_it()
            best.append(time.perf_counter() - start)
        return min(best)

    ours = seconds(lambda: decode_image(data, 20_000_000), lambda: encode_png(mask, np.zeros((256, 3), np.uint8)))
    pillow = seconds(
        lambda: np.asarray(Image.open(io.BytesIO(data)).convert("RGB")), lambda: encode(Image.fromarray(mask))
    )
    print(f"decode and encode 16 megapixels: {1000 * ours:.0f} ms, Pillow {1000 * pillow:.0f} ms")
    assert ours < pillow / 3


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


def test_gray_of_1_8_and_16_bits():
    np.testing.assert_array_equal(decode(Image.new("L", (2, 2), 77)), 77)
    np.testing.assert_array_equal(decode(Image.new("1", (2, 2), 1)), 255)
    deep = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
    for kind in ("PNG", "TIFF"):
        np.testing.assert_array_equal(decode(Image.fromarray(deep), kind)[0, :, 0], [0, 0, 1, 128, 255])


def test_color_of_16_bits():
    """Pillow writes no such PNG, so this one is made by hand: 2 x 1 pixels, RGB, 16 bits a channel."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    row = b"\0" + struct.pack(">6H", 0, 255, 256, 32768, 65535, 4660)
    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    np.testing.assert_array_equal(decode_image(png, 10), [[(0, 0, 1), (128, 255, 18)]])


def test_several_frames_give_the_first():
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "blue")]
    for kind in ("TIFF", "WEBP", "PNG", "MPO"):  # MPO is what many phones write as .jpg
        first = decode(frames[0], kind, save_all=True, append_images=frames[1:])
        np.testing.assert_allclose(first.reshape(-1, 3), np.tile((255, 0, 0), (256, 1)), atol=3)


def test_what_is_refused():
    with pytest.raises(UnsupportedImage, match="32 bits"):
        decode(Image.new("I", (2, 2)), "TIFF")
    with pytest.raises(UnsupportedImage, match="send JPEG, PNG, WebP, BMP or TIFF"):
        decode(Image.new("RGB", (2, 2)), "PPM")
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
