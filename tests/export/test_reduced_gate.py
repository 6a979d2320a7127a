"""fp16 and int8 from the command line to the manifest, and the gate's refusal of each planted defect in them."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import typer
import yaml
from onnx import ModelProto
from PIL import Image
from support.defects import (
    align_the_corners,
    one_layer_in_fp32,
    one_layer_without_int8_activations,
    plant,
    swap_two_classes,
    take_the_mean_for_bgr,
)
from typer.testing import CliRunner

from semseg_app import artifact
from semseg_app.cli.export import export
from semseg_app.cli.verify import verify as verify_verb
from semseg_app.data.dataset import open_folder
from semseg_app.errors import UserError
from semseg_app.export import verification_set as verification_set
from semseg_app.export import verify as verify_module
from semseg_app.export.acceptance import GATES
from semseg_app.export.verification_set import VerificationSet, gather_photos, generated_photos, resized
from semseg_app.export.verify import verify
from semseg_app.inference.engines.base import GRAPHS
from semseg_app.inference.engines.open import open_engine

app = typer.Typer()
app.command("export")(export)
app.command("verify")(verify_verb)


@pytest.fixture(scope="module", autouse=True)
def short() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verification_set, "GENERATED_SIZE", (120, 200))
        patch.setattr(verify_module, "TIMED_RUNS", 1)
        patch.setattr("semseg_app.machine.cores", lambda: 1)  # threads that share a busy core wait for each other
        # Of a random network's pixels one in a thousand is a tie within fp16's rounding, of a trained one's far fewer.
        patch.setitem(GATES, "fp16", GATES["fp16"]._replace(agreement=0.998))
        yield


@pytest.fixture(scope="module")
def model_and_data(exported: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model folder with all three precisions and a dataset whose labels are what the network is sure of."""
    folder = shutil.copytree(exported("deeplabv3plus"), tmp_path_factory.mktemp("reduced") / "model")
    root = tmp_path_factory.mktemp("data")
    engine = open_engine(folder, "torch", "cpu")
    everything = [resized(photo, (120, 160)) for photo in generated_photos(7)]
    for split, photos in (("train", everything[:3]), ("val", everything[3:])):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for index, photo in enumerate(photos):
            (classes,), (confidence,) = engine.infer(photo[None])
            label = np.where(confidence > 150, classes, 255).astype(np.uint8)
            assert len(np.unique(label)) >= 4, "several classes, and pixels that are ignored"
            Image.fromarray(photo).save(root / "images" / split / f"{split}{index}.png")
            Image.fromarray(label).save(root / "labels" / split / f"{split}{index}.png")
    info = {"name": "sure", "classes": artifact.read_config(folder).labels.classes}
    (root / "dataset.yaml").write_text(yaml.safe_dump(info))
    for precision in ("fp16", "int8"):
        answer = CliRunner().invoke(app, ["export", str(folder), "--precision", precision, "--data", str(root)])
        assert answer.exit_code in (0, 1), answer.output
        assert "few photos to calibrate on (3 of train): values that other photos reach stay unseen" in answer.output
    return folder, root


@pytest.fixture
def folder(model_and_data: tuple[Path, Path], tmp_path: Path) -> Path:
    """A copy, to be damaged."""
    return shutil.copytree(model_and_data[0], tmp_path / "model")


@pytest.fixture
def verification(model_and_data: tuple[Path, Path]) -> VerificationSet:
    folder, root = model_and_data
    return gather_photos(artifact.read_config(folder).labels, open_folder(root), "val", 200)


def test_each_precision_is_verified_and_recorded_beside_the_others(model_and_data: tuple[Path, Path]) -> None:
    entries = artifact.read_manifest(model_and_data[0])["exports"]
    assert list(entries) == [path.as_posix() for path in GRAPHS.values()]
    for precision, entry in zip(GRAPHS, entries.values(), strict=True):
        assert (entry["verdict"], entry["reasons"]) == ("passed", []), precision
        assert entry["layers"] == {precision: 30}
        assert entry["photos"] == "sure val"
        assert entry["miou"]["trained"] == 1.0, "the labels are the network's own"
    fp16, int8 = entries["onnx/model-fp16.onnx"], entries["onnx/model-int8.onnx"]
    # Where the network is sure int8 may be right in every pixel; over all of them it is further off than fp16.
    assert int8["agreement"] < 0.998 < fp16["agreement"]
    assert 0.993 <= int8["miou"]["exported"] == pytest.approx(miou_of(model_and_data, "int8"), abs=1e-9)


