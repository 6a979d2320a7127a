import re
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import pyvips
from PIL import Image

from semseg_app.data.dataset import read_image
from semseg_app.errors import UserError
from semseg_app.inference.decode import UnsupportedImage, decode_image
from semseg_app.inference.engines.base import Prediction
from semseg_app.inference.large import segment_large
from semseg_app.inference.predictor import Predictor
from semseg_app.inference.strips import Strips, is_large
from semseg_app.inference.tiling import Window, tiles
from semseg_app.labels import LabelSpace
from semseg_app.masks.png_strips import PngStrips

SIDE = 20_000
MEASURED = """
import re
from pathlib import Path
from semseg_app.cli.main import main
try:
    main()
finally:
    # Not ru_maxrss: that counts the memory of who started the process.
    print(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])
"""
TURNED = Image.Exif()
TURNED[0x0112] = 6  # stands on its side


class StrongestChannel:
    """Red is class 0, green 1, blue 2; the confidence is that channel's value."""

    name, kind, device, precision = "strongest", "fake", "cpu", "fp32"
    labels = LabelSpace(classes=["red", "green", "blue"], palette=[(200, 30, 30), (30, 200, 30), (30, 30, 200)])

    def infer(self, images: np.ndarray) -> Prediction:
        return Prediction(images.argmax(axis=3).astype(np.uint8), images.max(axis=3))


