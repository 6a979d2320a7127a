#!/usr/bin/env bash
# label-studio-sdk 2.1.2: converter.brush.contour2rle(contours, index, width, height) draws into an array of width rows and
# height columns. For photos that are not square the brush mask comes out sheared and cut; nothing says so. mask2rle of the
# same region is right.
# Seen: a rectangle of 300 pixels in a photo of 60x40 comes back with 200 pixels, 70 of
# them where it was drawn.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet label-studio-sdk==2.1.2 opencv-python-headless==4.12.0.88 numpy==2.2.6
venv/bin/python - <<'PY'
import cv2
import numpy as np
from label_studio_sdk.converter import brush

height, width = 40, 60
mask = np.zeros((height, width), np.uint8)
mask[5:15, 20:50] = 1
contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)


def alpha(rle):
    return brush.decode_rle(rle).reshape(height, width, 4)[..., 3] > 0


by_contour = alpha(brush.contour2rle(contours, 0, width, height))
by_mask = alpha(brush.mask2rle(mask * 255))
print("drawn", mask.sum(), "contour2rle", by_contour.sum(), "of them right", (by_contour & (mask > 0)).sum())
assert (by_mask == (mask > 0)).all()
assert by_contour.sum() == 200
assert (by_contour & (mask > 0)).sum() == 70
PY
