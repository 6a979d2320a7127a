"""Calibration: the range of every activation of a graph on given photos, by onnxruntime.quantization."""

import contextlib
import io
import tempfile
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir
import onnxruntime
from onnxruntime.quantization.calibrate import (
    EntropyCalibrater,
    MinMaxCalibrater,
    PercentileCalibrater,
    TensorsData,
)

from semseg_app.export.verification_set import CalibrationMethod

CALIBRATORS: dict[CalibrationMethod, tuple[type, dict[str, Any]]] = {
    "minmax": (MinMaxCalibrater, {}),
    # As many bins as the tail needs: the range is cut at the edge of a bin.
    "percentile": (PercentileCalibrater, {"num_bins": 4096, "percentile": 99.99}),
    # Migacz, "8-bit Inference with TensorRT", 2017: the range whose 256 levels lose least information. The library's
    # 128 bins would leave it nothing to choose between.
    "entropy": (EntropyCalibrater, {"num_bins": 1024, "num_quantized_bins": 256}),
}


class _OnePhoto:
    """A library's data reader of a single photo: given many, it holds the activations of all of them in memory."""

    def __init__(self, photo: np.ndarray):
        self._waiting = [{"images": photo[None]}]

    def get_next(self) -> dict[str, np.ndarray] | None:
        return self._waiting.pop() if self._waiting else None


def activation_ranges(
    model: onnx_ir.Model,
    photos: Iterable[np.ndarray],
    method: CalibrationMethod = "minmax",
    operators: Collection[str] | None = None,
) -> TensorsData:
    """Lowest and highest value of the float activations of a deployed graph: name -> `.range_value`.

    Args:
        model: the fp32 graph.
        photos: uint8 `[H, W, 3]` of any sizes, at least one.
        method: "minmax" takes all values that occur; the others leave out rare large ones, which would cost the rest
            their precision.
        operators: only the inputs and outputs of these operators; None = every activation.
    """
    calibrator_class, options = CALIBRATORS[method]
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):  # it prints statistics
        plain, watched = Path(folder, "model.onnx"), Path(folder, "watched.onnx")
        onnx_ir.save(model, plain)
        calibrator = calibrator_class(plain, operators and list(operators), watched, **options)
        calibrator.augment_graph()
        session_options = onnxruntime.SessionOptions()
        session_options.log_severity_level = 4
        # Not the library's own session, which runs without any optimization: several times slower for the same values.
        calibrator.infer_session = onnxruntime.InferenceSession(
            watched, session_options, providers=["CPUExecutionProvider"]
        )
        for photo in photos:
            calibrator.collect_data(_OnePhoto(photo))
        return calibrator.compute_data()
