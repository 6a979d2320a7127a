#!/usr/bin/env bash
# Pillow 13.0.0 saves a mask of mode P as PNG with as few bits as the palette has colors, and cuts larger pixel values down
# to these bits without a word. Masks often have a color for each class and 255 for ignored pixels, which has none: the
# ignored pixels come back as the last class. TIFF keeps the values, and so does a PNG whose palette has 17 colors or more.
# Seen: with 4 colors 255 comes back as 3, with 16 as 15, with 17 as 255.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet pillow==13.0.0 numpy==2.2.6
venv/bin/python - <<'PY'
import warnings

import numpy as np
from PIL import Image

warnings.simplefilter("error")
IGNORED = 255
seen = {}
for classes in (2, 4, 16, 17):
    mask = np.resize(np.arange(classes, dtype=np.uint8), (20, 30))
    mask[:5] = IGNORED
    image = Image.frombytes("P", (30, 20), mask.tobytes())
    image.putpalette(np.random.default_rng(0).integers(0, 256, (classes, 3), dtype=np.uint8).tobytes())
    assert (np.asarray(image) == mask).all()
    for ending in ("png", "tif"):
        image.save(f"mask.{ending}")
        with Image.open(f"mask.{ending}") as saved:
            pixels = np.asarray(saved)
        assert saved.mode == "P" and (pixels[5:] == mask[5:]).all()
        (seen[ending, classes],) = np.unique(pixels[:5]).tolist()
    print(classes, "colors: ignored pixels come back from PNG as", seen["png", classes], "from TIFF as", seen["tif", classes])
assert [seen["png", classes] for classes in (2, 4, 16, 17)] == [1, 3, 15, IGNORED]
assert {seen["tif", classes] for classes in (2, 4, 16, 17)} == {IGNORED}
PY
