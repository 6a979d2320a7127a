"""The OpenVINO engine: what it refuses, and that it says what the graph says. tests/export/test_openvino.py compares it
with ONNX Runtime on networks."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from support.tiny_models import METADATA

from semseg_app.errors import UserError
from semseg_app.inference.engines.open import open_engine

MakeGraph = Callable[..., Path]


def refused(path: Path, device: str = "auto") -> str:
    with pytest.raises(UserError) as caught:
        open_engine(path, "openvino", device)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("shape", [(1, 32, 48), (3, 17, 5), (2, 1, 1)])
def test_it_says_what_the_graph_says(
    make_graph: MakeGraph, rgb_logits: Callable[[np.ndarray], np.ndarray], shape: tuple[int, int, int]
) -> None:
    engine = open_engine(make_graph(), "openvino", threads=1)
    assert (engine.name, engine.kind, engine.device, engine.precision) == ("rgb", "openvino", "cpu", "fp32")
    assert engine.labels.palette == [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    images = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)[:, :, ::-1]
    first = engine.infer(images)
    logits = rgb_logits(images)
    np.testing.assert_array_equal(first.classes, logits.argmax(-1))
    softmax = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    assert np.abs(first.confidence - (softmax.max(-1) * 255).round()).max() <= 1
    assert first.classes.dtype == first.confidence.dtype == np.uint8
    kept = first.classes.copy()
    engine.infer(255 - images)
    np.testing.assert_array_equal(first.classes, kept)  # not a view of memory that the next call overwrites
    for wrong in (images[0], images.astype(np.float32), images[:0]):
        with pytest.raises(ValueError, match=r"uint8 \[N, H, W, 3\]"):
            engine.infer(wrong)


def test_a_graph_of_one_size_answers_and_survives_a_photo_of_another(make_graph: MakeGraph) -> None:
    graph = make_graph()
    model = onnx.load(graph)
    for value in (*model.graph.input, *model.graph.output):
        for dimension, size in zip(value.type.tensor_type.shape.dim, (1, 8, 16), strict=False):
            dimension.dim_value = size
    onnx.save(model, graph)
    engine = open_engine(graph, "openvino", threads=1)
    for color in range(3):
        photo = np.broadcast_to(np.eye(3, dtype=np.uint8)[color], (1, 8, 16, 3))
        assert np.unique(engine.infer(photo).classes).tolist() == [color]
        with pytest.raises(RuntimeError):
            engine.infer(np.zeros((1, 8, 24, 3), np.uint8))


@pytest.mark.skipif(sys.platform != "linux", reason="reads its own size from /proc")
@pytest.mark.parametrize("calls", [1, 2])
def test_without_memory_it_does_not_give_the_answer_of_the_photo_before(make_graph: MakeGraph, calls: int) -> None:
    """OpenVINO may report no error, leave the last answer where the next one belongs, and give parts of it later."""
    script = f"""
import resource
from pathlib import Path
import numpy as np
from semseg_app.inference.engines.open import open_engine
engine = open_engine({str(make_graph())!r}, "openvino", threads=1, calls={calls})
small, large = np.zeros((1, 64, 128, 3), np.uint8), np.zeros((1, 1024, 2048, 3), np.uint8)
for _ in range(2 * {calls}):
    engine.infer(small)
pages = int(Path("/proc/self/statm").read_text().split()[0])
no_limit = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 8 * 2**20, no_limit[1]))
try:
    engine.infer(large)
except (MemoryError, RuntimeError):
    resource.setrlimit(resource.RLIMIT_AS, no_limit)
    for photo in [small] * 6 + [large] * {calls} + [small]:
        photo[..., 2] = 255
        classes = engine.infer(photo).classes
        assert classes.shape == photo.shape[:3]
        assert (classes == 2).all()
else:
    print("the large photo was answered: there was memory enough")
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (ran.stdout, ran.stderr) == ("", "")


def test_misuse_is_one_line(
    make_graph: MakeGraph, network_folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = make_graph()
    assert "OpenVINO has no NVIDIA GPUs" in refused(graph, "cuda")
    assert f"run `semseg export {network_folder} --to onnx` first" in refused(network_folder)
    assert "make it with `semseg export`" in refused(make_graph(metadata=None))
    assert "takes pixels_in u8" in refused(make_graph(images="pixels_in"))
    assert "computes fp16 graphs in fp32 on a CPU" in refused(make_graph(metadata={**METADATA, "precision": "fp16"}))
    assert "is int8, but OpenVINO runs fp32" in refused(make_graph(metadata={**METADATA, "precision": "int8"}))
    content = make_graph().read_bytes()
    for keep, said in ((0, "names no classes"), (60, "not a graph that OpenVINO loads"), (200, "not a graph")):
        graph.write_bytes(content[:keep])
        assert said in refused(graph)
    assert capfd.readouterr() == ("", "")
    graph.write_bytes(content)
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.delitem(sys.modules, "semseg_app.inference.engines.openvino")
    assert "pip install 'semseg-app[openvino]'" in refused(graph)
