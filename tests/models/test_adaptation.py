"""Freezing, LoRA and activation checkpointing: what learns, what stays, and that results are those of plain math."""

import copy
import functools
import sys

import pytest
import torch
from support import tiny_encoders  # noqa: F401, adds its small encoders to timm
from torch import nn
from torch.nn import functional

from semseg_app.artifact import ModelConfig
from semseg_app.errors import UserError
from semseg_app.labels import LabelSpace
from semseg_app.models import ModelSpec, SegmentationNetwork, build, load, save_network
from semseg_app.models.adaptation import LoraSection, adapt, merged_weights
from semseg_app.models.depths import encoder_depths
from semseg_app.training.methods.ema import make_teacher

LABELS = LabelSpace(classes=["a", "b", "c"], palette=[(0, 0, 0)] * 3)
TRANSFORMERS = ["tu-dinov2_test", "tu-dinov3_test", "tu-lingbot_test", "tu-pe_spatial_test", "tu-eva02_test"]
TRANSFORMERS += ["tu-rope_mixed_test", "tu-sam_test", "tu-xcit_test", "tu-test_vit2"]


def make(encoder: str, architecture: str = "dpt") -> SegmentationNetwork:
    torch.manual_seed(0)
    width = None if architecture == "linear" else 16
    spec = ModelSpec(architecture=architecture, encoder=encoder, num_classes=3, decoder_channels=width)
    return build(spec).train()


def learn(network: SegmentationNetwork, steps: int) -> None:
    learned = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=1e-2, weight_decay=0.1)
    for step in range(steps):
        torch.manual_seed(step)
        network.features(torch.rand(2, 3, 64, 64)).logits.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("encoder", ["tu-dinov3_test", "resnet18", "tu-test_efficientnet", "mit_b0"])
def test_a_frozen_encoder_keeps_every_bit_while_the_rest_learns(encoder):
    network = make(encoder, "dpt" if encoder == "tu-dinov3_test" else "segformer")
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    adapt(network, freeze="encoder")
    network.eval().train()
    learn(network, 20)
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {name.partition(".")[0] for name in changed} == {"decoder", "classifier"}


@pytest.mark.parametrize(
    ("encoder", "architecture", "frozen", "learning"),
    [
        ("resnet18", "deeplabv3plus", ("conv1", "bn1", "layer1", "layer2"), ("layer3", "layer4")),
        (
            "tu-dinov3_test",
            "dpt",
            (
                "model.patch_embed",
                "model.cls_token",
                "model.reg_token",
                *(f"model.blocks.{block}." for block in (0, 1)),
            ),
            ("model.blocks.2", "model.blocks.3", "norm"),
        ),
    ],
)
def test_frozen_stages(encoder, architecture, frozen, learning):
    network = make(encoder, architecture)
    before = {name: tensor.clone() for name, tensor in network.encoder.state_dict().items()}
    adapt(network, freeze=(0, 1, 2) if encoder == "resnet18" else (0, 1))
    learn(network, 2)
    for name, tensor in network.encoder.state_dict().items():
        if name.startswith(frozen):
            assert torch.equal(tensor, before[name]), name
        else:
            assert name.startswith(learning)
    assert [name for name, parameter in network.encoder.named_parameters() if parameter.requires_grad] == [
        name for name, _ in network.encoder.named_parameters() if name.startswith(learning)
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"freeze": (5,)}, "model.freeze: resnet18 has stages 0 to 4, not 5"),
        ({"freeze": "encoder", "lora": LoraSection()}, "model.lora freezes the encoder already"),
        ({"lora": LoraSection()}, "model.lora: resnet18 has no attention to adapt"),
    ],
)
def test_what_cannot_be_done_is_said(change, message):
    with pytest.raises(UserError, match=message):
        adapt(make("resnet18", "deeplabv3plus"), **change)


def test_without_peft(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r"pip install 'semseg-app\[lora\]'"):
        adapt(make("tu-dinov3_test"), lora=LoraSection())


@pytest.mark.parametrize("encoder", [*TRANSFORMERS, "mit_b0", "tu-swin_test"])
def test_lora_learns_in_every_layer_and_is_merged_when_saved(encoder, tmp_path):
    architecture = {"mit_b0": "segformer", "tu-swin_test": "upernet"}.get(encoder, "dpt")
    network = make(encoder, architecture)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    images = torch.rand(2, 3, 61, 97)
    with torch.no_grad():
        start = network.eval().full_logits(images)
    adapt(network, lora=LoraSection(rank=2, alpha=4, layers="all"))
    with torch.no_grad():
        torch.testing.assert_close(network.eval().full_logits(images), start)
    learn(network.train(), 3)
    adapters = {name: tensor for name, tensor in network.named_parameters() if ".lora_B." in name}
    assert adapters
    assert [name for name, tensor in adapters.items() if not tensor.any()] == []
    save_network(tmp_path / "model", network.eval(), ModelConfig(name="lora", model=network.spec, labels=LABELS))
    loaded = load(tmp_path / "model")
    assert loaded.state_dict().keys() == before.keys()
    for name, tensor in loaded.encoder.state_dict().items():
        if f"encoder.{name.removesuffix('weight')}lora_B.default.weight" in adapters:
            layer = network.encoder.get_submodule(name.removesuffix(".weight"))
            product = 2 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight  # alpha / rank
            torch.testing.assert_close(tensor, before[f"encoder.{name}"] + product)
        else:
            assert torch.equal(tensor, before[f"encoder.{name}"])
    with torch.no_grad():
        torch.testing.assert_close(loaded.full_logits(images), network.full_logits(images), rtol=1e-3, atol=1e-4)


