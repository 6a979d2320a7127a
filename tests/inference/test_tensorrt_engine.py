"""The TensorRT engine on a machine without a GPU: selection, refusals, and how it drives TensorRT and CUDA.

`FakeCuda` has real memory and a stream that does nothing until it is waited for, `FakeTensorRT` a network whose every
answer depends on the whole photo: padding one would show. Both have only names that the true modules have.
"""

import ctypes
import gc
import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorrt_rtx
from cuda.bindings import runtime as true_cuda
from support.tiny_models import METADATA

from semseg_app import artifact
from semseg_app.artifact import ModelConfig
from semseg_app.errors import UserError
from semseg_app.inference.engines import cuda
from semseg_app.inference.engines import tensorrt as module
from semseg_app.inference.engines.open import open_engine
from semseg_app.inference.engines.plans import Gpu, Plan, Profile, Shape, choose_plan, pick_profile
from semseg_app.inference.engines.tensorrt import Session, TensorRTEngine, open_tensorrt
from semseg_app.labels import LabelSpace
from semseg_app.model_spec import ModelSpec

SMALL, WIDE = (4, 6), (3, 8)
PROFILES = [
    Profile(Shape(1, *SMALL), Shape(4, *SMALL), Shape(4, *SMALL)),
    Profile(Shape(1, *WIDE), Shape(4, *WIDE), Shape(4, *WIDE)),
    Profile(Shape(1, 1, 1), Shape(4, *SMALL), Shape(4, 5, 8)),
]
L4 = Gpu("NVIDIA L4", "8.9")


def network(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every pixel's answer depends on its whole photo, and on no other photo."""
    whole = images.astype(np.int64).sum(axis=(1, 2, 3), keepdims=True)
    return ((images[..., 0] + whole[..., 0]) % 11).astype(np.uint8), (images[..., 1] ^ images[..., 2]).astype(np.uint8)


def photos(count: int, size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, *size, 3), np.uint8)


