"""Where the weights of a new network come from: what `model.weights` of a recipe means.

    imagenet            ImageNet weights: an installed package that ships them, else the Hub
    swsl, advprop ...   another set that segmentation_models_pytorch offers for the encoder, from the Hub
    a file              a state dict, .safetensors or .pth (weight_files.py, state_dicts.py)
    a folder, a Hub id  a model folder of semseg (initial.py), or a folder of timm's with config.json and weights
    null                random weights

What was asked for and cannot be had is an error; a network never starts from random weights in its place.
"""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies

from huggingface_hub import constants
from segmentation_models_pytorch.encoders import encoders

from semseg_app.artifact import CONFIG, WEIGHT_SUFFIXES, WEIGHTS, model_folder
from semseg_app.errors import UserError, did_you_mean
from semseg_app.models.normalization import read_config_beside
from semseg_app.models.packaged_weights import INSTALL, WeightsPackage, installed_file, package_for
from semseg_app.models.weight_files import INDEX

TIMEOUT_S = 3.0


class HubSet(NamedTuple):
    """A set of weights that timm or segmentation_models_pytorch fetches from the Hub."""

    name: str


class Packaged(NamedTuple):
    """The file of an installed package."""

    package: WeightsPackage
    path: Path


class StateDict(NamedTuple):
    """A file of tensors."""

    path: Path


class ModelFolder(NamedTuple):
    """A model folder of semseg."""

    path: Path
    named: str
    """As the recipe names it: a path or a Hub id."""


Source = HubSet | Packaged | StateDict | ModelFolder


def find_weights(weights: str, encoder: str, fetch: Callable[[str], Path]) -> Source:
    """What `model.weights` means for an encoder. UserError, with the fix, where it means nothing.

    Args:
        weights: the value of the key.
        encoder: the encoder's name.
        fetch: a Hub id -> its model folder on this machine; UserError where it cannot be had.
    """
    if weights in (offered := _offered_sets(encoder)):
        package = package_for(encoder) if weights == "imagenet" else None
        path = installed_file(package) if package else None
        return Packaged(package, path) if package and path else HubSet(weights)
    if "://" in weights:
        raise UserError(f"model.weights: {weights}: addresses are not fetched; download the file and give its path")
    path = Path(weights).expanduser()
    if path.is_file():
        return _of_file(path)
    if path.is_dir():
        return _of_folder(path, weights)
    if "/" in weights and path.suffix not in WEIGHT_SUFFIXES and not weights.startswith((".", "/", "~")):
        try:
            return ModelFolder(fetch(weights), weights)
        except UserError as error:
            raise UserError(f"model.weights: {error}") from None
    if "/" in weights or path.suffix in WEIGHT_SUFFIXES:
        raise UserError(
            f"model.weights: {weights}: no such file or folder; correct the path, or set model.weights=null"
        )
    timm_names = "; timm encoders name other weights in their own name, e.g. tu-resnet50.a1_in1k"
    raise UserError(
        f"model.weights: unknown weights {weights!r} for {encoder}; choose one of {', '.join(offered)}, a file, a "
        "model folder or its Hub id, or null for random weights"
        + (did_you_mean(weights, offered) or (timm_names if encoder.startswith("tu-") else ""))
    )


@contextmanager
def fetched(encoder: str) -> Iterator[None]:
    """Weights of `encoder` are loaded inside. UserError, with the fix, where they cannot be had.

    Where the Hub cannot be reached, its client is told so: it then takes what its cache holds and retries nothing.
    """
    offline = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = offline or not _is_reachable(constants.ENDPOINT)
    try:
        yield
    except (OSError, RuntimeError) as error:  # no network, no such file, a proxy's answer instead of weights
        reason = "the Hub cannot be reached and its cache has no copy" if constants.HF_HUB_OFFLINE else _first(error)
        install = f"{INSTALL} brings these weights; or set" if package_for(encoder) else "Set"
        raise UserError(
            f"model.weights: no weights for {encoder}: {reason}. {install} model.weights=null to start from random "
            "weights, name a file or model folder, or train once where the Hub can be reached and copy its cache here "
            "(HF_HOME)"
        ) from None
    finally:
        constants.HF_HUB_OFFLINE = offline


def _offered_sets(encoder: str) -> list[str]:
    """Names of the published sets for an encoder. "imagenet" means those that the name of a timm encoder carries."""
    sets = {} if encoder.startswith("tu-") else encoders.get(encoder, {}).get("pretrained_settings", {})
    return list(sets) or ["imagenet"]


def _of_file(path: Path) -> Source:
    if path.name == WEIGHTS and _is_ours(path.parent):
        return ModelFolder(path.parent, str(path.parent))
    if path.suffix not in WEIGHT_SUFFIXES and not path.name.endswith(INDEX):
        raise UserError(
            f"model.weights: {path}: weights are read from {', '.join(WEIGHT_SUFFIXES)} files, or from a folder"
        )
    return StateDict(path)


def _of_folder(path: Path, named: str) -> Source:
    folder = model_folder(path)
    if _is_ours(folder):
        if not (folder / WEIGHTS).is_file():
            raise UserError(
                f"model.weights: {folder / WEIGHTS}: missing; the model folder is incomplete, copy it again"
            )
        return ModelFolder(folder, named)
    if (folder / CONFIG).is_file():  # timm's and segmentation_models_pytorch's repositories, downloaded
        for name in (WEIGHTS, f"model{INDEX}", "pytorch_model.bin"):
            if (folder / name).is_file():
                return StateDict(folder / name)
    if (folder / "adapter_config.json").is_file():
        raise UserError(
            f"model.weights: {path}: a PEFT adapter, which is nothing without the model that it adapts; merge them "
            "(merge_and_unload), save the state_dict() of that, and give the file"
        )
    if files := sorted(file for file in folder.glob("*") if file.suffix in WEIGHT_SUFFIXES):
        raise UserError(
            f"model.weights: {path}: not a model folder; name the file of the weights in it, e.g. {files[0]}"
        )
    raise UserError(
        f"model.weights: {path}: a folder without weights; give a model folder ({CONFIG} and {WEIGHTS}), a run folder, "
        "or a file"
    )


def _is_ours(folder: Path) -> bool:
    """Whether it is a model folder; one with a damaged config too, so that reading it says what is wrong."""
    config = read_config_beside(folder / WEIGHTS)
    return (folder / CONFIG).is_file() and (not config or "labels" in config or config.get("library") == "semseg_app")


def _is_reachable(endpoint: str) -> bool:
    """Whether something listens there. Behind a proxy nothing can be known beforehand, and the answer is True."""
    address = urlsplit(endpoint)
    if getproxies() or not address.hostname:
        return True
    try:
        port = address.port or (443 if address.scheme == "https" else 80)
        socket.create_connection((address.hostname, port), TIMEOUT_S).close()
    except OSError:
        return False
    return True


def _first(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
