"""The few calls of the CUDA runtime that an engine needs, by way of cuda-bindings: no torch.

The runtime is a module in the shape of `cuda.bindings.runtime`, whose functions return (error, *values).
"""

import ctypes
import weakref
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np

from semseg_app.errors import UserError
from semseg_app.inference.engines.plans import Gpu

INSTALL = {"tensorrt": "pip install 'semseg-app[gpu]'", "tensorrt_rtx": "pip install 'semseg-app[rtx]'"}
"""Binding -> what installs it and cuda-bindings."""


def load_runtime(binding: str) -> ModuleType:
    """cuda.bindings.runtime. UserError where it is not installed."""
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise UserError(f"TensorRT's engines need cuda-bindings ({error}): {INSTALL[binding]}") from error
    module: ModuleType = runtime
    return module


def first_gpu(runtime: Any) -> Gpu:
    """The GPU that engines run on. UserError with the driver's reason if no GPU works."""
    try:
        count = call(runtime, runtime.cudaGetDeviceCount)
        properties = call(runtime, runtime.cudaGetDeviceProperties, 0) if count else None
    except RuntimeError as error:
        raise UserError(
            f"TensorRT needs an NVIDIA GPU, and none can be used here: {error}; install NVIDIA's driver, release 580 "
            "or newer"
        ) from error
    if properties is None:
        raise UserError("TensorRT needs an NVIDIA GPU, and this machine has none")
    return Gpu(properties.name.split(b"\0")[0].decode(), f"{properties.major}.{properties.minor}")


def call(runtime: Any, function: Callable[..., tuple[Any, ...]], *arguments: Any) -> Any:
    """The value that a function of the runtime gives, if any. RuntimeError with CUDA's words when it fails."""
    error, *values = function(*arguments)
    if int(error):
        _, words = runtime.cudaGetErrorString(error)
        raise RuntimeError(words.decode())
    return values[0] if values else None


class Device:
    """One stream of one GPU, and the memory that was taken through this object; it is freed with it."""

    def __init__(self, runtime: Any):
        self._runtime = runtime
        self._releases: list[Callable[[], Any]] = []  # none of them may hold on to this object
        # Nothing captured may touch the default stream, which waits for every other.
        self._stream = self._call("cudaStreamCreateWithFlags", runtime.cudaStreamNonBlocking)
        self.stream = int(self._stream)
        weakref.finalize(self, _release, self._releases)

    def allocate(self, size: int) -> int:
        """Address of `size` bytes on the GPU."""
        address = int(self._call("cudaMalloc", max(size, 1)))
        self._releases.append(partial(self._runtime.cudaFree, address))
        return address

    def pinned(self, size: int) -> np.ndarray:
        """uint8 `[size]` in memory that the GPU reads and writes by itself."""
        address = int(self._call("cudaMallocHost", max(size, 1)))
        self._releases.append(partial(self._runtime.cudaFreeHost, address))
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def upload(self, target: int, source: np.ndarray) -> None:
        """Copy pinned bytes to the GPU, in the order of the stream."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", target, source.ctypes.data, source.nbytes, kind, self._stream)

    def download(self, target: np.ndarray, source: int) -> None:
        """Copy bytes from the GPU to pinned memory, in the order of the stream."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", target.ctypes.data, source, target.nbytes, kind, self._stream)

    def wait(self) -> None:
        """Until everything in the stream is done."""
        self._call("cudaStreamSynchronize", self._stream)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record what `work` puts into the stream, without running it: the returned function runs it in one launch."""
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", self._stream, mode)
        try:
            work()
        finally:
            graph = self._call("cudaStreamEndCapture", self._stream)
        launchable = self._call("cudaGraphInstantiate", graph, 0)
        self._call("cudaGraphDestroy", graph)
        self._releases.append(partial(self._runtime.cudaGraphExecDestroy, launchable))
        return lambda: self._call("cudaGraphLaunch", launchable, self._stream)

    def _call(self, name: str, *arguments: Any) -> Any:
        return call(self._runtime, getattr(self._runtime, name), *arguments)


def _release(releases: list[Callable[[], Any]]) -> None:
    while releases:
        releases.pop()()
