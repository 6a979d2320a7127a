import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from semseg_app import models
from semseg_app.artifact import write_manifest
from semseg_app.errors import UserError
from semseg_app.inference.engines.base import ProbabilityEngine
from semseg_app.inference.engines.open import open_engine

MakeGraph = Callable[..., Path]


def photos(count: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8)


def refused(*arguments: Any, **keywords: Any) -> str:
    with pytest.raises(UserError) as caught:
        open_engine(*arguments, **keywords)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(("height", "width"), [(64, 96), (37, 53)])
def test_torch_engine_says_what_the_network_says(network_folder: Path, height: int, width: int) -> None:
    images = photos(2, height, width)
    engine = open_engine(network_folder, kind="torch", device="cpu")
    assert isinstance(engine, ProbabilityEngine)
    assert (engine.name, engine.kind, engine.device, engine.precision) == ("tiny", "torch", "cpu", "fp32")
    assert engine.labels.classes == ["red", "green", "blue"]

    network = models.load(network_folder)
    with torch.no_grad():
        # Contiguous NCHW, one image at a time: neither channels_last nor the batch may matter.
        expected = torch.cat(
            [
                network.full_logits(torch.tensor(one / 255.0).permute(2, 0, 1)[None].float().contiguous())
                for one in images
            ]
        ).softmax(1)
    np.testing.assert_allclose(engine.probabilities(images), expected, atol=1e-5)
    prediction = engine.infer(images)
    assert len(np.unique(prediction.classes)) > 1
    highest, classes = expected.max(1)
    assert (prediction.classes == classes.numpy()).mean() > 0.999
    assert prediction.classes.dtype == prediction.confidence.dtype == np.uint8
    assert np.abs(prediction.confidence - (highest.numpy() * 255).round()).max() <= 1


def test_torch_engine_takes_what_decoders_give(network_folder: Path) -> None:
    engine = open_engine(network_folder, kind="torch", device="cpu")
    images = photos(1, 40, 40)
    read_only = images.copy()
    read_only.flags.writeable = False
    np.testing.assert_array_equal(engine.infer(read_only).classes, engine.infer(images).classes)
    mirrored = images[:, :, ::-1]
    np.testing.assert_array_equal(engine.infer(mirrored).classes, engine.infer(mirrored.copy()).classes)
    for wrong in (images[0], images.astype(np.float32), images[..., :2], images[:0]):
        with pytest.raises(ValueError, match=r"uint8 \[N, H, W, 3\]"):
            engine.infer(wrong)


@pytest.mark.parametrize("shape", [(1, 32, 48), (3, 17, 5)])
def test_onnxruntime_engine_says_what_the_graph_says(
    make_graph: MakeGraph, rgb_logits: Callable[[np.ndarray], np.ndarray], shape: tuple[int, int, int]
) -> None:
    engine = open_engine(make_graph(), threads=1)
    assert (engine.name, engine.kind, engine.device, engine.precision) == ("rgb", "onnxruntime", "cpu", "fp32")
    assert engine.labels.palette == [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    assert not isinstance(engine, ProbabilityEngine)
    images = photos(*shape)
    prediction = engine.infer(images[:, :, ::-1])
    logits = rgb_logits(images[:, :, ::-1])
    np.testing.assert_array_equal(prediction.classes, logits.argmax(-1))
    softmax = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    assert np.abs(prediction.confidence - (softmax.max(-1) * 255).round()).max() <= 1
    assert prediction.classes.dtype == prediction.confidence.dtype == np.uint8


def test_auto_runs_the_exported_graph_of_a_folder_else_torch(network_folder: Path, make_graph: MakeGraph) -> None:
    assert open_engine(network_folder, device="cpu").kind == "torch"
    message = refused(network_folder, kind="onnxruntime")
    assert str(network_folder / "onnx" / "model.onnx") in message
    assert f"semseg export {network_folder} --to onnx" in message
    make_graph(network_folder / "onnx" / "model.onnx")
    assert open_engine(network_folder).kind == "onnxruntime"
    assert open_engine(network_folder, kind="torch", device="cpu").kind == "torch"


def test_a_rejected_graph_is_not_run(network_folder: Path, make_graph: MakeGraph) -> None:
    make_graph(network_folder / "onnx" / "model.onnx")
    entry = {"verdict": "rejected", "reasons": ["131x127: 3 % of the pixels differ"]}
    write_manifest(network_folder, {"exports": {"onnx/model.onnx": entry}})
    for kind in ("auto", "onnxruntime"):
        with pytest.raises(UserError, match=r"rejected when it was exported: 131x127: 3 % of .* or use --engine torch"):
            open_engine(network_folder, kind)
    assert open_engine(network_folder, "torch").kind == "torch"
    write_manifest(network_folder, {"exports": {"onnx/model.onnx": entry | {"verdict": "passed"}}})
    assert open_engine(network_folder).kind == "onnxruntime"


def test_a_rejected_graph_is_run_when_forced_and_refused_under_its_own_name_too(
    network_folder: Path, make_graph: MakeGraph
) -> None:
    graph = make_graph(network_folder / "onnx" / "model.onnx")
    entry = {"verdict": "rejected", "reasons": ["131x127: 3 % of the pixels differ"]}
    write_manifest(network_folder, {"exports": {"onnx/model.onnx": entry}})
    assert "run it all the same with --force" in refused(graph)
    assert open_engine(graph, force=True).kind == open_engine(network_folder, force=True).kind == "onnxruntime"


def test_a_precision_is_chosen_by_name(network_folder: Path, make_graph: MakeGraph) -> None:
    message = refused(network_folder, precision="int8")
    assert str(network_folder / "onnx" / "model-int8.onnx") in message
    assert f"run `semseg export {network_folder} --to onnx --precision int8 --data DATASET` first" in message
    graph = make_graph(network_folder / "onnx" / "model-int8.onnx")
    metadata = json.loads(onnxruntime.InferenceSession(graph).get_modelmeta().custom_metadata_map["semseg_app"])
    make_graph(graph, metadata={**metadata, "precision": "int8"})
    assert open_engine(network_folder, device="cpu").kind == "torch", "a reduced precision is asked for by name"
    assert open_engine(network_folder, precision="int8").precision == "int8"
    assert open_engine(network_folder, device="cpu", precision="fp32").kind == "torch"
    assert "the torch engine runs in fp32" in refused(network_folder, kind="torch", precision="int8")
    assert "a file has its own precision" in refused(graph, precision="int8")
    assert "auto, fp32, fp16, int8" in refused(network_folder, precision="int4")


def test_misuse_is_one_line(network_folder: Path, make_graph: MakeGraph, tmp_path: Path) -> None:
    graph = make_graph()
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "empty").mkdir()
    assert "no such model folder" in refused(tmp_path / "missing")
    assert "neither a model folder nor an .onnx or .engine file" in refused(tmp_path / "notes.txt")
    assert f"name the folder, {network_folder}" in refused(network_folder / "model.safetensors")
    (tmp_path / "best.pth").write_bytes(b"weights")
    assert "weights alone, without network and classes; train from them" in refused(tmp_path / "best.pth")
    assert "it has no config.json" in refused(tmp_path / "empty")
    assert "give the folder" in refused(graph, kind="torch")
    assert "torch, onnxruntime" in refused(graph, kind="caffe")
    assert "cpu, cuda" in refused(graph, device="tpu")
    shutil.copy(graph, network_folder / "model.safetensors")
    assert "damaged" in refused(network_folder, kind="torch")


