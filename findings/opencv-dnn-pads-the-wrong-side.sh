#!/usr/bin/env bash
# OpenCV 5.0.0.93, cv2.dnn: a convolution with auto_pad SAME_UPPER and stride 2, as networks from TensorFlow shrink a photo,
# is padded on the upper left, as SAME_LOWER is. By ONNX (Conv) the odd pixel of SAME_UPPER goes to the end. Each such layer
# looks a pixel of its input too far up and left, and the class map drifts away from the photo. OpenCV 4.14.0.94 pads
# SAME_UPPER rightly and SAME_LOWER as SAME_UPPER. Shapes are right and nothing is said.
# Seen: four layers that average 3x3 pixels of a photo whose values are its columns. The second cell of 4 is centered at
# column 31 by ONNX's reference and at 16 in OpenCV 5 (SAME_UPPER), at 16 and at 31 in OpenCV 4.14 (SAME_LOWER).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
cat > pads.py <<'PY'
import json

import cv2
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

SIDE, LAYERS = 64, 4
CELLS = SIDE >> LAYERS
photo = np.broadcast_to(np.arange(SIDE, dtype=np.float32), (1, 1, SIDE, SIDE)).copy()
mean = numpy_helper.from_array(np.full((1, 1, 3, 3), 1 / 9, np.float32), "mean")
seen = {}
for padding in ("SAME_UPPER", "SAME_LOWER"):
    options = {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": padding}
    nodes = [helper.make_node("Conv", [f"x{i}", "mean"], [f"x{i + 1}"], **options) for i in range(LAYERS)]
    first = helper.make_tensor_value_info("x0", TensorProto.FLOAT, photo.shape)
    last = helper.make_tensor_value_info(f"x{LAYERS}", TensorProto.FLOAT, [1, 1, CELLS, CELLS])
    graph = helper.make_graph(nodes, "shrink", [first], [last], [mean])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    (reference,) = ReferenceEvaluator(model).run(None, {"x0": photo})
    network = cv2.dnn.readNetFromONNX(np.frombuffer(model.SerializeToString(), np.uint8))
    network.setInput(photo)
    answer = network.forward()
    assert answer.shape == reference.shape
    seen[padding] = [round(float(cells[0, 0, 1, 1])) for cells in (reference, answer)]
print(json.dumps(seen))
PY
while read -r version expected; do
    python3 -m venv "$version"
    "$version/bin/pip" install --quiet "opencv-python-headless==$version" onnx==1.23.2 numpy==2.2.6
    seen=$("$version/bin/python" pads.py 2>errors.txt) || { cat errors.txt; exit 1; }
    echo "OpenCV $version, column of the cell by ONNX's reference and by OpenCV: $seen"
    [[ $seen == "$expected" ]]
done <<'END'
5.0.0.93 {"SAME_UPPER": [31, 16], "SAME_LOWER": [16, 16]}
4.14.0.94 {"SAME_UPPER": [31, 31], "SAME_LOWER": [16, 31]}
END
