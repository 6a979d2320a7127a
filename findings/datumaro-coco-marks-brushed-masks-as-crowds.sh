#!/usr/bin/env bash
# Datumaro 1.13.12, which also writes CVAT's COCO files: an object drawn with a brush (a Mask) is written with iscrowd 1
# even where nobody called it a crowd, and the same object drawn as a polygon with iscrowd 0. Readers of COCO leave crowds
# out of training and scoring, so the brushed half of a project disappears without a word.
# Seen: two photos with the same car, one brushed and one outlined; pycocotools finds one object that is no crowd, not two.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet datumaro==1.13.12 pycocotools==2.0.11
venv/bin/python -W ignore - <<'PY'
import json
from pathlib import Path

import datumaro
import numpy as np
from pycocotools.coco import COCO

car = np.zeros((20, 30), np.uint8)
car[2:10, 3:12] = 1
outline = [3, 2, 12, 2, 12, 10, 3, 10]
items = []
for name, shape in (
    ("brushed", datumaro.Mask(car, label=0, id=1, group=1)),
    ("outlined", datumaro.Polygon(outline, label=0, id=2, group=2)),
):
    photo = datumaro.Image.from_numpy(data=np.full((20, 30, 3), 90, np.uint8))
    items.append(datumaro.DatasetItem(name, subset="val", annotations=[shape], media=photo))
dataset = datumaro.Dataset.from_iterable(items, categories=["car"], media_type=datumaro.Image)
dataset.export("out", "coco_instances", save_media=False)

(path,) = Path("out").rglob("*.json")
written = json.loads(path.read_text())
photos = {photo["id"]: Path(photo["file_name"]).stem for photo in written["images"]}
crowds = {photos[each["image_id"]]: each["iscrowd"] for each in written["annotations"]}
areas = {photos[each["image_id"]]: each["area"] for each in written["annotations"]}
coco = COCO(str(path))
print("iscrowd:", crowds, "area:", areas, "objects that are no crowd:", len(coco.getAnnIds(iscrowd=False)))
assert areas == {"brushed": 72.0, "outlined": 72.0}
assert crowds == {"brushed": 1, "outlined": 0}
assert len(coco.getAnnIds(iscrowd=False)) == 1
PY
