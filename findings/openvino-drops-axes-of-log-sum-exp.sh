#!/usr/bin/env bash
# OpenVINO 2026.4.1 reads the axes of ReduceLogSumExp, ReduceLogSum and ReduceL1 up to opset 12 and from opset 18 on. In
# graphs of opset 13 to 17, which the exporters of most years wrote, it drops them, says nothing, and reduces over the
# whole array. By ONNX `axes` is an attribute of these operators until opset 17. The other reductions are right.
# Seen: class scores of two photos of 8x8 less their ReduceLogSumExp over the classes are log probabilities: exp of them
# sums to 1 in each pixel, in ONNX Runtime 1.32.0 with any opset. With opset 13 to 17 OpenVINO's sum to less than 0.1, and
# to 1 over all pixels of both photos together: the confidence of a photo depends on the photos beside it.
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
from onnx import TensorProto, checker, helper, numpy_helper

scores = np.random.default_rng(0).uniform(1, 2, (2, 4, 8, 8)).astype(np.float32)


def both(operator, opset, less=False):
    """What OpenVINO and ONNX Runtime give for a reduction over the classes, or for the scores less it."""
    as_input = opset >= 18 or (operator == "ReduceSum" and opset >= 13)
    inputs, attributes = (["x", "axes"], {}) if as_input else (["x"], {"axes": [1]})
    nodes = [helper.make_node(operator, inputs, ["reduced"], keepdims=1, **attributes)]
    last, inputs = ("Sub", ["x", "reduced"]) if less else ("Identity", ["reduced"])
    nodes.append(helper.make_node(last, inputs, ["y"]))
    value = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
    constants = [numpy_helper.from_array(np.array([1]), "axes")] if as_input else []
    shape = list(scores.shape) if less else [2, 1, 8, 8]
    graph = helper.make_graph(nodes, "reduce", [value("x", scores.shape)], [value("y", shape)], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    checker.check_model(model, full_check=True)
    core = openvino.Core()
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", options)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return compiled(scores)[0], session.run(None, {"x": scores})[0]


wrong = set()
for operator in (
    "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare"
).split():
    for opset in (11, 12, 13, 14, 15, 16, 17, 18):
        openvinos, other = both(operator, opset)
        assert other.shape == (2, 1, 8, 8)
        if openvinos.shape != other.shape or not np.allclose(openvinos, other, atol=1e-4):
            assert openvinos.size == 1
            wrong.add((operator, opset))
print("reduced over everything:", sorted(wrong))
assert wrong == {(name, opset) for name in ("ReduceL1", "ReduceLogSum", "ReduceLogSumExp") for opset in range(13, 18)}
for opset in (12, 13, 17, 18):
    sums = [np.exp(each).sum(axis=1) for each in both("ReduceLogSumExp", opset, less=True)]
    print("opset", opset, "sum of a pixel's probabilities: OpenVINO", sums[0].max(), "ONNX Runtime", sums[1].max())
    assert np.allclose(sums[1], 1, atol=1e-4)
    if opset in (12, 18):
        assert np.allclose(sums[0], 1, atol=1e-4)
    else:
        assert sums[0].max() < 0.1 and abs(sums[0].sum() - 1) < 1e-3
PY
