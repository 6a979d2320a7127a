#!/usr/bin/env bash
# onnxoptimizer 0.4.2 turns a Pad with zeros before a MaxPool into the pooling's own `pads`. Those are no zeros: by ONNX a
# MaxPool does not look at what they add. The pass (fuse_pad_into_pool) is one of those that `optimize` runs unasked.
# Networks from TensorFlow pad with zeros before their first max pooling; after an activation with values below 0 (SiLU,
# Hardswish, LeakyReLU) the rim of the features becomes another. Nothing is said.
# Seen: a photo whose pixels are all -1, padded by one zero and pooled 2x2: the rim is 0, after `optimize` it is -1. With
# the same Pad an AveragePool stays right, and so does a MaxPool after a Pad with -9.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet onnxoptimizer==0.4.2 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.2.6
venv/bin/python - <<'PY'
import numpy as np
import onnxoptimizer
import onnxruntime
from onnx import TensorProto, checker, helper, numpy_helper

INPUTS = {"MaxPool": -1.0, "AveragePool": 1.0}


def pooled(operator, padding, **attributes):
    """What numpy gives, and ONNX Runtime before and after onnxoptimizer."""
    pixels = np.full((1, 1, 6, 6), INPUTS[operator], np.float32)
    nodes = [
        helper.make_node("Pad", ["x", "pads", "padding"], ["padded"]),
        helper.make_node(operator, ["padded"], ["y"], kernel_shape=[2, 2], strides=[2, 2], **attributes),
    ]
    constants = [
        numpy_helper.from_array(np.array([0, 0, 1, 1, 0, 0, 1, 1]), "pads"),
        numpy_helper.from_array(np.float32(padding), "padding"),
    ]
    value = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "pool", [value("x", pixels.shape)], [value("y", [1, 1, 4, 4])], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model, full_check=True)
    padded = np.pad(pixels[0, 0], 1, constant_values=padding).reshape(4, 2, 4, 2)
    right = padded.max(axis=(1, 3)) if operator == "MaxPool" else padded.mean(axis=(1, 3))
    results = []
    for each in (model, onnxoptimizer.optimize(model)):
        session = onnxruntime.InferenceSession(each.SerializeToString(), providers=["CPUExecutionProvider"])
        results.append(session.run(None, {"x": pixels})[0][0, 0])
    assert np.allclose(results[0], right)
    print(operator, "padding", padding, attributes, "corner before", results[0][0, 0], "after", results[1][0, 0])
    return results[0], results[1]


before, after = pooled("MaxPool", 0)
assert before[0].tolist() == [0, 0, 0, 0] and (after == -1).all()
for operator, padding, attributes in (
    ("MaxPool", -9, {}),
    ("AveragePool", 0, {"count_include_pad": 0}),
    ("AveragePool", 0, {"count_include_pad": 1}),
):
    before, after = pooled(operator, padding, **attributes)
    assert (before == after).all()
PY
