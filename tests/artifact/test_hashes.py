"""A local model folder whose files are not those that were saved and verified is refused."""

import hashlib
import json
import resource
from pathlib import Path

import pytest

from semseg_app.artifact import check_graph, check_weights, read_config, read_manifest, save, write_manifest
from semseg_app.errors import UserError
from semseg_app.inference.engines import open_engine

torch = pytest.importorskip("torch")


def test_saved_weights_have_their_hash_in_the_manifest(network_folder: Path) -> None:
    digest = hashlib.sha256((network_folder / "model.safetensors").read_bytes()).hexdigest()
    assert json.loads((network_folder / "manifest.json").read_text())["weights"] == {"sha256": digest}
    check_weights(network_folder)


def test_weights_that_the_disk_does_not_take_leave_no_folder(network_folder: Path, tmp_path: Path) -> None:
    """The system's error comes from safetensors, which is no OSError."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(UserError, match=r"/new: larger than the file system allows; choose another folder$"):
            save(tmp_path / "new", read_config(network_folder), {"weight": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == [network_folder]


def test_a_flipped_bit_in_the_weights_is_refused(network_folder: Path) -> None:
    path = network_folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"model\.safetensors: damaged or replaced"):
        check_weights(network_folder)
    with pytest.raises(UserError, match=r"model\.safetensors: damaged or replaced"):
        open_engine(network_folder, kind="torch", device="cpu")
    (network_folder / "manifest.json").unlink()  # folders of earlier versions have no hash
    check_weights(network_folder)


def test_an_exchanged_graph_is_refused(network_folder: Path) -> None:
    graph = network_folder / "onnx" / "model.onnx"
    graph.parent.mkdir()
    graph.write_bytes(b"graph")
    manifest = read_manifest(network_folder)
    entry = {"verdict": "passed", "sha256": hashlib.sha256(b"graph").hexdigest()}
    write_manifest(network_folder, manifest | {"exports": {"onnx/model.onnx": entry}})
    check_graph(graph)
    graph.write_bytes(b"other")
    with pytest.raises(UserError, match=r"model\.onnx: damaged or replaced since it was verified"):
        open_engine(network_folder, kind="onnxruntime", device="cpu")
