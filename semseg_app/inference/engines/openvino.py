"""The OpenVINO engine: runs the deployed graph on a CPU, straight from the .onnx file, and needs no torch.

The graph runs up to its coarse logits, and `Decoder` reads them: the same answer for less time and memory.

Left to itself, OpenVINO computes an fp32 graph in bfloat16 on CPUs that can, and half a percent of the pixels change.
Here it is told fp32, and the compiled graph is asked what it really runs.
"""

import contextlib
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import openvino
from openvino.frontend import (
    FrontEndManager,
    GeneralFailure,
    InitializationFailure,
    NotImplementedFailure,
    OpConversionFailure,
    OpValidationFailure,
)

from semseg_app import machine
from semseg_app.errors import UserError
from semseg_app.inference.engines.base import CLASSES, CONFIDENCE, IMAGES, Prediction, check_images
from semseg_app.inference.engines.decoder import Decoder
from semseg_app.inference.engines.metadata import KEY, parse

HEAVY = ("Convolution", "Deconvolution", "FullyConnected", "MatMul")
"""Kinds of layers, as OpenVINO names them in a compiled graph, whose arithmetic makes a precision."""
LOAD_ERRORS = (
    GeneralFailure,
    InitializationFailure,
    NotImplementedFailure,
    OpConversionFailure,
    OpValidationFailure,
    RuntimeError,
)
"""What reading and compiling a graph raise; the reader's own errors have no common base."""
WORDS = {"f32": "fp32", "f16": "fp16", "bf16": "bf16", "u8": "int8", "i8": "int8"}
"""OpenVINO's name of a precision -> ours."""


class OpenVinoEngine:
    """One exported graph, fp32 or int8, compiled for the CPU.

    Args:
        path: the .onnx file.
        device: "auto" or "cpu"; "cuda" is a UserError.
        threads: of each call; None = `machine.threads`.
        calls: how many it may get at once.
    """

    kind = "openvino"
    device = "cpu"

    def __init__(self, path: Path, device: str = "auto", threads: int | None = None, calls: int = 1):
        if device == "cuda":
            raise UserError(f"{path}: cannot run on cuda: OpenVINO has no NVIDIA GPUs; use --engine onnxruntime")
        try:
            # Not core.read_model, which tries the reader of every other framework on a damaged file, loudly.
            reader = FrontEndManager().load_by_framework("onnx")
            model = reader.convert(reader.load(str(path)))
            carried = model.has_rt_info(["framework", KEY])
            properties = {KEY: model.get_rt_info(["framework", KEY]).astype(str)} if carried else {}
            metadata = parse(path, properties)
            if metadata.precision not in ("fp32", "int8"):
                raise UserError(
                    f"{path}: OpenVINO computes {metadata.precision} graphs in fp32 on a CPU; run the fp32 or int8 one"
                )
            _check_interface(path, model)
            cut = _up_to_logits(model, metadata.logits)
            # Not one graph with streams: a request runs on any stream, and a failure does not say which it spoiled.
            core, options = openvino.Core(), _options(threads or machine.threads())
            compiled = [core.compile_model(cut or model, "CPU", options) for _ in range(calls)]
        except LOAD_ERRORS as error:
            raise UserError(
                f"{path}: not a graph that OpenVINO loads ({_one_line(error)}); export it again, or use "
                "--engine onnxruntime"
            ) from error
        _check_precision(path, compiled[0], metadata.precision)
        self._requests: SimpleQueue[tuple[Any, bool]] = SimpleQueue()
        """Those that wait for a call, and whether the last one ended well."""
        for each in compiled:
            self._requests.put((each.create_infer_request(), True))
        self.name = metadata.name
        self.labels = metadata.labels
        self.precision: str = metadata.precision
        self._decoder = Decoder(metadata.stride, threads) if cut else None

    def infer(self, images: np.ndarray) -> Prediction:
        """Segment uint8 RGB `[N, H, W, 3]`; any H and W."""
        results = self._run(images)
        if self._decoder:
            return self._decoder.prediction(results[0], images.shape[1:3])
        return Prediction(results[CLASSES], results[CONFIDENCE])

    def classes(self, images: np.ndarray) -> np.ndarray:
        """The class maps of `infer` alone: uint8 `[N, H, W]`."""
        results = self._run(images)
        if self._decoder:
            return self._decoder.classes(results[0], images.shape[1:3])
        classes: np.ndarray = results[CLASSES]
        return classes

    def _run(self, images: np.ndarray) -> Any:
        check_images(images)
        request, sound = self._requests.get()
        try:
            if not sound:
                _clear(request)
            sound = False
            results = _answer(request, np.ascontiguousarray(images))
            sound = True
            return results
        finally:
            self._requests.put((request, sound))


