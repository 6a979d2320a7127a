#!/usr/bin/env bash
# safetensors 0.8.0, numpy side: an array that is not contiguous, such as a transposed one, is saved with the bytes of its
# memory under the shape of the view. No error and no warning; what is loaded is another matrix.
# Seen: [[0, 3], [1, 4], [2, 5]] comes back as [[0, 1], [2, 3], [4, 5]].
# What helps: numpy.ascontiguousarray before saving.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet safetensors==0.8.0 numpy==2.2.6
venv/bin/python - <<'PY'
import numpy as np
from safetensors.numpy import load_file, save_file

matrix = np.arange(6, dtype=np.float32).reshape(2, 3)
save_file({"view": matrix.T, "copy": np.ascontiguousarray(matrix.T)}, "weights.safetensors")
loaded = load_file("weights.safetensors")
print("saved ", matrix.T.tolist())
print("loaded", loaded["view"].tolist())
assert loaded["view"].tolist() == [[0, 1], [2, 3], [4, 5]]
assert loaded["copy"].tolist() == matrix.T.tolist()
PY
