"""Tiny segmentation models with random weights, as transformers itself saves them: folders without a network."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

CLASSES = ["ground", "box", "disc", "sky"]
FOUR_STAGES = ["stage1", "stage2", "stage3", "stage4"]
NAMES: dict[str, Any] = {"id2label": dict(enumerate(CLASSES)), "label2id": {name: i for i, name in enumerate(CLASSES)}}
SQUARE = {"height": 64, "width": 64}

Saved = tuple[Any, Any]
"""A model and its image processor."""


def _segformer() -> Saved:
    config = transformers.SegformerConfig(
        depths=[1, 1, 1, 1],
        hidden_sizes=[8, 8, 16, 16],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=16,
        **NAMES,
    )
    return transformers.SegformerForSemanticSegmentation(config), transformers.SegformerImageProcessor(size=SQUARE)


def _upernet() -> Saved:
    backbone = transformers.ConvNextConfig(depths=[1, 1, 1, 1], hidden_sizes=[8, 8, 16, 16], out_features=FOUR_STAGES)
    config = transformers.UperNetConfig(
        backbone_config=backbone,
        hidden_size=16,
        auxiliary_in_channels=16,
        auxiliary_channels=8,
        pool_scales=[1, 2],
        **NAMES,
    )
    return transformers.UperNetForSemanticSegmentation(config), transformers.SegformerImageProcessor(size=SQUARE)


def _dpt() -> Saved:
    config = transformers.DPTConfig(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=64,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        **NAMES,
    )
    return transformers.DPTForSemanticSegmentation(config), transformers.DPTImageProcessor(size=SQUARE)


def _beit() -> Saved:
    config = transformers.BeitConfig(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=64,
        out_indices=[1, 2, 3, 4],
        use_relative_position_bias=True,
        pool_scales=[1, 2],
        **NAMES,
    )
    processor = transformers.BeitImageProcessor(size=SQUARE, do_center_crop=False)
    return transformers.BeitForSemanticSegmentation(config), processor


def _mask2former() -> Saved:
    backbone = transformers.SwinConfig(
        image_size=64, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4, out_features=FOUR_STAGES
    )
    config = transformers.Mask2FormerConfig(
        backbone_config=backbone,
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=16,
        dim_feedforward=16,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        num_queries=6,
        **NAMES,
    )
    processor = transformers.Mask2FormerImageProcessor(size={"shortest_edge": 64, "longest_edge": 128})
    return transformers.Mask2FormerForUniversalSegmentation(config), processor


def _eomt() -> Saved:
    config = transformers.EomtConfig(
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=64,
        patch_size=8,
        num_queries=6,
        num_blocks=1,
        mlp_ratio=2,
        **NAMES,
    )
    processor = transformers.EomtImageProcessor(size={"shortest_edge": 64, "longest_edge": None}, do_split_image=True)
    return transformers.EomtForUniversalSegmentation(config), processor


MODELS: dict[str, Callable[[], Saved]] = {
    "segformer": _segformer,
    "upernet": _upernet,
    "dpt": _dpt,
    "beit": _beit,
    "mask2former": _mask2former,
    "eomt": _eomt,
}
QUERY_MODELS = ("mask2former", "eomt")


def save_tiny(name: str, folder: Path) -> Path:
    """Write a model's folder with its image processor; -> the folder. Its class scores vary from pixel to pixel."""
    transformers.utils.logging.disable_progress_bar()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, processor = MODELS[name]()
        with torch.no_grad():  # as they are drawn, all pixels get nearly the same scores
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=parameter[0].numel() ** -0.5)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
