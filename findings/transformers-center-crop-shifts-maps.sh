#!/usr/bin/env bash
# transformers 5.24.0: the image processors of MobileViT and MobileNetV2, whose models segment too (DeepLabV3), cut out the
# center of the photo by default, and post_process_semantic_segmentation stretches the map of that cutout over the whole
# photo, given its size as target_sizes. Map and photo have one size and do not lie on each other; nothing warns.
# Seen: a photo of 640x320 whose left 160 columns are an object. From perfect logits MobileViT's map gives it 40 columns and
# MobileNetV2's none; those of SegFormer and BEiT, which do not cut, give it 160.
# What helps: do_center_crop=False.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet transformers==5.24.0 torch==2.13.0 pillow==12.3.0 numpy==2.2.6
venv/bin/python -W ignore - <<'PY'
import numpy as np
import torch
from PIL import Image
from transformers.modeling_outputs import SemanticSegmenterOutput
from transformers.models.beit.image_processing_pil_beit import BeitImageProcessorPil
from transformers.models.mobilenet_v2.image_processing_pil_mobilenet_v2 import MobileNetV2ImageProcessorPil
from transformers.models.mobilevit.image_processing_pil_mobilevit import MobileViTImageProcessorPil
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

photo = np.zeros((320, 640, 3), np.uint8)
photo[:, :160] = 255
columns = {}
for kind in (SegformerImageProcessorPil, BeitImageProcessorPil, MobileViTImageProcessorPil, MobileNetV2ImageProcessorPil):
    for options in ({}, {"do_center_crop": False}):
        processor = kind(**options)
        inputs = processor(Image.fromarray(photo), return_tensors="np")["pixel_values"]
        light = torch.as_tensor(np.array(inputs)).mean(dim=1) - (inputs.max() + inputs.min()) / 2
        outputs = SemanticSegmenterOutput(logits=torch.stack([-light, light], dim=1))
        (classes,) = processor.post_process_semantic_segmentation(outputs, target_sizes=[photo.shape[:2]])
        assert classes.shape == photo.shape[:2]
        name = kind.__name__.removesuffix("ImageProcessorPil")
        columns[name, bool(options)] = int(classes[160].sum())
        print(name, "options", options, "columns of the object", columns[name, bool(options)])
assert [columns[name, False] for name in ("Segformer", "Beit", "MobileViT", "MobileNetV2")] == [160, 160, 40, 0]
assert all(abs(count - 160) <= 2 for (_, uncropped), count in columns.items() if uncropped)
PY
