"""What a first recipe chooses, and why: each choice is a key, its value and a sentence."""

from typing import Any, NamedTuple

import torch

from semseg_app import machine
from semseg_app.models.packaged_weights import installed_file, package_for
from semseg_app.training.starter.lists import Facts, Lists

SMALL_ENCODER = "tu-tf_efficientnet_lite0"
"""Its ImageNet weights are in a package of the extra `weights`."""
RARE = 0.01
"""A class with a smaller share of the labeled pixels is rare."""
LARGEST_CROP = {"cpu": 320, "cuda": 512}
LARGEST_BATCH = {"cpu": 8, "cuda": 16}


class Choice(NamedTuple):
    """A dotted key of the recipe."""

    key: str
    value: Any
    why: str


def choose(name: str, root: str, layout: str, lists: Lists, facts: Facts, teacher: str | None = None) -> list[Choice]:
    """Everything but the batch size and the steps, which are measured. Values are those of YAML.

    With a teacher, a model as `method.teacher` takes it, the choices are those of a student.
    """
    cuda = torch.cuda.is_available()
    device = "cuda" if cuda else "cpu"
    crop = _crop(facts, LARGEST_CROP[device])
    choices = [
        Choice("name", name, "the run is written to runs/<name>"),
        Choice("data.root", root, f"classes: {', '.join(facts.shares)}"),
        Choice("data.layout", layout, "how the folder is read; auto looks at what is there"),
        Choice("data.labeled", lists.labeled, _counted(facts.labeled, lists.labeled_why)),
        Choice("data.unlabeled", lists.unlabeled, _counted(facts.unlabeled, lists.unlabeled_why)),
        Choice("data.val", lists.val, f"scored while training: {lists.val_why}"),
        *(_network(cuda) if teacher is None else _student_network(cuda)),
        crop,
        *_method(facts, teacher, min(crop.value)),
    ]
    pretrained = next(choice.value for choice in choices if choice.key == "model.weights") is not None
    lr, factor = (0.0002, 10) if pretrained else (0.0015, 1)
    rates = "gentle to the pretrained encoder" if pretrained else "nothing is pretrained, so everything learns fast"
    return [
        *choices,
        Choice("optimizer.name", "adamw", "reaches more in short runs than sgd (docs/results/labels.md)"),
        Choice("optimizer.lr", lr, rates),
        Choice("optimizer.head_lr_factor", factor, "the decoder learns at lr times this"),
        Choice("optimizer.weight_decay", 0.01, "usual for adamw"),
        _precision(cuda),
    ]


def without_weights(choices: list[Choice], reason: str) -> list[Choice]:
    """The same from random weights, where those of the choice cannot be had."""
    changed = {
        "model.weights": (None, f"random, since {reason}"),
        "optimizer.lr": (0.0015, "nothing is pretrained, so everything learns fast"),
        "optimizer.head_lr_factor": (1, "the decoder learns at lr times this"),
    }
    return [
        choice._replace(value=changed[choice.key][0], why=changed[choice.key][1]) if choice.key in changed else choice
        for choice in choices
    ]


def _counted(photos: int, why: str) -> str:
    return f"{photos} photos: {why}" if photos else why


def _packaged() -> bool:
    """Whether the weights of the small encoder are installed."""
    package = package_for(SMALL_ENCODER)
    return package is not None and installed_file(package) is not None


def _student_network(cuda: bool) -> list[Choice]:
    """A narrow decoder on an encoder that int8 engines run fast."""
    if _packaged():
        source = "ImageNet weights of an installed package, read without a network"
    else:
        source = "ImageNet weights from the Hub"
    return [
        Choice("model.architecture", "segformer", "a light decoder, which every engine runs"),
        Choice("model.encoder", SMALL_ENCODER, "small, and made for int8"),
        Choice("model.weights", "imagenet", source),
        Choice("model.decoder_channels", 128 if cuda else 64, "width of the decoder; less is faster"),
    ]


def _network(cuda: bool) -> list[Choice]:
    packaged = _packaged()
    if cuda and not packaged:
        encoder, source = "resnet50", "ImageNet weights from the Hub; a GPU has the speed for it"
    elif packaged:
        encoder, source = SMALL_ENCODER, "ImageNet weights of an installed package, read without a network"
    else:
        encoder, source = "resnet18", "ImageNet weights from the Hub; small enough to learn on a CPU"
    return [
        Choice("model.architecture", "deeplabv3plus", "sound for photos of any kind, and every engine runs it"),
        Choice("model.encoder", encoder, "its weights can be had on this machine"),
        Choice("model.weights", "imagenet", source),
        Choice("model.decoder_channels", 256 if cuda else 128, "width of the decoder; less is faster"),
    ]


def _crop(facts: Facts, largest: int) -> Choice:
    width, height = facts.size
    crop = [max(64, min(largest, side) // 32 * 32) for side in (height, width)]
    sizes = "all photos are" if facts.size_share == 1 else f"{100 * facts.size_share:.0f} % of the photos are"
    return Choice("view.crop", crop, f"height and width; {sizes} {width}x{height} (width x height)")


def _method(facts: Facts, teacher: str | None, side: int) -> list[Choice]:
    rare = {name: share for name, share in facts.shares.items() if 0 < share < RARE}
    told = ", ".join(
        f"{name} {100 * share:.2f} %" for name, share in sorted(rare.items(), key=lambda item: item[1])[:4]
    )
    weigh = f"rare classes count more; the rarest: {told}" if rare else f"no class has less than {100 * RARE:.0f} %"
    method = ("pc2seg", "learns from the unlabeled photos too; the best of few labels in docs/results/methods.md")
    if not facts.unlabeled:
        method = ("supervised", "learns from the labels alone, since no photos without a mask were found")
    followed: list[Choice] = []
    if facts.unlabeled:
        followed = [Choice("method.cutout_size", side // 5, "a fifth of the crop, as published")]
    if teacher is not None:
        method = ("distillation", "a student that follows a trained teacher")
        followed = [
            Choice("method.teacher", teacher, "the model that it follows"),
            Choice(
                "method.use_unlabeled",
                facts.unlabeled > 0,
                "the teacher is followed on the unlabeled photos too" if facts.unlabeled else "no unlabeled photos",
            ),
        ]
    return [
        Choice("method.name", *method),
        *followed,
        Choice("method.class_balance", 0.2 if rare else 0.0, weigh),
        Choice("method.dice_weight", 1.0 if rare else 0.0, "a Dice loss lifts small classes in short runs"),
    ]


def _precision(cuda: bool) -> Choice:
    if cuda and torch.cuda.is_bf16_supported():
        return Choice("precision", "bf16", "this GPU computes in it")
    if not cuda and machine.processor_flags() & {"avx512_bf16", "amx_bf16"}:
        return Choice("precision", "bf16", "this processor computes in it")
    return Choice("precision", "fp32", "this machine has no fast bf16")
