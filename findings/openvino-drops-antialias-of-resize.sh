#!/usr/bin/env bash
# OpenVINO 2026.4.1 on a CPU takes an ONNX Resize with antialias=1, says nothing, and computes it without antialiasing.
# ONNX Runtime 1.32.0 applies it. A graph that shrinks its photo first gives other classes in the two.
# Seen: halving an 8x8 map with values to 255, OpenVINO equals the plain Resize exactly; the two runtimes differ by 34.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet openvino==2026.4.1 onnxruntime==1.32.0 onnx==1.23.2 numpy==2.2.6
venv/bin/python - <<'PY'
import numpy as np
import onnxruntime
import openvino
from onnx import TensorProto, helper


def graph(antialias):
    node = helper.make_node(
        "Resize", ["x", "", "scales"], ["y"], mode="linear", coordinate_transformation_mode="half_pixel", antialias=antialias
    )
    images = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, "h", "w"])
    resized = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    scales = helper.make_tensor("scales", TensorProto.FLOAT, [4], [1, 1, 0.5, 0.5])
    body = helper.make_graph([node], "resize", [images], [resized], [scales])
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()


values = np.random.default_rng(0).integers(0, 256, (1, 1, 8, 8)).astype(np.float32)
smooth, plain = (onnxruntime.InferenceSession(graph(flag)).run(None, {"x": values})[0] for flag in (1, 0))
core = openvino.Core()
compiled = core.compile_model(core.read_model(graph(1)), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
theirs = compiled({"x": values})[0]
print("from ONNX Runtime", np.abs(theirs - smooth).max(), "from a plain Resize", np.abs(theirs - plain).max())
assert np.abs(theirs - smooth).max() > 30
assert np.abs(theirs - plain).max() < 1e-3
PY
