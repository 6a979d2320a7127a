"""Files of weights as training scripts leave them: read whatever lies beside the tensors, and nothing of it is run."""

import argparse
import builtins
import functools
import json
import os
import pickle
import subprocess
import sys
import typing
from collections import OrderedDict, defaultdict, deque
from datetime import datetime, timedelta
from enum import Enum
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from semseg_app.errors import UserError
from semseg_app.models.weight_files import read_state_dict

STATE = OrderedDict(weight=torch.arange(6.0).reshape(2, 3), bias=torch.ones(2))


class Foreign:
    """A class of a package that is not installed where the file is read."""

    def __setstate__(self, state):
        raise AssertionError("code of the file was run")


class ForeignDict(dict):
    """The same of dictionaries; attributes of the object are saved, too, as those of yacs are."""

    def __init__(self, *items):
        super().__init__(*items)
        self.frozen = True


class Buffer(Foreign):
    """As MMEngine's HistoryBuffer holds numbers: arrays, and methods of its own by their names."""

    def __init__(self):
        self._history, self._counts, self._current = np.arange(3.0), np.ones(3, int), {"mean": Buffer.mean}

    def mean(self):
        return self._history.mean()


class Choice(Enum):
    FAST = "fast"


def foreign(monkeypatch: pytest.MonkeyPatch, name: str, kind: type) -> type:
    """`kind` under another module's name, which can be imported until `monkeypatch.undo()`."""
    module, _, last = name.rpartition(".")
    made = type(last, (kind,), {"__module__": module, "__qualname__": last})
    for count in range(1, len(module.split(".")) + 1):
        outer = ".".join(module.split(".")[:count])
        monkeypatch.setitem(sys.modules, outer, ModuleType(outer))
    setattr(sys.modules[module], last, made)
    return made


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    "beside",
    [
        {"best": np.float64(0.5), "epoch": np.int64(3), "ok": np.bool_(True), "dtype": np.dtype("float32")},
        {"history": np.arange(3.0), "names": np.array(["a", "b"]), "random": np.random.RandomState(0).get_state()},
        {"args": argparse.Namespace(output=PurePosixPath("out"), data=PureWindowsPath("c:/data"), crop=(64, 64))},
        {"losses": defaultdict(list, {"train": [1.0]}), "last": deque([1, 2], maxlen=3), "seen": {1, 2}},
        {"time": datetime(2026, 1, 1), "took": timedelta(hours=1), "make": functools.partial(dict, lr=0.1)},
        {"fields": [typing.List[int], typing.Union[int, str], typing.Any, type(None)]},  # noqa: UP006, UP007
    ],
    ids=["scores", "arrays", "settings", "collections", "times", "types"],
)
def test_objects_of_python_and_numpy_lie_beside_tensors(beside, zipped, tmp_path):
    path = tmp_path / "w.pth"
    torch.save({"state_dict": STATE} | beside, path, _use_new_zipfile_serialization=zipped)
    assert_state(read_state_dict(path), "state_dict.")


def assert_state(tensors: dict, prefix: str) -> None:
    for name, tensor in STATE.items():
        assert torch.equal(tensors[prefix + name], tensor)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("mmengine.logging.history_buffer.HistoryBuffer", Buffer),
        ("yacs.config.CfgNode", ForeignDict),
        ("pytorch_lightning.utilities.parsing.AttributeDict", ForeignDict),
        ("omegaconf.dictconfig.DictConfig", Foreign),
        ("my_project.options.Options", Foreign),
    ],
)
def test_classes_of_packages_that_are_not_installed(name, kind, tmp_path, monkeypatch):
    made = foreign(monkeypatch, name, kind)
    value = made({"lr": 0.1, "inner": made()}) if kind is ForeignDict else made()
    value.__dict__["more"] = [made, {made: value}]
    path = tmp_path / "w.ckpt"
    torch.save({"state_dict": STATE, "log": {"a": value}, "key": {made: 1}}, path)
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, name.split(".")[0], None)  # importing it fails, wherever the tests run
    assert_state(read_state_dict(path), "state_dict.")


