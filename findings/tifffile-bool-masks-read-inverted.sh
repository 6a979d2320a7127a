#!/usr/bin/env bash
# tifffile 2026.3.3 writes a boolean array as a one-bit TIFF with photometric MINISWHITE, and reads it back as it was.
# Readers that apply the photometric tag (Pillow 13.0.0, OpenCV 4.12, libvips 8.18) see the mask inverted; GDAL, through
# rasterio 1.4.4, does not apply it and agrees with tifffile. So a binary mask changes its meaning with its reader.
# Seen: 12 true pixels of 80; Pillow, OpenCV and libvips find 68, rasterio 12.
# What helps: save masks as uint8.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet tifffile==2026.3.3 pillow==13.0.0 opencv-python-headless==4.12.0.88 pyvips==3.2.0 pyvips-binary==8.18.7 rasterio==1.4.4 numpy==2.2.6
venv/bin/python - <<'PY'
import warnings

import cv2
import numpy as np
import pyvips
import rasterio
import tifffile
from PIL import Image

warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
mask = np.zeros((8, 10), bool)
mask[2:5, 3:7] = True
tifffile.imwrite("mask.tif", mask)
with rasterio.open("mask.tif") as source:
    by_gdal = source.read(1)
seen = {
    "tifffile": tifffile.imread("mask.tif"),
    "rasterio": by_gdal,
    "Pillow": np.asarray(Image.open("mask.tif")),
    "OpenCV": cv2.imread("mask.tif", cv2.IMREAD_UNCHANGED),
    "libvips": pyvips.Image.new_from_file("mask.tif").numpy(),
}
counts = {reader: int((np.asarray(pixels) > 0).sum()) for reader, pixels in seen.items()}
print("true pixels written", mask.sum(), "read", counts)
assert counts == {"tifffile": 12, "rasterio": 12, "Pillow": 68, "OpenCV": 68, "libvips": 68}
PY
