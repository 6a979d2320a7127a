#!/usr/bin/env bash
# ultralytics 8.4.190, semantic segmentation: by its documentation each pixel of a mask is the number of a class, 255 is
# ignored, and of a palette PNG the indexes count. Where all colors of the palette are gray, read_mask takes the gray level
# instead. A mask of two classes whose palette is black and white, as many tools write it, so has 255 for class 1: all its
# pixels are left out of training and scores, and the scan counts the file as sound.
# Seen: one mask of 1024 pixels of class 1, saved three times: with a black and white palette class 1 has no pixel and 1024
# are ignored; with a black and red palette, and without one, it has all 1024. "0 corrupt".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --no-deps ultralytics==8.4.190 torchvision==0.28.0
venv/bin/pip install --quiet torch==2.13.0 opencv-python-headless==4.12.0.88 matplotlib==3.10.7 polars==1.35.2 psutil==7.1.3 requests==2.32.5 pyyaml==6.0.3 pillow==12.3.0 numpy==2.2.6
YOLO_CONFIG_DIR="$folder" YOLO_OFFLINE=true venv/bin/python -W ignore - <<'PY'
from pathlib import Path

import numpy as np
from PIL import Image
from ultralytics.data.dataset import SemanticDataset

classes = np.zeros((64, 64), np.uint8)
classes[16:48, 16:48] = 1
for folder in ("images", "masks"):
    Path("data", folder).mkdir(parents=True)
for name, palette in (("white", [0, 0, 0, 255, 255, 255]), ("red", [0, 0, 0, 255, 0, 0]), ("plain", None)):
    Image.new("RGB", (64, 64), "gray").save(f"data/images/{name}.png")
    mask = Image.fromarray(classes)
    if palette:
        mask.putpalette(palette)
    mask.save(f"data/masks/{name}.png")
    with Image.open(f"data/masks/{name}.png") as saved:
        assert saved.mode == ("P" if palette else "L") and (np.asarray(saved) == classes).all()
data = {"names": {0: "road", 1: "car"}, "nc": 2, "channels": 3, "masks_dir": "masks"}
dataset = SemanticDataset(img_path="data/images", data=data, imgsz=64, augment=False, task="semantic")
seen = {}
for sample in dataset:
    numbers, counts = np.unique(sample["semantic_mask"].numpy(), return_counts=True)
    seen[Path(sample["im_file"]).stem] = dict(zip(numbers.tolist(), counts.tolist()))
print("pixels of each number", seen)
assert seen == {"white": {0: 3072, 255: 1024}, "red": {0: 3072, 1: 1024}, "plain": {0: 3072, 1: 1024}}
PY
