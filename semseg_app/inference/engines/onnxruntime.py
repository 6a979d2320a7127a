"""The ONNX Runtime engine: runs the deployed graph (uint8 in, uint8 out) and needs no torch.

On a CPU the graph runs up to its coarse logits, and `Decoder` reads them: the same answer for less time and memory. On
a GPU it runs whole: what comes back from there, two bytes per pixel, is mostly less than the logits.

ONNX Runtime goes on without a word on the CPU when CUDA cannot be had. `open_session` looks at what the session really
got, and at which operators were left to the CPU.
"""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as errors

from semseg_app import machine
from semseg_app.errors import UserError
from semseg_app.inference.engines.base import CLASSES, CONFIDENCE, IMAGES, Engine, Prediction, check_images
from semseg_app.inference.engines.cut_graph import coarse_graph
from semseg_app.inference.engines.decoder import Decoder
from semseg_app.inference.engines.metadata import KEY, parse
from semseg_app.inference.engines.other_onnx import OtherGraph, engine_of

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
HEAVY = (
    "Conv",
    "ConvInteger",
    "ConvTranspose",
    "Gemm",
    "MatMul",
    "MatMulInteger",
    "QLinearConv",
    "QLinearMatMul",
    "Resize",
)
"""Operators that belong on the GPU. ONNX Runtime itself keeps the arithmetic of shapes on the CPU, and does well to."""

LOAD_ERRORS = (
    errors.EPFail,
    errors.Fail,
    errors.InvalidArgument,
    errors.InvalidGraph,
    errors.InvalidProtobuf,
    errors.NoSuchFile,
    errors.NotImplemented,
    errors.RuntimeException,
    RuntimeError,
    ValueError,
)
"""What opening a session raises; the runtime's own errors have no common base."""


class OnnxRuntimeEngine:
    """One exported graph in one session.

    Args:
        path: the .onnx file.
        session: of that file, or of its graph up to the logits.
        threads: CPU threads that read logits; None = `machine.threads`.
    """

    kind = "onnxruntime"

    def __init__(self, path: Path, session: onnxruntime.InferenceSession, threads: int | None = None):
        self._session = session
        metadata = parse(path, self._session.get_modelmeta().custom_metadata_map)
        inputs = {node.name: node.type for node in self._session.get_inputs()}
        outputs = {node.name: node.type for node in self._session.get_outputs()}
        self._logits = metadata.logits if outputs.keys() == {metadata.logits} else None
        self.stride = metadata.stride
        """Photos are padded, right and bottom, to multiples of it."""
        if inputs != {IMAGES: "tensor(uint8)"} or not (self._logits or {CLASSES, CONFIDENCE} <= outputs.keys()):
            raise UserError(
                f"{path}: takes {_list(inputs)} and gives {_list(outputs)}, not uint8 {IMAGES} to {CLASSES}, "
                f"{CONFIDENCE}; export it again with `semseg export`"
            )
        self.name = metadata.name
        self.labels = metadata.labels
        self.precision: str = metadata.precision
        self._decoder = Decoder(metadata.stride, threads)

    @property
    def device(self) -> str:
        """Where the session runs, by its own account at this moment."""
        return "cuda:0" if CUDA in self._session.get_providers() else "cpu"

    def infer(self, images: np.ndarray) -> Prediction:
        """Segment uint8 RGB `[N, H, W, 3]`; any H and W."""
        if self._logits:
            return self._decoder.prediction(self.logits(images), images.shape[1:3])
        classes, confidence = self._run(images, CLASSES, CONFIDENCE)
        return Prediction(classes, confidence)

    def classes(self, images: np.ndarray) -> np.ndarray:
        """The class maps of `infer` alone: uint8 `[N, H, W]`."""
        if self._logits:
            return self._decoder.classes(self.logits(images), images.shape[1:3])
        return self._run(images, CLASSES)[0]

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Coarse logits float32 `[N, C, h, w]` over the padded photos. ValueError unless `gives_logits`."""
        if not self._logits:
            raise ValueError("this graph runs whole and gives no logits")
        return self._run(images, self._logits)[0]

    @property
    def gives_logits(self) -> bool:
        """Whether the graph runs up to its logits, which are read here."""
        return self._logits is not None

    def _run(self, images: np.ndarray, *outputs: str) -> list[np.ndarray]:
        check_images(images)
        results: list[np.ndarray] = self._session.run(outputs, {IMAGES: np.ascontiguousarray(images)})
        return results


def open_graph(path: Path, device: str = "auto", threads: int | None = None, whole: bool = False) -> Engine:
    """The engine of an exported graph, or of a graph of another program that a .yaml file beside it describes.

    Args:
        path: the .onnx file.
        device: "auto", "cpu" or "cuda" (UserError when it cannot be had in full).
        threads: CPU threads; None = `machine.threads`.
        whole: run the file to its end on a CPU too, as other programs do.
    """
    session = open_session(path, device, threads, whole)
    if KEY in session.get_modelmeta().custom_metadata_map:
        return OnnxRuntimeEngine(path, session, threads)
    return engine_of(OtherGraph(path, session))


def open_session(path: Path, device: str, threads: int | None, whole: bool = True) -> onnxruntime.InferenceSession:
    """A session on the device that was asked for; see `open_graph`."""
    reason = "this onnxruntime was built without CUDA; install the extra `gpu` in place of `cpu`"
    if device != "cpu" and CUDA in onnxruntime.get_available_providers():
        with contextlib.redirect_stdout(io.StringIO()) as said:  # it prints what it cannot load
            onnxruntime.preload_dlls()
        try:
            session = _session(path, [CUDA, CPU], threads)
        except LOAD_ERRORS as error:
            reason = _one_line(error)
        else:
            heavy = _heavy_on_cpu(session)
            if CUDA in session.get_providers() and not heavy:
                return session
            reason = (
                f"ONNX Runtime would leave {', '.join(heavy)} to the CPU; use another precision or --device cpu"
                if CUDA in session.get_providers()
                else next(
                    iter(said.getvalue().splitlines()), "ONNX Runtime could not start CUDA and fell back to the CPU"
                )
            )
    if device == "cuda":
        raise UserError(f"{path}: cannot run on cuda: {reason}")
    cut = None if whole else coarse_graph(path)
    try:
        return _session(cut or path, [CPU], threads)
    except LOAD_ERRORS as error:
        raise UserError(f"{path}: not a graph that ONNX Runtime loads ({_one_line(error)}); export it again") from error


def _session(graph: Path | bytes, providers: list[str], threads: int | None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    # Else its threads spin for milliseconds after each run, on cores that decoders and the server could use.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.intra_op_num_threads = threads or machine.threads()
    with _quiet():
        # enable_fallback=0: otherwise a failing provider is replaced, and a notice printed to stdout.
        return onnxruntime.InferenceSession(graph, options, providers=providers, enable_fallback=0)


def _heavy_on_cpu(session: onnxruntime.InferenceSession) -> list[str]:
    """The kinds of heavy operators that the session gave to the CPU, sorted."""
    return sorted(
        {
            node.op_type
            for part in session.get_provider_graph_assignment_info()
            if part.ep_name == CPU
            for node in part.get_nodes()
            if node.op_type in HEAVY
        }
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the runtime's own log lines off stderr: what they say reaches the user in one line of ours."""
    onnxruntime.set_default_logger_severity(4)
    try:
        yield
    finally:
        onnxruntime.set_default_logger_severity(2)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).rsplit("failed:", 1)[-1].split())


def _list(values: dict[str, str]) -> str:
    return ", ".join(f"{name} {kind}" for name, kind in values.items())
