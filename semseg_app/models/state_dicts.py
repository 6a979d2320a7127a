"""State dicts of other programs: read without running code, and fitted to one of our encoders by tensor name.

timm, torchvision, segmentation_models_pytorch and training scripts save the same tensors under other prefixes
("module.backbone.layer1..."), inside containers ("state_dict"), and with heads that an encoder does not have.
"""

import pickle
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from semseg_app.errors import UserError

SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin")
CONTAINERS = ("state_dict_ema", "model_ema", "state_dict", "model", "teacher", "student", "network")
"""Under what training scripts keep a state dict, the first that a file has wins; averaged weights first, as in timm."""
PREFIXES = frozenset({"module", "backbone", "encoder", "model", "network", "net", "teacher", "student", "_orig_mod"})
DERIVED = ("num_batches_tracked", "relative_position_index", "attn_mask")
"""Counters and index tables: older files lack them or hold more of them, and no output depends on what they hold."""


class Fit(NamedTuple):
    """A state dict, matched with an encoder."""

    tensors: dict[str, Tensor]
    """By the encoder's own names."""
    missing: list[str]
    """Names of the encoder's tensors without a partner of the same name and shape."""
    strangers: list[str]
    """Names of tensors that lie inside the encoder's modules, and have no place there."""
    unused: list[str]
    """Names of all other tensors of the file: heads, decoders."""
    prefix: str
    """What the encoder's names begin with in the file."""


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file or of what torch.save wrote. UserError where it holds code or is damaged."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "unsupported global" in str(error).lower() or "unsupported class" in str(error).lower():
            raise UserError(
                f"model.weights: {path}: holds Python objects beside tensors, and loading those would run code; where "
                "you trust it, save its state_dict() alone, as .safetensors, and give that file"
            ) from None
        raise UserError(f"model.weights: {path}: damaged, or not a file that torch.save wrote; copy it again") from None
    except SafetensorError as error:
        raise UserError(f"model.weights: {path}: damaged or truncated ({error}); copy it again") from None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"model.weights: {path}: cannot be read as weights ({reason}); copy it again") from None
    tensors = _innermost(content)
    if not tensors:
        raise UserError(f"model.weights: {path}: holds no state dict; save model.state_dict() and give that file")
    return tensors


def fit(state: dict[str, Tensor], encoder: nn.Module) -> Fit:
    """`state` matched with an encoder by name and shape, under the prefix that fits best."""
    own = {_plain(name): name for name in encoder.state_dict()}
    shapes = {_plain(name): tensor.shape for name, tensor in encoder.state_dict().items()}

    def under(prefix: str) -> dict[str, str]:
        names = {_plain(name[len(prefix) :]): name for name in state if name.startswith(prefix)}
        # Transformers that pool before their last norm keep it under another name; an encoder has one last norm.
        return names if "norm.weight" in names else {re.sub(r"^fc_norm\.", "norm.", key): names[key] for key in names}

    def matches(prefix: str) -> int:
        return sum(shapes.get(key) == state[name].shape for key, name in under(prefix).items())

    prefix = max(sorted(_prefixes(state), key=len), key=matches)
    there = {key: state[name] for key, name in under(prefix).items()}
    if any(key not in there or there[key].shape != shape for key, shape in shapes.items()):
        there = _converted(there, encoder)
    tensors = {own[key]: there[key] for key, shape in shapes.items() if key in there and there[key].shape == shape}
    modules = {key.split(".")[0] for key in own}
    partners = {_plain(name) for name in tensors}
    left = [key for key in there if key not in partners and not key.endswith(DERIVED)]
    inside = [key for key in left if key.split(".")[0] in modules]
    beside = [name for name in state if not name.startswith(prefix)]
    return Fit(
        tensors,
        [name for name in own.values() if name not in tensors and not name.endswith(DERIVED)],
        inside,
        [key for key in left if key not in inside] + beside,
        prefix,
    )


def grouped(names: Iterable[str]) -> list[str]:
    """Names of tensors by their outermost module, with counts: ["fc (2)"]."""
    return [f"{module} ({count})" for module, count in Counter(name.split(".")[0] for name in names).items()]


def _plain(name: str) -> str:
    """A name without what wrappers change: timm's feature extractors write "stages_0" for "stages.0"."""
    return re.sub(r"(?<=[a-z])_(\d+)(?=\.)", r".\1", name.removeprefix("model."))


def _prefixes(names: Iterable[str]) -> set[str]:
    """Every beginning of a name that consists of wrappers' words alone; "" too."""
    found = {""}
    for name in names:
        prefix = ""
        for part in name.split(".")[:-1]:
            if part not in PREFIXES:
                break
            prefix += f"{part}."
            found.add(prefix)
    return found


def _converted(there: dict[str, Tensor], encoder: nn.Module) -> dict[str, Tensor]:
    """`there` after timm's own conversion for this kind of network: published names, size of the position table.

    Unchanged where timm has no conversion, or where the conversion fails because `there` is of another network.
    """
    inner = dict(encoder.named_children()).get("model")
    convert: Callable[..., Any] | None = vars(sys.modules[type(inner).__module__]).get("checkpoint_filter_fn")
    if inner is None or convert is None:
        return there
    try:
        return {_plain(name): tensor for name, tensor in convert(dict(there), inner).items()}
    except (KeyError, AttributeError, RuntimeError, ValueError, TypeError, AssertionError):
        return there


def _innermost(content: Any) -> dict[str, Tensor]:
    """The state dict in what torch.save wrote: the content itself, or what lies in one of the usual containers."""
    if not isinstance(content, dict):
        return {}
    for container in CONTAINERS:
        if isinstance(content.get(container), dict) and (tensors := _innermost(content[container])):
            return tensors
    return {name: tensor for name, tensor in content.items() if isinstance(name, str) and isinstance(tensor, Tensor)}
