import re
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
        ("infrared.tif", 4, "RGBX", {}),
        ("a.webp", 3, None, {"lossless": True}),
    ],
)
def test_strips_hold_the_pixels_that_pillow_reads(
    tmp_path: Path, name: str, bands: int, mode: str | None, options: dict[str, object]
) -> None:
    pixels = picture(300, 470, bands)
    image = Image.frombytes("RGBX", (470, 300), pixels.tobytes()) if mode == "RGBX" else Image.fromarray(pixels)
    path = tmp_path / name
    (image if mode in (None, "RGBX") else image.convert(mode)).save(path, **options)
    expected = read_image(path).astype(int)
    strips = Strips(path)
    assert (strips.height, strips.width) == expected.shape[:2]
    for tile in tiles(strips.height, strips.width, 128, 160, 32):
        difference = np.abs(strips.read(tile.window) - tile.window.cut(expected)).max()
        assert difference <= (name.startswith(("alpha", "gray_alpha"))), tile  # how white is mixed in is rounded
    small = np.abs(strips.preview(*(side // 10 for side in expected.shape[:2])).mean((0, 1)) - expected.mean((0, 1)))
    assert small.max() < 3


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