def picture(height: int, width: int, bands: int = 3) -> np.ndarray:
    """uint8 `[H, W, bands]`: blobs of all colors and, of the fourth band, of all opacities."""
    seeds = np.random.default_rng(0).integers(0, 256, (height // 20, width // 20, 4), np.uint8)
    blobs = np.asarray(Image.fromarray(seeds).resize((width, height), Image.Resampling.BICUBIC))
    return np.ascontiguousarray(blobs[..., :bands])


@pytest.mark.parametrize(
    ("name", "bands", "mode", "options"),
    [
        ("a.jpg", 3, None, {"quality": 90}),
        ("progressive.jpg", 3, None, {"progressive": True}),
        ("turned.jpg", 3, None, {"exif": TURNED}),
        ("gray.jpg", 3, "L", {}),
        ("a.png", 3, None, {}),
        ("indexed.png", 3, "P", {}),
        ("alpha.png", 4, None, {}),
        ("gray_alpha.png", 3, "LA", {}),
        ("strips.tif", 3, None, {"compression": "tiff_lzw"}),
        ("jpeg.tif", 3, None, {"compression": "jpeg"}),
        ("alpha.tif", 4, None, {}),
        ("a.webp", 3, None, {"lossless": True}),
    ],
)
def test_strips_hold_the_pixels_that_pillow_reads(
    tmp_path: Path, name: str, bands: int, mode: str | None, options: dict[str, object]
) -> None:
    pixels = picture(300, 470, bands)
    if name == "alpha.tif":  # a mask; other values are refused
        pixels = pixels.copy()
        pixels[..., 3] = np.where(pixels[..., 3] > 99, 255, 0)
    image = Image.fromarray(pixels)
    path = tmp_path / name
    (image if mode is None else image.convert(mode)).save(path, **options)
    expected = read_image(path).astype(int)
    strips = Strips(path)
    assert (strips.height, strips.width) == expected.shape[:2]
    for tile in tiles(strips.height, strips.width, 128, 160, 32):
        difference = np.abs(strips.read(tile.window) - tile.window.cut(expected)).max()
        assert difference <= (name.startswith(("alpha", "gray_alpha"))), tile  # how white is mixed in is rounded
    small = np.abs(strips.preview(*(side // 10 for side in expected.shape[:2])).mean((0, 1)) - expected.mean((0, 1)))
    assert small.max() < 3


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_replaced_file_is_read_anew(tmp_path: Path, orientation: int) -> None:
    """libvips remembers operations by file name."""
    path = tmp_path / "latest.jpg"
    exif = Image.Exif()
    exif[0x0112] = orientation
    for color, size in (((200, 0, 0), (300, 200)), ((0, 0, 200), (120, 80))):
        Image.new("RGB", size, color).save(path, exif=exif, quality=95)
        strips = Strips(path)
        width, height = size[::-1] if orientation == 6 else size
        assert (strips.height, strips.width) == (height, width)
        np.testing.assert_allclose(strips.read(Window(0, 0, 8, 8)), np.broadcast_to(color, (8, 8, 3)), atol=4)


@pytest.mark.parametrize("compression", ["zstd", "lzma", "tiff_deflate"])
def test_a_tiff_strip_that_cannot_be_decoded_is_an_error_not_black(tmp_path: Path, compression: str) -> None:
    path = tmp_path / "a.tif"
    pixels = picture(300, 470)
    Image.fromarray(pixels).save(path, compression=compression)
    if compression == "tiff_deflate":  # damaged in its middle
        content = bytearray(path.read_bytes())
        content[len(content) // 2 : len(content) // 2 + 2000] = np.random.default_rng(0).bytes(2000)
        path.write_bytes(content)
    try:
        found = Strips(path).read(Window(0, 0, 300, 470))
    except UserError as error:
        message = str(error)
    else:  # a libvips that was built with the codec
        message = ""
        np.testing.assert_array_equal(found, pixels)
    assert compression != "tiff_deflate" or "unreadable image" in message
    assert not message or re.search(r"a\.tif: (compressed with (ZSTD|LZMA)|unreadable image)", message)


def test_a_tiff_tile_that_cannot_be_decoded_is_an_error_not_black(tmp_path: Path) -> None:
    """libvips' cache of tiles swallows the error; other files read in the same thread stay readable."""
    path = tmp_path / "a.tif"
    pixels = picture(300, 470)
    pyvips.Image.new_from_array(pixels).tiffsave(
        str(path), tile=True, tile_width=128, tile_height=128, compression="deflate"
    )
    np.testing.assert_array_equal(Strips(path).read(Window(0, 0, 300, 470)), pixels)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 2000] = np.random.default_rng(0).bytes(2000)
    (tmp_path / "b.tif").write_bytes(content)
    with pytest.raises(UserError, match=r"b\.tif: unreadable image"):
        Strips(tmp_path / "b.tif").read(Window(0, 0, 300, 470))
    np.testing.assert_array_equal(Strips(path).read(Window(0, 0, 300, 470)), pixels)


def tiff_of_bands(bands: int, extra: int, bits: int = 8) -> bytes:
    """A TIFF of 16 x 16 pixels, written by hand: RGB and bands marked `extra` (0 = unknown, 2 = alpha)."""
    data = np.random.default_rng(0).integers(0, 256, 16 * 16 * bands * bits // 8, np.uint8).tobytes()
    tags = [(256, 16), (257, 16), (258, [bits] * bands), (259, 1), (262, 2), (273, 0), (277, bands), (278, 16)]
    tags += [(279, len(data)), (284, 1)] + ([(338, [extra] * (bands - 3))] if bands > 3 else [])
    start = 8 + 2 + 12 * len(tags) + 4
    table, beside = struct.pack("<H", len(tags)), b""
    for tag, value in tags:
        values = value if isinstance(value, list) else [value]
        packed = struct.pack(f"<{len(values)}H", *values)
        if tag == 273:
            packed = struct.pack("<H", start + 64)
        if len(packed) > 4:
            packed, beside = struct.pack("<L", start + len(beside)), beside + packed
        table += struct.pack("<HHL", tag, 3, len(values)) + packed.ljust(4, b"\0")
    return b"II*\0" + struct.pack("<L", 8) + table + bytes(4) + beside.ljust(64, b"\0") + data


@pytest.mark.parametrize(
    ("bands", "extra", "bits", "reason"),
    [
        (4, 2, 8, "the fourth channel is marked as alpha but holds more than 0 and 255"),
        (4, 0, 8, "the image has a fourth channel that is not transparency"),
        (6, 0, 8, r"the image has 6 channels \(bands\)"),
        (3, 0, 16, "16-bit or float pixels"),
    ],
)
def test_bands_and_bits_without_meaning_are_refused_on_every_road(
    tmp_path: Path, bands: int, extra: int, bits: int, reason: str
) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(tiff_of_bands(bands, extra, bits))
    with pytest.raises(UserError, match=rf"a\.tif: .*{reason}"):
        read_image(path)
    with pytest.raises(UserError, match=rf"a\.tif: .*{reason}"):
        Strips(path).read(Window(0, 0, 16, 16))
    with pytest.raises(UnsupportedImage, match=reason):
        decode_image(path.read_bytes(), 10_000)


def test_strips_are_read_downwards_and_rows_may_be_left_out(tmp_path: Path) -> None:
    pixels = picture(200, 60)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    strips = Strips(tmp_path / "a.png")
    for window in (Window(0, 0, 10, 60), Window(50, 5, 20, 30), Window(50, 0, 8, 60), Window(60, 0, 140, 60)):
        np.testing.assert_array_equal(strips.read(window), window.cut(pixels))
    with pytest.raises(ValueError, match="row 59 after row 60"):
        strips.read(Window(59, 0, 1, 1))


def test_a_png_written_by_strips_is_one_that_pillow_reads(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (97, 131), np.uint8)
    palette = [(index, 7, 255 - index) for index in range(256)]
    with PngStrips(tmp_path / "a.png", 97, 131, palette[:200], {"model": "street, β"}) as png:
        for top in (0, 1, 40, 41, 96):
            end = {0: 1, 1: 40, 40: 41, 41: 96, 96: 97}[top]
            png.write(values[top:end])
    with Image.open(tmp_path / "a.png") as image:
        image.verify()  # the checksums of all chunks
    with Image.open(tmp_path / "a.png") as image:
        assert (image.mode, image.info["model"]) == ("P", "street, ?")
        np.testing.assert_array_equal(np.asarray(image), values)
        assert image.getpalette() == [value for color in palette[:200] for value in color] + [0] * 168
    with (
        pytest.raises(ValueError, match="1 rows were written of an image of 2"),
        PngStrips(tmp_path / "b.png", 2, 131, palette) as png,
    ):
        png.write(values[:1])


@pytest.mark.parametrize("batch_size", [1, 3])
def test_file_to_file_equals_the_predictor(tmp_path: Path, batch_size: int) -> None:
    pixels = picture(410, 600)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    predictor = Predictor(StrongestChannel(), tile=160, overlap=64, batch_size=batch_size)
    expected = predictor.predict(pixels)
    told: list[float] = []
    result = segment_large(tmp_path / "a.png", predictor, tmp_path / "mask.png", preview=True, progress=told.append)
    with Image.open(tmp_path / "mask.png") as mask:
        np.testing.assert_array_equal(np.asarray(mask), expected.classes)
        assert mask.getpalette()[:3] == [200, 30, 30]
    assert result.pixels[:3].tolist() == [(expected.classes == index).sum() for index in range(3)]
    assert result.mean_confidence == pytest.approx(expected.confidence.mean() / 255)
    assert told == sorted(told)
    assert told[-1] == 1
    palette = np.array(StrongestChannel.labels.palette)
    np.testing.assert_allclose(result.preview, (pixels + palette[expected.classes]) / 2, atol=1)


def test_a_large_result_is_shown_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("semseg_app.inference.large.PREVIEW_SIDE", 100)
    pixels = np.zeros((400, 700, 3), np.uint8)
    pixels[:, :350, 1] = pixels[:, 350:, 2] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    predictor = Predictor(StrongestChannel(), tile=160, overlap=64)
    preview = segment_large(tmp_path / "a.png", predictor, tmp_path / "mask.png", preview=True).preview
    assert preview is not None
    assert preview.shape == (57, 100, 3)
    np.testing.assert_allclose(preview[:, [10, 90]], np.tile([[15, 228, 15], [15, 15, 228]], (57, 1, 1)), atol=2)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cut.png", "unreadable image"),
        ("cut.jpg", "unreadable image"),
        ("deep.png", "ushort pixels; convert it to 8 bits"),
        ("cmyk.jpg", "CMYK; convert it to RGB"),
        ("text.png", "not a JPEG, PNG, TIFF or WebP file"),
        ("none.png", "No such file"),
    ],
)
def test_what_cannot_be_read_is_one_line_and_leaves_nothing(tmp_path: Path, name: str, message: str) -> None:
    image = Image.fromarray(picture(300, 400))
    for kind in ("png", "jpg"):
        image.save(tmp_path / f"whole.{kind}")
        whole = (tmp_path / f"whole.{kind}").read_bytes()
        (tmp_path / f"cut.{kind}").write_bytes(whole[: len(whole) // 2])
    Image.fromarray(np.zeros((300, 400), np.uint16)).save(tmp_path / "deep.png")
    image.convert("CMYK").save(tmp_path / "cmyk.jpg")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(UserError, match=f"{re.escape(name)}: .*{message}") as caught:
        segment_large(tmp_path / name, Predictor(StrongestChannel(), tile=64, overlap=0), tmp_path / "out" / "mask.png")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("out/*"))


def stripes(side: int) -> pyvips.Image:
    """Red, green and blue squares of 700 x 500 pixels, made as they are read."""
    place = pyvips.Image.xyz(side, side)
    index = ((place[0] / 700).floor() + (place[1] / 500).floor()) % 3
    bands = [(index == channel).ifthenelse(230, 20).cast("uchar") for channel in range(3)]
    return bands[0].bandjoin(bands[1:]).copy(interpretation="srgb")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["strips.tif", "tiles.tif", "a.png", "a.jpg"])
def test_20000_by_20000_pixels_in_bounded_memory(tmp_path: Path, make_graph: Callable[..., Path], name: str) -> None:
    options = {"strips.tif": {"compression": "lzw"}, "tiles.tif": {"compression": "deflate", "tile": True}}
    stripes(SIDE).write_to_file(str(tmp_path / name), **options.get(name, {}))
    assert is_large(tmp_path / name)
    command = [sys.executable, "-c", MEASURED, "predict", str(make_graph()), name, "-o", "out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 650 * 1024  # KiB; the pixels alone are 1,170 MiB

    mask = Strips(tmp_path / "out" / "masks" / f"{Path(name).stem}.png")  # as colors: it has a palette
    assert (mask.height, mask.width) == (SIDE, SIDE)
    rows, columns = np.mgrid[0:500, 0:SIDE]
    palette = np.array([[200, 0, 0], [0, 200, 0], [0, 0, 200]], np.uint8)
    for top in range(0, SIDE, 500):
        expected = palette[(columns // 700 + (rows + top) // 500) % 3]
        found = mask.read(Window(top, 0, 500, SIDE))
        wrong = (found != expected).any(axis=2)
        if name == "a.jpg":  # its colors run into one another
            wrong &= ((columns + 8) % 700 > 16) & ((rows + top + 8) % 500 > 16)
        assert not wrong.any(), top
    with Image.open(tmp_path / "out" / "overlays" / f"{Path(name).stem}.jpg") as overlay:
        assert overlay.size == (2048, 2048)
