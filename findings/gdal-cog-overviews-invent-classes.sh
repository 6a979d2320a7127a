#!/usr/bin/env bash
# rasterio 1.4.4: GDAL's COG driver builds overviews by cubic interpolation where nothing else is asked for, also of a
# single band of class numbers. Whoever reads the map at half size gets classes that nobody drew; the full size is right.
# Seen: a map of classes 1 and 7 alone has classes 0 to 8 at half size. With OVERVIEW_RESAMPLING=MODE it has 1 and 7.
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

classes = np.random.default_rng(0).choice([1, 7], (1024, 1024)).astype(np.uint8)
profile = dict(driver="COG", height=1024, width=1024, count=1, dtype="uint8", crs="EPSG:3857")
profile["transform"] = from_origin(0, 1024, 1, 1)
seen = {}
for name, options in (("default", {}), ("mode", {"OVERVIEW_RESAMPLING": "MODE"})):
    with rasterio.open("map.tif", "w", **profile, **options) as file:
        file.write(classes, 1)
    with rasterio.open("map.tif") as file:
        assert np.unique(file.read(1)).tolist() == [1, 7]
        seen[name] = np.unique(file.read(1, out_shape=(512, 512))).tolist()
    print(name, "classes at half size", seen[name])
assert seen["default"] == [0, 1, 2, 3, 4, 5, 6, 7, 8]
assert seen["mode"] == [1, 7]
PY
