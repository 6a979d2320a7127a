"""Attention of one patch against the softmax of its query with all keys, computed here from the layers' weights."""

import numpy as np
import pytest
import torch
from support import tiny_encoders  # noqa: F401 (adds its encoders to timm)
from torch import Tensor

from semseg_app.errors import UserError
from semseg_app.models import ModelSpec, SegmentationNetwork, build
from semseg_app.plots.attention import attention_row
from semseg_app.training.patch_operators import patch_shuffle
from semseg_app.training.plots.shuffled_attention import shuffled, shuffled_attention_row


def network_of(architecture: str, encoder: str) -> SegmentationNetwork:
    torch.manual_seed(0)
    spec = ModelSpec(architecture=architecture, encoder=encoder, num_classes=3, decoder_channels=8)
    return build(spec).eval()


@pytest.fixture(scope="module")
def transformer() -> SegmentationNetwork:
    return network_of("setr", "tu-test_vit")


def softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def last_layer_by_hand(network: SegmentationNetwork, images: Tensor, token: int) -> np.ndarray:
    """The mean over heads of a token's weights, from what goes into the last block of a vision transformer of timm."""
    block = network.encoder.model.blocks[-1]
    kept = []
    hook = block.attn.register_forward_pre_hook(lambda module, inputs: kept.append(inputs[0]))
    with torch.no_grad():
        network.encode(images)
    hook.remove()
    tokens = kept[0][0].double().numpy()
    weight = block.attn.qkv.weight.double().detach().numpy()
    bias = block.attn.qkv.bias.double().detach().numpy()
    queries, keys, _ = np.split(tokens @ weight.T + bias, 3, axis=1)
    heads = block.attn.num_heads
    rows = []
    for query, key in zip(np.split(queries, heads, axis=1), np.split(keys, heads, axis=1), strict=True):
        rows.append(softmax(query[token] @ key.T / np.sqrt(query.shape[1])))
    return np.mean(rows, axis=0)


def test_a_row_of_a_vision_transformer(transformer) -> None:
    images = torch.rand(1, 3, 40, 60)
    seen = attention_row(transformer, images, column=37, row=20)
    # Patches of 16: 3 x 4 of the padded photo; pixel (37, 20) lies in patch (1, 2), the seventh, behind a class token.
    assert (seen.patch, seen.cell, seen.weights.shape) == (16, (1, 2), (3, 4))
    assert transformer.attention_class_token
    expected = last_layer_by_hand(transformer, images, 1 + 6)
    assert seen.prefix == pytest.approx(expected[0], abs=1e-6)
    np.testing.assert_allclose(seen.weights.ravel(), expected[1:] / expected[1:].sum(), atol=1e-6)
    over = seen.over_photo(40, 60)
    assert over.shape == (40, 60)
    assert over[20, 37] == seen.weights[1, 2]
    assert seen.effective == pytest.approx(np.exp(-(seen.weights * np.log(seen.weights)).sum()), rel=1e-5)
    first = attention_row(transformer, images, 37, 20, layer=0)
    assert not np.allclose(first.weights, seen.weights)


def test_a_row_of_a_mix_transformer() -> None:
    network = network_of("segformer", "mit_b0")
    images = torch.rand(1, 3, 64, 96)
    seen = attention_row(network, images, column=95, row=0)
    assert (seen.cell, seen.weights.shape, seen.prefix) == ((0, 2), (2, 3), 0.0)
    layer = network.encoder.block4[-1].attn
    kept = []
    hook = layer.register_forward_pre_hook(lambda module, inputs: kept.append(inputs[0]))
    with torch.no_grad():
        network.encode(images)
    hook.remove()
    tokens = kept[0][0].double()
    queries = (tokens @ layer.q.weight.double().T + layer.q.bias.double()).detach().numpy()
    keys = (tokens @ layer.kv.weight.double().T + layer.kv.bias.double()).detach().numpy()[:, : queries.shape[1]]
    rows = [
        softmax(query[2] @ key.T * layer.scale)
        for query, key in zip(np.split(queries, layer.num_heads, 1), np.split(keys, layer.num_heads, 1), strict=True)
    ]
    np.testing.assert_allclose(seen.weights.ravel(), np.mean(rows, axis=0), atol=1e-5)


def test_registers_and_rotations_are_taken_into_account() -> None:
    """Of a DINOv3: the weights sum to 1 with the five tokens before the patches, and are those of its own attention."""
    network = network_of("setr", "tu-dinov3_test")
    images = torch.rand(1, 3, 32, 48)
    seen = attention_row(network, images, 0, 0)
    assert seen.weights.shape == (2, 3)
    assert seen.weights.sum() == pytest.approx(1, abs=1e-5)
    assert 0 < seen.prefix < 1


def test_of_a_shuffled_photo_the_weights_lie_where_the_patches_come_from(transformer) -> None:
    images = torch.rand(1, 3, 64, 96)
    moved, order = shuffled(images, 32, seed=1)
    assert not torch.equal(moved, images)
    assert torch.equal(patch_shuffle(moved, order.argsort(dim=1), 32), images)
    seen = shuffled_attention_row(transformer, moved, order, 32, column=70, row=40)
    assert seen.cell == (2, 4)
    # By hand: the block of pixel (70, 40) is the sixth of 2 x 3; follow it and every patch to their new places.
    places = order[0].tolist()
    block = places.index(5)
    plain = attention_row(transformer, moved, block % 3 * 32 + 70 % 32, block // 3 * 32 + 40 % 32)
    for to, source in enumerate(places):
        here = plain.weights[to // 3 * 2 : to // 3 * 2 + 2, to % 3 * 2 : to % 3 * 2 + 2]
        there = seen.weights[source // 3 * 2 : source // 3 * 2 + 2, source % 3 * 2 : source % 3 * 2 + 2]
        np.testing.assert_array_equal(here, there)


def test_what_cannot_be_shown_is_one_line(transformer) -> None:
    images = torch.rand(1, 3, 40, 60)
    with pytest.raises(UserError, match="the photo is 60x40; take 0 to 59,0 to 39"):
        attention_row(transformer, images, 60, 0)
    with pytest.raises(UserError, match="layers 0 to"):
        attention_row(transformer, images, 0, 0, layer=99)
    with pytest.raises(UserError, match="--shuffle 24: "):
        shuffled(images, 24, 0)
    with pytest.raises(UserError, match="has no self-attention over all patches"):
        attention_row(network_of("deeplabv3plus", "resnet18"), images, 0, 0, name="m")
    even = torch.rand(1, 3, 40, 60)
    moved, order = shuffled(even, 20, 0)
    with pytest.raises(UserError, match="no multiple of the patch"):
        shuffled_attention_row(transformer, moved, order, 20, 0, 0)
