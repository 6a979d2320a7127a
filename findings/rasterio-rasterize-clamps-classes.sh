#!/usr/bin/env bash
# rasterio 1.4.4 (GDAL inside its wheel): rasterize() into uint8 clamps what does not fit, without an error or a warning.
# Class 300 becomes 255, which many pipelines ignore, and class -1 becomes 0, the first class.
# Seen: values [0, 255] where [-1, 0, 300] was drawn; int16 keeps them.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet rasterio==1.4.4 shapely==2.2.0 numpy==2.2.6
venv/bin/python - <<'PY'
import warnings

import numpy as np
from rasterio.features import rasterize
from shapely.geometry import box

warnings.simplefilter("error")
shapes = [(box(2, 2, 6, 6), 300), (box(0, 0, 1, 1), -1)]
narrow = np.unique(rasterize(shapes, out_shape=(8, 8), fill=7, dtype="uint8")).tolist()
wide = np.unique(rasterize(shapes, out_shape=(8, 8), fill=7, dtype="int16")).tolist()
print("uint8", narrow, "int16", wide)
assert narrow == [0, 7, 255]
assert wide == [-1, 7, 300]
PY