def _answer(request: Any, images: np.ndarray) -> Any:
    """Copies of all outputs. MemoryError where there are none.

    Without memory, `infer` may say nothing and leave the last answer; so the outputs are emptied before. Those of a
    fixed size have their memory already.
    """
    for port in request.model_outputs:
        if port.partial_shape.is_dynamic:
            request.set_tensor(port, openvino.Tensor(port.element_type, [0] * len(port.partial_shape)))
    results = request.infer({IMAGES: images})
    if not all(results[index].size for index in range(len(results))):
        raise MemoryError("OpenVINO gave no answer; most likely memory ran out")
    return results


def _clear(request: Any) -> None:
    """Run over what a failed call has left half done, which would end up in the next answer of its size.

    A photo of another size does so. Two, because the first may have the size of the failed call, or fail, too.
    """
    (port,) = request.model_inputs
    small, other = (
        np.zeros(
            [side if dimension.is_dynamic else dimension.get_length() for dimension in port.partial_shape], np.uint8
        )
        for side in (1, 33)
    )
    with contextlib.suppress(MemoryError, RuntimeError):
        _answer(request, small)
    _answer(request, other)


def _up_to_logits(model: Any, logits: str | None) -> Any:
    """The graph whose only output is the named value; None where it has no such value."""
    outputs = (output for node in model.get_ordered_ops() for output in node.outputs() if logits in output.get_names())
    found = next(outputs, None)
    return None if found is None else openvino.Model([found], model.get_parameters(), model.get_friendly_name())


def _options(threads: int) -> dict[str, Any]:
    return {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        # Pinned threads of two processes share the first cores, and leave the others idle.
        "ENABLE_CPU_PINNING": False,
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
    }


def _check_interface(path: Path, model: Any) -> None:
    inputs = {port.any_name: port.element_type.get_type_name() for port in model.inputs}
    outputs = {port.any_name: port.element_type.get_type_name() for port in model.outputs}
    if inputs != {IMAGES: "u8"} or not {CLASSES, CONFIDENCE} <= outputs.keys():
        raise UserError(
            f"{path}: takes {_list(inputs)} and gives {_list(outputs)}, not u8 {IMAGES} to {CLASSES}, {CONFIDENCE}; "
            "export it again with `semseg export`"
        )


def _check_precision(path: Path, compiled: Any, precision: str) -> None:
    """UserError unless heavy layers run in `precision`; in int8, those that the export left float run in fp32."""
    found = set()
    for layer in compiled.get_runtime_model().get_ordered_ops():
        described = layer.get_rt_info()
        if described["layerType"].astype(str) in HEAVY:
            name = described["runtimePrecision"].astype(str)
            found.add(WORDS.get(name, name))
    allowed = {"int8", "fp32"} if precision == "int8" else {precision}
    if found and (precision not in found or not found <= allowed):
        raise UserError(
            f"{path}: is {precision}, but OpenVINO runs {', '.join(sorted(found))} on this CPU; "
            "use --engine onnxruntime"
        )


def _one_line(error: Exception) -> str:
    """OpenVINO's reason stands in its last line, below where in its source it was found."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _list(values: dict[str, str]) -> str:
    return ", ".join(f"{name} {kind}" for name, kind in values.items())
