import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate

from semseg_app import models
from semseg_app.data.dataset import SegmentationData, open_folder
from semseg_app.errors import UserError
from semseg_app.inference.engines.open import open_engine
from semseg_app.inference.evaluate import EvaluationProtocol, evaluate

CLASSES = ["red", "green", "blue"]
SIZES = [(40, 56), (40, 56), (33, 47)]


@pytest.fixture
def data(tmp_path: Path) -> SegmentationData:
    """Three random photos, two of one size and an odd one; a tenth of the labels is ignored."""
    root = tmp_path / "data"
    generator = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (root / kind / "val").mkdir(parents=True)
    for index, (height, width) in enumerate(SIZES):
        label = generator.integers(0, 3, (height, width), np.uint8)
        label[generator.random(label.shape) < 0.1] = 255
        Image.fromarray(label).save(root / "labels" / "val" / f"{index}.png")
        photo = generator.integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(photo).save(root / "images" / "val" / f"{index}.png")
    (root / "dataset.yaml").write_text(f"name: noise\nclasses: [{', '.join(CLASSES)}]\n")
    return open_folder(root)


def counts_of(data: SegmentationData, segment: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """A confusion matrix, pair by pair."""
    counts = np.zeros((3, 3), np.int64)
    for sample in data.samples("val"):
        label = data.read_label(sample)
        for pair in zip(label.flat, segment(data.read_image(sample)).flat, strict=True):
            if pair[0] != 255:
                counts[pair] += 1
    return counts


@pytest.mark.parametrize("batch_size", [1, 2])
def test_whole_images_on_an_exported_graph(
    data: SegmentationData,
    make_graph: Callable[..., Path],
    rgb_logits: Callable[[np.ndarray], np.ndarray],
    batch_size: int,
) -> None:
    evaluation = evaluate(open_engine(make_graph()), data, data.samples("val"), batch_size=batch_size)
    np.testing.assert_array_equal(
        evaluation.scores.confusion, counts_of(data, lambda image: rgb_logits(image).argmax(-1))
    )
    hits = np.diag(evaluation.scores.confusion)
    assert evaluation.scores.values["pixel_accuracy"] == hits.sum() / evaluation.scores.confusion.sum()
    assert evaluation.images == 3
    assert evaluation.to_json()["protocol"] == {"window": None, "stride": None, "scales": (1.0,), "flip": False} | {
        "short_side": None,
        "long_side": None,
    }


@pytest.mark.parametrize(
    "protocol",
    [
        EvaluationProtocol(flip=True),
        EvaluationProtocol(scales=(0.5, 1.0, 1.75), flip=True),
        EvaluationProtocol(window=24, stride=11, flip=True),
        EvaluationProtocol(window=24, scales=(0.75,)),
        EvaluationProtocol(short_side=40, scales=(1.0, 0.75)),
        EvaluationProtocol(short_side=60, long_side=56),
    ],
)
def test_views_are_averaged_as_a_plain_loop_would(
    data: SegmentationData, network_folder: Path, protocol: EvaluationProtocol
) -> None:
    network = models.load(network_folder)

    def softmax(image: np.ndarray) -> torch.Tensor:
        pixels = torch.tensor(image / 255.0).float().permute(2, 0, 1)[None]
        return network.full_logits(pixels).softmax(1)[0]

    def starts(length: int) -> list[int]:
        side, stride = min(24, length), protocol.stride or 16
        return sorted({min(start, length - side) for start in range(0, length, stride)})

    @torch.no_grad()
    def reference(image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        total = torch.zeros(3, height, width)
        for scale, mirrored in itertools.product(protocol.scales, [False, True] if protocol.flip else [False]):
            if protocol.long_side:  # 56 for the longer side is less than 60 for the shorter one
                scale *= 56 / max(height, width)
            elif protocol.short_side:
                scale *= 40 / min(height, width)
            size = (round(width * scale), round(height * scale))
            view = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
            view = np.fliplr(view).copy() if mirrored else view
            if protocol.window is None:
                answer = softmax(view)
            else:
                answer, count = torch.zeros(3, size[1], size[0]), torch.zeros(size[1], size[0])
                for top, left in itertools.product(starts(size[1]), starts(size[0])):
                    place = (slice(top, top + 24), slice(left, left + 24))
                    answer[(slice(None), *place)] += softmax(view[place])
                    count[place] += 1
                answer /= count
            answer = answer.flip(-1) if mirrored else answer
            total += interpolate(answer[None], size=(height, width), mode="bilinear")[0]
        return total.argmax(0).numpy()

    engine = open_engine(network_folder, kind="torch", device="cpu")
    evaluation = evaluate(engine, data, data.samples("val"), protocol, batch_size=3)
    expected = counts_of(data, reference)
    assert (expected.sum(axis=0) > 0).sum() > 1
    # A pixel may tip over on a rounding error.
    assert np.abs(evaluation.scores.confusion - expected).sum() <= 6
    assert not np.array_equal(expected, evaluate(engine, data, data.samples("val")).scores.confusion)


def test_a_graph_gives_no_probabilities(data: SegmentationData, make_graph: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match=r"onnxruntime does not give.*--engine torch"):
        evaluate(open_engine(make_graph()), data, data.samples("val"), EvaluationProtocol(flip=True))


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["red", "gray", "blue"], "only the model knows green; only the data knows gray"),
        ([*CLASSES, "sky", "sea"], "only the model knows none; only the data knows sky, sea"),
        (["red", "blue", "green"], "class 1 is 'green' in the model and 'blue' in the data"),
    ],
)
def test_class_lists_must_be_equal(
    data: SegmentationData, make_graph: Callable[..., Path], classes: list[str], message: str
) -> None:
    data.info.classes = classes
    with pytest.raises(UserError, match=message):
        evaluate(open_engine(make_graph()), data, data.samples("val"))


def test_what_cannot_be_scored_is_named(data: SegmentationData, make_graph: Callable[..., Path]) -> None:
    engine = open_engine(make_graph())
    with pytest.raises(UserError, match="no labeled images"):
        evaluate(engine, data, [])
    sample = data.samples("val")[0]
    assert sample.label is not None
    Image.new("L", (56, 41)).save(sample.label)
    with pytest.raises(UserError, match=r"0\.png: is 56x41 but its image is 56x40"):
        evaluate(engine, data, [sample])
    Image.new("L", (56, 40), 255).save(sample.label)
    with pytest.raises(UserError, match=r"every pixel of the masks is ignored; run `semseg check "):
        evaluate(engine, data, [sample])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stride": 8}, "needs sliding windows"),
        ({"window": 8, "stride": 9}, "from 1 to the window, 8"),
        ({"window": 0}, "at least 1 pixel"),
        ({"scales": (1.0, 0.0)}, "positive numbers"),
        ({"scales": (float("nan"),)}, "positive numbers"),
    ],
)
def test_protocols_that_cannot_be_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        EvaluationProtocol(**arguments)  # type: ignore[arg-type]
