"""New weights beside the graphs of earlier ones: another network than the folder stands for, never run in silence."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from semseg_app import artifact
from semseg_app.benchmark.variants import find_variants
from semseg_app.cli.main import main
from semseg_app.errors import UserError
from semseg_app.export.int8 import Calibration, export_int8
from semseg_app.export.manifest import record
from semseg_app.export.onnx import export_onnx
from semseg_app.export.pipeline import export_verified
from semseg_app.export.verification_set import generated_photos
from semseg_app.export.verify import verify
from semseg_app.inference.engines.open import open_engine

PHOTO = generated_photos(1)[0][:64, :96]
REFUSED = "made of other weights than its model folder has now; run `semseg export "


@pytest.fixture(scope="module")
def first(exported: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with its graphs in fp32 and int8, which the manifest vouches for."""
    folder = shutil.copytree(exported("deeplabv3plus"), tmp_path_factory.mktemp("first") / "model")
    int8 = export_int8(folder, folder / "onnx" / "model.onnx", Calibration([PHOTO], "one"), lambda candidate: True)
    for graph in (folder / "onnx" / "model.onnx", int8):
        entry = {"verdict": "passed", "sha256": artifact.sha256(graph)}
        record(folder, graph, entry | {"source_sha256": artifact.sha256(folder / artifact.WEIGHTS)})
    return folder


@pytest.fixture
def folder(first: Path, tmp_path: Path) -> Path:
    """A copy of it, under the weights and the manifest of a second training."""
    folder = shutil.copytree(first, tmp_path / "model")
    weights = load_file(first / artifact.WEIGHTS)
    weights["classifier.weight"] = weights["classifier.weight"].flip(0)
    artifact.save(tmp_path / "second", artifact.read_config(first), weights)
    for name in (artifact.WEIGHTS, artifact.MANIFEST):
        shutil.copy(tmp_path / "second" / name, folder / name)
    return folder


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int | str | None:
    monkeypatch.setattr(sys, "argv", ["semseg", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        main()
    return caught.value.code


@pytest.mark.parametrize(("precision", "options"), [("fp32", ""), ("int8", " --precision int8 --data DATASET")])
@pytest.mark.parametrize("kind", ["auto", "onnxruntime", "openvino"])
def test_the_graph_of_earlier_weights_is_refused(
    first: Path, folder: Path, kind: str, precision: str, options: str
) -> None:
    assert open_engine(first, kind, "cpu", precision=precision).precision == precision
    with pytest.raises(UserError) as refused:
        open_engine(folder, kind, "cpu", precision=precision)
    name = "model.onnx" if precision == "fp32" else "model-int8.onnx"
    assert str(refused.value) == (
        f"{folder / 'onnx' / name}: {REFUSED}{folder}{options}` again, run it all the same with --force, or use "
        "--engine torch"
    )
    forced = open_engine(folder, kind, "cpu", precision=precision, force=True)
    np.testing.assert_array_equal(
        forced.infer(PHOTO[None]).classes, open_engine(first, kind, "cpu", precision=precision).infer(PHOTO[None])[0]
    )


def test_a_graph_that_was_not_exported_again_with_the_others_is_refused(folder: Path) -> None:
    record(folder, export_onnx(folder), {"verdict": "passed"})
    expected = open_engine(folder, "torch", "cpu").infer(PHOTO[None]).classes
    assert (open_engine(folder, device="cpu").infer(PHOTO[None]).classes == expected).mean() > 0.999
    with pytest.raises(UserError, match=r"model-int8\.onnx: made of other weights"):
        open_engine(folder, device="cpu", precision="int8")
    # Named by its file, or by a link to it, it is the folder's graph as well.
    (folder.parent / "link.onnx").symlink_to(folder / "onnx" / "model-int8.onnx")
    for path in (folder / "onnx" / "model-int8.onnx", folder.parent / "link.onnx"):
        with pytest.raises(UserError, match="made of other weights"):
            open_engine(path, device="cpu")


def test_without_a_hash_in_the_manifest_the_weights_themselves_tell(first: Path, folder: Path, tmp_path: Path) -> None:
    (folder / artifact.MANIFEST).unlink()
    with pytest.raises(UserError, match="made of other weights"):
        open_engine(folder, device="cpu")
    (folder / artifact.WEIGHTS).unlink()  # a folder that only serves
    open_engine(folder, device="cpu")
    # A graph under a name of its own is not what its folder stands for.
    shutil.copy(first / "onnx" / "model.onnx", folder / "onnx" / "kept.onnx")
    artifact.write_manifest(folder, artifact.read_manifest(tmp_path / "second"))
    open_engine(folder / "onnx" / "kept.onnx", device="cpu")


@pytest.mark.parametrize("verb", ["predict", "evaluate", "benchmark"])
def test_verbs_say_it(
    folder: Path, tmp_path: Path, verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    for kind, pixels in (("images", PHOTO), ("labels", PHOTO[..., 0] * 0)):
        (data / kind / "val").mkdir(parents=True)
        Image.fromarray(pixels).save(data / kind / "val" / "a.png")
    (data / "dataset.yaml").write_text("name: one\nclasses: [road, sky, tree, car, pole]\n")
    out = tmp_path / "out"
    if verb == "benchmark":  # which measures rejected graphs too
        verdicts = [(variant.kind, variant.verdict) for variant in find_variants([str(folder)], ["onnxruntime"])]
        assert verdicts == [("onnxruntime", "other weights")] * 2
        options = ["--engine", "onnxruntime", "--sizes", "96x64", "--rounds", 1, "--json"]
        assert run(monkeypatch, verb, folder, "--out", out, *options) == 0
        assert [row["verdict"] for row in json.loads(capsys.readouterr().out)["rows"]] == ["other weights"] * 2
        assert "| int8 (other weights) |" in (out / "results.md").read_text()
        return
    arguments = {"predict": [data / "images", "-o", out], "evaluate": ["--data", data]}[verb]
    assert run(monkeypatch, verb, folder, *arguments) == 2
    assert f"{folder / 'onnx' / 'model.onnx'}: {REFUSED}" in capsys.readouterr().err.splitlines()[-1]
    assert not out.exists()
    assert run(monkeypatch, verb, folder, *arguments, "--engine", "torch", "--device", "cpu") == 0
    assert run(monkeypatch, verb, folder, *arguments, "--force", "--device", "cpu") == 0


def test_verification_rejects_it_however_alike_they_are(first: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(first, tmp_path / "model")
    weights = load_file(first / artifact.WEIGHTS)
    weights["classifier.bias"] = weights["classifier.bias"] + 1e-6
    artifact.save(tmp_path / "second", artifact.read_config(first), weights)
    shutil.copy(tmp_path / "second" / artifact.WEIGHTS, folder / artifact.WEIGHTS)
    entry = verify(folder, folder / "onnx" / "model.onnx")
    assert (entry["verdict"], entry["reasons"]) == (
        "rejected",
        ["it was made of other weights than model.safetensors; export it again"],
    )


def test_weights_that_the_manifest_does_not_know_are_not_exported(first: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(first, tmp_path / "model")
    weights = load_file(folder / artifact.WEIGHTS)
    weights["classifier.weight"] = weights["classifier.weight"].flip(0)
    save_file(weights, folder / artifact.WEIGHTS)
    before = (folder / "onnx" / "model.onnx").read_bytes()
    with pytest.raises(
        UserError, match=r"model.safetensors: damaged or replaced since it was saved \(manifest.json has"
    ):
        next(export_verified(folder, "fp32"))
    assert (folder / "onnx" / "model.onnx").read_bytes() == before