def test_lora_of_dinov3_s_learns_at_most_3_percent():
    with torch.device("meta"):
        network = build(ModelSpec(architecture="linear", encoder="tu-vit_small_patch16_dinov3", num_classes=19))
        adapt(network, lora=LoraSection(layers="all"))
    learned = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    assert 0.01 < learned / sum(parameter.numel() for parameter in merged_weights(network).values()) < 0.03


def test_an_adapter_that_would_do_nothing_is_refused():
    """As where an attention reads the weight of its layer itself."""
    network = make("tu-dinov3_test")
    for block in network.encoder.model.blocks:
        block.attn.forward = lambda tokens, attention=block.attn, **options: functional.linear(
            tokens, attention.proj.weight
        )
    with pytest.raises(UserError, match=r"goes past 8 of 8 adapted layers, such as encoder.model.blocks.0.attn.qkv"):
        adapt(network, lora=LoraSection())


CHECKPOINTED = {
    "tu-dinov3_test": "dpt",
    "tu-test_vit": "linear",
    "tu-xcit_test": "dpt",
    "mit_b0": "segformer",
    "resnet18": "deeplabv3plus",
    "tu-test_efficientnet": "unet",
    "tu-convnext_atto": "segformer",
}


@pytest.mark.parametrize("encoder", CHECKPOINTED)
def test_checkpointing_changes_no_loss_gradient_or_statistic(encoder):
    plain = make(encoder, CHECKPOINTED[encoder])
    checkpointed = copy.deepcopy(plain)
    adapt(checkpointed, activation_checkpointing=True)
    assert checkpointed.state_dict().keys() == plain.state_dict().keys()
    kept = []
    for network in (plain, checkpointed):
        torch.manual_seed(1)
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(functools.partial(_noted, sizes), _same):
            maps = network.encode(torch.rand(2, 3, 64, 96))
        sum(stage.square().mean() for stage in maps[1:] if stage.requires_grad).backward()
        kept.append(sum(sizes))
    assert kept[1] < 0.75 * kept[0]
    for (name, tensor), (_, other) in zip(plain.named_parameters(), checkpointed.named_parameters(), strict=True):
        torch.testing.assert_close(other.grad, tensor.grad, msg=name)
    for (name, tensor), (_, other) in zip(plain.named_buffers(), checkpointed.named_buffers(), strict=True):
        torch.testing.assert_close(other, tensor, msg=name)


def _noted(sizes: list[int], tensor: torch.Tensor) -> torch.Tensor:
    sizes.append(tensor.numel())
    return tensor


def _same(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def test_a_checkpointed_teacher_is_a_copy():
    student = make("tu-dinov3_test")
    adapt(student, activation_checkpointing=True)
    teacher = make_teacher(student)
    images = torch.rand(1, 3, 64, 64)
    before = teacher(images)
    learn(student, 1)
    assert torch.equal(teacher(images), before)
    assert not torch.equal(student.eval()(images), before)


def test_encoders_without_blocks_of_their_own_are_refused():
    with pytest.raises(UserError, match="the blocks of tu-swin_test cannot be computed again one by one"):
        adapt(make("tu-swin_test", "upernet"), activation_checkpointing=True)


def test_depths_of_a_transformer_are_those_of_timm():
    """timm numbers layers from the stem to the norm."""
    from timm.models import group_parameters

    network = make("tu-dinov3_test")
    model = build(network.spec).encoder.model
    model.norm = nn.LayerNorm(64)
    groups = group_parameters(model, model.group_matcher(coarse=False), reverse=True)
    depths = encoder_depths(network)
    ours = {name.removeprefix("model."): depth.layer for name, depth in depths.of.items()}
    assert ours == groups
    assert depths.layers == max(groups.values()) + 2 == 6
    assert [depths.of[f"model.blocks.{block}.norm1.weight"].stage for block in range(4)] == [0, 1, 2, 3]


def test_depths_of_a_pyramid_are_its_stages():
    depths = encoder_depths(make("resnet18", "deeplabv3plus"))
    stages = {name.partition(".")[0]: depth.stage for name, depth in depths.of.items()}
    assert stages == {"conv1": 0, "bn1": 0, "layer1": 1, "layer2": 2, "layer3": 3, "layer4": 4}
    assert (depths.stages, depths.layers) == (5, 6)
