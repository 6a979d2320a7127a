"""State dicts of other programs, fitted to one of our encoders by tensor name.

timm, torchvision, segmentation_models_pytorch and training scripts save the same tensors under other prefixes
("module.backbone.layer1..."), inside containers ("state_dict"), and with heads that an encoder does not have. A
container is read as one more prefix, and the prefix is whatever stands before the names that an encoder has.
"""

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from semseg_app.models.renamed_encoders import renamed

PREFERRED = (("ema", "swa", "avg", "average", "averaged"), ("teacher",))
"""Words of the weights that are taken first where a file holds several networks that fit: averaged ones, as in timm."""
AVOIDED = (("student",), ("k", "momentum", "target"))
"""Words of those that are taken last: of MoCo and BYOL their authors take the encoder that learns."""
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
    """What the encoder's names begin with in the file, its containers included: "state_dict.module.encoder."."""
    others: tuple[str, ...] = ()
    """Such beginnings of other weights in the file that fit as well."""

    @property
    def is_whole(self) -> bool:
        """Whether these are the weights of this encoder, and not of another one."""
        return not self.missing and not self.strangers


def fit(state: dict[str, Tensor], encoder: nn.Module) -> Fit:
    """`state` matched with an encoder by name and shape, under the prefix that fits best.

    Of several that fit, the order is: words of PREFERRED, others, words of AVOIDED; then the least nested, then the
    first of the file.
    """
    own = {_plain(name): name for name in encoder.state_dict() if not name.endswith(DERIVED)}
    prefixes = sorted(_prefixes(state, len(own) // 2), key=lambda prefix: (_rank(prefix), prefix.count(".")))
    fits = [_fit_under(prefix, state, encoder, convert=False) for prefix in prefixes]
    if not any(found.is_whole for found in fits):
        fits = [_fit_under(prefix, state, encoder, convert=True) for prefix in prefixes]
    whole = [found for found in fits if found.is_whole]
    if not whole:
        return min(fits, key=lambda found: len(found.missing))
    # "model." rather than "", which finds the same there: `_plain` leaves that word out.
    whole = [found for found in whole if not any(_is_narrower(other, found) for other in whole)]
    others = tuple(found.prefix for found in whole[1:] if not _same(found, whole[0]))
    return whole[0]._replace(others=others)


def grouped(names: Iterable[str], prefix: str = "") -> list[str]:
    """Names of tensors by their outermost module below what they share with `prefix`, with counts: ["fc (2)"]."""
    parts = prefix.split(".")[:-1]
    outer = [".".join(parts[:count]) + "." for count in range(len(parts), 0, -1)]
    inner = (next((name[len(start) :] for start in outer if name.startswith(start)), name) for name in names)
    return [f"{module} ({count})" for module, count in Counter(name.split(".")[0] for name in inner).items()]


def _plain(name: str) -> str:
    """A name without what wrappers change: timm's feature extractors write "stages_0" for "stages.0"."""
    return re.sub(r"(?<=[a-z])_(\d+)(?=\.)", r".\1", name.removeprefix("model."))


def _prefixes(names: Iterable[str], least: int) -> list[str]:
    """ "", and every dotted beginning that at least so many names have; in the order of the names."""
    counts = Counter(name[: dot.end()] for name in names for dot in re.finditer(r"\.", name))
    return ["", *(prefix for prefix, count in counts.items() if count >= least)]


def _rank(prefix: str) -> int:
    """The place of a prefix among several that fit."""
    words = set(re.split(r"[._]", prefix.lower()))
    for place, known in enumerate(PREFERRED):
        if words.intersection(known):
            return place - len(PREFERRED)
    return max((place + 1 for place, known in enumerate(AVOIDED) if words.intersection(known)), default=0)


def _fit_under(prefix: str, state: dict[str, Tensor], encoder: nn.Module, convert: bool) -> Fit:
    """`state` matched with an encoder by what follows `prefix` in its names; `convert`: by conversions of it."""
    own = {_plain(name): name for name in encoder.state_dict()}
    shapes = {_plain(name): tensor.shape for name, tensor in encoder.state_dict().items()}
    under = [name for name in state if name.startswith(prefix)]
    under.sort(key=lambda name: not name.startswith(f"{prefix}model."))  # a name without "model." wins over one with it
    there = {_plain(name[len(prefix) :]): state[name] for name in under}
    if "norm.weight" not in there:
        # Transformers that pool before their last norm keep it under another name; an encoder has one last norm.
        there = {re.sub(r"^fc_norm\.", "norm.", key): tensor for key, tensor in there.items()}
    if convert and any(key not in there or there[key].shape != shape for key, shape in shapes.items()):
        there = _converted(there, encoder)
    tensors = {own[key]: there[key] for key, shape in shapes.items() if key in there and there[key].shape == shape}
    modules = {key.split(".")[0] for key in own}
    partners = {_plain(name) for name in tensors}
    left = [key for key in there if key not in partners and not key.endswith(DERIVED)]
    inside = [key for key in left if key.split(".")[0] in modules]
    return Fit(
        tensors,
        [name for name in own.values() if name not in tensors and not name.endswith(DERIVED)],
        inside,
        [key for key in left if key not in inside] + [name for name in state if not name.startswith(prefix)],
        prefix,
    )


def _is_narrower(one: Fit, other: Fit) -> bool:
    """Whether it finds the same numbers under a longer prefix."""
    return len(one.prefix) > len(other.prefix) and one.prefix.startswith(other.prefix) and _same(one, other)


def _same(one: Fit, other: Fit) -> bool:
    """Whether both hold the same numbers."""
    pairs = [(one.tensors[name], other.tensors[name]) for name in one.tensors.keys() & other.tensors.keys()]
    return all(mine.dtype == theirs.dtype and torch.equal(mine, theirs) for mine, theirs in pairs)


def _converted(there: dict[str, Tensor], encoder: nn.Module) -> dict[str, Tensor]:
    """`there` under our names where another library publishes it under its own, and after timm's own conversion for
    this kind of network: published names, size of the position table.

    timm's is left out where it has none, or where it fails because `there` is of another network.
    """
    there = renamed(there)
    inner = dict(encoder.named_children()).get("model")
    convert: Callable[..., Any] | None = vars(sys.modules[type(inner).__module__]).get("checkpoint_filter_fn")
    if inner is None or convert is None:
        return there
    try:
        return {_plain(name): tensor for name, tensor in convert(dict(there), inner).items()}
    except (LookupError, AttributeError, RuntimeError, ValueError, TypeError, AssertionError):
        return there
