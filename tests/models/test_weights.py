"""What `model.weights` takes: state dicts of several libraries, model folders, and names; and what it refuses."""

import argparse
import json
import time
from collections import OrderedDict
from fractions import Fraction
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
from safetensors.torch import load_file, save_file

from semseg_app.artifact import ModelConfig
from semseg_app.errors import UserError
from semseg_app.labels import LabelSpace
from semseg_app.models import ModelSpec, build, save_network
from semseg_app.models.initial import Start, start_network

RESNET = ModelSpec(architecture="unet", encoder="resnet18", num_classes=3, decoder_channels=8)
WIDE = RESNET.model_copy(update={"decoder_channels": None})
CLASSES = ["ground", "plant", "tool"]


def start(spec: ModelSpec, weights: str | Path | None, classes=CLASSES, **options) -> Start:
    def fetch(repo: str) -> Path:
        raise UserError(f"{repo}: no such model on the Hub")

    return start_network(spec, None if weights is None else str(weights), classes, fetch, **options)


def saved(folder: Path, state: dict, name: str = "weights.pth") -> Path:
    path = folder / name
    if path.suffix == ".safetensors":
        save_file({key: tensor.contiguous() for key, tensor in state.items()}, path)
    else:
        torch.save(state, path)
    return path


def prefixed(prefix: str, state: dict) -> dict:
    return OrderedDict((prefix + name, tensor) for name, tensor in state.items())


@pytest.mark.parametrize(
    ("prefix", "container", "name"),
    [
        ("", None, "weights.safetensors"),
        ("module.", "state_dict", "weights.pth"),
        ("backbone.", None, "weights.pt"),
        ("module.backbone.", "model", "weights.ckpt"),
        ("model.encoder.", "state_dict", "weights.ckpt"),
    ],
)
def test_torchvision_s_backbone_under_the_usual_prefixes(prefix, container, name, tmp_path):
    theirs = torchvision.models.resnet18().eval()
    state = prefixed(prefix, theirs.state_dict()) | {"epoch_counter": torch.zeros(1)}
    path = saved(tmp_path, {container: state, "epoch": 3} if container else state, name)
    started = start(RESNET, path)
    assert "120 of" in started.notes[0]
    assert "random: decoder" in started.notes[0]
    assert "fc (2)" in started.notes[0].split("not used: ")[1]
    assert "epoch_counter (1)" in started.notes[0].split("not used: ")[1]
    images = torch.rand(1, 3, 64, 64)
    deepest = started.network.eval().encoder(images)[-1]
    stem = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(images))))
    assert torch.allclose(deepest, theirs.layer4(theirs.layer3(theirs.layer2(theirs.layer1(stem)))), atol=1e-5)


@pytest.mark.parametrize(
    "spec",
    [
        ModelSpec(architecture="segformer", encoder="tu-convnext_atto", num_classes=3, decoder_channels=16),
        ModelSpec(architecture="segformer", encoder="tu-resnet10t", num_classes=3, decoder_channels=16),
        ModelSpec(architecture="segformer", encoder="tu-mobilenetv3_small_050", num_classes=3, decoder_channels=16),
        ModelSpec(architecture="setr", encoder="tu-test_vit", num_classes=3, decoder_channels=16),
        ModelSpec(architecture="dpt", encoder="tu-test_vit", num_classes=3, decoder_channels=16),
    ],
    ids=lambda spec: f"{spec.architecture}-{spec.encoder}",
)
def test_timm_s_classifiers_fit_every_kind_of_encoder(spec, tmp_path):
    theirs = timm.create_model(spec.encoder.removeprefix("tu-"))
    started = start(spec, saved(tmp_path, theirs.state_dict(), "w.safetensors"))
    values = {float(tensor.double().sum()) for tensor in theirs.state_dict().values()}
    assert all(float(tensor.double().sum()) in values for tensor in started.network.encoder.state_dict().values())


def test_a_vision_transformer_of_another_image_size_is_resized(tmp_path):
    theirs = timm.create_model("test_vit", img_size=224)
    spec = ModelSpec(architecture="setr", encoder="tu-test_vit", num_classes=3, decoder_channels=16)
    started = start(spec, saved(tmp_path, theirs.state_dict()))
    blocks = started.network.encoder.state_dict()["model.blocks.0.attn.qkv.weight"]
    assert torch.equal(blocks, theirs.state_dict()["blocks.0.attn.qkv.weight"])


