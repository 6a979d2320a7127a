#!/usr/bin/env bash
# supervision 0.31.2: `DetectionDataset.as_yolo` of a dataset with masks writes polygons, but for an object that is one
# pixel or one straight line of pixels, whose outline has fewer than three corners, it writes a line of the detection
# format into the same file: class, center, width, height, with a width or a height of 0. A reader of segmentation labels
# gets an object without area, or takes the two pairs for corners of a polygon.
# Seen: a square of 8x8, a column of 1x6 and a single pixel become lines of 9, 5 and 5 numbers; the boxes are 0 wide.
# `as_coco` of the same dataset gives the two an empty segmentation.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check supervision==0.31.2 opencv-python-headless==4.12.0.88 numpy==2.2.6
cat > write.py <<'PYTHON'
import json
import warnings
from pathlib import Path

import cv2
import numpy as np
import supervision

warnings.simplefilter("ignore")
cv2.imwrite("photo.png", np.full((32, 32, 3), 128, np.uint8))
masks = np.zeros((3, 32, 32), bool)
masks[0, 4:12, 4:12] = True  # a square
masks[1, 16:22, 20] = True  # a column
masks[2, 28, 28] = True  # a pixel
boxes = np.array([[4, 4, 11, 11], [20, 16, 20, 21], [28, 28, 28, 28]], float)
objects = supervision.Detections(xyxy=boxes, mask=masks, class_id=np.zeros(3, int))
dataset = supervision.DetectionDataset(["thing"], ["photo.png"], {"photo.png": objects})
dataset.as_yolo(annotations_directory_path="yolo", data_yaml_path="data.yaml")
dataset.as_coco(annotations_path="coco.json")
lines = [line.split() for line in Path("yolo/photo.txt").read_text().splitlines()]
empty = [a for a in json.loads(Path("coco.json").read_text())["annotations"] if not any(a["segmentation"])]
print("numbers per line", [len(line) for line in lines], "widths of the boxes", [float(line[3]) for line in lines[1:]])
print("empty segmentations in COCO", len(empty))
assert [len(line) for line in lines] == [9, 5, 5]
assert [float(line[3]) for line in lines[1:]] == [0.0, 0.0]
assert len(empty) == 2
PYTHON
venv/bin/python write.py
