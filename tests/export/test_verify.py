"""The gate: what is equal passes, each planted defect is refused, and the manifest and the exit code say so."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import typer
from onnx import ModelProto, TensorProto, numpy_helper
from PIL import Image
from torch import Tensor
from torch.nn import functional
from typer.testing import CliRunner

from semseg_app import artifact
from semseg_app.cli.export import export
from semseg_app.data.dataset import open_folder
from semseg_app.errors import UserError
from semseg_app.export import onnx as export_module
from semseg_app.export import verify as verify_module
from semseg_app.export.verify import (
    Evidence,
    compare,
    compare_miou,
    evenly_spaced,
    gather_evidence,
    generated_photos,
    record,
    verify,
)
from semseg_app.inference.engines import Prediction, open_engine
from semseg_app.models import pyramid_pooling

CLASSES = ["road", "sky", "tree", "car", "pole"]
app = typer.Typer()
app.command()(export)


@pytest.fixture(autouse=True)
def small_photos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify_module, "GENERATED_SIZE", (120, 200))


@pytest.fixture
def folder(exported: Callable[[str], Path], tmp_path: Path) -> Path:
    """A copy of an exported model folder, to be damaged."""
    return shutil.copytree(exported("deeplabv3plus"), tmp_path / "model")


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Two labelled photos of 60x80 and a split without labels."""
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


def weights_of(model: ModelProto, shape: list[int], ending: str = "") -> TensorProto:
    (found,) = [
        tensor for tensor in model.graph.initializer if list(tensor.dims) == shape and tensor.name.endswith(ending)
    ]
    return found


def replace(tensor: TensorProto, values: np.ndarray) -> None:
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), tensor.name))


def swap_two_classes(model: ModelProto) -> None:
    for tensor in (weights_of(model, [5, 32, 1, 1]), weights_of(model, [5])):
        replace(tensor, numpy_helper.to_array(tensor)[[1, 0, 2, 3, 4]])


def take_the_mean_for_bgr(model: ModelProto) -> None:
    mean = weights_of(model, [1, 3, 1, 1], "mean")
    replace(mean, numpy_helper.to_array(mean)[:, ::-1])


def align_the_corners(model: ModelProto) -> None:
    upsampling = [node for node in model.graph.node if node.op_type == "Resize"][-1]
    (mode,) = [attribute for attribute in upsampling.attribute if attribute.name == "coordinate_transformation_mode"]
    mode.s = b"align_corners"


def scale_confidence_to_240(model: ModelProto) -> None:
    (last,) = [node for node in model.graph.node if node.op_type == "Round"]
    (times,) = [node for node in model.graph.node if last.input[0] in node.output]
    factor = onnx.helper.make_tensor("factor", TensorProto.FLOAT, [], [240.0])
    model.graph.initializer.append(factor)
    times.input[1] = "factor"


def change_the_palette(model: ModelProto) -> None:
    (entry,) = [entry for entry in model.metadata_props if entry.key == "semseg_app"]
    metadata = json.loads(entry.value)
    metadata["labels"]["palette"][0] = [1, 2, 3]
    entry.value = json.dumps(metadata)


