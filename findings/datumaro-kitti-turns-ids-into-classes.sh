#!/usr/bin/env bash
# Datumaro 1.13.12: a pixel of a KITTI instance map is 256 times its class plus the number of its object, and the export
# kitti_segmentation adds the annotation's id there as it is. In COCO, ids count through a whole dataset; from 256 on they
# carry over into the class. Datumaro's own import reads the classes from these maps alone. Nothing is said of it. The maps
# in semantic/ are right.
# Seen: three objects road, car and tree with the ids 1, 2 and 3 come back as they were; with 301, 302 and 303 as car, tree
# and sky. What nobody labeled comes back as an object of the first class, road, in both. The exports cityscapes,
# camvid, voc_segmentation and coco_panoptic keep the classes with any id.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet datumaro==1.13.12
venv/bin/python -W ignore - 2> log <<'PY' || { cat log; exit 1; }
import datumaro
import numpy as np
from PIL import Image

NAMES = ["road", "car", "tree", "sky"]
columns = np.arange(32) // 8 * np.ones((8, 1), int)  # an object in each of three columns; nothing in the fourth
photo = datumaro.Image.from_numpy(data=np.full((8, 32, 3), 90, np.uint8))


def through(form, first):
    shapes = [datumaro.Mask(columns == each, label=each, id=first + each, group=first + each) for each in range(3)]
    item = datumaro.DatasetItem("photo", subset="train", annotations=shapes, media=photo)
    dataset = datumaro.Dataset.from_iterable([item], categories=NAMES, media_type=datumaro.Image)
    dataset.export(f"{form}{first}", form, save_media=True)
    back = datumaro.Dataset.import_from(f"{form}{first}", form)
    labels = back.categories()[datumaro.AnnotationType.label]
    found = [None] * 4
    for (item,) in [list(back)]:
        for mask in (each for each in item.annotations if isinstance(each, datumaro.Mask)):
            (column,) = set(columns[np.asarray(mask.image) > 0])
            found[column] = labels[mask.label].name
    return found


seen = {(form, first): through(form, first) for form in ("kitti_segmentation", "cityscapes") for first in (1, 301)}
for key, found in seen.items():
    print(*key, found)
semantic = np.asarray(Image.open("kitti_segmentation301/train/semantic/photo.png"))
instances = np.asarray(Image.open("kitti_segmentation301/train/instance/photo.png"))
print("semantic", np.unique(semantic), "instance", np.unique(instances))
assert (semantic[columns < 3] == columns[columns < 3]).all()
assert np.unique(instances).tolist() == [0, 301, 558, 815]
assert seen["kitti_segmentation", 1] == ["road", "car", "tree", "road"]
assert seen["kitti_segmentation", 301] == ["car", "tree", "sky", "road"]
assert seen["cityscapes", 1] == seen["cityscapes", 301] == ["road", "car", "tree", None]
PY