def test_a_whole_network_of_segmentation_models_pytorch(tmp_path):
    theirs = smp.DeepLabV3Plus("resnet18", encoder_weights=None, classes=3).eval()
    theirs.load_state_dict({k: v + 0.01 if v.is_floating_point() else v for k, v in theirs.state_dict().items()})
    spec = ModelSpec(encoder="resnet18", num_classes=3, mean=(0, 0, 0), std=(1, 1, 1))
    plain = {"normalization": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))}
    started = start(spec, saved(tmp_path, prefixed("module.", theirs.state_dict())), **plain)
    assert "order of classes" in started.notes[1]
    assert started.notes[-1].startswith("warning: these weights expect mean 0.485")
    images = torch.rand(1, 3, 64, 64)
    ours = started.network.eval()(images)
    head = theirs.segmentation_head[0](theirs.decoder(theirs.encoder(images)))
    assert torch.allclose(ours, head, atol=1e-5)


def whole(shift: float = 0.0) -> dict:
    """segmentation_models_pytorch's own Unet, of three classes; its normalization layers tell one from another."""
    state = smp.Unet("resnet18", encoder_weights=None, classes=3).state_dict()
    return {name: tensor + shift if "running_mean" in name else tensor for name, tensor in state.items()}


def taken(started: Start) -> float:
    """What `whole` shifted by."""
    return float(started.network.encoder.state_dict()["bn1.running_mean"][0])


@pytest.mark.parametrize("container", ["model_state_dict", "net", "model_state", "weights", "callbacks.ema"])
def test_any_container_beside_what_training_scripts_keep(container, tmp_path):
    options = argparse.Namespace(lr=0.1, crop=[64, 64])
    content = {"epoch": 1, "loss": torch.tensor(1.0), "args": options, "best_miou": np.float64(0.5), "n": np.int64(3)}
    inner: dict = whole(2.0)
    for name in reversed(container.split(".")):
        inner = {name: inner}
    started = start(WIDE, saved(tmp_path, content | inner))
    assert taken(started) == 2.0
    assert "random: classifier (2); not used: " in started.notes[0]
    assert started.notes[2] == f"  the encoder's names in the file begin with {container}.encoder."


@pytest.mark.parametrize(
    "prefix", ["unet.", "segmentation_model.", "model.unet.", "_model.", "core.model.", "student_model.", "generator."]
)
def test_any_prefix(prefix, tmp_path):
    started = start(WIDE, saved(tmp_path, prefixed(prefix, whole(2.0))))
    assert taken(started) == 2.0
    assert "random: classifier (2); not used: decoder (10), segmentation_head (2)" in started.notes[0]
    shapes = rf"{prefix}segmentation_head.0.weight is (3, 16, 3, 3), not (3, 32, 1, 1)"
    assert started.notes[1] == f"  the classifier starts from random weights: in the file {shapes}"
    assert started.notes[2] == f"  the encoder's names in the file begin with {prefix}encoder."


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ("teacher.", "student."),
        ("ema_model.module.", "student_model."),
        ("ema.", "model."),
        ("module.encoder_q.", "module.encoder_k."),
        ("module.base_encoder.", "module.momentum_encoder."),
        ("net.", "student."),
        ("", "copy."),
    ],
)
def test_of_several_that_fit_one_is_taken_by_a_fixed_order_and_named(first, then, tmp_path):
    spec = ModelSpec(architecture="segformer", encoder="tu-test_resnet", num_classes=3, decoder_channels=16)
    encoder = timm.create_model("test_resnet").state_dict()
    good, bad = (encoder | {"bn1.running_mean": torch.full_like(encoder["bn1.running_mean"], n)} for n in (1.0, 2.0))

    def started_from(content: dict) -> tuple[float, list[str]]:
        started = start(spec, saved(tmp_path, content))
        mean = started.network.encoder.state_dict()["model.bn1.running_mean"]
        return float(mean[0]), [note for note in started.notes if note.startswith("warning: ")]

    for content in (prefixed(first, good) | prefixed(then, bad), prefixed(then, bad) | prefixed(first, good)):
        value, (warning,) = started_from(content)
        assert value == 1.0
        assert f"several sets of weights that fit: {first}* is taken, {then}* is not" in warning
    deeper = good | {"layer1.9.conv1.weight": torch.zeros(1)}
    assert started_from(prefixed(first, deeper) | prefixed(then, bad)) == (2.0, []), "what fits comes first"
    assert started_from(prefixed(first, good) | prefixed(then, good)) == (1.0, []), "equal numbers are no choice"


class Harmless:
    def __reduce__(self):
        return (Fraction, (1, 2))


