"""The run folder of a training stands for its best model, wherever a model is asked for."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semseg_app.artifact import model_folder
from semseg_app.cli.main import main
from semseg_app.cli.model_option import writable_model
from semseg_app.errors import UserError
from semseg_app.hub.download import local_model
from semseg_app.hub.model import SegmentationModel
from semseg_app.inference.engines.open import open_engine


@pytest.fixture
def run(network_folder: Path, tmp_path: Path) -> Path:
    """A run folder as `semseg train` leaves it: the recipe, and `best` as a link to a model folder."""
    folder = tmp_path / "runs" / "x"
    (folder / "models").mkdir(parents=True)
    (folder / "recipe.yaml").write_text("name: x\n")
    network_folder.rename(folder / "models" / "step-4")
    (folder / "best").symlink_to(Path("models") / "step-4")
    return folder


def test_every_way_in_takes_the_best_model(run: Path) -> None:
    assert local_model(run) == writable_model(str(run), None) == run / "best"
    photo = np.random.default_rng(0).integers(0, 256, (1, 24, 40, 3), np.uint8)
    expected = open_engine(run / "best", "torch", "cpu").infer(photo).classes
    np.testing.assert_array_equal(open_engine(run, "torch", "cpu").infer(photo).classes, expected)
    loaded = SegmentationModel.from_pretrained(run, engine="torch", device="cpu")
    np.testing.assert_array_equal(loaded.predict(photo[0]).classes, expected[0])


def test_predict_on_a_run_folder(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = np.random.default_rng(1).integers(0, 256, (24, 40, 3), np.uint8)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    for model, out in ((run, "run"), (run / "best", "best")):
        options = ["--engine", "torch", "--device", "cpu", "--json"]
        argv = ["semseg", "predict", str(model), str(tmp_path / "photo.png"), "-o", str(tmp_path / out), *options]
        monkeypatch.setattr(sys, "argv", argv)
        with pytest.raises(SystemExit) as caught:
            main()
        assert caught.value.code == 0
        assert json.loads(capsys.readouterr().out)["model"] == "tiny"
    masks = [np.asarray(Image.open(tmp_path / out / "masks" / "photo.png")) for out in ("run", "best")]
    np.testing.assert_array_equal(*masks)


def test_a_run_without_a_best_model_names_what_there_is(run: Path) -> None:
    (run / "best").rename(run / "last")
    with pytest.raises(UserError, match=r"a run folder without a best model; use .*last$"):
        local_model(run)
    (run / "last").unlink()
    with pytest.raises(UserError, match="without a best model; wait for its first evaluation"):
        open_engine(run)


def test_other_paths_mean_themselves(run: Path, tmp_path: Path) -> None:
    graph = tmp_path / "model.onnx"
    graph.write_bytes(b"")
    assert [model_folder(path) for path in (graph, run / "best", run / "models")] == [
        graph,
        run / "best",
        run / "models",
    ]
