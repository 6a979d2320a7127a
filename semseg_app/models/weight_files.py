"""Files of weights, read without running code: safetensors, and what torch.save wrote.

Training scripts save settings, scores, optimizers and whole logs beside the tensors. torch reads such a file safely
where it knows a harmless class for every name in it; here, every name of another package gets a stand-in that does
nothing, so that nothing of that package runs or need be installed. Of Python's own names only those in `_STAND_INS` get
one: a file that asks for others, such as builtins.eval or subprocess.Popen, is no checkpoint, and is refused.
"""

import json
import pickle
import sys
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from semseg_app.errors import UserError, is_out_of_memory

INDEX = ".safetensors.index.json"
"""What the name of a list of several .safetensors files ends with, which hold one model together."""

_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_MOST_NAMES = 500
"""Checkpoints name a few dozen classes; torch's time grows with the square of the stand-ins."""
_DEEPEST = 100
_SAVE = "save its state_dict() alone, as .safetensors, and give that file"


class _Object(list[Any]):
    """Stands for an object of a class that is not called. A list, because torch appends to nothing else."""

    def __new__(cls, *arguments: Any) -> "_Object":
        return super().__new__(cls)

    def __init__(self, *arguments: Any):
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        pass

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)  # it may be a key

    def __eq__(self, other: object) -> bool:
        return self is other


class _Items:
    """Stands for a class of dictionaries: what it makes is a plain one, because torch fills no other."""

    def __new__(cls, *arguments: Any) -> "OrderedDict[Any, Any]":  # type: ignore[misc]
        return OrderedDict(next((given for given in arguments if isinstance(given, dict)), {}))


