"""The TensorRT engine: runs what `semseg export --to tensorrt` compiled for this GPU. Needs cuda-bindings, no torch.

A photo of a bucket's size runs through the bucket's profile: one launch of a CUDA graph that was captured when the
engine was opened. Every other size up to the engine's largest runs through the general profile, with the same result. A
photo is never padded; a batch is, with what lies in memory, and those answers are cut off: the images of a batch do not
see each other.
"""

import hashlib
import importlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from semseg_app.artifact import CONFIG
from semseg_app.errors import UserError
from semseg_app.inference.engines.base import Prediction, check_images
from semseg_app.inference.engines.cuda import Device, first_gpu, load_runtime
from semseg_app.inference.engines.open import refuse_rejected
from semseg_app.inference.engines.plans import (
    Plan,
    Shape,
    check_graph_of,
    choose_plan,
    find_plans,
    pick_profile,
    read_plan,
)
from semseg_app.inference.engines.source import is_of_other_weights, source_of
from semseg_app.inference.engines.tensorrt_probe import PRODUCTS, is_installed, probe, require

IMAGES, CLASSES, CONFIDENCE = "images", "classes", "confidence"


class TensorRTEngine:
    """One compiled engine on the first GPU.

    Args:
        path: the .engine file; its .json lies beside it.
        plan: the contents of that .json.
        session: the engine, loaded.
    """

    kind = "tensorrt"
    device = "cuda:0"

    def __init__(self, path: Path, plan: Plan, session: "Session"):
        self.name = plan.name
        self.labels = plan.labels
        self.precision: str = plan.precision
        self.buckets = [profile.largest for profile in plan.profiles if profile.is_bucket]
        self.largest = plan.profiles[-1].largest
        self._file = path
        self._profiles = plan.profiles
        self._session = session

    def infer(self, images: np.ndarray) -> Prediction:
        """Segment uint8 RGB `[N, H, W, 3]`, H and W up to the engine's largest.

        UserError when they are larger: the line names the size that fits.
        """
        check_images(images)
        height, width = images.shape[1:3]
        profile = pick_profile(self._profiles, height, width)
        if profile is None:
            _, highest, widest = self._profiles[-1].largest
            raise UserError(
                f"{self._file}: takes photos of up to {widest}x{highest}, not {width}x{height}; tile them with "
                f"--tile {min(widest, highest)}, or build it again with a larger one among --buckets"
            )
        most = self._profiles[profile].largest.batch
        parts = [self._session.run(profile, images[start : start + most]) for start in range(0, len(images), most)]
        return Prediction(*(np.concatenate(planes) for planes in zip(*parts, strict=True)))


