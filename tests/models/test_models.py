"""One tester for every architecture; each row below is a network that the product offers."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from support import tiny_encoders  # noqa: F401, adds its small encoders to timm
from torch.nn import functional

from semseg_app.artifact import ModelConfig
from semseg_app.errors import UserError
from semseg_app.labels import LabelSpace
from semseg_app.models import ModelSpec, build, load, save_network
from semseg_app.models.pyramid_pooling import adaptive_average_pool
from semseg_app.models.registry import ARCHITECTURES

CLASSES = 5
NETWORKS = {
    "deeplabv3": ModelSpec(architecture="deeplabv3", num_classes=CLASSES, decoder_channels=32),
    "deeplabv3-stride16": ModelSpec(
        architecture="deeplabv3", num_classes=CLASSES, output_stride=16, decoder_channels=32
    ),
    "deeplabv3plus": ModelSpec(architecture="deeplabv3plus", num_classes=CLASSES),
    "deeplabv3plus-mobilenet": ModelSpec(architecture="deeplabv3plus", encoder="mobilenet_v2", num_classes=CLASSES),
    "deeplabv3plus-plain": ModelSpec(
        architecture="deeplabv3plus-plain", encoder="tu-test_resnet", num_classes=CLASSES, decoder_channels=32
    ),
    "deeplabv3plus-aligned": ModelSpec(
        architecture="deeplabv3plus-separable",
        encoder="tu-test_resnet",
        num_classes=CLASSES,
        decoder_channels=32,
        align_corners=True,
    ),
    "pspnet": ModelSpec(architecture="pspnet", num_classes=CLASSES, decoder_channels=32),
    "upernet": ModelSpec(architecture="upernet", num_classes=CLASSES, decoder_channels=32),
    "unet": ModelSpec(architecture="unet", num_classes=CLASSES, decoder_channels=8),
    "segformer": ModelSpec(architecture="segformer", encoder="mit_b0", num_classes=CLASSES, decoder_channels=32),
    "upernet-plain": ModelSpec(
        architecture="upernet-plain", encoder="tu-test_resnet", num_classes=CLASSES, decoder_channels=16
    ),
    "upernet-swin": ModelSpec(architecture="upernet", encoder="tu-swin_test", num_classes=CLASSES, decoder_channels=16),
    "hrnet": ModelSpec(architecture="hrnet", encoder="tu-hrnet_test", num_classes=CLASSES, decoder_channels=32),
    "ocr": ModelSpec(architecture="ocr", encoder="tu-test_resnet", num_classes=CLASSES, decoder_channels=32),
    "ocr-hrnet": ModelSpec(architecture="ocr", encoder="tu-hrnet_test", num_classes=CLASSES, decoder_channels=32),
    "pidnet": ModelSpec(architecture="pidnet", encoder="pidnet_s", num_classes=CLASSES, decoder_channels=32),
    "segformer-timm": ModelSpec(architecture="segformer", encoder="tu-convnext_atto", num_classes=CLASSES),
    "setr": ModelSpec(architecture="setr", encoder="tu-test_vit", num_classes=CLASSES, decoder_channels=32),
    "setr-table": ModelSpec(
        architecture="setr", encoder="tu-test_vit", num_classes=CLASSES, decoder_channels=32, position_grid=5
    ),
    "dpt": ModelSpec(architecture="dpt", encoder="tu-test_vit", num_classes=CLASSES, decoder_channels=32),
    # A register token, no class token, scaled layers.
    "dpt-registers": ModelSpec(architecture="dpt", encoder="tu-test_vit2", num_classes=CLASSES, decoder_channels=32),
    "dpt-dinov3": ModelSpec(architecture="dpt", encoder="tu-dinov3_test", num_classes=CLASSES, decoder_channels=32),
    "dpt-sam": ModelSpec(architecture="dpt", encoder="tu-sam_test", num_classes=CLASSES, decoder_channels=32),
    "dpt-xcit": ModelSpec(architecture="dpt", encoder="tu-xcit_test", num_classes=CLASSES, decoder_channels=32),
    "linear": ModelSpec(architecture="linear", encoder="tu-dinov2_test", num_classes=CLASSES),
}


def test_every_architecture_is_tested():
    assert {spec.architecture for spec in NETWORKS.values()} == ARCHITECTURES.keys()


@pytest.fixture(params=NETWORKS, scope="module")
def spec(request: pytest.FixtureRequest) -> ModelSpec:
    return NETWORKS[request.param]


@pytest.fixture(scope="module")
def network(spec: ModelSpec) -> torch.nn.Module:
    torch.manual_seed(0)
    return build(spec).eval()


@pytest.mark.parametrize("size", [(64, 64), (61, 97), (32, 113)])
def test_any_size_gives_logits_of_that_size(network, size):
    images = torch.rand(2, 3, *size)
    with torch.inference_mode():
        full = network.full_logits(images)
        features = network.features(images)
        logits = network(images)
    assert full.shape == (2, CLASSES, *size)
    assert torch.equal(features.logits, logits)
    assert [stage.shape[1] for stage in features.stages] == network.stage_channels
    assert features.decoder.shape[1] == network.decoder_channels
    assert features.decoder.shape[2:] == logits.shape[2:]


def test_padding_leaves_the_image_where_it_was(network):
    """A size that the stride divides needs no padding; padding by hand must give the same logits."""
    images = torch.rand(1, 3, 61, 97)
    right, bottom = -97 % network.stride, -61 % network.stride
    mean = network.mean.expand(1, 3, 61 + bottom, 97 + right).clone()
    mean[..., :61, :97] = images
    with torch.inference_mode():
        torch.testing.assert_close(network.full_logits(mean)[..., :61, :97], network.full_logits(images))


def test_every_parameter_gets_a_gradient(spec):
    torch.manual_seed(0)
    network = build(spec, auxiliary=(-2,)).train()
    features = network.features(torch.rand(2, 3, 64, 96))
    labels = torch.randint(CLASSES, (2, 64, 96))
    every = [network.upsample(logits, 64, 96) for logits in (features.logits, *features.auxiliary)]
    loss = torch.stack([functional.cross_entropy(logits, labels) for logits in every]).sum()
    if features.boundary is not None:
        loss = loss + features.boundary.square().mean()
    loss.backward()
    missing = [name for name, one in network.named_parameters() if one.grad is None or not one.grad.isfinite().all()]
    assert not missing


def test_normalization_is_inside(spec):
    torch.manual_seed(0)
    network = build(spec).eval()
    plain = build(spec.model_copy(update={"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)})).eval()
    plain.load_state_dict(network.state_dict())
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(network(images), plain((images - network.mean) / network.std))


def config_of(spec: ModelSpec) -> ModelConfig:
    labels = LabelSpace(classes=[f"class {index}" for index in range(CLASSES)], palette=[(0, 0, 0)] * CLASSES)
    return ModelConfig(name="test", model=spec, labels=labels)


def test_saved_and_loaded_are_equal_and_training_parts_stay_behind(spec, tmp_path):
    torch.manual_seed(0)
    network = build(spec, auxiliary=(-1,)).eval()
    save_network(tmp_path / "model", network, config_of(spec))
    loaded = load(tmp_path / "model")
    assert not [name for name in loaded.state_dict() if "auxiliary" in name]
    images = torch.rand(1, 3, 61, 97)
    with torch.inference_mode():
        assert torch.equal(loaded.full_logits(images), network.full_logits(images))


@pytest.mark.parametrize("bins", [1, 2, 3, 6])
def test_pyramid_pooling_equals_adaptive_pooling(bins):
    maps = torch.randn(2, 4, 13, 17, requires_grad=True)
    ours, reference = adaptive_average_pool(maps, bins), functional.adaptive_avg_pool2d(maps, bins)
    torch.testing.assert_close(ours, reference)
    weight = torch.randn_like(ours)
    gradients = [torch.autograd.grad((pooled * weight).sum(), maps)[0] for pooled in (ours, reference)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder": "resnet81"}, "did you mean resnet18"),
        ({"encoder": "tu-convnext_ato"}, "did you mean tu-convnext_atto"),
        ({"architecture": "deeplabv3plus", "output_stride": 32}, "needs 8 or 16"),
        ({"architecture": "upernet", "output_stride": 8}, "leave output_stride out"),
        (
            {"architecture": "setr", "encoder": "tu-test_vit", "output_stride": 16},
            "patch size; leave output_stride out",
        ),
        ({"architecture": "setr"}, "needs a plain vision transformer .* tu-deit_base_patch16_224 or .* not resnet18"),
        (
            {"architecture": "dpt", "encoder": "tu-resnet18"},
            r"plain vision transformer .* not tu-resnet18 \(its maps are of several sizes\)",
        ),
        (
            {"architecture": "linear", "encoder": "tu-test_vit_relpos"},
            r"not tu-test_vit_relpos \(Input height \(48\) doesn't match model \(160\)",
        ),
        (
            {"architecture": "dpt", "encoder": "tu-vit_tiny_r_s16_p8_224"},
            "its patches come from a stem of convolutions",
        ),
        (
            {"architecture": "linear", "encoder": "tu-test_vit", "decoder_channels": 32},
            "linear classifies the encoder's 64 channels themselves; leave decoder_channels out",
        ),
        (
            {"architecture": "segformer", "encoder": "tu-deit_tiny_patch16_224"},
            "take model.architecture dpt, linear or setr",
        ),
        ({"encoder": "tu-deit_tiny_patch16_224.best"}, r"no weights 'best'; .* tu-deit_tiny_patch16_224.fb_in1k"),
        ({"align_corners": True}, "deeplabv3plus cannot; deeplabv3plus-plain and deeplabv3plus-separable can"),
        ({"fuse": "bilinear"}, "resnet18 is no HRNet, and fuses no branches; leave fuse out"),
        ({"multi_grid": (1, 2, 4)}, "resnet18 has no last stage of 3 blocks; take a ResNet of 50 or more layers"),
        ({"position_grid": 32}, "deeplabv3plus reads no position table; choose one of setr, dpt, linear"),
        ({"architecture": "unet", "multi_grid": (1, 2, 4)}, "unet has no dilated encoder; choose one of deeplabv3, "),
        ({"architecture": "ocr", "output_stride": 32}, "ocr needs 8 or 16, not 32"),
        ({"architecture": "deeplabv3", "encoder": "tu-hrnet_test"}, "keeps strides 4 to 32"),
        ({"architecture": "pidnet"}, "pidnet has its own, pidnet_s, pidnet_m, pidnet_l; not resnet18"),
        ({"architecture": "pidnet", "encoder": "pidnet_s", "output_stride": 8}, "leave output_stride out"),
    ],
)
def test_impossible_networks_are_explained(change, message):
    with pytest.raises(UserError, match=message):
        build(ModelSpec(**{"num_classes": 3} | change))


def test_wrong_auxiliary_stage():
    with pytest.raises(UserError, match="stages 0 to 4, not 7"):
        build(ModelSpec(num_classes=3), auxiliary=(7,))


@pytest.mark.parametrize(
    "architecture", ["deeplabv3plus", "deeplabv3plus-separable", "deeplabv3", "pspnet", "upernet", "ocr"]
)
def test_one_image_in_a_pass_trains(architecture):
    """Pooled to 1x1 it has no variance, which plain batch norm refuses."""
    network = build(ModelSpec(architecture=architecture, encoder="tu-resnet10t", decoder_channels=16, num_classes=3))
    loss = network.train()(torch.rand(1, 3, 64, 64)).square().mean()
    loss.backward()
    assert loss.isfinite()


def damage(folder: Path, kind: str) -> None:
    weights = folder / "model.safetensors"
    if kind == "truncated":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif kind == "missing":
        weights.unlink()
    else:
        config = folder / "config.json"
        content = json.loads(config.read_text())
        content["model"]["decoder_channels"] += 8
        config.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("kind", "message"), [("truncated", "damaged or truncated"), ("missing", "incomplete"), ("other", "does not fit")]
)
def test_damaged_model_folders_are_named(kind, message, tmp_path):
    spec = NETWORKS["segformer"]
    with warnings.catch_warnings():
        save_network(tmp_path / "model", build(spec), config_of(spec))
    damage(tmp_path / "model", kind)
    with pytest.raises(UserError, match=rf"model.safetensors: .*{message}"):
        load(tmp_path / "model")


def test_a_network_that_is_not_finite_is_not_loaded(tmp_path):
    """A gate that compares it with its export would see two equal answers."""
    spec = NETWORKS["segformer"]
    network = build(spec)
    network.classifier.bias.data[0] = torch.nan
    save_network(tmp_path / "model", network, config_of(spec))
    with pytest.raises(UserError, match=r"model.safetensors: classifier.bias holds NaN or infinity; train again"):
        load(tmp_path / "model")


def test_not_a_model_folder(tmp_path):
    with pytest.raises(UserError, match=r"not a model folder \(it has no config.json\)"):
        load(tmp_path)
    (tmp_path / "model.onnx").touch()
    with pytest.raises(UserError, match=r"model.onnx: a file, not a model folder"):
        load(tmp_path / "model.onnx")
