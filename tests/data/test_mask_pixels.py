"""Masks of wide numbers, of floats, of several pages, cut-outs: the doctor and training agree on each."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.own_data import NUMBERS, folder
from support.sparse_tiff import sparse_tiff
from typer.testing import CliRunner

from semseg_app.cli.main import app
from semseg_app.data.check import check
from semseg_app.data.layouts import open_dataset
from semseg_app.data.training_check import refuse_or_warn
from semseg_app.errors import UserError


def written(root: Path, save: Callable[[Path], None], suffix: str = ".tif", **more: Any) -> Path:
    """A dataset of two photos whose masks `save` writes."""
    folder(root, [NUMBERS] * 2, **more)
    for number in range(2):
        path = root / "labels" / "train" / f"p{number}.png"
        path.unlink()
        save(path.with_suffix(suffix))
    return root


def corner(dtype: type | np.dtype, value: float) -> np.ndarray:
    """NUMBERS with another value in the first rows."""
    values = NUMBERS.astype(dtype)
    values[:4] = value
    return values


def said(root: Path) -> tuple[str, str, str]:
    """What the doctor says of the first mask, and the one line of training, and of reading it."""
    data = open_dataset(root)
    (finding, *_) = check(data).findings
    with pytest.raises(UserError) as refused:
        refuse_or_warn(data, data.samples("train"), print)
    with pytest.raises(UserError) as unread:
        data.read_label(data.samples("train")[0])
    return f"{finding.kind} {finding.file}: {finding.message}", str(refused.value), str(unread.value)


@pytest.mark.parametrize(
    ("dtype", "value"), [(np.uint16, 65535), (np.int32, -1), (np.int32, -9999), (np.float32, -9999.0)]
)
def test_a_value_that_means_no_data_is_mapped(dtype: type, value: float, tmp_path: Path) -> None:
    root = written(tmp_path / "data", lambda path: Image.fromarray(corner(dtype, value)).save(path))
    finding, refused, unread = said(root)
    assert finding.startswith(f"value-outside labels/train/p0.tif: {int(value)} (8.3%); classes are 0 to 2")
    assert f"{int(value)} (8.3%)" in refused
    assert f"value {int(value)} is not one of the 3 classes" in unread
    CliRunner().invoke(app, ["check", str(root), "--fix-map", str(tmp_path / "fixed.yaml")])
    (tmp_path / "fixed.yaml").replace(root / "dataset.yaml")
    data = open_dataset(root)
    assert check(data).findings == []
    np.testing.assert_array_equal(data.read_label(data.samples("train")[0]), corner(np.uint8, 255))


@pytest.mark.parametrize("dtype", [np.uint16, ">u2", np.int32, np.float32])
def test_wide_masks_of_class_numbers_are_read_as_they_are(dtype: type | str, tmp_path: Path) -> None:
    root = written(tmp_path, lambda path: Image.fromarray(corner(np.dtype(dtype), 255)).save(path))
    data = open_dataset(root)
    assert check(data).findings == []
    np.testing.assert_array_equal(data.read_label(data.samples("train")[0]), corner(np.uint8, 255))


def _gray_tiff(values: np.ndarray, bits: int) -> bytes:
    """An uncompressed gray TIFF of 2 or 4 bits per pixel, as GDAL writes it for NBITS; Pillow writes none."""
    height, width = values.shape
    places = np.arange(8 // bits)[::-1] * bits
    assert width % len(places) == 0
    rows = (values.reshape(height, -1, len(places)).astype(int) << places).sum(axis=2).astype(np.uint8).tobytes()
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: len(rows)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return struct.pack("<2sHI", b"II", 42, 8 + len(rows)) + rows + struct.pack("<H", len(tags)) + entries + bytes(4)


def _gray_png(values: np.ndarray, bits: int) -> bytes:
    rows = _gray_tiff(values, bits)[8 : 8 + values.size * bits // 8]
    length = len(rows) // len(values)
    pixels = b"".join(b"\0" + rows[start : start + length] for start in range(0, len(rows), length))
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(pixels)), (b"IEND", b"")]
    framed = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize(("suffix", "encode"), [(".tif", _gray_tiff), (".png", _gray_png)])
def test_numbers_of_few_bits_are_not_stretched(
    suffix: str, encode: Callable[[np.ndarray, int], bytes], bits: int, tmp_path: Path
) -> None:
    highest = corner(np.uint8, 3)

    def save(path: Path) -> None:
        path.write_bytes(encode(highest, bits))

    data = open_dataset(written(tmp_path / "numbers", save, suffix, classes="[ground, plant, tool, sky]"))
    assert check(data).findings == []
    np.testing.assert_array_equal(data.read_label(data.samples("train")[0]), highest)
    shades = {"#" + f"{255 * number // (2**bits - 1):02x}" * 3: number for number in range(4)}
    data = open_dataset(
        written(tmp_path / "shades", save, suffix, classes="[ground, plant, tool, sky]", color_map=shades)
    )
    assert check(data).findings == []
    np.testing.assert_array_equal(data.read_label(data.samples("train")[0]), highest)


@pytest.mark.parametrize(("value", "name"), [(0.5, "0.5"), (np.nan, "nan"), (-3.4e38, "-3.4e+38")])
def test_fractions_are_no_classes(value: float, name: str, tmp_path: Path) -> None:
    root = written(tmp_path, lambda path: Image.fromarray(corner(np.float32, value)).save(path))
    for line in said(root):
        assert f"labels/train/p0.tif: holds {name}, and a class is a whole number; save classes as 8-bit" in line


def test_a_value_beyond_every_map(tmp_path: Path) -> None:
    root = written(tmp_path, lambda path: Image.fromarray(corner(np.int32, -(2**31))).save(path))
    finding, refused, _ = said(root)
    for line in (finding, refused):
        assert "a label_map takes values from -32768 to 65535, so save the others as 255" in line
    assert check(open_dataset(root)).proposal is None


def test_white_of_16_bits_is_class_1(tmp_path: Path) -> None:
    masks = (NUMBERS > 0) * np.uint16(65535)
    root = written(
        tmp_path, lambda path: Image.fromarray(masks.astype(np.uint16)).save(path), classes="[no part, part]"
    )
    proposal = check(open_dataset(root)).proposal
    assert proposal is not None
    assert proposal.info.label_map == {0: 0, 65535: 1}


def test_one_page_for_each_class(tmp_path: Path) -> None:
    def pages(path: Path) -> None:
        first, second = (Image.fromarray((value == NUMBERS).astype(np.uint8)) for value in (1, 2))
        first.save(path, save_all=True, append_images=[second])

    for line in said(written(tmp_path, pages)):
        assert "labels/train/p0.tif: holds 2 pages, of which only the first would be read; join them" in line


def test_a_part_that_was_never_written_is_not_read_from_the_header(tmp_path: Path) -> None:
    root = written(tmp_path, lambda path: path.write_bytes(sparse_tiff(Image.fromarray(NUMBERS))))
    for line in said(root):
        assert "labels/train/p0.tif: parts of it were never written (a sparse TIFF); `gdal_translate" in line


@pytest.mark.parametrize("step", [2, 1])
def test_the_overviews_of_a_tiff_are_no_pages(step: int, tmp_path: Path) -> None:
    """GDAL marks them as reduced copies."""

    def with_overview(path: Path) -> None:
        smaller = Image.fromarray(np.ascontiguousarray(NUMBERS[::step, ::step]))
        smaller.encoderinfo = {"tiffinfo": {254: 1}}
        Image.fromarray(NUMBERS).save(path, save_all=True, append_images=[smaller])

    root = written(tmp_path, with_overview)
    data = open_dataset(root)
    assert check(data).findings == []
    np.testing.assert_array_equal(data.read_label(data.samples("train")[0]), NUMBERS)


@pytest.mark.parametrize("color_map", [None, {"#ffffff": 1}])
def test_a_cut_out_is_named(color_map: dict[str, int] | None, tmp_path: Path) -> None:
    pixels = np.full((*NUMBERS.shape, 4), 255, np.uint8)
    pixels[..., 3] = (NUMBERS > 0) * 255
    more = {"color_map": color_map} if color_map else {}
    root = written(tmp_path, lambda path: Image.fromarray(pixels).save(path), ".png", **more)
    for line in said(root):
        assert "labels/train/p0.png: is a cut-out: all of it is #ffffff" in line
        assert "save the alpha channel as a grayscale mask" in line
    assert check(open_dataset(root)).proposal is None


def test_wide_numbers_beside_a_color_map(tmp_path: Path) -> None:
    root = written(
        tmp_path,
        lambda path: Image.fromarray(corner(np.uint16, 65535)).save(path),
        color_map={"#000000": 0, "#010101": 1, "#020202": 2},
    )
    for line in said(root):
        assert "holds 65535, which is no color of the color_map" in line
