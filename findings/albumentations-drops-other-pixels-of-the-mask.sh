#!/usr/bin/env bash
# albumentations 2.0.8: PixelDropout draws the pixels that it drops from the mask anew, whatever it dropped from the photo.
# By its documentation it applies to both the image and its corresponding mask, and mask_drop_value is what all dropped
# pixels of the mask get. Pixels that can be seen lose their class, and those that are gone keep theirs. Nothing is said.
# Seen: a photo that is its own mask, 10 % dropped: of the pixels marked in the mask 10 % are gone from the photo, as chance
# has it, and not all. CoarseDropout and GridDropout, given fill_mask, mark the pixels that they drop.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet albumentations==2.0.8 opencv-python-headless==4.12.0.88 numpy==2.2.6
NO_ALBUMENTATIONS_UPDATE=1 venv/bin/python - <<'PY'
import albumentations as A
import numpy as np

classes = np.random.default_rng(0).integers(1, 8, (256, 256)).astype(np.uint8)
shares = {}
for name, transform in (
    ("pixels", A.PixelDropout(dropout_prob=0.1, drop_value=0, mask_drop_value=255, p=1)),
    ("coarse", A.CoarseDropout(fill=0, fill_mask=255, p=1)),
    ("grid", A.GridDropout(fill=0, fill_mask=255, p=1)),
):
    shares[name] = []
    for seed in range(5):
        result = A.Compose([transform], seed=seed)(image=classes, mask=classes)
        gone, marked = result["image"] == 0, result["mask"] == 255
        assert gone.any() and marked.any()
        shares[name].append(float(gone[marked].mean()))
    print(name, "share of the marked pixels that are gone from the photo", np.round(shares[name], 3).tolist())
assert shares["coarse"] == shares["grid"] == [1] * 5
assert all(0.08 < share < 0.12 for share in shares["pixels"])
PY
