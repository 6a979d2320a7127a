#!/usr/bin/env bash
# pyvips 3.2.0 with the wheel pyvips-binary 8.18.7: its libtiff has no ZSTD, LZMA, LERC or JPEG XL. A sound TIFF with one
# of these opens without an error and every pixel is 0, also with fail_on="truncated"; only fail_on="error" raises.
# Aerial photos are often ZSTD or LERC, and a black photo still gets a plausible class map.
# Seen: for all four codecs the largest value is 0, where the photo has values from 60 to 199. Deflate is right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet pyvips==3.2.0 pyvips-binary==8.18.7 tifffile==2026.3.3 imagecodecs==2026.3.6 numpy==2.2.6
venv/bin/python - <<'PY'
import numpy as np
import pyvips
import tifffile

photo = np.random.default_rng(0).integers(60, 200, (64, 80, 3), dtype=np.uint8)
for codec in ("zstd", "lzma", "lerc", "jpegxl"):
    tifffile.imwrite(f"{codec}.tif", photo, compression=codec, photometric="rgb")
    for fail_on in ("none", "truncated"):
        pixels = pyvips.Image.new_from_file(f"{codec}.tif", fail_on=fail_on).numpy()
        print(codec, "fail_on", fail_on, "largest value", pixels.max())
        assert pixels.shape == photo.shape
        assert pixels.max() == 0
    try:
        pyvips.Image.new_from_file(f"{codec}.tif", fail_on="error").numpy()
    except pyvips.Error:
        print(codec, "fail_on error raises")
    else:
        raise SystemExit(f"{codec}: fail_on=error no longer raises")
tifffile.imwrite("deflate.tif", photo, compression="deflate", photometric="rgb")
assert (pyvips.Image.new_from_file("deflate.tif").numpy() == photo).all()
PY
