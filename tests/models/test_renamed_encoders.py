"""Weights that transformers and MMSegmentation publish under other names give the same maps here."""

from pathlib import Path

import pytest
import timm
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from semseg_app.errors import UserError
from semseg_app.models import ModelSpec, SegmentationNetwork
from semseg_app.models.initial import start_network

MIT = ModelSpec(architecture="segformer", encoder="mit_b0", num_classes=3, decoder_channels=16)
RESNET_C = ModelSpec(architecture="upernet-plain", encoder="tu-resnet50c", num_classes=3, decoder_channels=16)


def started(spec: ModelSpec, path: Path) -> SegmentationNetwork:
    plain = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return start_network(spec, str(path), ["a", "b", "c"], Path, normalization=plain).network.eval()


def test_segformer_of_transformers(tmp_path):
    theirs = transformers.SegformerForSemanticSegmentation(transformers.SegformerConfig()).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(std=0.1)
    theirs.save_pretrained(tmp_path)
    images = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        expected = theirs(images, output_hidden_states=True).hidden_states
        maps = started(MIT, tmp_path).encoder(images)[-4:]
    for ours, map in zip(maps, expected[-4:], strict=True):
        torch.testing.assert_close(ours, map, rtol=0, atol=1e-3 * float(map.abs().max()))


def mit_of_mmsegmentation() -> dict[str, Tensor]:
    """Names and shapes as `MixVisionTransformer` of MMSegmentation 1.2.2 has them at the size of mit_b0."""
    shapes: dict[str, tuple[int, ...]] = {}
    before = 3
    for stage, (width, ratio) in enumerate(((32, 8), (64, 4), (160, 2), (256, 1))):
        side = 3 if stage else 7
        shapes[f"layers.{stage}.0.projection.weight"] = (width, before, side, side)
        shapes |= {f"layers.{stage}.{name}": (width,) for name in ("0.projection.bias", "0.norm.weight", "0.norm.bias")}
        for block in (0, 1):
            for name, shape in {
                "norm1.weight": (width,),
                "norm1.bias": (width,),
                "attn.attn.in_proj_weight": (3 * width, width),
                "attn.attn.in_proj_bias": (3 * width,),
                "attn.attn.out_proj.weight": (width, width),
                "attn.attn.out_proj.bias": (width,),
                "attn.sr.weight": (width, width, ratio, ratio),
                "attn.sr.bias": (width,),
                "attn.norm.weight": (width,),
                "attn.norm.bias": (width,),
                "norm2.weight": (width,),
                "norm2.bias": (width,),
                "ffn.layers.0.weight": (4 * width, width, 1, 1),
                "ffn.layers.0.bias": (4 * width,),
                "ffn.layers.1.weight": (4 * width, 1, 3, 3),
                "ffn.layers.1.bias": (4 * width,),
                "ffn.layers.4.weight": (width, 4 * width, 1, 1),
                "ffn.layers.4.bias": (width,),
            }.items():
                if ratio > 1 or not name.startswith(("attn.sr.", "attn.norm.")):
                    shapes[f"layers.{stage}.1.{block}.{name}"] = shape
        shapes |= {f"layers.{stage}.2.{name}": (width,) for name in ("weight", "bias")}
        before = width
    return {name: torch.randn(shape) * 0.1 for name, shape in shapes.items()}


def maps_of_mmsegmentation(state: dict[str, Tensor], images: Tensor) -> list[Tensor]:
    """What such a network makes of photos, by torch's own functions and attention."""

    def conv(name: str, given: Tensor, **options: int) -> Tensor:
        return functional.conv2d(given, state[f"{name}.weight"], state[f"{name}.bias"], **options)

    def norm(name: str, given: Tensor) -> Tensor:
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        return functional.layer_norm(given.movedim(1, -1), weight.shape, weight, bias, 1e-6).movedim(-1, 1)

    maps = []
    for stage, (heads, ratio) in enumerate(((1, 8), (2, 4), (5, 2), (8, 1))):
        stride, padding = (2, 1) if stage else (4, 3)
        images = conv(f"layers.{stage}.0.projection", images, stride=stride, padding=padding)
        images = norm(f"layers.{stage}.0.norm", images)
        for block in (f"layers.{stage}.1.0", f"layers.{stage}.1.1"):
            attention = nn.MultiheadAttention(images.shape[1], heads, batch_first=True)
            attention.load_state_dict({name: state[f"{block}.attn.attn.{name}"] for name in attention.state_dict()})
            queries = keys = norm(f"{block}.norm1", images)
            if ratio > 1:
                keys = norm(f"{block}.attn.norm", conv(f"{block}.attn.sr", queries, stride=ratio))
            queries, keys = (given.flatten(2).transpose(1, 2) for given in (queries, keys))
            images = images + attention(queries, keys, keys)[0].transpose(1, 2).view_as(images)
            inner = conv(f"{block}.ffn.layers.0", norm(f"{block}.norm2", images))
            inner = functional.gelu(conv(f"{block}.ffn.layers.1", inner, padding=1, groups=inner.shape[1]))
            images = images + conv(f"{block}.ffn.layers.4", inner)
        images = norm(f"layers.{stage}.2", images)
        maps.append(images)
    return maps


def test_mit_of_mmsegmentation(tmp_path):
    theirs = mit_of_mmsegmentation()
    state = {f"backbone.{name}": tensor for name, tensor in theirs.items()}
    torch.save({"meta": {}, "state_dict": state}, tmp_path / "w.pth")
    images = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        expected = maps_of_mmsegmentation(theirs, images)
        maps = started(MIT, tmp_path / "w.pth").encoder(images)[-4:]
    for ours, map in zip(maps, expected, strict=True):
        torch.testing.assert_close(ours, map, rtol=0, atol=1e-3 * float(map.abs().max()))


def test_resnet_v1c_of_mmsegmentation(tmp_path):
    """Its stem is one sequence, with the norm and the activation after the last convolution."""
    theirs = timm.create_model("resnet50c").eval()
    stem = nn.Sequential(*theirs.conv1, theirs.bn1, theirs.act1).state_dict(prefix="stem.")
    rest = {name: tensor for name, tensor in theirs.state_dict().items() if not name.startswith(("conv1.", "bn1."))}
    state = {f"backbone.{name}": tensor for name, tensor in (stem | rest).items()}
    torch.save({"state_dict": state}, tmp_path / "w.pth")
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        deepest = started(RESNET_C, tmp_path / "w.pth").encoder(images)[-1]
        torch.testing.assert_close(deepest, theirs.forward_features(images))


@pytest.mark.parametrize("lost", ["block.0.0.attention.self.value.weight", "layer_norm.3.bias"])
def test_weights_that_lack_a_tensor_are_refused(lost, tmp_path):
    theirs = transformers.SegformerModel(transformers.SegformerConfig())
    theirs.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    state = {name: tensor for name, tensor in state.items() if not name.endswith(lost)}
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"these are not the weights of mit_b0: 17[45] of its 176"):
        started(MIT, tmp_path / "w.pth")
