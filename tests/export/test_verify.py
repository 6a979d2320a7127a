"""The gate: what is equal passes, each planted defect is refused, and the manifest and the exit code say so."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import typer
from onnx import ModelProto
from PIL import Image
from support.defects import (
    align_the_corners,
    change_the_palette,
    one_layer_in_fp16,
    plant,
    scale_confidence_to_240,
    swap_two_classes,
    take_the_mean_for_bgr,
)
from torch import Tensor
from torch.nn import functional
from typer.testing import CliRunner

from semseg_app import artifact
from semseg_app.cli.export import export
from semseg_app.data.dataset import open_folder
from semseg_app.data.listing import evenly_spaced
from semseg_app.errors import UserError
from semseg_app.export import onnx as export_module
from semseg_app.export import pipeline as pipeline_module
from semseg_app.export import verification_set as verification_set
from semseg_app.export.acceptance import score
from semseg_app.export.manifest import has_passed, record
from semseg_app.export.verification_set import VerificationSet, calibration_photos, gather_photos, generated_photos
from semseg_app.export.verify import compare, verify
from semseg_app.inference.engines.base import Prediction
from semseg_app.inference.engines.open import open_engine
from semseg_app.models import pyramid_pooling

CLASSES = ["road", "sky", "tree", "car", "pole"]
app = typer.Typer()
app.command()(export)


@pytest.fixture(autouse=True)
def small_photos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification_set, "GENERATED_SIZE", (120, 200))
    monkeypatch.setattr("semseg_app.machine.cores", lambda: 1)  # threads that share a busy core wait for each other


@pytest.fixture
def folder(exported: Callable[[str], Path], tmp_path: Path) -> Path:
    """A copy of an exported model folder, to be damaged."""
    return shutil.copytree(exported("deeplabv3plus"), tmp_path / "model")


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Two labeled photos of 60x80 and a split without labels."""
    root = tmp_path / "data"
    for index, photo in enumerate(generated_photos(2)):
        for split in ("val", "bare"):
            (root / "images" / split).mkdir(parents=True, exist_ok=True)
            Image.fromarray(photo).resize((80, 60)).save(root / "images" / split / f"{index}.png")
        (root / "labels" / "val").mkdir(parents=True, exist_ok=True)
        label = np.full((60, 80), index, np.uint8)
        label[:, 40:] = 255
        Image.fromarray(label).save(root / "labels" / "val" / f"{index}.png")
    (root / "dataset.yaml").write_text(f"name: two\nclasses: [{', '.join(CLASSES)}]\n")
    return root


DEFECTS = {
    swap_two_classes: "of the pixels agree, below 99.99%",
    take_the_mean_for_bgr: "of the pixels agree, below 99.99%",
    align_the_corners: "of the pixels agree, below 99.99%",
    scale_confidence_to_240: "confidence is off by",
    change_the_palette: "classes or palette are not those of config.json",
    one_layer_in_fp16: "1 of 30 layers are not what the file says: ",
}


def test_equal_export_passes_and_the_entry_says_how_it_was_measured(folder: Path) -> None:
    file = folder / "onnx" / "model.onnx"
    entry = verify(folder, file)
    assert entry["verdict"] == "passed"
    assert entry["reasons"] == []
    assert {(row["height"], row["width"], row["batch"]) for row in entry["by_size"]} == {
        (height, width, batch) for height, width in ((127, 131), (256, 192), (120, 200)) for batch in (1, 3)
    }
    assert 0.9999 <= entry["agreement"] == min(row["agreement"] for row in entry["by_size"])
    assert entry["confidence_difference"] <= 1
    assert (entry["engine"], entry["device"], entry["precision"], entry["opset"]) == ("onnxruntime", "cpu", "fp32", 20)
    assert entry["latency_ms"]["median"] > 0
    assert (entry["latency_ms"]["height"], entry["latency_ms"]["width"]) == (120, 200)
    assert (entry["layers"], entry["float_layers"]) == ({"fp32": 30}, [])
    assert entry["photos"] == "generated"
    assert "miou" not in entry
    assert entry["hardware"]["processor"]
    assert {"python", "torch", "onnx", "onnxruntime", "semseg-app"} <= entry["versions"].keys()
    assert not has_passed(folder, file)
    record(folder, file, entry)
    manifest = artifact.read_manifest(folder)
    assert manifest["exports"] == {"onnx/model.onnx": entry}
    assert manifest["weights"]["sha256"] == entry["source_sha256"]
    assert has_passed(folder, file)
    plant(file, change_the_palette)
    assert not has_passed(folder, file), "another file than the one that passed"


