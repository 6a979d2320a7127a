#!/usr/bin/env bash
# labelme2coco 0.2.6: of LabelMe's shapes, polygons and circles get an outline in COCO and rectangles none: "segmentation" is
# empty beside a full "area". Whoever draws COCO's segmentations loses every object that was marked with that tool, without
# a word.
# Seen: a rectangle of 10x10 pixels has area 100 and no outline, a circle of radius 5 has one.
# Corners of polygons are also cut down to whole pixels, which moves outlines up and left; "bbox" keeps the fractions.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet labelme2coco==0.2.6 pillow==12.3.0
venv/bin/python - <<'PY'
import json
from pathlib import Path

import labelme2coco
from PIL import Image

shapes = [
    {"label": "roof", "shape_type": "polygon", "points": [[3.2, 2.2], [12.9, 2.2], [12.9, 10.9], [3.2, 10.9]]},
    {"label": "car", "shape_type": "rectangle", "points": [[20, 20], [30, 30]]},
    {"label": "tree", "shape_type": "circle", "points": [[40, 20], [45, 20]]},
]
content = {"version": "5.5.0", "flags": {}, "imagePath": "photo.png", "imageData": None, "imageHeight": 40, "imageWidth": 60}
content["shapes"] = [shape | {"group_id": None, "flags": {}} for shape in shapes]
Path("photos").mkdir()
Image.new("RGB", (60, 40)).save("photos/photo.png")
Path("photos/photo.json").write_text(json.dumps(content))
labelme2coco.convert("photos", "out")
coco = json.loads(Path("out/dataset.json").read_text())
names = {category["id"]: category["name"] for category in coco["categories"]}
seen = {names[each["category_id"]]: each for each in coco["annotations"]}
for name, each in seen.items():
    print(name, "area", each["area"], "bbox", each["bbox"], "corners", [len(part) // 2 for part in each["segmentation"]])
assert (seen["car"]["segmentation"], seen["car"]["area"]) == ([], 100)
assert len(seen["tree"]["segmentation"][0]) > 6
assert seen["roof"]["segmentation"] == [[3, 2, 12, 2, 12, 10, 3, 10]]
assert [round(value, 1) for value in seen["roof"]["bbox"]] == [3.2, 2.2, 9.7, 8.7]
PY