class Session:
    """A deserialized engine, its memory and its captured shapes. One call at a time.

    Args:
        trt: the binding.
        device: where it runs.
        engine: the serialized engine.
        plan: what it is.

    Raises:
        UserError: TensorRT does not load it; the line says why.
    """

    def __init__(self, trt: Any, device: Device, engine: bytes, plan: Plan):
        self._trt, self._device, self._profiles = trt, device, plan.profiles
        # TensorRT for RTX compiles kernels as shapes come up, and captures graphs at the right moment by itself.
        self._captures = plan.binding == "tensorrt"
        self._log = _error_log(trt)
        self._runtime = trt.Runtime(self._log)
        self._engine = self._runtime.deserialize_cuda_engine(engine)
        if self._engine is None:
            raise UserError(f"{PRODUCTS[plan.binding]} does not load the engine: {self._reason()}; build it again")
        pixels = max(math.prod(profile.largest) for profile in plan.profiles)
        self._pinned = {name: device.pinned(size) for name, size in _sizes(pixels).items()}
        self._memory = {name: device.allocate(size) for name, size in _sizes(pixels).items()}
        # Contexts that never run at once share what they compute in.
        self._scratch_size = self._engine.device_memory_size_v2
        self._scratch = device.allocate(self._scratch_size)
        self._ready: dict[Shape, Callable[[], None]] = {}
        for index, profile in enumerate(plan.profiles):
            for batch in _batches(profile.largest.batch) if profile.is_bucket else ():
                shape = Shape(batch, *profile.largest[1:])
                self._ready[shape] = self._prepare(index, shape)
        self._general = self._context(len(plan.profiles) - 1)

    def run(self, profile: int, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Classes and confidence uint8 `[n, H, W]` of at most a full batch."""
        count, height, width = images.shape[:3]
        if self._profiles[profile].is_bucket:
            batch = next(batch for batch in _batches(self._profiles[profile].largest.batch) if batch >= count)
            shape = Shape(batch, height, width)
            launch = self._ready[shape]
        else:
            shape = Shape(count, height, width)
            self._set_shape(self._general, shape)
            launch = self._work(self._general, shape)
        self._pinned[IMAGES][: images.size].reshape(images.shape)[...] = images
        launch()
        self._device.wait()
        classes, confidence = (
            self._pinned[name][: count * height * width].reshape(count, height, width).copy()
            for name in (CLASSES, CONFIDENCE)
        )
        return classes, confidence

    def _prepare(self, profile: int, shape: Shape) -> Callable[[], None]:
        """A context of its own for one shape, run once; what is captured holds the context's shape and memory."""
        context = self._context(profile)
        self._set_shape(context, shape)
        work = self._work(context, shape)
        work()
        self._device.wait()
        return self._device.capture(work) if self._captures else work

    def _context(self, profile: int) -> Any:
        config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(self._trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if not self._captures:
            config.cuda_graph_strategy = self._trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        context = self._engine.create_execution_context(config)
        if context is None or not context.set_optimization_profile_async(profile, self._device.stream):
            raise RuntimeError(f"TensorRT gives no context for profile {profile}: {self._reason()}")
        self._device.wait()
        context.set_device_memory(self._scratch, self._scratch_size)
        for name, address in self._memory.items():
            context.set_tensor_address(name, address)
        return context

    def _set_shape(self, context: Any, shape: Shape) -> None:
        if not context.set_input_shape(IMAGES, (*shape, 3)):
            raise RuntimeError(f"TensorRT does not take photos of {shape}: {self._reason()}")

    def _work(self, context: Any, shape: Shape) -> Callable[[], None]:
        """What one call puts into the stream: photos up, network, answers down."""
        sizes = _sizes(shape.batch * shape.height * shape.width)

        def work() -> None:
            self._device.upload(self._memory[IMAGES], self._pinned[IMAGES][: sizes[IMAGES]])
            if not context.execute_async_v3(self._device.stream):
                raise RuntimeError(f"TensorRT failed on photos of {shape}: {self._reason()}")
            for name in (CLASSES, CONFIDENCE):
                self._device.download(self._pinned[name][: sizes[name]], self._memory[name])

        return work

    def _reason(self) -> str:
        return self._log.lines[-1] if self._log.lines else "it does not say why"


def open_tensorrt(model: Path, device: str = "auto", precision: str = "auto", force: bool = False) -> TensorRTEngine:
    """The engine of an .engine file, or the one of a model folder that runs here.

    Args:
        model: file or folder.
        device: "auto" or "cuda".
        precision: of the engine in a folder; "auto" = fp16 where there is one.
        force: run an engine that verification rejected all the same.

    UserError with one line when no engine fits, TensorRT or a driver is missing, or the file is not what its JSON says.
    """
    if device == "cpu":
        raise UserError(f"{model}: TensorRT runs on GPUs only; use --engine onnxruntime with --device cpu")
    plans = find_plans(model) if model.is_dir() else {model: read_plan(model)}
    plans = {path: plan for path, plan in plans.items() if precision in ("auto", plan.precision)}
    if not plans:
        wanted, option = ("", "") if precision == "auto" else (f" {precision}", f" --precision {precision}")
        raise UserError(f"{model}: has no{wanted} TensorRT engine; run `semseg export {model} --to tensorrt{option}`")
    bindings = sorted({plan.binding for plan in plans.values()})
    installed = [binding for binding in bindings if is_installed(binding)]
    if not installed:
        require(bindings[0])
    runtime = load_runtime(installed[0])
    gpu = first_gpu(runtime)
    versions = {binding: probe(binding, "Runtime") for binding in installed}
    path = choose_plan(plans, gpu, versions) if model.is_dir() else model
    plan = plans[path]
    if not plan.runs_on(gpu) or versions[plan.binding] != plan.version:
        raise UserError(
            f"{path}: built for {plan.target} with {plan.binding} {plan.version}; here is {gpu.name} (compute "
            f"capability {gpu.capability}) with {plan.binding} {versions[plan.binding]}; build it again here"
        )
    content = path.read_bytes()
    _check_file(path, plan, content)
    if not force:
        refuse_rejected(path)
        _refuse_other_weights(path, plan)
    return TensorRTEngine(path, plan, Session(importlib.import_module(plan.binding), Device(runtime), content, plan))


def _check_file(path: Path, plan: Plan, content: bytes) -> None:
    """UserError when the engine is damaged or was built from an earlier graph than lies beside it."""
    if hashlib.sha256(content).hexdigest() != plan.sha256:
        raise UserError(f"{path}: damaged (not the file that its .json describes); build it again")
    check_graph_of(path, plan)


def _refuse_other_weights(path: Path, plan: Plan) -> None:
    """UserError when the engine in a model folder was made of other weights than the folder has."""
    folder = path.resolve().parent.parent
    graph = folder / plan.graph
    source = plan.source_sha256 or (source_of(graph) if graph.is_file() else None)
    if (folder / CONFIG).is_file() and is_of_other_weights(folder, source):
        raise UserError(
            f"{path}: made of other weights than its model folder has now; run `semseg export {folder} --to tensorrt "
            f"--precision {plan.precision}` again, or run it all the same with --force"
        )


def _batches(largest: int) -> list[int]:
    """The batch sizes that a bucket is captured at: 1, 2, 4 ... and the largest."""
    sizes = [1]
    while sizes[-1] < largest:
        sizes.append(min(2 * sizes[-1], largest))
    return sizes


def _sizes(pixels: int) -> dict[str, int]:
    return {IMAGES: 3 * pixels, CLASSES: pixels, CONFIDENCE: pixels}


def _error_log(trt: Any) -> Any:
    """A logger that keeps the errors, for our one line."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.lines.append(" ".join(message.split()))

    return Log()