@pytest.mark.parametrize("defect", DEFECTS)
def test_planted_defect_is_refused(folder: Path, defect: Callable[[ModelProto], None]) -> None:
    file = folder / "onnx" / "model.onnx"
    plant(file, defect)
    entry = verify(folder, file)
    assert entry["verdict"] == "rejected"
    assert any(DEFECTS[defect] in reason for reason in entry["reasons"]), entry["reasons"]


def test_pooling_that_is_right_at_the_traced_size_only_is_refused(
    saved: Callable[[str, Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved("pspnet", tmp_path / "model")
    right = pyramid_pooling.adaptive_average_pool

    def right_at_the_traced_size_only(maps: Tensor, bins: int) -> Tensor:
        return right(functional.interpolate(maps, size=(12, 20)), bins)

    monkeypatch.setattr(pyramid_pooling, "adaptive_average_pool", right_at_the_traced_size_only)
    file = export_module.export_onnx(folder)
    monkeypatch.setattr(pyramid_pooling, "adaptive_average_pool", right)
    entry = verify(folder, file)
    assert entry["verdict"] == "rejected"
    assert entry["reasons"][0].startswith("at 131x127, batch 1, ")
    trained, baked = (open_engine(path, device="cpu", kind=kind) for path, kind in ((folder, "torch"), (file, "auto")))
    (traced,) = compare(trained, baked, generated_photos(1), [(96, 160)], [1])
    assert traced["agreement"] >= 0.9999, "the defect must not show at the traced size"


class LookupEngine:
    """Class = red channel, confidence = green channel; `defect` changes the images first."""

    kind, precision = "lookup", "fp32"

    def __init__(self, defect: Callable[[np.ndarray], np.ndarray] = lambda images: images):
        self.defect = defect

    def infer(self, images: np.ndarray) -> Prediction:
        images = self.defect(images)
        return Prediction(images[..., 0], images[..., 1])


def first_of_the_batch(images: np.ndarray) -> np.ndarray:
    return np.repeat(images[:1], len(images), axis=0)


def only_square(images: np.ndarray) -> np.ndarray:
    if images.shape[1] != images.shape[2]:
        raise RuntimeError("bad\nindex")
    return images


def test_comparison_counts_pixels_and_finds_what_depends_on_batch_or_size() -> None:
    photos = [np.full((8, 8, 3), value, np.uint8) for value in (10, 20, 250)]
    one_pixel = LookupEngine(lambda images: images + (np.arange(64).reshape(1, 8, 8, 1) == 5) * np.uint8(3))
    rows = compare(LookupEngine(), one_pixel, photos, [(8, 8)], [1, 3])
    assert [row["agreement"] for row in rows] == [1 - 1 / 64] * 2
    assert [row["confidence_difference"] for row in rows] == [3, 3]
    alone, together = compare(LookupEngine(), LookupEngine(first_of_the_batch), photos, [(8, 8)], [1, 3])
    assert (alone["agreement"], alone["confidence_difference"]) == (1.0, 0)
    assert (together["agreement"], together["confidence_difference"]) == (pytest.approx(1 / 3), 240)
    square, oblong = compare(LookupEngine(), LookupEngine(only_square), photos, [(8, 8), (8, 9)], [1])
    assert square["agreement"] == 1.0
    assert (oblong["agreement"], oblong["confidence_difference"], oblong["error"]) == (0.0, 255, "bad index")


def test_scores_are_those_of_labels_without_ignored_pixels(dataset: Path) -> None:
    data = open_folder(dataset)
    verification = VerificationSet(data, "val", data.samples("val"))

    def constant(value: int) -> LookupEngine:
        return LookupEngine(lambda images: np.full_like(images, value))

    # The left half of photo 0 is class 0, that of photo 1 class 1; all 0 gives IoU 1/2 and 0, all 1 the same.
    zero, four = score(constant(0), verification), score(constant(4), verification)
    assert (zero["miou"], four["miou"]) == (0.25, 0.0)
    # Confidence is 0 (of 255) where half of the pixels are right, and 4 where none is.
    assert zero["calibration_error"] == pytest.approx(0.5)
    assert four["calibration_error"] == pytest.approx(4 / 255)
    # With d = 2, the left half (60x40) has a boundary of 60 * 40 - 56 * 36 pixels, in label and prediction alike; it is
    # right in photo 0. In photo 1 the label's class 1 has none in the prediction, and class 0 none in the label.
    assert zero["boundary_iou"] == pytest.approx((1 / 2 + 0) / 2)
    assert four["boundary_iou"] == 0.0


def test_scores_of_the_export_are_gated_and_recorded(folder: Path, dataset: Path) -> None:
    file = folder / "onnx" / "model.onnx"
    verification = gather_photos(artifact.read_config(folder).labels, open_folder(dataset), "val", 200)
    entry = verify(folder, file, verification)
    assert entry["verdict"] == "passed"
    assert entry["photos"] == "two val"
    assert entry["by_size"][-1]["height"] == 60
    assert entry["miou"]["images"] == 2
    for name in ("miou", "boundary_iou", "calibration_error"):
        assert abs(entry[name]["difference"]) < 0.001
        assert 0 < entry[name]["trained"] < 1
    # A trained network that did better, drew better outlines and knew better how sure it was.
    better = {"miou": 0.9, "boundary_iou": 0.9, "calibration_error": 0.0}
    reasons = verify(folder, file, verification, trained_scores=better)["reasons"]
    assert [reason.split(" changes by ")[0] for reason in reasons] == ["mIoU", "boundary IoU", "calibration error"]


def test_photos_to_verify_on_must_fit_the_model(dataset: Path) -> None:
    data = open_folder(dataset)
    labels = SimpleNamespace(classes=CLASSES)
    assert [sample.stem for sample in gather_photos(labels, data, "val", 1).samples] == ["0"]
    with pytest.raises(UserError, match=r"data: its classes .* are not those of the model \(cat\)"):
        gather_photos(SimpleNamespace(classes=["cat"]), data, "val", 1)
    with pytest.raises(UserError, match=r"data: bare has no labels; give --split one that has"):
        gather_photos(labels, data, "bare", 1)


def test_labels_must_fit_their_photos(dataset: Path) -> None:
    data = open_folder(dataset)
    verification = VerificationSet(data, "val", data.samples("val"))
    for label in (dataset / "labels" / "val").iterdir():
        Image.new("L", (80, 60), 255).save(label)
    with pytest.raises(UserError, match="every label pixel of val is ignored"):
        score(LookupEngine(), verification)
    Image.new("L", (40, 60), 0).save(verification.samples[0].label)
    with pytest.raises(UserError, match=r"0\.png: is 40x60 but its image is 80x60; run `semseg check"):
        score(LookupEngine(), verification)


def test_calibration_photos_need_no_labels_and_are_not_larger_than_memory_allows(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [photo.shape for photo in calibration_photos(open_folder(dataset), "bare", 1)] == [(60, 80, 3)]
    monkeypatch.setattr(verification_set, "LONGEST_CALIBRATION_SIDE", 40)
    assert [photo.shape for photo in calibration_photos(open_folder(dataset), "bare", 9)] == [(30, 40, 3)] * 2


def test_evenly_spaced_covers_the_whole_sequence() -> None:
    assert evenly_spaced(range(101), 5) == [0, 25, 50, 75, 100]
    assert evenly_spaced("abc", 9) == ["a", "b", "c"]


def test_record_keeps_the_entries_of_other_files(tmp_path: Path) -> None:
    artifact.write_manifest(tmp_path, {"format_version": 1, "exports": {"onnx/int8.onnx": {"verdict": "passed"}}})
    record(tmp_path, tmp_path / "onnx" / "model.onnx", {"verdict": "rejected"})
    assert artifact.read_manifest(tmp_path)["exports"] == {
        "onnx/int8.onnx": {"verdict": "passed"},
        "onnx/model.onnx": {"verdict": "rejected"},
    }


def test_command_exports_verifies_and_answers_in_json(
    folder: Path, dataset: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = (folder / "onnx" / "model.onnx").read_bytes()
    result = CliRunner().invoke(app, [str(folder), "--to", "onnx", "--data", str(dataset), "--json"])
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert answer.pop("file") == str(folder / "onnx" / "model.onnx")
    assert answer == artifact.read_manifest(folder)["exports"]["onnx/model.onnx"]
    assert answer["verdict"] == "passed"
    assert "131x127" in result.stderr
    assert "layers: 30 fp32" in result.stderr
    assert "mIoU: " in result.stderr
    assert capfd.readouterr().out == "", "something writes to stdout past the command"
    assert (folder / "onnx" / "model.onnx").read_bytes() == before, "two exports of the same weights differ"


def test_command_exits_with_1_when_the_gate_refuses(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def export_with_a_defect(folder: Path, opset: int) -> Path:
        file = folder / "onnx" / "model.onnx"
        plant(file, swap_two_classes)
        return file

    monkeypatch.setattr(pipeline_module, "export_onnx", export_with_a_defect)
    # A reduced precision is not even made.
    result = CliRunner().invoke(app, [str(folder), "--precision", "fp16"])
    assert result.exit_code == 1
    assert not (folder / "onnx" / "model-fp16.onnx").exists()
    assert result.stdout == ""
    last = result.stderr.splitlines()[-1]
    assert last.startswith(f"semseg: {folder / 'onnx' / 'model.onnx'}: rejected: at 131x127, batch 1, ")
    assert artifact.read_manifest(folder)["exports"]["onnx/model.onnx"]["verdict"] == "rejected"


def test_command_says_what_can_be_exported(folder: Path, tmp_path: Path) -> None:
    for arguments in (["--to", "coreml"], ["--precision", "int4"]):
        result = CliRunner().invoke(app, [str(folder), *arguments])
        assert result.exit_code == 2
        assert arguments[1] in result.stderr
    result = CliRunner().invoke(app, [str(folder), "--precision", "int8"])
    assert isinstance(result.exception, UserError)
    assert str(result.exception).endswith("add --data DATASET")
    result = CliRunner().invoke(app, [str(tmp_path)])
    assert "not a model folder" in str(result.exception)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            "--buckets nonsense",
            "--buckets: only for --to tensorrt, tensorrt-rtx and triton; --to onnx has no fixed sizes",
        ),
        ("--to web --max-batch 4", "--max-batch: only for --to tensorrt, tensorrt-rtx and triton; --to web has"),
        ("--backend onnxruntime", "--backend: only for --to triton"),
        ("--to tensorrt --buckets 64x48 --backend tensorrt", "--backend: only for --to triton"),
        (
            "--to triton --backend tensorrt --buckets 64x48",
            "--buckets: the TensorRT engine brings its own; give it with",
        ),
        ("--compute-capability 8.9", "--compute-capability: only for --to tensorrt-rtx; TensorRT builds for this"),
        ("--calibration entropy", "--calibration: fp32 needs no calibration; only for --precision int8"),
        ("--calibration-images 3", "--calibration-images: fp32 needs no calibration; only for --precision int8"),
        ("--precision fp16 --data d --calibration minmax", "--calibration: only for --precision int8"),
        ("--precision fp16 --calibration-split train", "--calibration-split: belongs to --data DATASET"),
        ("--split val", "--split: belongs to --data DATASET"),
        ("--to web --limit 3", "--limit: belongs to --data DATASET"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(tmp_path: Path, options: str, line: str) -> None:
    result = CliRunner().invoke(app, [str(tmp_path / "none"), *options.split()])
    assert isinstance(result.exception, UserError)
    assert str(result.exception).startswith(line)


def test_command_names_the_missing_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx_ir", None)  # importing it now fails as if it were not installed
    for module in [name for name in sys.modules if name.startswith("semseg_app.export.")]:
        monkeypatch.delitem(sys.modules, module)
    result = CliRunner().invoke(app, [str(folder)])
    assert str(result.exception) == "exporting needs the package onnx_ir: pip install 'semseg-app[export,cpu]'"
