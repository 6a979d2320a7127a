#!/usr/bin/env bash
# rasterio 1.4.4: merge() of two class maps that declare no nodata value takes 0 for nodata. With method="first" the first
# file should win where both have pixels; where it has class 0, the second file's class is taken instead.
# Seen: a tile of class 0 merged with an overlapping tile of class 5 shows class 5 in the overlap.
# What helps: give both files a nodata value that is no class, such as 255.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet rasterio==1.4.4 numpy==2.2.6
venv/bin/python - <<'PY'
import numpy as np
import rasterio
from rasterio.merge import merge
from rasterio.transform import from_origin


def write(name, value, left, nodata):
    profile = dict(driver="GTiff", height=8, width=8, count=1, dtype="uint8", crs="EPSG:3857", nodata=nodata)
    with rasterio.open(name, "w", transform=from_origin(left, 8, 1, 1), **profile) as file:
        file.write(np.full((8, 8), value, np.uint8), 1)


rows = {}
for nodata in (None, 255):
    write("first.tif", 0, 0, nodata)
    write("second.tif", 5, 4, nodata)
    merged, _ = merge(["first.tif", "second.tif"], method="first")
    rows[nodata] = merged[0, 0].tolist()
    print("nodata", nodata, rows[nodata])
assert rows[None] == [0] * 4 + [5] * 8
assert rows[255] == [0] * 8 + [5] * 4
PY
