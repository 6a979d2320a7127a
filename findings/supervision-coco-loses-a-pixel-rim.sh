#!/usr/bin/env bash
# supervision 0.31.2 writes masks to COCO as polygons through the centers of the outermost pixels, and keeps the mask's
# true area beside them. pycocotools, which most programs rasterize COCO with, fills such a polygon without the right and
# lower rim. Small objects lose much: the annotation contradicts itself.
# Seen: an object of 10x6 pixels has "area": 60 and a polygon of 45 pixels.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet supervision==0.31.2 pycocotools==2.0.11 pillow==13.0.0 opencv-python-headless==4.12.0.88 numpy==2.2.6
venv/bin/python - <<'PY'
import json

import numpy as np
import supervision as sv
from PIL import Image
from pycocotools import mask as coco

height, width = 20, 30
region = np.zeros((height, width), bool)
region[5:11, 8:18] = True
Image.new("RGB", (width, height)).save("a.png")
detections = sv.Detections(xyxy=np.array([[8.0, 5, 18, 11]]), mask=region[None], class_id=np.array([0]))
sv.DetectionDataset(["roof"], ["a.png"], {"a.png": detections}).as_coco(annotations_path="coco.json")
with open("coco.json") as file:
    (annotation,) = json.load(file)["annotations"]
filled = coco.decode(coco.merge(coco.frPyObjects(annotation["segmentation"], height, width)))
print("mask", region.sum(), "area field", annotation["area"], "pixels of the polygon", filled.sum())
assert region.sum() == annotation["area"] == 60
assert filled.sum() == 45
PY