@pytest.mark.parametrize("keep", [0, 60, 200])
def test_a_damaged_graph_is_one_line(make_graph: MakeGraph, keep: int, capfd: pytest.CaptureFixture[str]) -> None:
    graph = make_graph()
    graph.write_bytes(graph.read_bytes()[:keep])
    message = refused(graph)
    assert message.startswith(f"{graph}: ")
    assert "export it again" in message
    assert capfd.readouterr() == ("", "")


def test_a_graph_without_our_metadata_is_refused(make_graph: MakeGraph) -> None:
    assert "make it with `semseg export`" in refused(make_graph(metadata=None))
    assert "name: is missing" in refused(make_graph(metadata={"format_version": 1}))
    labels = {"classes": ["one"], "palette": [[0, 0, 0]]}
    newer = {"format_version": 2, "name": "x", "labels": labels, "precision": "fp32", "steps": 10}
    assert "upgrade semseg-app" in refused(make_graph(metadata=newer))
    assert "takes pixels_in tensor(uint8)" in refused(make_graph(images="pixels_in"))


def test_provenance_in_the_metadata_is_allowed(make_graph: MakeGraph) -> None:
    graph = make_graph()
    metadata = json.loads(onnxruntime.InferenceSession(graph).get_modelmeta().custom_metadata_map["semseg_app"])
    assert open_engine(make_graph(metadata={**metadata, "producer": "a test", "precision": "int8"})).precision == "int8"


def test_cuda_that_cannot_be_had_is_an_error_with_its_reason(
    network_folder: Path, make_graph: MakeGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "was built without CUDA" in refused(network_folder, kind="torch", device="cuda")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert "finds no usable GPU or driver" in refused(network_folder, kind="torch", device="cuda")
    assert open_engine(network_folder, kind="torch", device="auto").device == "cpu"
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert "built without CUDA" in refused(make_graph(), device="cuda")


class SessionThatClaims:
    """Opens on the CPU whatever is asked and says otherwise: how ONNX Runtime falls back, and how it could split."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, claims: list[str]):
        real = onnxruntime.InferenceSession

        def opens(path: Path, options: Any, providers: list[str], **keywords: Any) -> onnxruntime.InferenceSession:
            session = real(path, options, providers=["CPUExecutionProvider"], **keywords)
            if "CUDAExecutionProvider" in providers:
                session.get_providers = lambda: claims
            return session

        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
        monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print("Failed to load libcudnn.so.9"))
        monkeypatch.setattr(onnxruntime, "InferenceSession", opens)


def test_onnxruntime_falling_back_to_the_cpu_is_noticed(
    make_graph: MakeGraph, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    SessionThatClaims(monkeypatch, ["CPUExecutionProvider"])
    assert "cannot run on cuda: Failed to load libcudnn.so.9" in refused(make_graph(), device="cuda")
    assert open_engine(make_graph(), device="auto").device == "cpu"
    assert capsys.readouterr().out == ""


def test_heavy_operators_left_to_the_cpu_are_noticed(make_graph: MakeGraph, monkeypatch: pytest.MonkeyPatch) -> None:
    SessionThatClaims(monkeypatch, ["CUDAExecutionProvider", "CPUExecutionProvider"])
    assert "would leave MatMul to the CPU" in refused(make_graph(), device="cuda")
    assert open_engine(make_graph(), device="auto").device == "cpu"


@pytest.mark.gpu
def test_cuda_agrees_with_the_cpu(network_folder: Path) -> None:
    images = photos(2, 65, 97)
    on_gpu = open_engine(network_folder, kind="torch", device="cuda")
    assert on_gpu.device.startswith("cuda:")
    on_cpu = open_engine(network_folder, kind="torch", device="cpu")
    assert (on_gpu.infer(images).classes == on_cpu.infer(images).classes).mean() > 0.99
