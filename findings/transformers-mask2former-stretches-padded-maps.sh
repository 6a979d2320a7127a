#!/usr/bin/env bash
# transformers 5.24.0: the image processors of Mask2Former, MaskFormer, OneFormer and DETR pad the photos of one call to a
# common size, on the right and below, and post_process_semantic_segmentation stretches the map of the padded photo over the
# photo, padding and all. target_sizes and maps have the photos' sizes and nothing warns; what is right for one photo is
# wrong for the same photo beside one of another shape.
# Seen: photos of 640x320 and 320x640 whose second half is an object, perfect logits. Alone, each map has 50 % object; both in
# one call, each has 25 % and lies elsewhere.
# What helps: photos of one shape in a call, or cutting the padding, which pixel_mask tells, off the logits first.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet transformers==5.24.0 torch==2.13.0 pillow==12.3.0 scipy==1.17.1 numpy==2.2.6
venv/bin/python -W ignore - <<'PY'
import numpy as np
import torch
from PIL import Image
from transformers.models.detr.image_processing_pil_detr import DetrImageProcessorPil
from transformers.models.detr.modeling_detr import DetrSegmentationOutput
from transformers.models.mask2former.image_processing_pil_mask2former import Mask2FormerImageProcessorPil
from transformers.models.mask2former.modeling_mask2former import Mask2FormerForUniversalSegmentationOutput
from transformers.models.maskformer.image_processing_pil_maskformer import MaskFormerImageProcessorPil
from transformers.models.maskformer.modeling_maskformer import MaskFormerForInstanceSegmentationOutput

wide, tall = np.zeros((320, 640, 3), np.uint8), np.zeros((640, 320, 3), np.uint8)
wide[:, 320:] = tall[320:] = 255
no_object_last = torch.tensor([[-9.0, 9.0, -9.0], [9.0, -9.0, -9.0]])


def maps(kind, photos):
    processor = kind()
    inputs = processor([Image.fromarray(photo) for photo in photos], return_tensors="pt")
    light = inputs["pixel_values"].mean(dim=1, keepdim=True)
    masks = torch.where(light > light.max() - 0.5, 10.0, -10.0)  # the first query finds the object, the second the rest
    masks, classes = torch.cat([masks, -masks], dim=1), no_object_last.expand(len(photos), -1, -1)
    if kind is DetrImageProcessorPil:
        outputs = DetrSegmentationOutput(logits=classes, pred_masks=masks)
    elif kind is MaskFormerImageProcessorPil:
        outputs = MaskFormerForInstanceSegmentationOutput(class_queries_logits=classes, masks_queries_logits=masks)
    else:
        outputs = Mask2FormerForUniversalSegmentationOutput(class_queries_logits=classes, masks_queries_logits=masks)
    sizes = [photo.shape[:2] for photo in photos]
    found = [each.numpy() for each in processor.post_process_semantic_segmentation(outputs, target_sizes=sizes)]
    assert [each.shape for each in found] == sizes
    return found


truth = [photo[..., 0] > 0 for photo in (wide, tall)]
for kind in (Mask2FormerImageProcessorPil, MaskFormerImageProcessorPil, DetrImageProcessorPil):
    alone, together = maps(kind, [wide]) + maps(kind, [tall]), maps(kind, [wide, tall])
    right = [[float((found == true).mean()) for found, true in zip(each, truth)] for each in (alone, together)]
    share = [float(found.mean()) for found in together]
    print(kind.__name__, "right pixels alone", right[0], "together", right[1], "object together", share)
    assert min(right[0]) > 0.99
    assert all(abs(value - 0.75) < 0.01 for value in right[1])
    assert all(abs(value - 0.25) < 0.01 for value in share)
PY
