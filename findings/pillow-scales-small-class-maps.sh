#!/usr/bin/env bash
# GDAL (rasterio 1.4.4) writes class maps of few classes with 2 or 4 bits per pixel where NBITS is asked for, as GeoTIFF and
# as PNG, and reads the numbers back as they were; so does tifffile 2026.3.3. Pillow 13.0.0 and libvips 8.18 take them for
# shades and stretch them to 255, also in the GeoTIFF: the last class becomes 255, which most trainers ignore, and of a
# PNG OpenCV does the same. Nothing warns.
# Seen: classes 0, 1, 2, 3 in 2 bits are 0, 85, 170, 255 for Pillow and libvips; 0, 5, 15 in 4 bits are 0, 85, 255.
# What helps: NBITS=8 (the default), or a palette, whose indexes all readers keep.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet rasterio==1.4.4 pillow==13.0.0 pyvips==3.2.0 pyvips-binary==8.18.7 opencv-python-headless==5.0.0.93 tifffile==2026.3.3 imagecodecs==2026.3.6 numpy==2.2.6
venv/bin/python - <<'PY'
import warnings

import cv2
import numpy as np
import pyvips
import rasterio
import tifffile
from PIL import Image

warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
for bits, classes, stretched in ((2, [0, 1, 2, 3], [0, 85, 170, 255]), (4, [0, 5, 15], [0, 85, 255])):
    drawn = np.array([classes] * 4, np.uint8)
    for driver in ("GTiff", "PNG"):
        path = f"map{bits}.{driver}"
        with rasterio.open(path, "w", driver=driver, height=4, width=len(classes), count=1, dtype="uint8", NBITS=bits) as file:
            file.write(drawn, 1)
        with rasterio.open(path) as file:
            seen = {"rasterio": file.read(1)}
        seen["Pillow"] = np.asarray(Image.open(path))
        seen["libvips"] = pyvips.Image.new_from_file(path).numpy()
        if driver == "PNG":
            seen["OpenCV"] = cv2.imread(path, cv2.IMREAD_UNCHANGED)
        else:
            seen["tifffile"] = tifffile.imread(path)
        found = {reader: np.unique(pixels).tolist() for reader, pixels in seen.items()}
        print(driver, bits, "bits", found)
        for reader, numbers in found.items():
            assert numbers == (classes if reader in ("rasterio", "tifffile") else stretched), reader
PY
