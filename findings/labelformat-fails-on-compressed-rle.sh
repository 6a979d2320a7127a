#!/usr/bin/env bash
# labelformat 0.1.17 reads COCO segmentations as polygons or as uncompressed run lengths. The compressed run lengths that
# pycocotools writes (a string in "counts") end in a ValueError about a float, which names neither file nor annotation.
# Seen: ValueError: could not convert string to float.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet labelformat==0.1.17 pycocotools==2.0.11 numpy==2.2.6
venv/bin/python - <<'PY'
import json
from pathlib import Path

import numpy as np
from labelformat.formats import COCOInstanceSegmentationInput
from pycocotools import mask as coco

region = np.zeros((20, 30), np.uint8)
region[4:9, 3:20] = 1
lengths = coco.encode(np.asfortranarray(region))
lengths["counts"] = lengths["counts"].decode()
annotation = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": 85, "bbox": [3, 4, 17, 5]}
content = {
    "images": [{"id": 1, "file_name": "a.jpg", "width": 30, "height": 20}],
    "categories": [{"id": 1, "name": "roof"}],
    "annotations": [annotation | {"segmentation": lengths}],
}
Path("coco.json").write_text(json.dumps(content))
assert (coco.decode(json.loads(Path("coco.json").read_text())["annotations"][0]["segmentation"]) == region).all()
try:
    list(COCOInstanceSegmentationInput(input_file=Path("coco.json")).get_labels())
except ValueError as error:
    print("ValueError:", error)
    assert "could not convert string to float" in str(error)
else:
    raise SystemExit("compressed run lengths are read now")
PY
