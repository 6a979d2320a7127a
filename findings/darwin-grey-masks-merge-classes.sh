#!/usr/bin/env bash
# darwin-py 3.6.3 (V7): the export semantic_mask_grey replaces class numbers by grey levels one class at a time, in the same
# array. From 16 classes on, the grey of an early class is the number of a later one and is replaced again: two classes get
# one grey, and class_mapping.csv says otherwise. Nothing is raised. The export semantic_mask_index is right.
# Seen: of 19 classes beside the background, c01 is written as 174, the grey of c13; class_mapping.csv says 13 for it. With
# 15 classes all is well.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet darwin-py==3.6.3 pillow==12.3.0 numpy==2.2.6
venv/bin/python -W ignore - <<'PY'
import csv
from pathlib import Path

import numpy as np
from darwin import datatypes
from darwin.exporter.formats import semantic_mask_grey, semantic_mask_index
from PIL import Image

SIDE = 8
wrong = {}
for count in (14, 15, 19):
    names = [f"c{number:02}" for number in range(1, count + 1)]
    squares = []
    for left, name in zip(range(0, SIDE * count, SIDE), names):
        corners = [(left + 1, 1), (left + 6, 1), (left + 6, 6), (left + 1, 6)]
        squares.append(datatypes.make_polygon(name, [[{"x": x, "y": y} for x, y in corners]]))
    classes = {square.annotation_class for square in squares}
    file = datatypes.AnnotationFile(
        Path("photo.json"), "photo.png", classes, squares, image_width=SIDE * count, image_height=SIDE, remote_path="/"
    )
    for exporter in (semantic_mask_grey, semantic_mask_index):
        kind = exporter.__name__.rpartition("_")[2]
        folder = Path(f"{kind}{count}")
        exporter.export([file], folder)
        with open(folder / "class_mapping.csv") as lines:
            promised = {line["class_name"]: int(line["class_color"]) for line in csv.DictReader(lines)}
        pixels = np.asarray(Image.open(folder / "masks" / "photo.png"))
        found = {name: int(pixels[3, SIDE * place + 3]) for place, name in enumerate(names)}
        wrong[kind, count] = {name: (promised[name], found[name]) for name in names if promised[name] != found[name]}
        print(kind, count, "classes, values in the mask", len(set(found.values())), "promised and found", wrong[kind, count])
assert wrong["grey", 19] == {"c01": (13, 174)}
assert promised["c13"] == 13 and not any(wrong[key] for key in wrong if key != ("grey", 19))
PY
