#!/usr/bin/env bash
# OpenCV 5.0.0.93 and 4.14.0.94, cv2.dnn: a MatMul whose second matrix is a constant of one matrix for each head, [heads, k, n]
# or [1, heads, k, n], is right for one photo and wrong for two at once, for the first of them, too: the heads' matrices are
# given to the wrong rows. By ONNX, MatMul multiplies as numpy.matmul. The same constant fed as an input is right.
# Seen: for two heads and a batch of two, both photos are off by more than 1; alone, or with the matrix as an input, both are
# right within 1e-4. Shapes are right and nothing is said.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
cat > heads.py <<'PY'
import cv2
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

random = np.random.default_rng(0)
photos = random.normal(size=(2, 2, 3, 4)).astype(np.float32)


def differences(batch, heads, constant):
    right = np.matmul(batch, heads)
    value = lambda name, like: helper.make_tensor_value_info(name, TensorProto.FLOAT, like.shape)
    inputs = [value("x", batch)] + ([] if constant else [value("heads", heads)])
    constants = [numpy_helper.from_array(heads, "heads")] if constant else []
    nodes = [helper.make_node("MatMul", ["x", "heads"], ["y"])]
    graph = helper.make_graph(nodes, "heads", inputs, [value("y", right)], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    network = cv2.dnn.readNetFromONNX(np.frombuffer(model.SerializeToString(), np.uint8))
    network.setInput(batch, "x")
    if not constant:
        network.setInput(heads, "heads")
    answer = network.forward()
    assert answer.shape == right.shape
    return np.abs(answer - right).max(axis=(1, 2, 3))


for shape in ((2, 4, 5), (1, 2, 4, 5)):
    heads = random.normal(size=shape).astype(np.float32)
    together, as_input = differences(photos, heads, True), differences(photos, heads, False)
    alone = np.concatenate([differences(photo[None], heads, True) for photo in photos])
    print("OpenCV", cv2.__version__, shape, "together", together, "alone", alone.round(6), "as an input", as_input.round(6))
    assert together.min() > 1
    assert max(alone.max(), as_input.max()) < 1e-4
PY
for version in 5.0.0.93 4.14.0.94; do
    python3 -m venv "$version"
    "$version/bin/pip" install --quiet "opencv-python-headless==$version" onnx==1.23.2 numpy==2.2.6
    "$version/bin/python" heads.py 2>errors.txt || { cat errors.txt; exit 1; }
done