class FakeCuda:
    cudaStreamNonBlocking = 1
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    def __init__(self) -> None:
        self.blocks: dict[int, Any] = {}
        self.queue: list[Callable[[], None]] = []
        self.recording: list[Callable[[], None]] | None = None
        self.launches = 0
        self.graphs = 0

    def put(self, work: Callable[[], None]) -> None:
        (self.queue if self.recording is None else self.recording).append(work)

    def cudaGetErrorString(self, error: int) -> tuple[int, bytes]:
        return 0, b"out of memory"

    def cudaGetDeviceCount(self) -> tuple[int, int]:
        return 0, 1

    def cudaGetDeviceProperties(self, index: int) -> tuple[int, Any]:
        return 0, SimpleNamespace(name=L4.name.encode() + b"\0" * 8, major=8, minor=9)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[int, int]:
        return 0, 7

    def cudaMalloc(self, size: int) -> tuple[int, int]:
        if size > 10_000_000:
            return 2, 0
        block = ctypes.create_string_buffer(size)
        self.blocks[ctypes.addressof(block)] = block
        return 0, ctypes.addressof(block)

    cudaMallocHost = cudaMalloc

    def cudaFree(self, address: int) -> tuple[int]:
        del self.blocks[address]
        return (0,)

    cudaFreeHost = cudaFree

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: int, stream: int) -> tuple[int]:
        assert stream == 7
        self.put(lambda: ctypes.memmove(target, source, size))
        return (0,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[int]:
        assert self.recording is None, "a capture that is waited for fails"
        while self.queue:
            self.queue.pop(0)()
        return (0,)

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> tuple[int]:
        self.recording = []
        return (0,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[int, list[Callable[[], None]]]:
        recorded, self.recording = self.recording, None
        assert recorded
        return 0, recorded

    def cudaGraphInstantiate(self, graph: Any, flags: int) -> tuple[int, Any]:
        self.graphs += 1
        return 0, list(graph)

    def cudaGraphDestroy(self, graph: Any) -> tuple[int]:
        return (0,)

    def cudaGraphExecDestroy(self, launchable: Any) -> tuple[int]:
        self.graphs -= 1
        return (0,)

    def cudaGraphLaunch(self, launchable: Any, stream: int) -> tuple[int]:
        self.launches += 1
        self.queue.extend(launchable)
        return (0,)


class FakeContext:
    def __init__(self, cuda: FakeCuda, config: Any) -> None:
        self._cuda, self._config = cuda, config
        self._addresses: dict[str, int] = {}
        self._shape: tuple[int, ...] = ()
        self._scratch = self._profile = -1

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        self._profile = index
        return stream == 7

    def set_device_memory(self, address: int, size: int) -> None:
        assert size == 512
        self._scratch = address

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        lowest, _, highest = PROFILES[self._profile]
        self._shape = shape
        return all(low <= side <= high for low, side, high in zip(lowest, shape, highest, strict=False))

    def execute_async_v3(self, stream: int) -> bool:
        shape, addresses = self._shape, self._addresses
        assert self._scratch in self._cuda.blocks
        assert stream == 7

        def work() -> None:
            size = int(np.prod(shape))
            images = np.frombuffer(ctypes.string_at(addresses["images"], size), np.uint8).reshape(shape)
            for name, values in zip(("classes", "confidence"), network(images), strict=True):
                ctypes.memmove(addresses[name], values.tobytes(), values.size)

        self._cuda.put(work)
        return True


class FakeEngine:
    device_memory_size_v2 = 512

    def __init__(self, cuda: FakeCuda) -> None:
        self._cuda = cuda
        self._configs: list[Any] = []

    def create_runtime_config(self) -> Any:
        config = SimpleNamespace(cuda_graph_strategy=None, set_execution_context_allocation_strategy=lambda how: None)
        self._configs.append(config)
        return config

    def create_execution_context(self, config: Any) -> FakeContext:
        return FakeContext(self._cuda, config)


class FakeLogger:
    ERROR, INTERNAL_ERROR = "error", "internal"


class FakeTensorRT:
    ILogger = FakeLogger
    ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="user")
    CudaGraphStrategy = SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole")

    def __init__(self, cuda: FakeCuda) -> None:
        self.engines: list[FakeEngine] = []
        self._cuda = cuda

    def Runtime(self, log: Any) -> Any:
        def deserialize_cuda_engine(content: bytes) -> FakeEngine | None:
            if content != b"engine":
                log.log("error", "wrong magic\n number")
                return None
            self.engines.append(FakeEngine(self._cuda))
            return self.engines[-1]

        return SimpleNamespace(deserialize_cuda_engine=deserialize_cuda_engine)


def plan(**changes: Any) -> Plan:
    values = {
        "name": "fake",
        "labels": LabelSpace(classes=["a", "b"], palette=[(0, 0, 0), (1, 1, 1)]),
        "precision": "fp16",
        "binding": "tensorrt",
        "version": "11.4.0",
        "gpu": L4.name,
        "capabilities": ["8.9"],
        "profiles": PROFILES,
        "graph": "onnx/model-fp16.onnx",
        "graph_sha256": hashlib.sha256(b"graph").hexdigest(),
        "sha256": hashlib.sha256(b"engine").hexdigest(),
        "key": "0123",
        "layers": {"fp16": 2},
        "layers_read_from": "engine inspector",
        "seconds": 1.0,
    }
    return Plan.model_validate(values | changes)


def engine_on(fake: FakeCuda, **changes: Any) -> TensorRTEngine:
    described = plan(**changes)
    session = Session(FakeTensorRT(fake), cuda.Device(fake), b"engine", described)
    return TensorRTEngine(Path("m/tensorrt/x.engine"), described, session)


def assert_equals_the_network(engine: TensorRTEngine, images: np.ndarray) -> None:
    prediction = engine.infer(images)
    for found, expected in zip(prediction, network(images), strict=True):
        np.testing.assert_array_equal(found, expected)


# --- running ---------------------------------------------------------------------------------------------------------


def test_fakes_have_only_names_that_the_true_modules_have() -> None:
    def named(fake: Any) -> set[str]:
        return {name for name in vars(fake) if not name.startswith("_")}

    own = {"put", "blocks", "queue", "recording", "launches", "graphs"}
    assert named(FakeCuda) - own <= set(dir(true_cuda))
    for group in ("cudaMemcpyKind", "cudaStreamCaptureMode"):
        assert set(vars(getattr(FakeCuda, group))) <= set(dir(getattr(true_cuda, group)))
    assert named(FakeContext) <= set(dir(tensorrt_rtx.IExecutionContext))
    assert named(FakeEngine) <= set(dir(tensorrt_rtx.ICudaEngine))
    assert named(FakeTensorRT) <= set(dir(tensorrt_rtx))
    assert named(FakeLogger) <= set(dir(tensorrt_rtx.ILogger))
    config = FakeEngine(FakeCuda()).create_runtime_config()
    assert set(vars(config)) <= set(dir(tensorrt_rtx.IRuntimeConfig))
    assert "deserialize_cuda_engine" in dir(tensorrt_rtx.Runtime)
    for group in ("ExecutionContextAllocationStrategy", "CudaGraphStrategy"):
        assert set(vars(getattr(FakeTensorRT, group))) <= set(dir(getattr(tensorrt_rtx, group)))


@pytest.mark.parametrize("size", [SMALL, WIDE, (5, 8), (1, 1), (4, 5), (2, 7)])
@pytest.mark.parametrize("count", [1, 3, 4, 9])
def test_every_size_and_batch_is_answered_at_its_own_size(size: tuple[int, int], count: int) -> None:
    engine = engine_on(FakeCuda())
    for _ in range(2):  # answers of the first call must not shine through
        assert_equals_the_network(engine, photos(count, size))
    assert_equals_the_network(engine, photos(1, size)[:, ::-1])  # a view with negative strides


def test_a_bucket_is_one_launch_of_a_graph_that_was_captured_on_opening() -> None:
    fake = FakeCuda()
    engine = engine_on(fake)
    assert (fake.graphs, fake.launches) == (6, 0), "batches of 1, 2 and 4 of two buckets"
    engine.infer(photos(3, SMALL))
    assert fake.launches == 1
    engine.infer(photos(9, SMALL))
    assert fake.launches == 4, "4 + 4 + 1"
    engine.infer(photos(1, (4, 5)))
    assert fake.launches == 4, "no bucket: no graph"


def test_tensorrt_for_rtx_captures_by_itself() -> None:
    fake = FakeCuda()
    described = plan(binding="tensorrt_rtx", gpu=None)
    trt = FakeTensorRT(fake)
    session = Session(trt, cuda.Device(fake), b"engine", described)
    assert_equals_the_network(TensorRTEngine(Path("x.engine"), described, session), photos(3, SMALL))
    assert fake.graphs == 0
    assert {config.cuda_graph_strategy for config in trt.engines[0]._configs} == {"whole"}


def test_memory_is_given_back_with_the_engine() -> None:
    fake = FakeCuda()
    engine = engine_on(fake)
    assert len(fake.blocks) == 7, "three tensors here and there, and what the contexts share"
    del engine
    gc.collect()
    assert (len(fake.blocks), fake.graphs) == (0, 0)


def test_engine_says_what_it_is_and_refuses_what_it_was_not_built_for() -> None:
    engine = engine_on(FakeCuda())
    assert (engine.kind, engine.device, engine.precision, engine.name) == ("tensorrt", "cuda:0", "fp16", "fake")
    with pytest.raises(UserError, match=r"x\.engine: takes photos of up to 8x5, not 9x4; tile them with --tile 5"):
        engine.infer(photos(1, (4, 9)))
    with pytest.raises(ValueError, match=r"images are uint8 \[N, H, W, 3\]"):
        engine.infer(np.zeros((1, 4, 6, 3), np.float32))


def test_failures_of_tensorrt_and_cuda_are_told_in_their_words() -> None:
    fake = FakeCuda()
    with pytest.raises(UserError, match=r"TensorRT does not load the engine: wrong magic number; build it again"):
        Session(FakeTensorRT(fake), cuda.Device(fake), b"other", plan())
    with pytest.raises(RuntimeError, match="out of memory"):
        cuda.Device(fake).allocate(20_000_000)


# --- choosing --------------------------------------------------------------------------------------------------------


def test_profile_is_the_bucket_of_this_size_else_the_smallest_that_holds_it() -> None:
    assert [pick_profile(PROFILES, *size) for size in (SMALL, WIDE, (5, 8), (1, 1), (3, 6))] == [0, 1, 2, 2, 2]
    assert pick_profile(PROFILES, 6, 6) is None
    assert pick_profile(PROFILES, 3, 9) is None


def test_folder_runs_the_engine_of_this_gpu_and_version_fp16_first() -> None:
    plans = {
        Path("m/tensorrt/a.engine"): plan(precision="fp32"),
        Path("m/tensorrt/b.engine"): plan(precision="int8"),
        Path("m/tensorrt/c.engine"): plan(gpu="NVIDIA A10", capabilities=["8.6"]),
        Path("m/tensorrt/d.engine"): plan(version="11.3.0"),
        Path("m/tensorrt/e.engine"): plan(binding="tensorrt_rtx", version="1.7", gpu=None, capabilities=["8.6", "8.9"]),
    }
    versions = {"tensorrt": "11.4.0", "tensorrt_rtx": "1.7"}
    assert choose_plan(plans, L4, versions).name == "e.engine"
    assert choose_plan(plans, L4, {"tensorrt": "11.4.0"}).name == "b.engine"
    assert choose_plan(plans, Gpu("NVIDIA A10", "8.6"), {"tensorrt": "11.4.0"}).name == "c.engine"
    assert choose_plan(plans, Gpu("NVIDIA RTX A2000", "8.6"), versions).name == "e.engine"
    with pytest.raises(UserError, match=r"no engine for NVIDIA H200 \(compute capability 9\.0\) with tensorrt 11"):
        choose_plan(plans, Gpu("NVIDIA H200", "9.0"), {"tensorrt": "11.4.0"})


# --- opening ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder with one engine, and the graph that it was built from."""
    root = tmp_path / "m"
    for name in ("tensorrt", "onnx"):
        (root / name).mkdir(parents=True)
    spec = ModelSpec(architecture="unet", encoder="tu-test_resnet", num_classes=2)
    config = ModelConfig(name="fake", model=spec, labels=plan().labels)
    (root / "config.json").write_text(config.model_dump_json())
    (root / "onnx" / "model-fp16.onnx").write_bytes(b"graph")
    (root / "tensorrt" / "x.engine").write_bytes(b"engine")
    (root / "tensorrt" / "x.json").write_text(plan().model_dump_json())
    return root


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """A machine with an L4 and TensorRT 11.4."""
    fake = FakeCuda()
    monkeypatch.setattr(module, "load_runtime", lambda binding: fake)
    monkeypatch.setattr(module, "is_installed", lambda binding: binding == "tensorrt")
    monkeypatch.setattr(module, "probe", lambda binding, needed: "11.4.0")
    monkeypatch.setitem(sys.modules, "tensorrt", FakeTensorRT(fake))
    return fake


def test_folder_and_file_open_by_the_same_door(folder: Path, gpu: FakeCuda) -> None:
    for path, kind in ((folder, "tensorrt"), (folder / "tensorrt" / "x.engine", "auto")):
        engine = open_engine(path, kind, "cuda")
        assert isinstance(engine, TensorRTEngine)
        assert_equals_the_network(engine, photos(2, SMALL))
    assert open_engine(folder, "tensorrt", precision="fp16").precision == "fp16"
    with pytest.raises(UserError, match=r"m: has no int8 TensorRT engine; run `semseg export .* --precision int8`"):
        open_engine(folder, "tensorrt", precision="int8")


def test_engine_that_is_not_what_it_should_be_is_refused(folder: Path, gpu: FakeCuda) -> None:
    engine, described = folder / "tensorrt" / "x.engine", folder / "tensorrt" / "x.json"
    artifact.write_manifest(folder, {"exports": {"tensorrt/x.engine": {"verdict": "rejected", "reasons": ["bad"]}}})
    with pytest.raises(UserError, match=r"x\.engine: rejected when it was exported: bad"):
        open_engine(folder, "tensorrt")
    assert open_engine(folder, "tensorrt", force=True).name == "fake"
    (folder / "onnx" / "model-fp16.onnx").write_bytes(b"newer graph")
    with pytest.raises(UserError, match=r"x\.engine: was built from an earlier onnx/model-fp16\.onnx"):
        open_engine(engine)
    engine.write_bytes(b"half")
    with pytest.raises(UserError, match=r"x\.engine: damaged"):
        open_engine(engine)
    described.write_text(plan(version="11.3.0").model_dump_json())
    with pytest.raises(UserError, match=r"built for NVIDIA L4 with tensorrt 11\.3\.0; here is NVIDIA L4 .* 11\.4\.0"):
        open_engine(engine)
    described.write_text("{}")
    with pytest.raises(UserError, match=r"x\.json: "):
        open_engine(engine)
    described.unlink()
    with pytest.raises(UserError, match=r"x\.engine: has no x\.json beside it"):
        open_engine(engine)


@pytest.mark.parametrize("told_by", ["plan", "graph"])
def test_engine_of_earlier_weights_is_refused(
    folder: Path, gpu: FakeCuda, told_by: str, make_graph: Callable[..., Path]
) -> None:
    engine, described, graph = (folder / name for name in ("tensorrt/x.engine", "tensorrt/x.json", plan().graph))
    artifact.write_manifest(folder, {"weights": {"sha256": "new"}, "exports": {}})
    if told_by == "plan":
        graph.unlink()
        described.write_text(plan(source_sha256="old").model_dump_json())
    else:  # the engine of an earlier release
        make_graph(graph, {**METADATA, "source_sha256": "old"})
        described.write_text(plan(graph_sha256=hashlib.sha256(graph.read_bytes()).hexdigest()).model_dump_json())
    for path in (folder, engine):
        with pytest.raises(
            UserError, match=r"x\.engine: made of other weights .* --to tensorrt --precision fp16` again"
        ):
            open_engine(path, "tensorrt")
    assert open_engine(folder, "tensorrt", force=True).name == "fake"
    artifact.write_manifest(folder, {"weights": {"sha256": "old"}, "exports": {}})
    assert open_engine(folder, "tensorrt").name == "fake"


def test_what_is_missing_is_said_in_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = folder / "tensorrt" / "x.engine"
    with pytest.raises(UserError, match=r"TensorRT is not installed: pip install 'semseg-app\[gpu\]'"):
        open_engine(engine)
    with pytest.raises(UserError, match="TensorRT runs on GPUs only; use --engine onnxruntime with --device cpu"):
        open_engine(engine, device="cpu")
    with pytest.raises(UserError, match=r"x\.engine: --engine tensorrt and \.engine files go together"):
        open_engine(engine, "onnxruntime")
    monkeypatch.setattr(module, "is_installed", lambda binding: True)
    monkeypatch.setattr(true_cuda, "cudaGetDeviceCount", lambda: (true_cuda.cudaError_t.cudaErrorInsufficientDriver, 0))
    with pytest.raises(UserError, match=r"needs an NVIDIA GPU, and none can be used here: CUDA driver version is ins"):
        open_engine(engine)
    monkeypatch.setattr(true_cuda, "cudaGetDeviceCount", lambda: (true_cuda.cudaError_t.cudaSuccess, 0))
    with pytest.raises(UserError, match="needs an NVIDIA GPU, and this machine has none"):
        open_engine(engine)
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(UserError, match=r"TensorRT's engines need cuda-bindings .*pip install 'semseg-app\[gpu\]'"):
        open_engine(engine)
    engine.unlink()
    with pytest.raises(UserError, match=r"m: has no TensorRT engine; run `semseg export .* --to tensorrt`"):
        open_engine(folder, "tensorrt")


@pytest.mark.gpu
def test_engine_of_this_machine_answers_as_its_graph_does(tmp_path: Path) -> None:
    """Give SEMSEG_MODEL: a model folder with an engine that was built on this machine."""
    folder = Path(os.environ["SEMSEG_MODEL"])
    engine, graph = open_tensorrt(folder), open_engine(folder, "onnxruntime", "cpu")
    _, height, width = engine._profiles[-1].largest
    for size in ((height, width), (height // 2 + 1, width // 3 + 1), *(one.largest[1:] for one in engine._profiles)):
        images = photos(3, size)
        assert (engine.infer(images).classes == graph.infer(images).classes).mean() > 0.99
