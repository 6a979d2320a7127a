#!/usr/bin/env bash
# transformers 5.24.0, the image processors on Pillow (those on torchvision are not tried here): BEiT's and DPT's resize
# segmentation maps as they resize photos, by bicubic interpolation. At every outline, labels for training get classes that
# the map does not have, and the ignored 255 fades into real classes. SegFormer's and MobileViT's take the nearest pixel.
# Nothing warns.
# Seen: a map of 0, 7 and 255 comes back from BEiT with 77 numbers and from DPT with 100, of which 46 and 63 would be classes
# of ADE20K; from SegFormer and MobileViT with 0, 7 and 255.
# What helps: a second processor with resample=0 (nearest), for the maps alone.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet transformers==5.24.0 torch==2.13.0 pillow==12.3.0 numpy==2.2.6
venv/bin/python -W ignore - <<'PY'
import numpy as np
from PIL import Image
from transformers.models.beit.image_processing_pil_beit import BeitImageProcessorPil
from transformers.models.dpt.image_processing_pil_dpt import DPTImageProcessorPil
from transformers.models.mobilevit.image_processing_pil_mobilevit import MobileViTImageProcessorPil
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

classes = np.random.default_rng(0).choice([0, 7, 255], (6, 10)).repeat(31, axis=0).repeat(29, axis=1).astype(np.uint8)
photo = Image.fromarray(np.stack([classes] * 3, axis=-1))
seen = {}
for kind in (SegformerImageProcessorPil, MobileViTImageProcessorPil, BeitImageProcessorPil, DPTImageProcessorPil):
    for options in ({}, {"resample": Image.Resampling.NEAREST}):
        labels = kind(**options)(photo, segmentation_maps=Image.fromarray(classes), return_tensors="np")["labels"]
        numbers = np.unique(labels).tolist()
        name = kind.__name__.removesuffix("ImageProcessorPil")
        seen[name, bool(options)] = len(numbers), sum(number < 150 for number in numbers)
        print(name, "options", options, "numbers, and those below 150:", seen[name, bool(options)], numbers[:6])
assert seen.pop(("Beit", False)) == (77, 46)
assert seen.pop(("DPT", False)) == (100, 63)
assert set(seen.values()) == {(3, 2)}
PY
