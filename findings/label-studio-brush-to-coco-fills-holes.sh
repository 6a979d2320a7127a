#!/usr/bin/env bash
# label-studio-sdk 2.1.2, the export BRUSH_TO_COCO, which its description calls COCO for segmentation: of a brushed region
# only the outer outline is written, through the centers of its pixels. What the annotator left out inside becomes the
# object, and "area" agrees with the filled outline. BRUSH_TO_PNG of the same task is right, and COCO has run lengths for
# regions with holes.
# Seen: a wall of 440 pixels around a window of 160: in COCO the wall has 551 pixels, among them the whole window.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet label-studio-sdk==2.1.2 opencv-python-headless==4.12.0.88 pycocotools==2.0.11 pillow==12.3.0 numpy==2.2.6
venv/bin/python -W ignore - <<'PY'
import json
from pathlib import Path

import numpy as np
from label_studio_sdk.converter import Converter, brush
from PIL import Image
from pycocotools.coco import COCO

height, width = 40, 60
window = np.zeros((height, width), bool)
window[10:20, 27:43] = True
wall = np.zeros((height, width), bool)
wall[5:25, 20:50] = True
wall &= ~window
config = '<View><Image name="image" value="$image"/>'
config += '<BrushLabels name="tag" toName="image"><Label value="wall"/></BrushLabels></View>'
value = {"format": "rle", "rle": brush.mask2rle(wall.astype(np.uint8) * 255), "brushlabels": ["wall"]}
region = {"id": "a", "from_name": "tag", "to_name": "image", "type": "brushlabels", "value": value}
region |= {"original_width": width, "original_height": height, "image_rotation": 0}
task = {"id": 1, "data": {"image": "photo.png"}, "annotations": [{"id": 1, "completed_by": 1, "result": [region]}]}
Path("tasks.json").write_text(json.dumps([task]))
converter = Converter(config, "photos", download_resources=False)
for export in ("BRUSH_TO_PNG", "BRUSH_TO_COCO"):
    Path(export).mkdir()
    converter.convert("tasks.json", export, export, is_dir=False)
(png,) = Path("BRUSH_TO_PNG").glob("*.png")
by_png = np.asarray(Image.open(png)) > 0
coco = COCO("BRUSH_TO_COCO/result_coco.json")
(annotation,) = coco.anns.values()
by_coco = coco.annToMask(annotation) > 0
print("pixels of the wall", wall.sum(), "in PNG", by_png.sum(), "in COCO", by_coco.sum(), "area", annotation["area"])
print("pixels of the window that are wall in COCO", (by_coco & window).sum(), "of", window.sum())
assert (by_png == wall).all()
assert by_coco.sum() == annotation["area"] == 551
assert (by_coco & window).sum() == window.sum() == 160
PY
