"""A Hub on localhost, machines that know it by HF_ENDPOINT alone, and a small model that was trained and exported."""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hub_stand_in import StandIn
from support.hub_machines import Machine
from support.tiny_models import METADATA
from support.tiny_models import make_graph as make_graph


@pytest.fixture(scope="session")
def stand_in() -> Iterator[StandIn]:
    with StandIn().running() as hub:
        yield hub


@pytest.fixture
def hub(stand_in: StandIn) -> StandIn:
    stand_in.reset()
    return stand_in


@pytest.fixture
def machine(hub: StandIn, tmp_path: Path) -> Callable[..., Machine]:
    """machine("name", token="hf_ann"): a new one each time, with an empty cache."""
    return lambda name="here", token="hf_ann": Machine(tmp_path / name, hub.url, token)


@pytest.fixture
def model(tmp_path: Path, make_graph: Callable[..., Path]) -> Path:
    """A model folder with weights, a graph that runs in a moment, and a manifest that vouches for it; yours to change.

    What training and verification would have written is written by hand here; tests/hub/test_round_trip.py has the
    real thing.
    """
    folder = tmp_path / "tiny"
    graph = make_graph(folder / "onnx" / "model.onnx")
    (folder / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}" + bytes(50_000))
    config = {"name": "tiny", "model": {"num_classes": 3}, "labels": METADATA["labels"]}
    config["provenance"] = {
        "training": {
            "recipe": {
                "name": "tiny",
                "seed": 3,
                "data": {"root": "/home/ann/secret/rgb", "val": "val"},
                "method": {"name": "supervised"},
            },
            "argv": ["/home/ann/bin/semseg", "train"],
            "data": {"name": "rgb", "license": "cc-by-4.0", "source": "ann/rgb", "val": {"images": 7, "hash": "ab"}},
            "val": {
                "miou": 0.6123,
                "pixel_accuracy": 0.8,
                "classes": {"red": {"iou": 0.5, "accuracy": 0.6, "label_share": 1}},
            },
            "lineage": {"license": "apache-2.0"},
        }
    }
    (folder / "config.json").write_text(json.dumps(config))
    entry = {
        "verdict": "passed",
        "reasons": [],
        "device": "cpu",
        "precision": "fp32",
        "agreement": 1.0,
        "confidence_difference": 0,
        "photos": "generated",
        "latency_ms": {"median": 1.25, "width": 640, "height": 480, "batch": 1, "threads": 2},
        "hardware": {"processor": "a processor"},
        "sha256": hashlib.sha256(graph.read_bytes()).hexdigest(),
        "source_sha256": hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest(),
    }
    (folder / "manifest.json").write_text(json.dumps({"format_version": 1, "exports": {"onnx/model.onnx": entry}}))
    return folder


@pytest.fixture
def published(model: Path, hub: StandIn) -> dict[str, bytes]:
    """The files of `model`, as somebody else would have put them on the Hub."""
    return {path.relative_to(model).as_posix(): path.read_bytes() for path in model.rglob("*") if path.is_file()}
