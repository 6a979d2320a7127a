"""What other people's tools wrote of two streets comes in as those streets.

written_by_tools/write.py has the versions and the calls. Brushes of Label Studio are exact. supervision traces outlines
through the middles of pixels, which is exact as well, except for what it leaves out.
"""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image
from support.annotations import imported, photo

HERE = Path(__file__).parent / "written_by_tools"
CLASSES: list[str] = yaml.safe_load((HERE / "supervision_yolo" / "data.yaml").read_text())["names"]
Masks = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def expected() -> Masks:
    """Photo -> class numbers, 255 where no class is."""
    return {path.stem: np.array(Image.open(path)) for path in sorted((HERE / "masks").iterdir())}


def read(root: Path, photos: Path, expected: Masks) -> Masks:
    """The masks that the import makes, with pixels of no object as 255."""
    for name, mask in expected.items():
        photo(photos / f"{name}.jpg", width=mask.shape[1], height=mask.shape[0])
    data, _ = imported(root, "--background", "ignore")
    numbers = np.full(256, 255, np.uint8)
    numbers[: len(data.info.classes)] = [CLASSES.index(name) for name in data.info.classes]
    read = {sample.stem: numbers[data.read_label(sample)] for sample in data.samples("train")}
    assert read.keys() == expected.keys()
    return read


def test_brushes_by_the_converter_of_label_studio(expected, tmp_path):
    root = tmp_path / "x"
    root.mkdir()
    shutil.copy(HERE / "label_studio.json", root)
    masks = read(root, root, expected)
    for name, mask in expected.items():
        np.testing.assert_array_equal(masks[name], mask)


def test_coco_by_supervision(expected, tmp_path):
    """Of an object of a single pixel it writes only the box; that pixel is ignored."""
    root = tmp_path / "x"
    root.mkdir()
    shutil.copy(HERE / "supervision_coco.json", root / "instances_train.json")
    masks = read(root, root, expected)
    wrong = [masks[name][masks[name] != mask].tolist() for name, mask in expected.items()]
    assert sorted(wrong) == [[], [255]]


def test_yolo_by_supervision(expected, tmp_path):
    """It leaves out parts whose outline has fewer than three corners: single pixels and straight lines of them."""
    root = tmp_path / "x"
    shutil.copytree(HERE / "supervision_yolo", root / "labels" / "train", ignore=shutil.ignore_patterns("data.yaml"))
    (root / "data.yaml").write_text(yaml.safe_dump({"train": "images/train", "names": CLASSES}))
    masks = read(root, root / "images" / "train", expected)
    for name, mask in expected.items():
        without = mask.copy()
        for index in range(len(CLASSES)):
            count, parts = cv2.connectedComponents((mask == index).astype(np.uint8), connectivity=8)
            for part in range(1, count):
                pixels = np.argwhere(parts == part)
                if np.linalg.matrix_rank(pixels - pixels[0]) < 2:
                    without[parts == part] = 255
        assert 0 < (without != mask).sum() < 0.02 * mask.size
        np.testing.assert_array_equal(masks[name], without)
