"""`semseg plot` on runs: every verb from the command line to the files."""

import json
import shutil
from pathlib import Path

import yaml
from PIL import Image
from support.in_process import semseg


def picture_size(plot: Path) -> tuple[int, int]:
    with Image.open(plot) as picture:
        return picture.size


def plotted(*arguments: object) -> dict:
    """The numbers of a plot that opens."""
    plot = next(word for word in arguments if isinstance(word, Path) and word.suffix == ".png")
    done = semseg("plot", *arguments)
    assert done.returncode == 0, done.stderr
    assert min(picture_size(plot)) > 200
    return json.loads(plot.with_suffix(".json").read_text())


def test_pseudo_labels(pseudoseg_run, tmp_path) -> None:
    numbers = plotted("pseudo-labels", pseudoseg_run, "--photos", 3, "-o", tmp_path / "parts.png")
    assert (numbers["method"], numbers["step"]) == ("pseudoseg", 1)
    assert sorted(photo["photo"] for photo in numbers["photos"]) == ["val00", "val02", "val04"]
    assert list(numbers["photos"][0]["accuracy"]) == ["decoder", "CAM", "SGC", "fused"]


def test_distances(distilled_run, tmp_path) -> None:
    plot = tmp_path / "distances.pdf"
    done = semseg("plot", "distances", distilled_run, "--photos", 3, "-o", plot)
    assert (done.returncode, done.stdout) == (0, f"{plot} and {plot.with_suffix('.json')}\n"), done.stderr
    content = plot.read_bytes()
    assert content.startswith(b"%PDF")
    assert b"CreationDate" not in content
    numbers = json.loads(plot.with_suffix(".json").read_text())
    (run,) = numbers["runs"]
    assert (run["map"], run["distiller"], numbers["groups"]) == ("decoder", "mgd", 16)
    assert list(run["splits"]) == ["train", "val"]
    for split in run["splits"].values():
        assert split["pairs"] == 3 * 16 * 16 * 16  # photos, rows, columns of the 64x64 padded photo at stride 4, groups
        assert split["smallest"] <= split["quartiles"][0] <= split["quartiles"][2] <= split["largest"]


def test_calibration_on_data_that_moved(pseudoseg_run, tiny_dataset, tmp_path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(tiny_dataset, moved)
    numbers = plotted("calibration", pseudoseg_run, "--data", moved, "-o", tmp_path / "reliability.png")
    (run,) = numbers["runs"]
    assert run["photos"] == 5
    assert list(run["parts"]) == ["decoder", "CAM", "SGC", "fused"]
    for part in run["parts"].values():
        assert sum(each["pixels"] for each in part["bins"]) == part["pixels"]
    info = yaml.safe_load((moved / "dataset.yaml").read_text())
    info |= {"classes": [*info["classes"], "more"], "palette": [*info["palette"], [1, 2, 3]]}
    (moved / "dataset.yaml").write_text(yaml.safe_dump(info))
    done = semseg("plot", "calibration", pseudoseg_run, "--data", moved, "-o", tmp_path / "a.png")
    assert done.returncode == 2
    assert f"{moved}: has 4 classes, and {pseudoseg_run} learned 3; name the data of that run" in done.stderr


def test_runs_that_compare_other_maps_are_not_drawn_together(distilled_run, tmp_path, monkeypatch) -> None:
    from semseg_app.training.plots import distances

    first = distances.compared
    monkeypatch.setattr(
        distances,
        "compared",
        lambda trained, run, logits: first(trained, run, logits)._replace(name=-1 if run.is_symlink() else "decoder"),
    )
    other = tmp_path / "other"
    other.symlink_to(distilled_run)
    done = semseg("plot", "distances", distilled_run, other, "--photos", 1, "-o", tmp_path / "a.png")
    assert done.returncode == 2
    assert "compares other maps" in done.stderr


def test_a_run_without_a_checkpoint_is_one_line(pseudoseg_run, tmp_path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(pseudoseg_run, copy, symlinks=True)
    shutil.rmtree(copy / "checkpoints")
    done = semseg("plot", "pseudo-labels", copy, "-o", tmp_path / "a.png")
    assert done.returncode == 2
    assert (
        done.stderr.strip()
        .splitlines()[-1]
        .endswith("has no checkpoint yet; wait for the first, or start the run again")
    )
