#!/usr/bin/env bash
# onnx 1.23.2: version_converter turns Upsample of opset 9 and Resize of opset 10 into a Resize that says nothing of its
# coordinates. From opset 11 on that means half_pixel. The old operators leave it open, and what runs them takes column i
# from i / scale (asymmetric). A map that a graph enlarges linearly moves to the right and down, by half a cell of the
# coarse grid less half a pixel. Nothing is said. mode "nearest" with a whole factor stays as it was.
# Seen: an object from the middle of a row on, enlarged 8 times to 64 columns: in ONNX Runtime 1.32.0 and OpenVINO 2026.4.1
# it starts at column 29 before the conversion and at 32 after it. With coordinate_transformation_mode=asymmetric in the
# converted node all is as before.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet onnx==1.23.2 onnxruntime==1.32.0 openvino==2026.4.1 numpy==2.2.6
venv/bin/python - <<'PY'
import numpy as np
import onnxruntime
import openvino
from onnx import TensorProto, checker, helper, numpy_helper, version_converter

row = np.repeat([0, 1], 4).astype(np.float32).reshape(1, 1, 1, 8)


def run(model):
    """The enlarged row of both runtimes, which agree."""
    checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    results = session.run(None, {"x": row})[0], compiled(row)[0]
    assert np.allclose(*results, atol=1e-5)
    return results[0].ravel()


for operator, opset in (("Upsample", 9), ("Resize", 10)):
    for mode in ("linear", "nearest"):
        value = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        scales = numpy_helper.from_array(np.array([1, 1, 1, 8], np.float32), "scales")
        node = helper.make_node(operator, ["x", "scales"], ["y"], mode=mode)
        graph = helper.make_graph([node], "enlarge", [value("x", row.shape)], [value("y", [1, 1, 1, 64])], [scales])
        old = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=5)
        new = version_converter.convert_version(old, 17)
        new.ir_version = 8
        before, after = run(old), run(new)
        print(operator, mode, "object starts at column", (before > 0.5).argmax(), "then", (after > 0.5).argmax())
        if mode == "nearest":
            assert (before == after).all()
            continue
        asymmetric = np.interp(np.arange(64) / 8, np.arange(8), row.ravel())
        half_pixel = np.interp((np.arange(64) + 0.5) / 8 - 0.5, np.arange(8), row.ravel())
        assert np.allclose(before, asymmetric, atol=1e-5) and np.allclose(after, half_pixel, atol=1e-5)
        assert ((before > 0.5).argmax(), (after > 0.5).argmax()) == (29, 32)
        (resize,) = (node for node in new.graph.node if node.op_type == "Resize")
        resize.attribute.append(helper.make_attribute("coordinate_transformation_mode", "asymmetric"))
        assert np.allclose(run(new), before, atol=1e-5)
PY
