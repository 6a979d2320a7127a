#!/usr/bin/env bash
# openvino-model-api 0.4.7 (Model API): with the resize types "fit_to_window" and "fit_to_window_letterbox" SegmentationModel
# pads a photo to the shape of the network's input, and then stretches the map of the padded photo over the photo, padding
# and all. Map and photo have one size, and nothing warns.
# Seen: a photo of 128x64, an object in its rows 0 to 31, perfect logits of 64x64. With "standard" the object has 32 rows from
# row 0 on, with "fit_to_window" 16 from row 0 on, with "fit_to_window_letterbox" 16 from row 16 on.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet openvino-model-api==0.4.7 openvino==2026.4.1 onnx==1.23.2 numpy==2.2.6
venv/bin/python -W ignore - <<'PY'
import numpy as np
import onnx
from model_api.models import SegmentationModel
from onnx import TensorProto, helper, numpy_helper

weight = np.zeros((2, 3, 1, 1), np.float32)
weight[1, 0] = 1
constants = [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(np.float32([100, 0]), "bias")]
inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 64, 64])]
outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 2, 64, 64])]
node = helper.make_node("Conv", ["image", "weight", "bias"], ["logits"])
graph = helper.make_graph([node], "light", inputs, outputs, constants)
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "light.onnx")

photo = np.zeros((64, 128, 3), np.uint8)
photo[:32, :32] = 255
seen = {}
for resize in ("standard", "fit_to_window", "fit_to_window_letterbox"):
    options = {"resize_type": resize}
    model = SegmentationModel.create_model("light.onnx", "Segmentation", configuration=options, device="CPU")
    answer = model(photo)
    classes = getattr(answer, "resultImage", answer)
    assert classes.shape == photo.shape[:2]
    rows = np.flatnonzero((classes > 0).any(axis=1))
    seen[resize] = int(rows[0]), len(rows)
    print(resize, "first row of the object and number of its rows", seen[resize])
assert seen == {"standard": (0, 32), "fit_to_window": (0, 16), "fit_to_window_letterbox": (16, 16)}
PY
