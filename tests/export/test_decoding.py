"""Our engines read the coarse logits; the file itself, and torch, enlarge them all. The class maps are equal."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.utils import Extractor

from semseg_app import models
from semseg_app.export.decoding import compare_decoding, reasons_of_decoding
from semseg_app.export.verification_set import generated_photos
from semseg_app.inference.engines import cut_graph
from semseg_app.inference.engines.base import Prediction, class_maps
from semseg_app.inference.engines.onnxruntime import OnnxRuntimeEngine, open_graph
from semseg_app.inference.engines.openvino import OpenVinoEngine
from semseg_app.inference.engines.torch import TorchEngine
from semseg_app.labels import LabelSpace
from semseg_app.models.registry import ARCHITECTURES

SIZES = ((127, 131), (40, 201), (65, 64), (1, 1), (3, 90))
LABELS = LabelSpace(classes=list("abcde"), palette=[(index, 0, 0) for index in range(5)])


def photos(height: int, width: int) -> np.ndarray:
    return np.stack(generated_photos(2))[:, 100 : 100 + height, 100 : 100 + width]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture(architecture: str, lively: Callable[[str], models.SegmentationNetwork]) -> None:
    network = lively(architecture)
    ours, plain = (TorchEngine(network, architecture, LABELS, whole=whole) for whole in (False, True))
    for height, width in SIZES:
        images = photos(height, width)
        expected, found = plain.infer(images), ours.infer(images)
        assert (found.classes != expected.classes).sum() <= 1, "no more than a tie"
        assert np.array_equal(ours.classes(images), found.classes)
        assert np.abs(found.confidence.astype(int) - expected.confidence).max() <= 1


@pytest.fixture(scope="module")
def graph(exported: Callable[[str], Path]) -> Path:
    return exported("deeplabv3plus") / "onnx" / "model.onnx"


def test_a_graph_is_cut_where_its_logits_are(graph: Path) -> None:
    content = cut_graph.coarse_graph(graph)
    assert content is not None
    ours = onnx.load_from_string(content)
    whole = onnx.load(graph)
    (name,) = (value.name for value in ours.graph.output)
    assert name == json.loads({entry.key: entry.value for entry in whole.metadata_props}["semseg_app"])["logits"]
    theirs = Extractor(whole).extract_model(["images"], [name])
    assert [node.name for node in ours.graph.node] == [node.name for node in theirs.graph.node]
    assert not {"ArgMax", "Exp"} & {node.op_type for node in ours.graph.node}
    weights = {weight.name: weight.raw_data for weight in ours.graph.initializer}
    assert all(weights[weight.name] == weight.raw_data for weight in theirs.graph.initializer)


def test_runtimes_answer_what_the_file_answers(graph: Path) -> None:
    whole = open_graph(graph, "cpu", 1, whole=True)
    for engine in (open_graph(graph, "cpu", 2), OpenVinoEngine(graph, threads=1)):
        for height, width in SIZES:
            images = photos(height, width)
            expected, found = whole.infer(images), engine.infer(images)
            # The two runtimes compute the logits in another order; at a border two classes may tie.
            assert (found.classes == expected.classes).mean() >= 0.9999
            assert np.abs(found.confidence.astype(int) - expected.confidence).max() <= 1
            assert np.array_equal(class_maps(engine, images), found.classes)


def test_a_file_that_does_not_name_its_logits_runs_whole(graph: Path, tmp_path: Path) -> None:
    model = onnx.load(graph)
    (entry,) = (entry for entry in model.metadata_props if entry.key == "semseg_app")
    metadata = json.loads(entry.value)
    del metadata["logits"]
    entry.value = json.dumps(metadata)
    onnx.save(model, tmp_path / "older.onnx")
    older, newer = open_graph(tmp_path / "older.onnx", "cpu", 1), open_graph(graph, "cpu", 1)
    assert isinstance(older, OnnxRuntimeEngine)
    assert isinstance(newer, OnnxRuntimeEngine)
    assert (older.gives_logits, newer.gives_logits) == (False, True)
    images = photos(127, 131)
    assert np.array_equal(older.infer(images).classes, newer.infer(images).classes)
    assert np.array_equal(older.classes(images), newer.classes(images))
    with pytest.raises(ValueError, match="gives no logits"):
        older.logits(images)


class _Shifted(OnnxRuntimeEngine):
    """The defect of a wrong half pixel."""

    def infer(self, images: np.ndarray) -> Prediction:
        answer = super().infer(images)
        return Prediction(np.roll(answer.classes, 1, axis=2), np.roll(answer.confidence, 3, axis=2))


def test_the_gate_counts_ties_and_refuses_what_is_none(graph: Path) -> None:
    engine, whole = open_graph(graph, "cpu", 1), open_graph(graph, "cpu", 1, whole=True)
    assert isinstance(engine, OnnxRuntimeEngine)
    counts = compare_decoding(engine, whole, generated_photos(2), [(61, 97)])
    assert counts["pixels"] == 2 * 61 * 97
    assert counts["ties"] <= 2
    assert not reasons_of_decoding(counts)
    engine.__class__ = _Shifted
    counts = compare_decoding(engine, whole, generated_photos(2), [(61, 97)])
    wrong, off = reasons_of_decoding(counts)
    assert wrong == f"exact decoding gives {counts['wrong']} of {2 * 61 * 97} pixels another class"
    assert off.startswith("exact decoding gives a confidence that is off by ")
