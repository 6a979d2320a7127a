#!/usr/bin/env bash
# onnxslim 0.1.98 folds a multiplication after a convolution into its weights wherever the constant has as many numbers as
# the convolution has channels, along whatever axis they lie. Where a feature map is as wide (or as high) as it has
# channels, a weight for each column (row) becomes a weight for each channel: another network, without a word. By ONNX's
# broadcasting a constant of shape [8] lies along the columns. onnxslim's own Add of the same shapes is left as it is.
# Seen: 8 channels of 8x8 and a constant of shape [8], [1, 1, 1, 8] or [1, 1, 8, 1]: the largest difference is above 1;
# of shape [8, 1, 1], which is one for each channel, below 1e-5. A ReLU between the two keeps all right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet onnxslim==0.1.98 onnx==1.23.2 numpy==2.2.6
venv/bin/python - <<'PY'
import numpy as np
import onnx
import onnxslim
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

random = np.random.default_rng(0)
photo = random.normal(size=(1, 3, 8, 8)).astype(np.float32)
weight = random.normal(size=(8, 3, 1, 1)).astype(np.float32)
factors = random.normal(size=8).astype(np.float32)


def difference(operator, shape, relu=False):
    nodes = [helper.make_node("Conv", ["x", "weight"], ["features"])]
    if relu:
        nodes.append(helper.make_node("Relu", ["features"], ["positive"]))
    nodes.append(helper.make_node(operator, [nodes[-1].output[0], "factors"], ["y"]))
    constants = [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(factors.reshape(shape), "factors")]
    value = lambda name, size: helper.make_tensor_value_info(name, TensorProto.FLOAT, size)
    graph = helper.make_graph(nodes, "scale", [value("x", photo.shape)], [value("y", [1, 8, 8, 8])], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    before, after = (ReferenceEvaluator(each).run(None, {"x": photo})[0] for each in (model, onnxslim.slim(model)))
    return float(np.abs(before - after).max())


wrong = {}
for shape in ((8,), (1, 1, 1, 8), (1, 1, 8, 1), (8, 1, 1)):
    wrong[shape] = difference("Mul", shape)
    print("Mul", shape, "largest difference", wrong[shape], "Add", difference("Add", shape))
    assert difference("Add", shape) < 1e-5
assert wrong.pop((8, 1, 1)) < 1e-5
assert all(value > 1 for value in wrong.values())
assert difference("Mul", (8,), relu=True) == 0
PY
