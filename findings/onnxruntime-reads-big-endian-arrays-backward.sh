#!/usr/bin/env bash
# ONNX Runtime 1.32.0 and OpenCV 5.0.0.93 take a numpy array of foreign byte order (dtype ">u2" or ">f4") for one of the
# machine's own: they copy its bytes and compute with other numbers, without a word. Such an array is what numpy makes of a
# big-endian 16-bit TIFF that Pillow 13.0.0 opened (ImageJ writes such files), and what tifffile.memmap gives. numpy and
# OpenVINO heed the order.
# Seen: pixels 1, 2, 3 and 258 of a 16-bit TIFF reach an ONNX graph that passes them on as 256, 512, 768 and 513, and
# cv2.flip turns them around with the same numbers; ones as ">f4" come back below 1e-40. By OpenVINO 2026.4.1 all is right.
# What helps: array.astype(array.dtype.newbyteorder("=")).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet onnxruntime==1.32.0 openvino==2026.4.1 onnx==1.23.2 opencv-python-headless==5.0.0.93 tifffile==2026.3.3 pillow==13.0.0 numpy==2.2.6
venv/bin/python - <<'PY'
import cv2
import numpy as np
import onnxruntime
import openvino
import tifffile
from onnx import TensorProto, helper
from PIL import Image


def graph(kind):
    node = helper.make_node("Identity", ["x"], ["y"])
    values = [helper.make_tensor_value_info(name, kind, ["h", "w"]) for name in "xy"]
    body = helper.make_graph([node], "same", values[:1], values[1:])
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def by_onnxruntime(array, kind):
    return onnxruntime.InferenceSession(graph(kind)).run(None, {"x": array})[0]


def by_openvino(array, kind):
    core = openvino.Core()
    return core.compile_model(core.read_model(graph(kind)), "CPU")({"x": array})[0]


tifffile.imwrite("photo.tif", np.array([[1, 2, 3, 258]], np.uint16), byteorder=">")
photo = np.asarray(Image.open("photo.tif"))
native = photo.astype(photo.dtype.newbyteorder("="))
assert photo.dtype.str == ">u2" and native.dtype.str == "<u2" and (photo == native).all()
assert tifffile.memmap("photo.tif").dtype.str == ">u2" and (tifffile.imread("photo.tif") == photo).all()
seen = {
    "ONNX Runtime": by_onnxruntime(photo, TensorProto.UINT16).tolist(),
    "ONNX Runtime, native order": by_onnxruntime(native, TensorProto.UINT16).tolist(),
    "OpenVINO": by_openvino(photo, TensorProto.UINT16).tolist(),
    "cv2.flip": cv2.flip(photo, 1).tolist(),
    "cv2.flip, native order": cv2.flip(native, 1).tolist(),
}
for name, pixels in seen.items():
    print(name, pixels)
assert seen["ONNX Runtime"] == [[256, 512, 768, 513]]
assert seen["cv2.flip"] == [[513, 768, 512, 256]]
assert seen["OpenVINO"] == seen["ONNX Runtime, native order"] == [[1, 2, 3, 258]]
assert seen["cv2.flip, native order"] == [[258, 3, 2, 1]]
ones = np.ones((2, 3), ">f4")
largest = [float(run(ones, TensorProto.FLOAT).max()) for run in (by_onnxruntime, by_openvino)]
print("ones, the largest by ONNX Runtime and OpenVINO", largest)
assert largest[0] < 1e-40 and largest[1] == 1
PY
