#!/usr/bin/env bash
# rasterio 1.4.4 (GDAL 3.10.3): warp.reproject takes dst_nodata=0 for none given where the result is an array, and fills
# what has no source with src_nodata. By its documentation dst_nodata is what remains in all areas that the source does not
# cover. Any other number is heeded, and 0 where the result is a band of a file. Nothing is said.
# Seen: a map with classes 1 to 3 and 255 for unlabeled, warped to another system with src_nodata=255: with dst_nodata=7 all
# that is unlabeled or outside is 7, with dst_nodata=0 it is 255. A file gets 0 from the same call.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet rasterio==1.4.4 numpy==2.2.6
venv/bin/python - <<'PY'
import numpy as np
import rasterio
from rasterio.transform import from_origin
from rasterio.warp import calculate_default_transform, reproject

classes = np.random.default_rng(0).choice([1, 2, 3, 255], (64, 64)).astype(np.uint8)
source = {"src_transform": from_origin(500000, 5000640, 10, 10), "src_crs": "EPSG:32632", "src_nodata": 255}
bounds = (500000, 5000000, 500640, 5000640)
transform, width, height = calculate_default_transform("EPSG:32632", "EPSG:32633", 64, 64, *bounds)
place = {"dst_transform": transform, "dst_crs": "EPSG:32633"}
profile = {"driver": "GTiff", "width": width, "height": height, "count": 1, "dtype": "uint8"}
seen = {}
for nodata in (0, 7):
    warped, _ = reproject(classes, np.full((height, width), 99, np.uint8), **source, **place, dst_nodata=nodata)
    with rasterio.open("map.tif", "w", **profile, crs="EPSG:32633", transform=transform) as file:
        reproject(classes, rasterio.band(file, 1), **source, dst_nodata=nodata)
    with rasterio.open("map.tif") as file:
        in_file = file.read(1)
    assert (np.isin(warped, (1, 2, 3)) == np.isin(in_file, (1, 2, 3))).all()
    for kind, result in (("array", warped), ("file", in_file)):
        seen[kind, nodata] = np.unique(result).tolist()
        print("dst_nodata", nodata, kind, "has", seen[kind, nodata], "and in its corner", result[0, 0])
assert seen["array", 7] == seen["file", 7] == [1, 2, 3, 7]
assert seen["file", 0] == [0, 1, 2, 3]
assert seen["array", 0] == [1, 2, 3, 255]
PY