def test_classes_that_are_installed_are_not_run_either(tmp_path):
    path = tmp_path / "w.pth"
    torch.save({"model": STATE, "options": Foreign(), "speed": Choice.FAST, "by": {Choice.FAST: {Choice.FAST}}}, path)
    assert_state(read_state_dict(path), "model.")


def test_an_optimizer_and_its_schedule_lie_beside_tensors(tmp_path):
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.rand(1, 3)).sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=9)
    content = {"optimizer": optimizer, "schedule": schedule, "states": [optimizer.state_dict(), schedule.state_dict()]}
    torch.save({"model": STATE, "loss": torch.nn.CrossEntropyLoss(), **content}, tmp_path / "w.pth")
    assert_state(read_state_dict(tmp_path / "w.pth"), "model.")


class Call:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("function", "name"), [(os.system, "system"), (builtins.eval, "eval"), (subprocess.check_output, "check_output")]
)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_file_that_asks_for_code_of_python_is_refused(function, name, zipped, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call = Call(function, "open('run', 'w')" if name == "eval" else "touch run")
    torch.save({"state_dict": STATE, "args": call}, "w.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        UserError, match=rf"w.pth: holds Python objects beside tensors \(.*{name}\), and loading"
    ) as told:
        read_state_dict(Path("w.pth"))
    assert "\n" not in str(told.value)
    assert not Path("run").exists()


def test_the_average_of_mmengine_is_the_one_under_state_dict(tmp_path):
    """Its EMAHook swaps the two before it saves, so that what lies under the usual name is what should be used."""
    learning = {f"module.{name}": tensor + 1 for name, tensor in STATE.items()}
    torch.save({"meta": {}, "message_hub": {}, "state_dict": STATE, "ema_state_dict": learning}, tmp_path / "w.pth")
    assert list(read_state_dict(tmp_path / "w.pth")) == ["state_dict.weight", "state_dict.bias"]


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_words_that_wrappers_put_into_names_are_left_out(suffix, tmp_path):
    path = tmp_path / f"w{suffix}"
    names = ["_orig_mod.a._checkpoint_wrapped_module.weight", "_orig_mod._fsdp_wrapped_module.a.bias"]
    state = dict(zip(names, STATE.values(), strict=True))
    torch.save(state, path) if suffix == ".pth" else save_file(state, path)
    assert sorted(read_state_dict(path)) == ["a.bias", "a.weight"]


def test_one_model_in_several_files(tmp_path):
    names = {"weight": "model-00001-of-00002.safetensors", "bias": "model-00002-of-00002.safetensors"}
    for name, file in names.items():
        save_file({name: STATE[name]}, tmp_path / file)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": names}))
    assert_state(read_state_dict(index), "")
    whole = (tmp_path / names["bias"]).read_bytes()
    (tmp_path / names["bias"]).write_bytes(whole[:-1])
    with pytest.raises(UserError, match=r"^model.weights: .*model-00002-of-00002.safetensors: damaged or truncated"):
        read_state_dict(index)
    save_file({"_orig_mod.bias": STATE["bias"]}, tmp_path / names["bias"])
    assert_state(read_state_dict(index), "")
    (tmp_path / names["bias"]).unlink()
    with pytest.raises(UserError, match=r"index.json: names model-00002.*, which does not lie beside it; copy all"):
        read_state_dict(index)


@pytest.mark.filterwarnings(
    "ignore:.torch.jit:FutureWarning", "ignore:.torch.jit:DeprecationWarning", "ignore:torch.quantize_per_tensor"
)
def test_what_is_no_state_dict_says_what_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1))
    torch.save(network, "whole.pth")
    torch.save({"model": network, "epoch": 3}, "whole.pt")
    torch.jit.trace(network, torch.rand(1, 3, 4, 4)).save("script.pt")
    torch.save(STATE, "protocol.pth", pickle_protocol=4)
    torch.save({"weight": torch.empty(3, device="meta")}, "meta.pth")
    torch.save({"weight": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)}, "quantized.pth")
    torch.save({"weight": torch.eye(3).to_sparse()}, "sparse.pth")
    Path("arrays.pkl").write_bytes(pickle.dumps({"weight": np.ones(3)}, protocol=2))
    Path("pointer.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    Path("pointer.pth").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    Path("page.pth").write_text("<!DOCTYPE html>\n<html>Not found</html>")
    Path("page.safetensors").write_text("<!DOCTYPE html>\n<html>Not found</html>")
    Path("w.safetensors.index.json").write_text("[]")
    for name, message in {
        "whole.pth": "holds a whole pickled network, .* load it there and save its state_dict",
        "whole.pt": "holds a whole pickled network",
        "script.pt": r"a TorchScript archive, which is a program; .* torch.jit.load and save its state_dict\(\) alone",
        "protocol.pth": "is pickled by a protocol that is not read",
        "arrays.pkl": "damaged, or not a file that torch.save wrote",
        "pointer.safetensors": "a Git LFS pointer in place of the weights; fetch them with `git lfs pull`",
        "pointer.pth": "a Git LFS pointer in place of the weights",
        "page.pth": "a web page in place of the weights; download the file itself",
        "page.safetensors": "a web page in place of the weights",
        "w.safetensors.index.json": "not a list of .safetensors files",
        "meta.pth": r"weight is without numbers \(meta\); save the weights as plain floats",
        "quantized.pth": "weight is quantized; save",
        "sparse.pth": "weight is sparse; save",
    }.items():
        with pytest.raises(UserError, match=f"^model.weights: {name}: ({message})") as told:
            read_state_dict(Path(name))
        assert "\n" not in str(told.value)


def test_containers_that_hold_themselves_or_one_another(tmp_path):
    itself = {"model": STATE}
    itself["again"] = itself
    shared = STATE
    for _ in range(18):
        shared = {"a": shared, "b": shared}
    for content in (itself, shared):
        torch.save(content, tmp_path / "w.pth")
        assert [tensor.tolist() for tensor in read_state_dict(tmp_path / "w.pth").values()] == [
            tensor.tolist() for tensor in STATE.values()
        ]


def test_truncated_files_are_an_error_of_one_line(tmp_path):
    path = tmp_path / "w.pth"
    beside = {"names": ["a", None, 2.5, True], "args": argparse.Namespace(lr=1), "scores": np.arange(3)}
    for zipped in (True, False):
        torch.save({"model": STATE, **beside}, path, _use_new_zipfile_serialization=zipped)
        whole = path.read_bytes()
        for cut in range(0, len(whole), 37):
            path.write_bytes(whole[:cut])
            with pytest.raises(
                UserError, match=r"^model.weights: .*/w.pth: (damaged, or not|holds Python objects)[^\n]+$"
            ):
                read_state_dict(path)


def test_a_file_of_very_many_classes_is_refused_at_once(tmp_path, monkeypatch):
    foreign(monkeypatch, "package.module.Class", Foreign)
    kinds = [type(f"Class{index}", (Foreign,), {"__module__": "package.module"}) for index in range(600)]
    vars(sys.modules["package.module"]).update((kind.__name__, kind) for kind in kinds)
    torch.save({"model": STATE, "kinds": kinds}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"w.pth: names 600 classes and functions beside tensors; save its state_dict"):
        read_state_dict(tmp_path / "w.pth")


def test_checksums_are_compared_where_there_are_some(tmp_path):
    path = tmp_path / "w.pth"
    torch.save({"weight": torch.ones(99)}, path)
    one = torch.ones(1).numpy().tobytes()
    path.write_bytes(path.read_bytes().replace(one * 99, one * 98 + b"\1\2\3\4"))
    with pytest.raises(UserError, match=r"w.pth: damaged, or not a file that torch.save wrote; copy it again$"):
        read_state_dict(path)
    computes = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(STATE, path)
    finally:
        torch.serialization.set_crc32_options(computes)
    assert_state(read_state_dict(path), "")
