"""Transformer encoders against timm, segmentation_models_pytorch and naive attention; SETR against its paper."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from segmentation_models_pytorch.encoders import get_encoder
from segmentation_models_pytorch.encoders.mix_transformer import MixVisionTransformerEncoder
from support import tiny_encoders  # noqa: F401, adds its small encoders to timm
from torch import Tensor, nn
from torch.nn import functional

from semseg_app.models import ModelSpec, SegmentationNetwork, build
from semseg_app.models.initial import start_network

ENCODERS = {"class token": "tu-test_vit", "register": "tu-test_vit2", "mit": "mit_b0"}
SIZE = (61, 97)


def make(encoder: str, architecture: str | None = None, **options: int) -> SegmentationNetwork:
    torch.manual_seed(0)
    architecture = architecture or ("segformer" if encoder.startswith("mit") else "setr")
    network = build(
        ModelSpec(architecture=architecture, encoder=encoder, num_classes=3, decoder_channels=16, **options)
    )
    for module in network.modules():
        if hasattr(module, "gamma"):  # layer scale: as it starts, a block does next to nothing
            nn.init.ones_(module.gamma)
    return network.eval()


def random_bias(network: SegmentationNetwork, batch: int, height: int, width: int) -> Tensor:
    side = network.attention_patch
    entries = 1 + -(-height // side) * -(-width // side)
    return 3 * torch.randn(batch, entries, entries)


@pytest.mark.parametrize("name", ["test_vit", "test_vit2", "deit_tiny_distilled_patch16_224"])
@pytest.mark.parametrize("architecture", ["setr", "dpt"])
def test_maps_are_those_of_timm_at_the_native_size(name, architecture):
    """Position table untouched, prefix tokens in their places, the final norm on dpt's maps alone."""
    network = make(f"tu-{name}", architecture)
    original = timm.create_model(name, num_classes=0).eval()
    weights = {key.removeprefix("model."): value for key, value in network.encoder.state_dict().items()}
    if architecture == "dpt":
        norm = "fc_norm" if isinstance(original.norm, nn.Identity) else "norm"
        weights = {
            key if key in original.state_dict() else f"{norm}.{key[5:]}": value for key, value in weights.items()
        }
        original.norm, original.fc_norm = getattr(original, norm), getattr(original, norm)
    missing, unexpected = original.load_state_dict(weights, strict=False)
    assert not unexpected
    assert all("norm" in key for key in missing)
    images = torch.rand(2, 3, *original.patch_embed.img_size)
    layers = {12: {"setr": [4, 7, 9, 11], "dpt": [2, 5, 8, 11]}, 6: {"setr": [2, 3, 4, 5], "dpt": [1, 2, 4, 5]}}
    layers[8] = {"setr": [3, 5, 6, 7], "dpt": [1, 3, 5, 7]}
    with torch.inference_mode():
        maps = network.encode(images)
        expected = original.forward_intermediates(
            maps[0],
            indices=layers[len(original.blocks)][architecture],
            norm=architecture == "dpt",
            intermediates_only=True,
        )
    for ours, theirs in zip(maps[1:], expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", ["dinov3_test", "lingbot_test", "pe_spatial_test", "eva02_test", "rope_mixed_test"])
@pytest.mark.parametrize("grid", [(9, 5), None])
def test_rotary_encoders_are_those_of_timm(name, grid):
    """At the native size; and at others where no position table is resized, which we do bilinearly."""
    encoder = make(f"tu-{name}", "dpt").encoder
    original = timm.create_model(name, num_classes=0, dynamic_img_size=True).eval()
    if grid and original.pos_embed is not None:
        pytest.skip("it has a position table")
    if isinstance(original.norm, nn.Identity):  # models that pool before the norm keep its weights elsewhere
        original.norm = original.fc_norm
    original.prune_intermediate_layers(4, prune_norm=False)
    weights = {key.removeprefix("model."): value for key, value in encoder.state_dict().items()}
    original.load_state_dict(weights)
    rows, columns = grid or original.patch_embed.grid_size
    images = torch.rand(1, 3, encoder.patch * rows, encoder.patch * columns)
    with torch.inference_mode():
        maps = encoder(images)[1:]
        expected = original.forward_intermediates(images, norm=True, intermediates_only=True)
    for ours, theirs in zip(maps, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_sam_is_timms_at_the_native_size():
    encoder = make("tu-sam_test", "dpt").encoder
    for name, parameter in encoder.named_parameters():
        if "pos" in name:
            nn.init.normal_(parameter)
    original = timm.create_model("sam_test", num_classes=0).eval()
    original.load_state_dict({key[6:]: value for key, value in encoder.state_dict().items()}, strict=False)
    images = torch.rand(2, 3, 128, 128)
    with torch.inference_mode():
        maps = encoder(images)[1:]
        expected = original.forward_intermediates(images, intermediates_only=True)
    for ours, theirs in zip(maps, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_position_table_is_resized_bilinearly():
    encoder = make("tu-test_vit").encoder
    rows, columns = encoder.model.patch_embed.grid_size
    with torch.no_grad():
        for block in encoder.model.blocks:  # blocks that add nothing
            for layer in (block.attn.proj, block.mlp.fc2):
                layer.weight.zero_()
                layer.bias.zero_()
        encoder.model.patch_embed.proj.weight.zero_()
        encoder.model.patch_embed.proj.bias.zero_()
        ramp = torch.arange(rows, dtype=torch.float32).repeat_interleave(columns)
        encoder.model.pos_embed[0, 1:] = ramp.unsqueeze(1)
        height = 2 * rows + 3
        maps = encoder(torch.rand(1, 3, 16 * height, 16 * 5))
    expected = ((torch.arange(height) + 0.5) * rows / height - 0.5).clamp(0, rows - 1)
    torch.testing.assert_close(maps[-1], expected.view(1, 1, -1, 1).expand(maps[-1].shape))


@pytest.mark.parametrize("encoder", ENCODERS.values(), ids=ENCODERS)
def test_bias_of_zero_is_no_bias(encoder):
    network = make(encoder)
    images = torch.rand(2, 3, *SIZE)
    bias = random_bias(network, 2, *SIZE)
    with torch.inference_mode():
        plain, zero, biased = (network.encode(images, one) for one in (None, 0 * bias, bias))
    for one, other in zip(plain, zero, strict=True):
        torch.testing.assert_close(one, other)
    assert (plain[-1] - biased[-1]).abs().max() > 0.01


@pytest.mark.parametrize("encoder", ENCODERS.values(), ids=ENCODERS)
def test_rows_of_biased_attention_sum_to_one(encoder):
    """If all values are equal, the weights cannot matter, as long as they sum to 1."""
    network = make(encoder)
    for name, module in network.encoder.named_modules():
        if name.endswith(("attn.qkv", "attn.kv")):
            first = module.out_features * 2 // 3 if name.endswith("qkv") else module.out_features // 2
            module.weight.data[first:] = 0
            module.bias.data[first:] = 0.5
    images = torch.rand(2, 3, *SIZE)
    with torch.inference_mode():
        plain, biased = network.encode(images), network.encode(images, random_bias(network, 2, *SIZE))
    for one, other in zip(plain, biased, strict=True):
        torch.testing.assert_close(one, other)


def naive_attention(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    """`[B, heads, T, d]` each; the bias `[B, T, T]` is the same for all heads."""
    scores = torch.einsum("bhid,bhjd->bhij", queries, keys) / queries.shape[-1] ** 0.5 + bias.unsqueeze(1)
    weights = scores.exp() / scores.exp().sum(dim=-1, keepdim=True)
    return torch.einsum("bhij,bhjd->bihd", weights, values).flatten(2)


@pytest.mark.parametrize("encoder", ["tu-test_vit", "tu-test_vit2"])
def test_bias_acts_in_every_layer_of_a_vision_transformer(encoder):
    network = make(encoder)
    model = network.encoder.model
    height, width = model.patch_embed.img_size
    images = torch.rand(2, 3, height, width)
    bias = random_bias(network, 2, height, width)
    with torch.inference_mode():
        maps = network.encode(images, bias)
        patches = model.patch_embed(maps[0]).flatten(1, 2)
        prefix = (model.cls_token if encoder == "tu-test_vit" else model.reg_token).expand(2, -1, -1)
        tokens = torch.cat([prefix, patches], dim=1) + model.pos_embed
        if encoder == "tu-test_vit2":  # the register stands where the class token would, and has no bias
            bias[:, 0], bias[:, :, 0] = 0, 0
        for block in model.blocks:
            packed = block.attn.qkv(block.norm1(tokens)).unflatten(2, (3, block.attn.num_heads, -1))
            mixed = naive_attention(*packed.permute(2, 0, 3, 1, 4), bias)
            tokens = tokens + block.ls1(block.attn.proj(mixed))
            tokens = tokens + block.ls2(block.mlp(block.norm2(tokens)))
    assert network.attention_class_token == (encoder == "tu-test_vit")
    last = maps[-1].flatten(2).transpose(1, 2)
    torch.testing.assert_close(last, tokens[:, 1:], rtol=1e-4, atol=1e-5)


def test_bias_acts_in_the_last_stage_of_a_mit(monkeypatch):
    network = make("mit_b0")
    images = torch.rand(2, 3, *SIZE)
    bias = random_bias(network, 2, *SIZE)
    for block in network.encoder.block4:

        def attention(tokens: Tensor, height: int, width: int, layer: nn.Module = block.attn) -> Tensor:
            heads = layer.num_heads
            queries = layer.q(tokens).unflatten(2, (heads, -1)).transpose(1, 2)
            keys, values = layer.kv(tokens).unflatten(2, (2, heads, -1)).permute(2, 0, 3, 1, 4)
            return layer.proj(naive_attention(queries, keys, values, bias[:, 1:, 1:]))

        monkeypatch.setattr(block.attn, "forward", attention)
    with torch.inference_mode():
        for ours, theirs in zip(network.encode(images, bias), network.encode(images), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_mit_is_that_of_segmentation_models_pytorch():
    network = make("mit_b0")
    original = get_encoder("mit_b0", weights=None).eval()
    assert type(network.encoder) is MixVisionTransformerEncoder
    original.load_state_dict(network.encoder.state_dict())
    images = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        maps = network.encode(images)
        for ours, theirs in zip(maps, original(maps[0]), strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("encoder", ENCODERS.values(), ids=ENCODERS)
def test_bias_under_autocast(encoder):
    network = make(encoder)
    images = torch.rand(2, 3, *SIZE)
    bias = random_bias(network, 2, *SIZE).requires_grad_()
    full = network.encode(images, bias)[-1]
    with torch.autocast("cpu", torch.bfloat16):
        half = network.encode(images, bias)[-1]
    assert (full - half).abs().mean() < 0.05 * full.abs().mean()
    full.sum().backward()
    assert bias.grad.abs().max() > 0


def test_bias_is_refused_where_it_does_not_fit():
    network = build(ModelSpec(num_classes=3))
    assert network.attention_patch is None
    assert not network.attention_class_token
    with pytest.raises(ValueError, match="resnet18 takes no attention bias"):
        network.encode(torch.rand(1, 3, 64, 64), torch.zeros(1, 17, 17))
    transformer = make("tu-test_vit")
    assert (transformer.attention_patch, make("mit_b0").attention_patch) == (16, 32)
    with pytest.raises(ValueError, match=r"attention_bias is \(1, 28, 28\), but these images need \(1, 29, 29\)"):
        transformer.encode(torch.rand(1, 3, *SIZE), torch.zeros(1, 28, 28))


def test_setr_is_the_published_head():
    """LN, four times convolution and x2, then the classifier at full resolution; here the last x2 comes after it."""
    torch.manual_seed(0)
    network = build(ModelSpec(architecture="setr", encoder="tu-test_vit", num_classes=3), auxiliary=(0, 1, 2, 3)).eval()
    assert network.decoder_channels == 256
    norm, *layers = network.decoder.layers
    images = torch.rand(2, 3, 64, 96)
    with torch.inference_mode():
        features = network.features(images)
        tokens = features.stages[-1].permute(0, 2, 3, 1)
        maps = functional.layer_norm(tokens, tokens.shape[-1:], norm.weight, norm.bias, 1e-6).permute(0, 3, 1, 2)
        convolutions = [layer for layer in layers if not isinstance(layer, nn.Upsample)]
        assert len(convolutions) == 4
        for convolution in convolutions:
            maps = functional.interpolate(convolution(maps), scale_factor=2, mode="bilinear")
        torch.testing.assert_close(network.full_logits(images), network.classifier(maps), rtol=1e-4, atol=1e-5)
        assert features.decoder.shape == (2, 256, 32, 48)
        assert [logits.shape for logits in features.auxiliary] == [(2, 3, 16, 24)] * 4


@pytest.mark.parametrize(
    ("architecture", "encoder", "patch", "grid"),
    [
        ("dpt", "tu-vit_small_patch14_dinov2", 14, (40, 56)),
        ("setr", "tu-vit_small_patch14_reg4_dinov2", 14, (40, 56)),
        ("setr", "tu-vit_small_patch8_224", 8, (32, 52)),
        ("setr", "tu-vit_base_patch32_224", 32, (16, 32)),
    ],
)
def test_other_patches(architecture, encoder, patch, grid):
    with torch.device("meta"):
        network = make(encoder, architecture)
        images = torch.rand(2, 3, *SIZE)
        assert (network.stride, network.attention_patch) == (patch, patch)
        assert network.features(images).decoder.shape == (2, 16, *grid)
        assert network.full_logits(images).shape == (2, 3, *SIZE)


def test_a_position_table_is_resized_once_and_read_as_it_is() -> None:
    """At its own size it answers like an encoder that resizes the table of its weights in every pass."""
    torch.manual_seed(0)
    spec = ModelSpec(architecture="setr", encoder="tu-test_vit", num_classes=2, decoder_channels=16)
    plain = build(spec).eval()
    resized = build(spec.model_copy(update={"position_grid": 6})).eval()
    patch, width = plain.encoder.patch, plain.encoder.model.embed_dim
    prefix = plain.encoder.model.num_prefix_tokens
    assert resized.encoder.model.pos_embed.shape == (1, prefix + 36, width)
    state = plain.state_dict()
    table = {name: tensor for name, tensor in state.items() if name.endswith("pos_embed")}
    assert [tensor.shape[1] for tensor in table.values()] != [prefix + 36]
    resized.load_state_dict(state | resized.encoder.with_tables_of_its_grid(table))
    images = torch.rand(1, 3, 6 * patch, 6 * patch)
    with torch.inference_mode():
        torch.testing.assert_close(resized(images), plain(images))


def test_weights_of_another_grid_start_an_encoder_with_its_own_table(tmp_path: Path) -> None:
    torch.manual_seed(0)
    spec = ModelSpec(architecture="setr", encoder="tu-test_vit", num_classes=2, decoder_channels=16)
    file = tmp_path / "backbone.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in build(spec).encoder.model.state_dict().items()}, file)
    start = start_network(spec.model_copy(update={"position_grid": 6}), str(file), ["a", "b"], Path)
    assert start.network.encoder.model.patch_embed.grid_size == (6, 6)
    assert "encoder" not in start.notes[0].partition("random: ")[2].partition(" (")[0]
