"""Models of other programs through the verbs: evaluate, predict, data pseudo-label."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hub_stand_in import StandIn
from PIL import Image
from support.other_graphs import other_graph
from support.tiny_models import COLORS
from support.tiny_transformers import save_tiny

from semseg_app.cli.main import main
from semseg_app.data.layouts import open_dataset
from semseg_app.inference.engines.open import open_engine

RGB = {"classes": ["red", "green", "blue"], "mean": [0, 0, 0], "std": [1, 1, 1], "license": "mit"}
PARTNERS = "red: box\nblue: disc\n"


@pytest.fixture
def semseg(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run a verb in this process; -> exit code."""

    def run(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["semseg", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        assert isinstance(caught.value.code, int)
        return caught.value.code

    return run


def test_a_model_of_transformers_is_evaluated_and_predicts(
    tiny_dataset: Path, tmp_path: Path, semseg: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = save_tiny("mask2former", tmp_path / "mask2former")
    partners = tmp_path / "partners.yaml"
    partners.write_text("sky: null\n")
    data = open_dataset(tiny_dataset)
    engine = open_engine(teacher, device="cpu")
    counts = np.zeros((3, 3))
    for sample in data.samples("val"):
        image, label = data.read_pair(sample)
        chosen = engine.probabilities(image[None])[0, :3].argmax(0)  # the best of the data's classes
        np.add.at(counts, (label[label != 255], chosen[label != 255]), 1)
    command = ("evaluate", teacher, "--data", tiny_dataset, "--device", "cpu", "--json")
    assert semseg(*command, "--teacher-classes", partners) == 0
    said = capsys.readouterr()
    report = json.loads(said.out)
    assert (report["model"], report["engine"]) == ("mask2former", "transformers")
    assert report["pixel_accuracy"] == pytest.approx(np.diag(counts).sum() / counts.sum(), abs=1e-3)
    assert "warning: teacher_classes: pixels of the teacher's sky are ignored" in said.err
    assert semseg(*command) == 2
    assert "only the model knows sky" in (line := capsys.readouterr().err.splitlines()[-1])
    assert "--teacher-classes" in line
    assert semseg(*command, "--teacher-classes", partners, "--flip") == 0
    capsys.readouterr()

    photo = tiny_dataset / "images" / "val" / "val00.png"
    assert semseg("predict", teacher, photo, "-o", tmp_path / "out", "--device", "cpu") == 0
    mask = np.asarray(Image.open(tmp_path / "out" / "masks" / "val00.png"))
    np.testing.assert_array_equal(mask, engine.infer(np.asarray(Image.open(photo))[None]).classes[0])


@pytest.mark.parametrize("gives", ["logits", "classes"])
def test_pseudo_labels_of_another_program(
    tiny_dataset: Path, tmp_path: Path, semseg: Callable[..., int], capsys: pytest.CaptureFixture[str], gives: str
) -> None:
    """Reddish is a box, bluish a disc; what is greenish has no partner and stays without a label."""
    teacher = other_graph(tmp_path / "colors.onnx", gives, description=RGB)
    partners, out = tmp_path / "partners.yaml", tmp_path / "out"
    partners.write_text(PARTNERS)
    command = ("data", "pseudo-label", teacher, "--data", tiny_dataset, "--list", "few-unlabeled", "-o", out)
    assert semseg(*command, "--teacher-classes", partners, "--threshold", 0) == 0
    said = capsys.readouterr().err
    assert "pixels of the teacher's green are ignored; the teacher does not know ground" in said
    for stem in ("train04", "train11"):
        logits = np.asarray(Image.open(tiny_dataset / "images" / "train" / f"{stem}.png")).astype(float) @ COLORS
        expected = np.array([1, 255, 2])[logits.argmax(-1)]
        assert 255 in expected
        ordered = np.sort(logits, axis=-1)
        decided = ordered[..., 2] - ordered[..., 1] > 1e-4  # the graph computes in float32, and ties are common
        assert decided.mean() > 0.98
        np.testing.assert_array_equal(np.asarray(Image.open(out / f"{stem}.png"))[decided], expected[decided])
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["teacher_classes"] == {"red": "box", "green": None, "blue": "disc"}
    (weights,) = manifest["lineage"]["weights"]
    assert weights.items() >= {"name": "colors", "role": "teacher", "license": "mit"}.items()
    assert manifest["lineage"]["teachers"][0]["sha256"] == manifest["weights"]
    partners.write_text(PARTNERS + "green: ground\n")
    assert semseg(*command, "--teacher-classes", partners, "--threshold", 0) == 2
    assert "was made with teacher_classes" in capsys.readouterr().err.splitlines()[-1]


def test_hard_labels_without_a_partner_cannot_be_scored(
    tiny_dataset: Path, tmp_path: Path, semseg: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = other_graph(tmp_path / "colors.onnx", "classes", description=RGB)
    partners = tmp_path / "partners.yaml"
    command = ("evaluate", teacher, "--data", tiny_dataset, "--teacher-classes", partners, "--json")
    partners.write_text(PARTNERS)
    assert semseg(*command) == 2
    assert "name a partner for green" in capsys.readouterr().err.splitlines()[-1]
    partners.write_text(PARTNERS + "green: ground\n")
    assert semseg(*command) == 0
    assert json.loads(capsys.readouterr().out)["pixel_accuracy"] > 0
    for text, said in (("- red\n", "expected `key: value` lines"), ("red: [box]\n", "partners.yaml: red")):
        partners.write_text(text)
        assert semseg(*command) == 2
        assert said in capsys.readouterr().err.splitlines()[-1]


def test_a_model_of_transformers_comes_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files are what the Hub has; another process, because huggingface_hub reads its settings when imported."""
    import os
    import subprocess

    folder = save_tiny("segformer", tmp_path / "segformer")
    hub = StandIn()
    with hub.running():
        hub.add("ann/tiny-segformer", {path.name: path.read_bytes() for path in folder.iterdir()})
        photo = tmp_path / "photo.png"
        pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
        Image.fromarray(pixels).save(photo)
        settings = {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "cache")}
        command = [sys.executable, "-m", "semseg_app.cli", "predict", "ann/tiny-segformer", str(photo), "--json"]
        done = subprocess.run(
            [*command, "-o", str(tmp_path / "out"), "--device", "cpu"],
            env=os.environ | settings,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model"] == "ann/tiny-segformer"
    mask = np.asarray(Image.open(tmp_path / "out" / "masks" / "photo.png"))
    np.testing.assert_array_equal(mask, open_engine(folder, device="cpu").infer(pixels[None]).classes[0])