DEFECTS = {
    swap_two_classes: "of the pixels agree, below 99.99%",
    take_the_mean_for_bgr: "of the pixels agree, below 99.99%",
    align_the_corners: "of the pixels agree, below 99.99%",
    scale_confidence_to_240: "confidence is off by",
    change_the_palette: "classes or palette are not those of config.json",
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
    assert entry["hardware"]["processor"]
    record(folder, file, entry)
    assert artifact.read_manifest(folder) == {"format_version": 1, "exports": {"onnx/model.onnx": entry}}


@pytest.mark.parametrize("defect", DEFECTS)
def test_planted_defect_is_refused(folder: Path, defect: Callable[[ModelProto], None]) -> None:
    file = folder / "onnx" / "model.onnx"
    model = onnx.load(file)
    defect(model)
    onnx.save(model, file)
    entry = verify(folder, file)
    assert entry["verdict"] == "rejected"
    assert DEFECTS[defect] in entry["reasons"][0]


def test_pooling_that_is_right_at_the_traced_size_only_is_refused(
    exported: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(exported("pspnet"), tmp_path / "model")
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


def test_miou_is_that_of_labels_without_ignored_pixels(dataset: Path) -> None:
    data = open_folder(dataset)
    evidence = Evidence(data, "val", data.samples("val"))
    # The left half of photo 0 is class 0, that of photo 1 class 1; all 0 gives IoU 1/2 and 0, all 1 the same.
    zero, four = (LookupEngine(lambda images, value=value: np.full_like(images, value)) for value in (0, 4))
    assert compare_miou(zero, four, evidence) == {
        "trained": 0.25,
        "exported": 0.0,
        "difference": -0.25,
        "images": 2,
    }


def test_miou_of_the_export_is_gated_and_recorded(folder: Path, dataset: Path) -> None:
    evidence = gather_evidence(artifact.read_config(folder).labels, open_folder(dataset), "val", 200)
    entry = verify(folder, folder / "onnx" / "model.onnx", evidence)
    assert entry["verdict"] == "passed"
    assert entry["photos"] == "two val"
    assert entry["by_size"][-1]["height"] == 60
    assert entry["miou"]["images"] == 2
    assert abs(entry["miou"]["difference"]) < 0.001
    strict = verify_module.FP32_GATE._replace(miou_difference=-1.0)
    assert "mIoU changes by" in verify(folder, folder / "onnx" / "model.onnx", evidence, strict)["reasons"][-1]


def test_evidence_must_fit_the_model(dataset: Path) -> None:
    data = open_folder(dataset)
    labels = SimpleNamespace(classes=CLASSES)
    assert [sample.stem for sample in gather_evidence(labels, data, "val", 1).samples] == ["0"]
    with pytest.raises(UserError, match=r"data: its classes .* are not those of the model \(cat\)"):
        gather_evidence(SimpleNamespace(classes=["cat"]), data, "val", 1)
    with pytest.raises(UserError, match=r"data: bare has no labels; give --split one that has"):
        gather_evidence(labels, data, "bare", 1)


def test_labels_must_fit_their_photos(dataset: Path) -> None:
    data = open_folder(dataset)
    evidence = Evidence(data, "val", data.samples("val"))
    for label in (dataset / "labels" / "val").iterdir():
        Image.new("L", (80, 60), 255).save(label)
    with pytest.raises(UserError, match="every label pixel of val is ignored"):
        compare_miou(LookupEngine(), LookupEngine(), evidence)
    Image.new("L", (40, 60), 0).save(evidence.samples[0].label)
    with pytest.raises(UserError, match=r"0\.png: not the size of its photo; run `semseg check"):
        compare_miou(LookupEngine(), LookupEngine(), evidence)


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
    assert capfd.readouterr().out == "", "something writes to stdout past the command"
    assert (folder / "onnx" / "model.onnx").read_bytes() == before, "two exports of the same weights differ"


def test_command_exits_with_1_when_the_gate_refuses(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def export_with_a_defect(folder: Path) -> Path:
        file = folder / "onnx" / "model.onnx"
        model = onnx.load(file)
        swap_two_classes(model)
        onnx.save(model, file)
        return file

    monkeypatch.setattr(export_module, "export_onnx", export_with_a_defect)
    result = CliRunner().invoke(app, [str(folder)])
    assert result.exit_code == 1
    assert result.stdout == ""
    last = result.stderr.splitlines()[-1]
    assert last.startswith(f"semseg: {folder / 'onnx' / 'model.onnx'}: rejected: at 131x127, batch 1, ")
    assert artifact.read_manifest(folder)["exports"]["onnx/model.onnx"]["verdict"] == "rejected"


def test_command_says_what_can_be_exported(folder: Path, tmp_path: Path) -> None:
    for arguments in (["--to", "tensorrt"], ["--precision", "int8"]):
        result = CliRunner().invoke(app, [str(folder), *arguments])
        assert isinstance(result.exception, UserError)
        assert "available: --to onnx --precision fp32" in str(result.exception)
    result = CliRunner().invoke(app, [str(tmp_path)])
    assert "not a model folder" in str(result.exception)


def test_command_names_the_missing_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx_ir", None)  # importing it now fails as if it were not installed
    monkeypatch.delitem(sys.modules, "semseg_app.export.onnx")
    result = CliRunner().invoke(app, [str(folder)])
    assert str(result.exception) == "exporting needs the package onnx_ir: pip install 'semseg-app[export,cpu]'"
