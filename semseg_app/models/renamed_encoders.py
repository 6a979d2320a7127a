"""Encoders that other libraries publish under names of their own, under the names that they have here.

SegFormer's (MiT): transformers splits keys and values, MMSegmentation keeps them with the queries in one matrix, and
segmentation_models_pytorch has the names of the authors' code. ResNet with a stem of three convolutions: MMSegmentation
calls it ResNetV1c, timm resnet50c.
"""

import re

import torch
from torch import Tensor

# Of the rules below, "<\1>" in a replacement is the number found, plus one: both libraries count the four stages from
# 0, and the names here from 1.
_TRANSFORMERS = (
    (r"^patch_embeddings\.(\d)\.proj\.", r"patch_embed<\1>.proj."),
    (r"^patch_embeddings\.(\d)\.layer_norm\.", r"patch_embed<\1>.norm."),
    (r"^layer_norm\.(\d)\.", r"norm<\1>."),
    (r"^block\.(\d)\.", r"block<\1>."),
    (r"\.layer_norm[._]([12])\.", r".norm\1."),
    (r"\.attention\.self\.(query|key|value)\.", r".attn.\1."),
    (r"\.attention\.self\.sr\.", ".attn.sr."),
    (r"\.attention\.self\.layer_norm\.", ".attn.norm."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.mlp\.dense([12])\.", r".mlp.fc\1."),
)
_MMSEGMENTATION = (
    (r"^layers\.(\d)\.0\.projection\.", r"patch_embed<\1>.proj."),
    (r"^layers\.(\d)\.0\.norm\.", r"patch_embed<\1>.norm."),
    (r"^layers\.(\d)\.2\.", r"norm<\1>."),
    (r"^layers\.(\d)\.1\.", r"block<\1>."),
    (r"\.attn\.attn\.out_proj\.", ".attn.proj."),
    (r"\.attn\.attn\.in_proj_", ".attn.qkv."),
    (r"\.ffn\.layers\.0\.", ".mlp.fc1."),
    (r"\.ffn\.layers\.1\.", ".mlp.dwconv.dwconv."),
    (r"\.ffn\.layers\.4\.", ".mlp.fc2."),
)
_STEM = ((r"^stem\.([01346])\.", r"conv1.\1."), (r"^stem\.7\.", "bn1."))


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """`state`, an encoder's own tensors without a prefix, under the names that they have here.

    Unchanged where they are not of one of the libraries above.
    """
    if "block.0.0.attention.self.query.weight" in state:
        return _mit(_by_rules(state, _TRANSFORMERS))
    if "layers.0.1.0.attn.attn.in_proj_weight" in state:
        return _mit(_by_rules(state, _MMSEGMENTATION))
    if "stem.6.weight" in state and "layer1.0.conv1.weight" in state:
        return _by_rules(state, _STEM)
    return state


def _by_rules(state: dict[str, Tensor], rules: tuple[tuple[str, str], ...]) -> dict[str, Tensor]:
    """`state` under the names that the rules make of its own, one after the other."""
    result = {}
    for name, tensor in state.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        result[re.sub(r"<(\d)>", lambda stage: str(int(stage[1]) + 1), name)] = tensor
    return result


def _mit(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """With queries alone and keys and values together, and matrices where there are convolutions of size 1."""
    result = {}
    for name, tensor in state.items():
        if ".attn.qkv." in name:
            queries, keys, values = tensor.chunk(3)
            result[name.replace(".qkv.", ".q.")] = queries
            result[name.replace(".qkv.", ".kv.")] = torch.cat([keys, values])
        elif ".attn.query." in name:
            result[name.replace(".query.", ".q.")] = tensor
        elif ".attn.key." in name:
            if (partner := name.replace(".key.", ".value.")) in state:
                result[name.replace(".key.", ".kv.")] = torch.cat([tensor, state[partner]])
        elif ".attn.value." not in name:
            linear = ".mlp.fc" in name and tensor.shape[2:] == (1, 1)
            result[name] = tensor.flatten(1) if linear else tensor
    return result
