#!/usr/bin/env bash
# onnx 1.23.2: ReferenceEvaluator, against which runtimes and converters are checked, moves the windows of two poolings.
# AveragePool with ceil_mode=1 puts some of the columns that the last window lacks before the photo, where by ONNX they all
# come after its end: the windows look too far left. MaxPool with auto_pad=SAME_LOWER is not padded in front: the windows
# look too far right, and may be one too few.
# Seen: of a photo whose values are its columns, with windows of 3 and stride 3 over 7 columns, the means are 1, 4 and 6 by
# numpy and ONNX Runtime 1.32.0, and 0.5, 3 and 5 (0.33, 3 and 5 with count_include_pad=1) here. With SAME_LOWER and
# stride 2 the largest of 7 columns are 1, 3, 5 and 6, and here 2, 4 and 6. SAME_UPPER is right, and so is AveragePool with
# SAME_LOWER.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet onnx==1.23.2 onnxruntime==1.32.0 numpy==2.2.6
venv/bin/python - <<'PY'
import numpy as np
import onnxruntime
from onnx import TensorProto, checker, helper
from onnx.reference import ReferenceEvaluator

columns = np.arange(7, dtype=np.float32)
photo = np.tile(columns, (1, 1, 7, 1))


def rows(operator, count, **attributes):
    """A row by ONNX Runtime, and by the reference."""
    value = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
    node = helper.make_node(operator, ["x"], ["y"], kernel_shape=[3, 3], **attributes)
    graph = helper.make_graph([node], "pool", [value("x", photo.shape)], [value("y", [1, 1, count, count])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    row = session.run(None, {"x": photo})[0][0, 0, 1]
    reference = ReferenceEvaluator(model).run(None, {"x": photo})[0][0, 0, 1]
    print(operator, attributes, "ONNX Runtime", row.tolist(), "reference", reference.round(2).tolist())
    return row, reference


def windows(function, starts):
    """By numpy: windows of 3 columns, of which those outside the photo do not count."""
    return [float(function(columns[max(start, 0) : start + 3])) for start in starts]


for counted, seen in ((0, [0.5, 3, 5]), (1, [1 / 3, 3, 5])):
    row, reference = rows("AveragePool", 3, strides=[3, 3], ceil_mode=1, count_include_pad=counted)
    assert np.allclose(row, windows(np.mean, (0, 3, 6)))
    assert np.allclose(reference, seen)
for operator, function in (("MaxPool", np.max), ("AveragePool", np.mean)):
    for where in ("SAME_UPPER", "SAME_LOWER"):
        row, reference = rows(operator, 4, strides=[2, 2], auto_pad=where)
        assert np.allclose(row, windows(function, (-1, 1, 3, 5)))
        if (operator, where) == ("MaxPool", "SAME_LOWER"):
            assert reference.tolist() == [2, 4, 6]
        else:
            assert np.allclose(row, reference)
PY
