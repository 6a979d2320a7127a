"""What `semseg data export` writes for an annotation tool, `semseg data import` reads back as the same masks."""

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from semseg_app.cli.main import app
from semseg_app.data.layouts import open_dataset
from semseg_app.labels import IGNORE
from semseg_app.synthetic import generate


@pytest.fixture(scope="module")
def streets(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "streets"
    generate(folder, train=1, val=3, size=(96, 128))
    return folder


def masks_by_name(folder: Path) -> dict[str, np.ndarray]:
    """Photo -> class names as text, IGNORE as ''."""
    data = open_dataset(folder)
    names = np.array([*data.info.classes, *[""] * (256 - len(data.info.classes))])
    assert names[IGNORE] == ""
    samples = [sample for split in ("train", "val") if split in data.split_names() for sample in data.samples(split)]
    return {sample.image.stem: names[data.read_label(sample)] for sample in samples}


def run(*command: object) -> None:
    done = CliRunner().invoke(app, [str(part) for part in command])
    assert done.exit_code == 0, done.output


def there_and_back(streets: Path, tmp_path: Path, *options: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    out, back = tmp_path / "out", tmp_path / "back"
    run("data", "export", streets, "--split", "val", *options, "-o", out)
    run("data", "import", out, "-o", back, "--background", "ignore", "--no-check")
    of_val = {sample.image.stem for sample in open_dataset(streets).samples("val")}
    return {name: mask for name, mask in masks_by_name(streets).items() if name in of_val}, masks_by_name(back)


@pytest.mark.parametrize("tool", ["coco", "cvat", "label-studio", "labelme"])
def test_masks_are_the_same(streets, tmp_path, tool):
    before, after = there_and_back(streets, tmp_path, "--to", tool, "--shapes", "masks")
    assert before.keys() == after.keys()
    for name in before:
        np.testing.assert_array_equal(after[name], before[name])


@pytest.mark.parametrize("tool", ["coco", "cvat", "label-studio", "labelme", "yolo"])
def test_polygons_without_tolerance_are_nearly_the_same(streets, tmp_path, tool):
    before, after = there_and_back(streets, tmp_path, "--to", tool, "--tolerance", "0")
    assert before.keys() == after.keys()
    equal = np.mean([np.mean(after[name] == before[name]) for name in before])
    assert equal > 0.999, equal


@pytest.mark.parametrize("tool", ["coco", "cvat", "label-studio", "yolo"])
def test_splits_come_back(tiny_dataset, tmp_path, tool):
    before = open_dataset(tiny_dataset)
    run("data", "export", tiny_dataset, "--to", tool, "-o", tmp_path / "out")
    run("data", "import", tmp_path / "out", "-o", tmp_path / "back", "--background", "ignore", "--no-check")
    after = open_dataset(tmp_path / "back")
    assert [sample.stem for sample in after.samples("val")] == [sample.stem for sample in before.samples("val")]
    assert [sample.stem for sample in after.samples("train")] == [sample.stem for sample in before.samples("train")]
