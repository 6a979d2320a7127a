"""Validation while training: whole photos and windows score the same, and memory is bounded by what is seen at once."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor, nn

from semseg_app.data.dataset import open_folder
from semseg_app.training import evaluation
from semseg_app.training.data.streams import ImageDataset
from semseg_app.training.evaluation import evaluate_network
from semseg_app.training.run.progress import Spoken

SIZES = [(200, 330), (200, 330), (200, 330), (90, 64), (500, 70)]


class SmallField(nn.Module):
    """Logits that see 7 pixels each way, less than half of any overlap; notes what it is shown at once."""

    def __init__(self) -> None:
        super().__init__()
        self.spec = SimpleNamespace(num_classes=3)
        self.convolution = nn.Conv2d(3, 3, 15, padding=7)
        self.shown: list[tuple[int, ...]] = []

    def full_logits(self, images: Tensor) -> Tensor:
        self.shown.append(tuple(images.shape))
        return 20 * self.convolution(images)


@pytest.fixture
def network() -> SmallField:
    torch.manual_seed(0)
    return SmallField()


@pytest.fixture
def dataset(tmp_path: Path) -> ImageDataset:
    generator = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (tmp_path / kind / "val").mkdir(parents=True)
    for index, (height, width) in enumerate(SIZES):
        label = generator.integers(0, 3, (height, width), np.uint8)
        label[generator.random(label.shape) < 0.1] = 255
        Image.fromarray(label).save(tmp_path / "labels" / "val" / f"{index}.png")
        photo = generator.integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(photo).save(tmp_path / "images" / "val" / f"{index}.png")
    (tmp_path / "dataset.yaml").write_text("name: noise\nclasses: [a, b, c]\n")
    data = open_folder(tmp_path)
    return ImageDataset(data, data.samples("val"), with_labels=True)


def reference(network: SmallField, dataset: ImageDataset, threshold: float) -> tuple[np.ndarray, float]:
    """Confusion matrix and coverage, photo by photo."""
    counts, labeled, sure = np.zeros((3, 3), np.int64), 0, 0
    for index in range(len(dataset)):
        image, label = dataset[index]
        with torch.no_grad():
            probabilities = network.full_logits(image[None] / 255).softmax(1)[0]
        valid = label != 255
        np.add.at(counts, (label[valid].numpy(), probabilities.argmax(0)[valid].numpy()), 1)
        labeled += int(valid.sum())
        sure += int((probabilities.amax(0)[valid] >= threshold).sum())
    return counts, sure / labeled


@pytest.mark.parametrize("window", [None, 64, 128, 320, 512])
def test_windows_score_what_whole_photos_score(network: SmallField, dataset: ImageDataset, window: int | None) -> None:
    counts, coverage = reference(network, dataset, 0.6)
    network.shown.clear()
    found = evaluate_network(network, dataset, Accelerator(cpu=True), 0.6, window)  # type: ignore[arg-type]
    # A pixel may tip over on a rounding error: convolutions of other sizes add in another order.
    assert np.abs(found.scores.confusion - counts).sum() <= 4
    assert found.pseudo_labels["coverage"] == pytest.approx(coverage, abs=1e-4)
    assert 0.05 < coverage < 0.95
    shares = [found.by_class[name] for name in dataset.data.info.classes]
    predicted = counts.sum(axis=0) / counts.sum()
    assert sum((one["coverage"] or 0) * part for one, part in zip(shares, predicted, strict=True)) == pytest.approx(
        coverage, abs=1e-3
    )
    assert sum(one["share_of_sure"] for one in shares) == pytest.approx(1, abs=1e-3)
    right = sum((one["precision"] or 0) * one["share_of_sure"] for one in shares)
    assert right == pytest.approx(found.pseudo_labels["agreement"], abs=1e-3)
    assert network.training
    if window is None:
        assert network.shown == [(3, 3, 200, 330), (1, 3, 90, 64), (1, 3, 500, 70)]
    else:
        assert max(max(shape[2:]) for shape in network.shown) <= window


def test_photos_beyond_the_stated_size_come_in_windows_by_themselves(
    network: SmallField, dataset: ImageDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts, _ = reference(network, dataset, 0.6)
    network.shown.clear()
    monkeypatch.setattr(evaluation, "WHOLE_PIXELS", 90 * 64)
    monkeypatch.setattr(evaluation, "TILE", 128)
    found = evaluate_network(network, dataset, Accelerator(cpu=True))  # type: ignore[arg-type]
    assert np.abs(found.scores.confusion - counts).sum() <= 4
    assert (1, 3, 90, 64) in network.shown
    assert max(max(shape[2:]) for shape in network.shown) <= 128
    assert {shape[0] for shape in network.shown} == {1}


def test_large_photos_are_not_shown_together(
    network: SmallField, dataset: ImageDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "PIXELS_AT_ONCE", 2 * 200 * 330)
    evaluate_network(network, dataset, Accelerator(cpu=True))  # type: ignore[arg-type]
    assert [shape[0] for shape in network.shown] == [2, 1, 1, 1]


def test_a_long_silence_is_broken_and_a_short_one_is_not(network, dataset, monkeypatch):
    """A clock that moves seven seconds with every photo: a line after every second one."""
    clock = {"now": 0.0}
    monkeypatch.setattr("time.monotonic", lambda: clock["now"])
    lines = list[str]()
    say = Spoken(lines.append)

    def scored(photos: int) -> None:
        clock["now"] += 7 * (photos - sum(seen))
        seen.append(photos - sum(seen))
        say.after_silence(f"{photos} photos")

    seen = list[int]()
    monkeypatch.setattr(evaluation, "BATCH", 1)
    evaluate_network(network, dataset, Accelerator(cpu=True), progress=scored)
    assert seen == [1, 1, 1, 1, 1]
    assert lines == ["2 photos", "4 photos"]
    say("anything")
    clock["now"] += 9
    say.after_silence("too early")
    assert lines[-1] == "anything"
