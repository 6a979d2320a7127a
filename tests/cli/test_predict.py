import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnxruntime.capi import onnxruntime_pybind11_state as errors
from PIL import Image, TiffImagePlugin

from semseg_app.cli.main import main
from semseg_app.errors import UserError
from semseg_app.inference.engines.base import Prediction
from semseg_app.inference.engines.onnxruntime import OnnxRuntimeEngine
from semseg_app.inference.results import ResultFolder

MakeGraph = Callable[..., Path]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """a: left red, right blue. sub/a: green. broken: not an image."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    halves = np.zeros((30, 40, 3), np.uint8)
    halves[:, :10, 0] = halves[:, 10:, 2] = 255
    Image.fromarray(halves).save(folder / "a.png")
    Image.new("RGB", (100, 21), (0, 255, 0)).save(folder / "sub" / "a.jpg")
    return folder


@pytest.fixture
def predict(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int | str | None]:
    """Run the verb in this process; -> exit code."""

    def run(*arguments: object) -> int | str | None:
        monkeypatch.setattr(sys, "argv", ["semseg", "predict", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        return caught.value.code

    return run


def test_masks_overlays_and_shares(
    make_graph: MakeGraph, photos: Path, tmp_path: Path, predict: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert predict(make_graph(), photos, "-o", out, "--tile", 64) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert f"2 images in {out} (rgb, onnxruntime, cpu, fp32)" in said.err

    written = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    assert written == ["masks/a.png", "masks/sub/a.png", "overlays/a.jpg", "overlays/sub/a.jpg", "shares.csv"]
    mask = np.asarray(Image.open(out / "masks" / "a.png"))
    assert (mask[:, :10] == 0).all()
    assert (mask[:, 10:] == 2).all()
    assert (np.asarray(Image.open(out / "masks" / "sub" / "a.png")) == 1).all()
    overlay = np.asarray(Image.open(out / "overlays" / "sub" / "a.jpg"))
    assert overlay.shape == (21, 100, 3)
    np.testing.assert_allclose(overlay.mean((0, 1)), [0, 227, 0], atol=3)  # photo 255 under palette 200
    rows = list(csv.DictReader((out / "shares.csv").read_text(encoding="utf-8").splitlines()))
    assert list(rows[0]) == ["file", "width", "height", "red", "green", "blue", "mean_confidence"]
    assert [row["file"] for row in rows] == [str(photos / "a.png"), str(photos / "sub" / "a.jpg")]
    assert [float(rows[0][name]) for name in ("width", "height", "red", "green", "blue")] == [40, 30, 0.25, 0, 0.75]
    assert 0.9 < float(rows[0]["mean_confidence"]) <= 1


def test_without_confidence_the_masks_are_the_same(
    make_graph: MakeGraph, photos: Path, tmp_path: Path, predict: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    graph = make_graph()
    for out, option in (("with", "--confidence"), ("without", "--no-confidence")):
        assert predict(graph, photos, "-o", tmp_path / out, option, "--json") == 0
        report = json.loads(capsys.readouterr().out)
        assert ["mean_confidence" in row for row in report["images"]] == [out == "with"] * 2
    for name in ("masks/a.png", "overlays/sub/a.jpg"):
        assert (tmp_path / "with" / name).read_bytes() == (tmp_path / "without" / name).read_bytes()
    header = (tmp_path / "without" / "shares.csv").read_text(encoding="utf-8").splitlines()[0]
    assert header == "file,width,height,red,green,blue"


def test_a_broken_image_is_one_line_and_the_rest_goes_on(
    make_graph: MakeGraph, photos: Path, tmp_path: Path, predict: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "aa_broken.jpg").write_bytes(b"\xff\xd8 no photo")
    out = tmp_path / "out"
    assert predict(make_graph(), photos, "-o", out, "--no-overlay", "--json") == 1
    said = capsys.readouterr()
    report = json.loads(said.out)
    assert [image["mask"] for image in report["images"]] == [
        str(out / "masks" / name) for name in ("a.png", "sub/a.png")
    ]
    assert report["images"][0]["shares"] == {"red": 0.25, "green": 0.0, "blue": 0.75}
    assert "overlay" not in report["images"][0]
    assert not (out / "overlays").exists()
    assert [failure["file"] for failure in report["failed"]] == [str(photos / "aa_broken.jpg")]
    assert (report["engine"], report["device"], report["precision"]) == ("onnxruntime", "cpu", "fp32")
    lines = [line for line in said.err.splitlines() if line]
    assert len(lines) == 1
    assert lines[0].startswith(f"semseg: {photos / 'aa_broken.jpg'}: unreadable image")


def test_a_network_folder_and_a_glob(
    network_folder: Path, photos: Path, tmp_path: Path, predict: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (network_folder, photos / "*.png", "-o", tmp_path / "out", "--device", "cpu", "--json")
    assert predict(*arguments) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["engine"] == "torch"
    assert len(report["images"]) == 1
    assert sum(report["images"][0]["shares"].values()) == pytest.approx(1)


def test_results_inside_the_photos_are_not_segmented_again(
    make_graph: MakeGraph, photos: Path, predict: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        assert predict(make_graph(), photos, "-o", photos / "out", "--json") == 0
        assert len(json.loads(capsys.readouterr().out)["images"]) == 2


def test_results_may_go_into_the_folder_of_the_photos(
    make_graph: MakeGraph, photos: Path, predict: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        assert predict(make_graph(), photos, "-o", photos, "--json") == 0
        assert len(json.loads(capsys.readouterr().out)["images"]) == 2
    assert (photos / "masks" / "sub" / "a.png").is_file()


def test_results_of_an_earlier_run_elsewhere_are_no_photos(
    make_graph: MakeGraph, photos: Path, predict: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    for out in ("first", "trips/second", "first"):
        assert predict(make_graph(), photos, "-o", photos / out, "--json") == 0
        files = {row["file"] for row in json.loads(capsys.readouterr().out)["images"]}
        assert files == {str(photos / "a.png"), str(photos / "sub" / "a.jpg")}


def test_labels_are_not_replaced(
    make_graph: MakeGraph, photos: Path, predict: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """images/ beside masks/ is how many datasets are laid out."""
    (photos / "masks").mkdir()
    label = photos / "masks" / "a.png"
    Image.new("L", (40, 30), 2).save(label)
    before = label.read_bytes()
    assert predict(make_graph(), photos / "a.png", "-o", photos) == 2
    assert f"{label}: would be replaced, and no earlier run" in capsys.readouterr().err
    assert label.read_bytes() == before
    assert not (photos / "shares.csv").exists()
    assert predict(make_graph(), photos / "sub", "-o", photos / "sub") == 0


def test_a_run_that_was_killed_may_be_run_again(
    make_graph: MakeGraph, photos: Path, tmp_path: Path, predict: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"

    def killed(*_: object) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as first:
        first.setattr(ResultFolder, "_write_overlay", killed)
        first.setattr(ResultFolder, "write_shares", lambda _: None)
        assert predict(make_graph(), photos, "-o", out) == 130
    assert (out / "masks" / "a.png").is_file() or (out / "masks" / "sub" / "a.png").is_file()
    assert predict(make_graph(), photos, "-o", out) == 0
    assert len((out / "shares.csv").read_text().splitlines()) == 3


@pytest.mark.parametrize(("letter", "count"), [("n", 243), ("\u4e2d", 81)])
def test_names_as_long_as_results_allow(
    make_graph: MakeGraph,
    photos: Path,
    tmp_path: Path,
    predict: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    letter: str,
    count: int,
) -> None:
    long, longer = (photos / f"{letter * (count + more)}.png" for more in (0, 1))
    for path in (long, longer):
        path.write_bytes((photos / "a.png").read_bytes())
    assert predict(make_graph(), long, "-o", tmp_path / "out") == 0
    assert [path.name for path in (tmp_path / "out" / "masks").iterdir()] == [long.name]
    assert predict(make_graph(), longer, "-o", tmp_path / "out") == 2
    assert "need a name of at most 243 bytes; rename it" in capsys.readouterr().err


def test_photos_of_any_format_are_segmented_or_reported(
    make_graph: MakeGraph, photos: Path, tmp_path: Path, predict: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    green = Image.new("RGB", (9, 7), (0, 255, 0))
    green.save(photos / "b.gif")
    green.save(photos / "c.dng", "TIFF")  # as the preview in a camera's file
    (photos / "d.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    assert predict(make_graph(), photos, "-o", tmp_path / "out", "--json") == 1
    said = capsys.readouterr()
    report = json.loads(said.out)
    assert [Path(row["file"]).name for row in report["images"]] == ["a.png", "b.gif", "a.jpg"]
    assert report["images"][1]["shares"]["green"] == 1
    phone = "convert it to JPEG (pip install pillow-heif, or set the camera to 'Most Compatible')"
    assert said.err.splitlines() == [
        f"semseg: {photos / 'c.dng'}: .dng is not read; convert it to JPEG or PNG",
        f"semseg: {photos / 'd.HEIC'}: .HEIC is not read; {phone}",
    ]


def test_a_file_name_that_is_not_utf_8_keeps_its_bytes(make_graph: MakeGraph, photos: Path, tmp_path: Path) -> None:
    named = photos / os.fsdecode(b"stra\xdfe.png")
    try:
        (photos / "a.png").rename(named)
    except OSError:
        pytest.skip("file names are always UTF-8 here")
    (photos / os.fsdecode(b"br\xfccke.png")).write_bytes(b"broken")
    out = tmp_path / "out"
    command = [sys.executable, "-m", "semseg_app.cli", "predict", make_graph(), photos, "-o", out, "--json"]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 1, done.stderr
    assert b"br\\udcfccke.png: unreadable image" in done.stderr
    assert os.fsencode(named) in (out / "shares.csv").read_bytes()
    assert (out / "masks" / named.name).is_file()
    assert [row["file"] for row in json.loads(done.stdout)["images"]] == [str(named), str(photos / "sub" / "a.jpg")]


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (UserError("b.png: the disk is full"), 2)])
def test_what_is_done_before_an_error_is_in_the_table(
    make_graph: MakeGraph,
    photos: Path,
    tmp_path: Path,
    predict: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
) -> None:
    infer, out = OnnxRuntimeEngine.infer, tmp_path / "out"

    def until_green(self: OnnxRuntimeEngine, images: np.ndarray) -> Prediction:
        if images[0, 0, 0, 1] > 200:
            raise error
        return infer(self, images)

    monkeypatch.setattr(OnnxRuntimeEngine, "infer", until_green)
    assert predict(make_graph(), photos, "-o", out) == code
    rows = list(csv.DictReader((out / "shares.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["file"] for row in rows] == [str(photos / "a.png")]
    assert predict(make_graph(), photos / "sub", "-o", out) == code
    assert len((out / "shares.csv").read_text().splitlines()) == 2, "a table of nothing replaced it"


@pytest.mark.parametrize("name", ["stack.tif", "moving.gif", "moving.png", "moving.webp"])
def test_only_the_first_of_several_pages_is_segmented_and_that_is_told(
    make_graph: MakeGraph, tmp_path: Path, predict: Callable[..., int], capsys: pytest.CaptureFixture[str], name: str
) -> None:
    red, *others = (Image.new("RGB", (20, 10), color) for color in ("red", "blue", "lime"))
    red.save(tmp_path / name, save_all=True, append_images=others)
    assert predict(make_graph(), tmp_path / name, "-o", tmp_path / "out", "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)["images"]
    assert row["shares"]["red"] == 1
    assert [warning.partition(", of which")[0] for warning in row["warnings"]] == ["holds 3 pages or frames"]


def test_smaller_copies_in_a_tiff_are_no_pages(
    make_graph: MakeGraph, tmp_path: Path, predict: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    smaller = Image.new("RGB", (10, 5))
    smaller.encoderinfo = {"tiffinfo": {254: 1}}
    Image.new("RGB", (20, 10)).save(tmp_path / "cog.tif", save_all=True, append_images=[smaller])
    assert predict(make_graph(), tmp_path / "cog.tif", "-o", tmp_path / "out", "--json") == 0
    assert "warnings" not in json.loads(capsys.readouterr().out)["images"][0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{photos}/none.png", "-o", "{out}"], "none.png: no such image"),
        (["{photos}", "-o", "{photos}/a.png"], "a.png: is a file"),
        (["{photos}", "-o", "{out}", "--tile", "7"], "--tile 7: at least 64"),
        (["{photos}", "-o", "{out}", "--engine", "caffe"], "unknown value 'caffe'; choose one of auto"),
        (["{photos}"], "missing option"),
    ],
)
def test_misuse_exits_with_2(
    make_graph: MakeGraph,
    photos: Path,
    tmp_path: Path,
    predict: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    filled = [argument.format(photos=photos, out=tmp_path / "out") for argument in arguments]
    assert predict(make_graph(), *filled) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err
    assert "Traceback" not in said.err
    assert not (tmp_path / "out").exists()


def test_pixels_without_data_are_told(
    make_graph: MakeGraph, tmp_path: Path, predict: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[42113], tags.tagtype[42113] = "0", 2
    pixels = np.full((20, 30, 3), 200, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "full.tif", tiffinfo=tags)
    pixels[:5] = 0
    pixels[5:, :, 0] = 0  # not in all channels
    Image.fromarray(pixels).save(tmp_path / "part.tif", tiffinfo=tags)
    assert predict(make_graph(), tmp_path / "full.tif", tmp_path / "part.tif", "-o", tmp_path / "out", "--json") == 0
    said = capsys.readouterr()
    told = "25 % of it have no data (value 0); they get classes as all others do, and count in the shares"
    assert f"semseg: {tmp_path / 'part.tif'}: {told}\n" in said.err
    assert [row.get("warnings") for row in json.loads(said.out)["images"]] == [None, [told]]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["s3://bucket/photos", "-o", "out"], "s3://bucket/photos: buckets are read and written with --ray"),
        (["photos", "-o", "gs://bucket/out"], "gs://bucket/out: buckets are read and written with --ray"),
        (
            ["https://a.example/p.jpg", "-o", "out"],
            "https://a.example/p.jpg: an address is not fetched; download the photo first",
        ),
        (["photos", "-o", "out", "--workers", "2"], "--workers belongs to --ray"),
    ],
)
def test_what_belongs_to_ray(
    wrong: list[str], message: str, predict: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict("model", *wrong) == 2
    assert capsys.readouterr().err == f"semseg: {message}\n"


@pytest.mark.parametrize(("tile", "fix"), [(64, "lower --tile (now 64)"), (0, "use tiles, such as --tile 512")])
def test_out_of_memory_is_one_line_with_what_to_lower(
    make_graph: MakeGraph,
    photos: Path,
    tmp_path: Path,
    predict: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tile: int,
    fix: str,
) -> None:
    def too_large(self: object, images: np.ndarray) -> None:
        # Its class is no RuntimeError.
        raise errors.Fail("[ONNXRuntimeError] : 1 : FAIL : Failed to allocate memory for requested buffer of size 9")

    monkeypatch.setattr(OnnxRuntimeEngine, "infer", too_large)
    assert predict(make_graph(), photos, "-o", tmp_path / "out", "--tile", tile) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"semseg: segmenting: out of memory; {fix}"


def test_a_model_that_memory_does_not_hold_is_not_called_broken(
    make_graph: MakeGraph,
    photos: Path,
    tmp_path: Path,
    predict: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def too_large(*_: object, **__: object) -> None:
        raise errors.RuntimeException("[ONNXRuntimeError] : 6 : Exception during initialization: std::bad_alloc")

    monkeypatch.setattr(onnxruntime, "InferenceSession", too_large)
    assert predict(graph := make_graph(), photos, "-o", tmp_path / "out") == 2
    assert capsys.readouterr().err == (
        f"semseg: {graph}: out of memory while it is opened; free some, or take a smaller model\n"
    )


def test_a_mask_loses_the_place_of_the_one_before(
    make_graph: MakeGraph, photos: Path, tmp_path: Path, predict: Callable[..., int]
) -> None:
    (photos / "a.pgw").write_text("1 0 0 -1 100.5 200.5")
    (photos / "a.prj").write_text('PROJCS["a & b",GEOGCS["c"]]')
    graph = make_graph()
    assert predict(graph, photos / "a.png", "-o", tmp_path / "out") == 0
    beside = tmp_path / "out" / "masks" / "a.pgw", tmp_path / "out" / "masks" / "a.png.aux.xml"
    assert all(path.is_file() for path in beside)
    (photos / "a.pgw").unlink()
    assert predict(graph, photos / "a.png", "-o", tmp_path / "out") == 0
    assert not any(path.exists() for path in beside)