def own_folder(path: Path, spec: ModelSpec, classes: list[str], license: str | None = "mit") -> Path:
    labels = LabelSpace(classes=classes, palette=[(index, 0, 0) for index in range(len(classes))])
    lineage = {"license": license, "weights": [{"name": "resnet18.imagenet", "role": "encoder", "license": "bsd"}]}
    network = build(spec)
    save_network(
        path,
        network,
        ModelConfig(name="old", model=spec, labels=labels, provenance={"training": {"lineage": lineage}}),
    )
    return path


def test_mistakes_are_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("notes.txt").write_text("no weights")
    Path("damaged.safetensors").write_bytes(b"damaged")
    Path("damaged.pth").write_bytes(b"damaged")
    torch.save({"weights": Harmless()}, "code.pth")
    torch.save({"args": argparse.Namespace(output=Path("out"))}, "path.pth")
    torch.save({"epoch": 3}, "epoch.pth")
    broken = torchvision.models.resnet18().state_dict()
    broken["bn1.running_var"][3] = torch.inf
    torch.save(broken, "broken.pth")
    torch.save(torchvision.models.resnet34().state_dict(), "deeper.pth")
    torch.save(torchvision.models.mobilenet_v2().state_dict(), "mobile.pth")
    bands = torchvision.models.resnet18().state_dict() | {"conv1.weight": torch.zeros(64, 4, 7, 7)}
    torch.save({"state_dict": bands}, "bands.pth.tar")
    torch.save(bands | {"conv1.weight": torch.zeros(32, 3, 7, 7)}, "narrow.pth")
    saved(Path(), bands | {"conv1.weight": torch.ones(64, 3, 7, 7, dtype=torch.int8)}, "int8.safetensors")
    for name in ("adapter/adapter_config.json", "accelerate/model.safetensors", "accelerate/optimizer.bin"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    own_folder(Path("vit"), ModelSpec(architecture="unet", encoder="tu-resnet10t", num_classes=3), CLASSES)
    own_folder(Path("partial"), RESNET, CLASSES)
    Path("partial/model.safetensors").unlink()
    for weights, message in {
        "imagnet": "unknown weights 'imagnet' for resnet18; choose one of imagenet, ssl, swsl, .*; did you mean imag",
        "empty": "empty: a folder without weights; give a model folder",
        "partial": "partial/model.safetensors: missing",
        "notes.txt": "notes.txt: weights are read from .safetensors, .pth",
        "https://a.org/w.pth": "https://a.org/w.pth: addresses are not fetched; download the file and give its path",
        "torchvision://resnet18": "torchvision://resnet18: addresses are not fetched",
        "gone.pth": "gone.pth: no such file or folder",
        "./runs/gone": "./runs/gone: no such file or folder",
        "ann/gone": "ann/gone: no such model on the Hub",
        "damaged.safetensors": "damaged.safetensors: damaged or truncated",
        "damaged.pth": "damaged.pth: .*copy it again",
        "code.pth": r"code.pth: holds Python objects beside tensors \(fractions.Fraction\), and loading those would",
        "path.pth": "path.pth: holds no state dict",
        "broken.pth": "broken.pth: encoder.bn1.running_var holds NaN or infinity; take other weights",
        "epoch.pth": "epoch.pth: holds no state dict",
        "deeper.pth": r"deeper.pth: these are not the weights of resnet18: 120 of its 120 .* layer1.2.conv1.weight has",
        "mobile.pth": r"mobile.pth: these are not the weights of resnet18: \d+ of its 120 tensors .* has no partner.*"
        r"The file holds features.0.0.weight, features.0.1.weight, .*; expected are conv1.weight, bn1.weight, ",
        "bands.pth.tar": "state_dict.conv1.weight reads images of 4 channels, and networks here read RGB; save it with",
        "narrow.pth": r"conv1.weight has no partner of its shape, \(64, 3, .*: in the file it is \(32, 3, 7, 7\)",
        "int8.safetensors": "encoder.conv1.weight is int8, which means nothing without the scale of its quantization",
        "adapter": "adapter: a PEFT adapter, which is nothing without the model that it adapts; merge them",
        "accelerate": "accelerate: not a model folder; name the file .*, e.g. accelerate/model.safetensors",
        "vit": "vit: a unet on tu-resnet10t, not on resnet18; set model.encoder=tu-resnet10t model.architecture=unet",
    }.items():
        with pytest.raises(UserError, match=message) as caught:
            start(RESNET, weights)
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith("model.weights: ")


def test_a_model_folder_whole(tmp_path):
    folder = own_folder(tmp_path / "m", RESNET.model_copy(update={"mean": (0.5, 0.4, 0.3)}), CLASSES)
    started = start(RESNET, folder)
    ours, theirs = started.network.state_dict(), load_file(folder / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert started.network.spec.mean == (0.5, 0.4, 0.3)
    assert [(weights.name, weights.role, weights.license) for weights in started.lineage.weights] == [
        ("old", "network", "mit"),
        ("resnet18.imagenet", "encoder of the initial model old", "bsd"),
    ]
    assert started.lineage.weights[0].matched == len(ours)
    assert not started.lineage.weights[0].fresh


@pytest.mark.parametrize("spec", [RESNET, ModelSpec(architecture="ocr", num_classes=3, decoder_channels=16)])
def test_classes_follow_their_names(spec, tmp_path):
    """Permuted, one more and one less: the logits of shared classes are those of the saved model."""
    folder = own_folder(tmp_path / "m", spec, CLASSES)
    before = start(spec, folder).network.eval()
    now = ["tool", "sky", "ground", "water"]
    started = start(spec.model_copy(update={"num_classes": 4}), folder, now)
    assert "2 of 4 classes are taken; new, from random weights: sky, water; left behind: plant" in started.notes[1]
    assert torch.equal(started.network.classifier.weight[[0, 2]], before.classifier.weight[[2, 0]])
    assert torch.equal(started.network.classifier.bias[[0, 2]], before.classifier.bias[[2, 0]])
    if spec.architecture == "unet":
        images = torch.rand(1, 3, 64, 64)
        assert torch.allclose(started.network.eval()(images)[:, [0, 2]], before(images)[:, [2, 0]], atol=1e-5)
    else:
        same = [n for n, t in before.state_dict().items() if t.shape == started.network.state_dict()[n].shape]
        rows = before.state_dict().keys() - same - {"classifier.weight", "classifier.bias"}
        assert rows or spec.architecture != "ocr"  # OCRNet's regions have one row per class, too
        for name in rows:
            if name in start(spec, folder).network.state_dict():
                assert torch.equal(started.network.state_dict()[name][[0, 2]], before.state_dict()[name][[2, 0]])


def test_another_decoder_takes_the_encoder_alone(tmp_path):
    folder = own_folder(tmp_path / "m", RESNET, CLASSES)
    started = start(ModelSpec(encoder="resnet18", num_classes=3, decoder_channels=32), folder)
    assert "only the encoder is taken: the model is a unet" in started.notes[1]
    assert started.lineage.weights[0].matched == 120


def test_timm_s_configuration_beside_a_file_is_read(tmp_path):
    config = {"architecture": "resnet18", "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}}
    config["pretrained_cfg"]["license"] = "cc-by-nc-4.0"
    (tmp_path / "config.json").write_text(json.dumps(config))
    saved(tmp_path, torchvision.models.resnet18().state_dict(), "model.safetensors")
    started = start(RESNET, tmp_path)
    assert (started.network.spec.mean, started.network.spec.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert started.lineage.weights[0].license == "cc-by-nc-4.0"


def test_random_weights_say_so():
    assert start(RESNET, None).notes == ["weights: random (model.weights is null)"]


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"encoder": "resnet18"}, "no weights for resnet18: the Hub cannot be reached and its cache has no copy"),
        ({"encoder": "tu-resnet18"}, "no weights for tu-resnet18: the Hub cannot be reached"),
        ({"architecture": "setr", "encoder": "tu-vit_tiny_patch16_224"}, "no weights for tu-vit_tiny"),
        ({"architecture": "pidnet", "encoder": "pidnet_s"}, "no weights are published that fit pidnet_s"),
        ({"encoder": "resnet81"}, "no encoder 'resnet81'"),
        ({"encoder": "tu-resnet81"}, "timm has no 'resnet81'"),
        ({"encoder": "dpn68b"}, r"unknown weights 'imagenet' for dpn68b; choose one of imagenet\+5k"),
    ],
)
def test_weights_that_cannot_be_had_are_an_error_at_once(choice, message, monkeypatch, tmp_path):
    """Nothing listens where the Hub should be: no retries, and no start from random weights that were not asked for."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    began = time.monotonic()
    with pytest.raises(UserError, match=message):
        start(ModelSpec(**choice, num_classes=3), "imagenet")
    assert time.monotonic() - began < 5
    assert not huggingface_hub.constants.HF_HUB_OFFLINE
