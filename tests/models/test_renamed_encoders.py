"""Weights that transformers and MMSegmentation publish under other names give the same maps here."""

from pathlib import Path

import pytest
import timm
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn

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


def as_mmsegmentation(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A MiT's tensors as MMSegmentation names them, written from its own `state_dict()`."""
    theirs = {}
    for stage in range(4):
        for part, name in (("proj", "projection"), ("norm", "norm")):
            theirs[f"layers.{stage}.0.{name}"] = f"patch_embed{stage + 1}.{part}"
        theirs[f"layers.{stage}.2"] = f"norm{stage + 1}"
        for block in range(2):
            for part, name in {
                "norm1": "norm1",
                "norm2": "norm2",
                "attn.attn.out_proj": "attn.proj",
                "attn.sr": "attn.sr",
                "attn.norm": "attn.norm",
                "ffn.layers.0": "mlp.fc1",
                "ffn.layers.1": "mlp.dwconv.dwconv",
                "ffn.layers.4": "mlp.fc2",
            }.items():
                theirs[f"layers.{stage}.1.{block}.{part}"] = f"block{stage + 1}.{block}.{name}"
    renamed = {
        f"{name}.{kind}": state[f"{ours}.{kind}"]
        for name, ours in theirs.items()
        for kind in ("weight", "bias")
        if f"{ours}.{kind}" in state
    }
    for name, tensor in renamed.items():
        if name.endswith(("ffn.layers.0.weight", "ffn.layers.4.weight")):
            renamed[name] = tensor[:, :, None, None]
    return renamed


def test_mit_of_mmsegmentation(tmp_path):
    """Its queries, keys and values are those of torch's attention, which is the judge of their order here."""
    donor = start_network(MIT, None, ["a", "b", "c"], Path).network.encoder
    state = donor.state_dict()
    renamed = as_mmsegmentation(state)
    judges = {}
    for stage, (width, heads) in enumerate(((32, 1), (64, 2), (160, 5), (256, 8))):
        for block in range(2):
            judge = judges[f"block{stage + 1}.{block}"] = nn.MultiheadAttention(width, heads, batch_first=True)
            nn.init.normal_(judge.in_proj_bias)
            for name, tensor in judge.state_dict().items():
                renamed[f"layers.{stage}.1.{block}.attn.attn.{name}"] = tensor
    path = tmp_path / "w.pth"
    torch.save({"meta": {}, "state_dict": {f"backbone.{name}": tensor for name, tensor in renamed.items()}}, path)
    network = started(MIT, path)
    taken = network.encoder.state_dict()
    assert all(torch.equal(taken[name], tensor) for name, tensor in state.items() if ".attn." not in name)
    tokens = torch.rand(2, 12, 256)
    for block in (0, 1):  # in the last stage, where keys and values are not thinned out
        with torch.inference_mode():
            expected, _ = judges[f"block4.{block}"](tokens, tokens, tokens)
            torch.testing.assert_close(network.encoder.block4[block].attn(tokens, 3, 4), expected)


def test_resnet_v1c_of_mmsegmentation(tmp_path):
    theirs = timm.create_model("resnet50c").eval()
    stem = {"conv1.0.": "stem.0.", "conv1.1.": "stem.1.", "conv1.3.": "stem.3.", "conv1.4.": "stem.4."}
    stem |= {"conv1.6.": "stem.6.", "bn1.": "stem.7."}
    state = {}
    for name, tensor in theirs.state_dict().items():
        for ours, other in stem.items():
            name = other + name.removeprefix(ours) if name.startswith(ours) else name
        state[f"backbone.{name}"] = tensor
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
