from collections.abc import Iterator

import numpy as np
import pytest
import torch
from PIL import Image

from semseg_app.inference.engines.base import Prediction
from semseg_app.inference.engines.torch import TorchEngine
from semseg_app.inference.predictor import Predictor
from semseg_app.labels import LabelSpace
from semseg_app.models import ModelSpec, build

RADIUS = 3


class BoxEngine:
    """An answer at a pixel depends on nothing farther than RADIUS; borders are padded, as networks do it."""

    name, kind, device, precision = "box", "fake", "cpu", "fp32"
    labels = LabelSpace(classes=[str(index) for index in range(256)], palette=[(0, 0, 0)] * 256)

    def __init__(self) -> None:
        self.calls: list[tuple[int, ...]] = []

    def infer(self, images: np.ndarray) -> Prediction:
        self.calls.append(images.shape)
        side = 2 * RADIUS + 1
        padded = np.pad(images.astype(np.int64), ((0, 0), (RADIUS, RADIUS), (RADIUS, RADIUS), (0, 0)))
        boxes = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(1, 2))
        return Prediction(
            (boxes[:, :, :, 0].sum((-1, -2)) % 251).astype(np.uint8), boxes[:, :, :, 1].max((-1, -2)).astype(np.uint8)
        )


def blurred(height: int, width: int) -> np.ndarray:
    """Blobs of all colors, as large as things in photos."""
    blobs = Image.fromarray(photo(height // 24, width // 24, seed=3)).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(blobs)


def unet_engine() -> TorchEngine:
    """A U-Net with random weights; its batch norms are set by an image, so that its answer has many classes."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build(ModelSpec(architecture="unet", encoder="tu-test_resnet", num_classes=6, decoder_channels=16))
    pixels = torch.tensor(blurred(320, 320)).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        for _ in range(20):
            network.train()(pixels)
        network.classifier.bias -= network.eval()(pixels).mean((0, 2, 3))  # every class has its chance
    labels = LabelSpace(classes=list("abcdef"), palette=[(index, 0, 0) for index in range(6)])
    return TorchEngine(network, "unet", labels)


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize(("height", "width"), [(150, 131), (64, 300), (20, 97), (65, 65)])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_tiled_equals_whole_when_the_overlap_covers_the_context(height: int, width: int, batch_size: int) -> None:
    image = photo(height, width)
    engine = BoxEngine()
    whole = engine.infer(image[np.newaxis])
    engine.calls.clear()
    tiled = Predictor(engine, tile=64, overlap=2 * RADIUS, batch_size=batch_size).predict(image)
    np.testing.assert_array_equal(tiled.classes, whole.classes[0])
    np.testing.assert_array_equal(tiled.confidence, whole.confidence[0])
    assert len(engine.calls) > 1 or batch_size > 1
    assert max(max(shape[1:3]) for shape in engine.calls) <= 64
    assert max(shape[0] for shape in engine.calls) <= batch_size


@pytest.mark.parametrize("size", [(410, 530), (256, 419)])
def test_a_network_says_of_tiles_what_it_says_of_the_whole_image(size: tuple[int, int]) -> None:
    """A U-Net of stride 32 that looks less than 96 pixels far: half an overlap of 192 is enough, half of 128 is not."""
    engine = unet_engine()
    image = blurred(*size)
    whole = engine.infer(image[np.newaxis])
    assert len(np.unique(whole.classes)) == 6, "a network that says little proves little"
    equal = Predictor(engine, tile=320, overlap=192).predict(image)
    np.testing.assert_array_equal(equal.classes, whole.classes[0])
    np.testing.assert_allclose(equal.confidence, whole.confidence[0], atol=1)

    predictor = Predictor(engine, tile=256, overlap=128)
    near_seams = np.zeros(size, bool)
    for tile, _ in predictor.predict_tiles(lambda window: window.cut(image), *size):
        near_seams[max(0, tile.keep.top - 32) : tile.keep.top + 32] |= tile.keep.top > 0
        near_seams[:, max(0, tile.keep.left - 32) : tile.keep.left + 32] |= tile.keep.left > 0
    different = predictor.predict(image).classes != whole.classes[0]
    assert different.any()
    assert not different[~near_seams].any()


def test_too_little_overlap_shows_at_seams_only() -> None:
    image = photo(130, 60)
    engine = BoxEngine()
    whole = engine.infer(image[np.newaxis]).classes[0]
    wrong = np.flatnonzero((Predictor(engine, tile=64, overlap=0).predict(image).classes != whole).any(axis=1))
    assert 0 < len(wrong) < 20


def test_tiles_are_no_larger_than_their_number_asks() -> None:
    engine = BoxEngine()
    Predictor(engine, tile=128, overlap=32).predict(photo(160, 220))
    assert engine.calls == [(1, 96, 128, 3), (1, 96, 124, 3)] * 2


def test_an_image_that_fits_or_a_predictor_without_tiles_is_one_call() -> None:
    engine = BoxEngine()
    Predictor(engine, tile=64, overlap=16).predict(photo(64, 50))
    Predictor(engine, tile=None).predict(photo(90, 100))
    assert engine.calls == [(1, 64, 50, 3), (1, 90, 100, 3)]


def test_predict_many_keeps_the_order_and_batches_equal_neighbors() -> None:
    sizes = [(40, 40), (40, 40), (40, 40), (40, 30), (40, 30), (70, 40), (40, 40), (40, 30)]
    images = [photo(*size, seed=seed) for seed, size in enumerate(sizes)]
    engine = BoxEngine()
    alone = [engine.infer(image[np.newaxis]).classes[0] for image in images]
    engine.calls.clear()
    together = list(Predictor(engine, tile=64, overlap=32, batch_size=2).predict_many(images))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other.classes)
    # The tall one is two tiles, of 64 and of 38 rows.
    assert [shape[0] for shape in engine.calls] == [2, 1, 2, 1, 1, 1, 1]


def test_predict_many_reads_no_more_than_a_batch_ahead() -> None:
    read = 0

    def endless() -> Iterator[np.ndarray]:
        nonlocal read
        while True:
            read += 1
            yield photo(8, 8)

    answers = Predictor(BoxEngine(), batch_size=4).predict_many(endless())
    for _ in range(5):
        next(answers)
    assert read == 8


def test_arguments_that_cannot_work_are_refused() -> None:
    with pytest.raises(ValueError, match="tile 128 must be"):
        Predictor(BoxEngine(), tile=128, overlap=128)
    with pytest.raises(ValueError, match="batch_size 0"):
        Predictor(BoxEngine(), batch_size=0)
