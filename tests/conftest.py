"""Shared small data."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

CLASSES = ["ground", "box", "disc"]
COLORS = np.array([(90, 90, 90), (200, 60, 40), (40, 90, 210)], np.float32)


def draw_scene(seed: int, height: int = 48, width: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """A box and a disc on the ground, with noise: image uint8 [H, W, 3], label uint8 [H, W]."""
    random = np.random.default_rng(seed)
    label = np.zeros((height, width), np.uint8)
    top, left = random.integers(0, height - 16), random.integers(0, width - 20)
    label[top : top + 14, left : left + 18] = 1
    rows, columns = np.mgrid[:height, :width]
    center = random.integers(8, height - 8), random.integers(8, width - 8)
    label[(rows - center[0]) ** 2 + (columns - center[1]) ** 2 < 60] = 2
    image = COLORS[label] + random.normal(0, 12, (height, width, 3))
    label[:2] = 255
    return image.clip(0, 255).astype(np.uint8), label


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset folder: 12 train and 5 val scenes of 48x64, three classes, a list of 4 labeled and 8 unlabeled."""
    root = tmp_path_factory.mktemp("tiny")
    info = {"name": "tiny", "classes": CLASSES, "palette": [[90, 90, 90], [200, 60, 40], [40, 90, 210]]}
    (root / "dataset.yaml").write_text(yaml.safe_dump(info))
    for split, count, first in (("train", 12, 0), ("val", 5, 100)):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for index in range(count):
            image, label = draw_scene(first + index)
            Image.fromarray(image).save(root / "images" / split / f"{split}{index:02d}.png")
            Image.fromarray(label).save(root / "labels" / split / f"{split}{index:02d}.png")
    (root / "splits").mkdir()
    (root / "splits" / "few-labeled.txt").write_text("".join(f"train{index:02d}\n" for index in range(4)))
    (root / "splits" / "few-unlabeled.txt").write_text("".join(f"train{index:02d}\n" for index in range(4, 12)))
    return root


LONGEST = (
    "test_docs.py",
    "test_precision_matrix.py",
    "test_tensorrt.py",
    "test_methods.py",
    "test_verify.py",
    "test_onnx.py",
    "test_loop.py",
    "test_push.py",
)
"""Files that take longest. They begin first, so that no process is left with one of them while the others wait."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests marked gpu, with the reason, where torch finds no GPU; torch is imported for such tests alone."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("torch finds no GPU here")