def miou_of(model_and_data: tuple[Path, Path], precision: str) -> float:
    """Counted here, class by class, over what that graph says of the val photos."""
    folder, root = model_and_data
    engine = open_engine(folder / GRAPHS[precision], "onnxruntime", "cpu")
    paths = sorted((root / "images" / "val").iterdir())
    said = np.stack([engine.infer(np.asarray(Image.open(path))[None]).classes[0] for path in paths])
    labels = np.stack([np.asarray(Image.open(root / "labels" / "val" / path.name)) for path in paths])
    said, labels = said[labels != 255], labels[labels != 255]
    both = [((said == index) & (labels == index)).sum() for index in range(5)]
    either = [((said == index) | (labels == index)).sum() for index in range(5)]
    return float(np.mean([b / e for b, e in zip(both, either, strict=True) if e]))


DEFECTS: dict[tuple[str, Callable[[ModelProto], None]], str] = {
    ("fp16", swap_two_classes): "of the pixels agree, below 99.80%",
    ("fp16", take_the_mean_for_bgr): "of the pixels agree, below 99.80%",
    ("fp16", align_the_corners): "of the pixels agree, below 99.80%",
    ("fp16", one_layer_in_fp32): "1 of 30 layers are not what the file says: ",
    ("int8", swap_two_classes): "of the pixels agree, below 90.00%",
    ("int8", take_the_mean_for_bgr): "mIoU changes by -",
    ("int8", align_the_corners): "pixels another class",
    ("int8", one_layer_without_int8_activations): " is int8 weights, not int8",
}


@pytest.mark.parametrize(("precision", "defect"), DEFECTS)
def test_planted_defect_is_refused(
    folder: Path, verification: VerificationSet, precision: str, defect: Callable[[ModelProto], None]
) -> None:
    file = folder / GRAPHS[precision]
    plant(file, defect)
    entry = verify(folder, file, verification if precision == "int8" else None)
    assert entry["verdict"] == "rejected"
    assert any(DEFECTS[precision, defect] in reason for reason in entry["reasons"]), entry["reasons"]


def test_int8_is_not_judged_without_labels(folder: Path) -> None:
    file = folder / GRAPHS["int8"]
    with pytest.raises(UserError, match=r"model-int8\.onnx: what int8 costs shows on labeled photos .* --data"):
        verify(folder, file)


def test_verify_verb_judges_all_files_of_a_folder_and_what_is_rejected_is_run_by_force_alone(
    folder: Path, model_and_data: tuple[Path, Path]
) -> None:
    _, root = model_and_data
    plant(folder / GRAPHS["int8"], swap_two_classes)
    answer = CliRunner().invoke(app, ["verify", str(folder), "--data", str(root), "--limit", "1", "--json"])
    assert answer.exit_code == 1, answer.output
    report = json.loads(answer.stdout)
    assert [entry.pop("file") for entry in report] == [str(folder / path) for path in GRAPHS.values()]
    assert [entry["verdict"] for entry in report] == ["passed", "passed", "rejected"]
    assert report == list(artifact.read_manifest(folder)["exports"].values())
    assert answer.stderr.splitlines()[-1].startswith(f"semseg: {folder / GRAPHS['int8']}: rejected: at 131x127, ")

    assert open_engine(folder, precision="fp16").precision == "fp16"
    for model in (folder, folder / GRAPHS["int8"]):
        precision = "int8" if model == folder else "auto"
        with pytest.raises(UserError, match=r"model-int8\.onnx: rejected when .* --force, or use --engine torch$"):
            open_engine(model, precision=precision)
        assert open_engine(model, precision=precision, force=True).precision == "int8"


def test_verify_verb_on_one_file_without_data_says_what_is_not_proven(folder: Path) -> None:
    answer = CliRunner().invoke(app, ["verify", str(folder / GRAPHS["fp16"])])
    assert answer.exit_code == 0, answer.output
    assert "mIoU not measured: generated photos have no labels; add --data DATASET" in answer.stderr
    assert "model.onnx" not in answer.stderr
    assert "miou" not in artifact.read_manifest(folder)["exports"]["onnx/model-fp16.onnx"]


def test_verify_verb_names_the_fix(folder: Path, tmp_path: Path) -> None:
    def refused(*arguments: object) -> str:
        answer = CliRunner().invoke(app, ["verify", *(str(argument) for argument in arguments)])
        assert isinstance(answer.exception, UserError), answer.output
        return str(answer.exception)

    assert "no such model folder or .onnx file" in refused(tmp_path / "nothing")
    alone = shutil.copy(folder / GRAPHS["fp32"], tmp_path / "alone.onnx")
    assert refused(alone).startswith(f"{alone}: not an .onnx file in a model folder")
    shutil.rmtree(folder / "onnx")
    assert refused(folder) == f"{folder}: holds no exported graph; run `semseg export {folder}` first"