_DICTIONARIES = (
    "collections.defaultdict",
    "addict.addict.Dict",
    "box.box.Box",
    "detectron2.config.config.CfgNode",
    "easydict.EasyDict",
    "fvcore.common.config.CfgNode",
    "lightning.fabric.utilities.data.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "mmcv.utils.config.ConfigDict",
    "mmengine.config.config.ConfigDict",
    "munch.Munch",
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "yacs.config.CfgNode",
)
_NUMPY = (
    "dtype",
    "ndarray",
    *(f"{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
)
_PYTHON = {
    "argparse": ("Namespace",),
    "builtins": (
        "dict",
        "float",
        "frozenset",
        "getattr",
        "int",
        "list",
        "bool",
        "object",
        "range",
        "slice",
        "str",
        "tuple",
        "type",
    ),
    "collections": ("deque",),
    "_operator": ("getitem",),
    "copyreg": ("_reconstructor",),
    "datetime": ("date", "datetime", "time", "timedelta", "timezone"),
    "decimal": ("Decimal",),
    "functools": ("partial",),
    "pathlib": ("Path", "PosixPath", "PurePath", "PurePosixPath", "PureWindowsPath", "WindowsPath"),
    "types": ("SimpleNamespace",),
    "typing": ("Any", "Dict", "List", "Optional", "Tuple", "Union"),
    "uuid": ("UUID",),
}
_STAND_INS: list[Any] = [
    *((_Items, name) for name in _DICTIONARIES),
    *((_Object, f"numpy.{name}") for name in _NUMPY),
    *((_Object, f"{module}.{name}") for module, names in _PYTHON.items() for name in names),
]
"""As `torch.serialization.safe_globals` takes them: what to take, and the name that it is taken for."""


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, those in containers by dotted names ("state_dict.conv1.weight").

    Args:
        path: a .safetensors file, the index of several, or what torch.save wrote.

    UserError where it holds code, is no state dict, or is damaged.
    """
    if path.name.endswith(INDEX):
        return {name: tensor for part in _parts(path) for name, tensor in read_state_dict(part).items()}
    others: list[str] = []
    try:
        if path.suffix == ".safetensors":
            content: Any = load_file(path)
        else:
            _check_bytes(path)
            others = _others(path)
            content = _read_pickle(path, others)
        tensors = {_unwrapped(name): tensor for name, tensor in _tensors(content)}
    except UserError:
        raise
    except Exception as error:  # a damaged file may lead to any
        raise UserError(f"model.weights: {path}: {_unreadable(path, error, others)}") from None
    if not tensors and any(name.startswith("torch.nn.modules.") for name in others):
        raise UserError(
            f"model.weights: {path}: holds a whole pickled network, which is read by its own program alone; where you "
            f"trust it, load it there and {_SAVE}"
        )
    for name, tensor in tensors.items():
        if tensor.is_meta or tensor.is_quantized or tensor.layout is not torch.strided:
            kind = "without numbers (meta)" if tensor.is_meta else "quantized" if tensor.is_quantized else "sparse"
            raise UserError(f"model.weights: {path}: {name} is {kind}; save the weights as plain floats, and give that")
    if not tensors:
        raise UserError(f"model.weights: {path}: holds no state dict; save model.state_dict() and give that file")
    return tensors


def _check_bytes(path: Path) -> None:
    """BadZipFile where bytes do not fit their checksums, which torch writes and does not compare."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if entry.CRC and entry.compress_type == zipfile.ZIP_STORED:  # 0: torch was told to compute none
                    archive.read(entry)


def _others(path: Path) -> list[str]:
    """The classes and functions of other packages that a file names, which need stand-ins."""
    with torch.serialization.safe_globals(_STAND_INS):
        try:
            names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        except (ValueError, RuntimeError, pickle.UnpicklingError):  # of torch before 1.6, or nothing that can be read
            return []
    if len(names) > _MOST_NAMES:
        raise UserError(f"model.weights: {path}: names {len(names)} classes and functions beside tensors; {_SAVE}")
    return [name for name in names if not _is_of_python(name)]


def _read_pickle(path: Path, others: list[str]) -> Any:
    """What torch.save wrote, with stand-ins in place of all that is neither plain nor a tensor."""
    stand_ins = [*_STAND_INS, *((_Object, name) for name in others)]
    with torch.serialization.safe_globals(stand_ins), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other pickle protocols and of TorchScript: what fails then says more
        return torch.load(path, map_location="cpu", weights_only=True)


def _is_of_python(name: str) -> bool:
    """Whether a class or function belongs to Python itself; pickle writes some modules by their names in Python 2."""
    module = name.rpartition(".")[0]
    return IMPORT_MAPPING.get(module, module).partition(".")[0] in sys.stdlib_module_names


def _unreadable(path: Path, error: Exception, others: list[str]) -> str:
    """Why a file cannot be read safely, and what to do."""
    if found := _something_else(path):
        return found
    if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
        return f"cannot be read ({error.strerror})"
    if is_out_of_memory(error):
        return "out of memory; read it on a machine with more"
    text = str(error)
    lower = text.lower()
    if "torchscript" in lower:
        reason = "a TorchScript archive, which is a program; where you trust it, load it with torch.jit.load and"
        return f"{reason} {_SAVE}"
    if isinstance(error, SafetensorError):
        return f"damaged or truncated ({text}); copy it again"
    if any(words in lower for words in ("unsupported global", "unsupported class", "can only ")):
        named = text.partition("GLOBAL ")[2].partition(" ")[0]
        shown = ", ".join([named] if named else others[:3]) or "unnamed"
        what = f"holds Python objects beside tensors ({shown})"
        return f"{what}, and loading those would run code; where you trust it, {_SAVE}"
    if "unsupported operand" in lower and zipfile.is_zipfile(path):
        return f"is pickled by a protocol that is not read without running code; {_SAVE}"
    return "damaged, or not a file that torch.save wrote; copy it again"


def _something_else(path: Path) -> str:
    """What lies there in place of weights after an incomplete download; empty where it is neither."""
    with path.open("rb") as file:
        start = file.read(64).lstrip()
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer in place of the weights; fetch them with `git lfs pull`, or download the file itself"
    if start[:1] == b"<":
        return "a web page in place of the weights; download the file itself"
    return ""


def _parts(index: Path) -> list[Path]:
    """The files that an index names; they lie beside it."""
    try:
        names = sorted({Path(name).name for name in json.loads(index.read_bytes())["weight_map"].values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        reason = _something_else(index) or "not a list of .safetensors files; copy it again"
        raise UserError(f"model.weights: {index}: {reason}") from None
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise UserError(f"model.weights: {index}: names {missing[0]}, which does not lie beside it; copy all its files")
    return [index.parent / name for name in names]


def _unwrapped(name: str) -> str:
    """A name without the words that torch.compile, FSDP and activation checkpointing put into its middle."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _tensors(content: Any) -> Iterator[tuple[str, Tensor]]:
    """The tensors in what torch.save wrote, by the names that lead to them; a container where it is met first."""
    if isinstance(content, dict) and "message_hub" in content:
        # MMEngine swaps the two as it saves: "state_dict" holds the average, and this the weights that learn.
        content.pop("ema_state_dict", None)
    seen: set[int] = set()
    waiting = [("", content)]
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, Tensor) and name:
            yield name, value
        elif isinstance(value, dict) and id(value) not in seen and name.count(".") < _DEEPEST:
            seen.add(id(value))
            inner = [(key, item) for key, item in value.items() if isinstance(key, str)]
            waiting += [(f"{name}.{key}" if name else key, item) for key, item in reversed(inner)]
