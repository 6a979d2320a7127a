"""A model repository for NVIDIA's Triton Inference Server, from an exported graph or a TensorRT engine.

    MODEL/triton/<name>/config.pbtxt              takes photos of any size
    MODEL/triton/<name>/1/model.onnx              (or model.plan)
    MODEL/triton/<name>_480x360/...               one a bucket: photos of this size alone

A bucket is a model of its own, with an instance, a queue and a TensorRT profile of its own, because Triton hands a
request to any idle instance whatever profile that has, and cuts a batch short where the next photo has another size.
"""

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import onnx

from semseg_app import artifact
from semseg_app.errors import UserError
from semseg_app.export.tensorrt.buckets import Buckets, Size
from semseg_app.files import atomic_folder, remove_folder
from semseg_app.inference.engines.metadata import KEY, parse
from semseg_app.inference.engines.plans import FOLDER, SUFFIX, check_graph_of, find_plans

REPOSITORY = Path("triton")
QUEUE_DELAY_MICROSECONDS = 2000
"""How long the first photo of a batch waits for others: little beside what a photo takes."""
QUEUED_BATCHES = 16
"""Requests past this many full batches are refused at once rather than answered late."""


class Word(str):
    """A word of the protobuf text format: written without quotes."""

    __slots__ = ()


class Served(NamedTuple):
    """What the server runs."""

    file: Path
    backend: str
    sizes: tuple[Size, ...]
    """The buckets."""
    batch: int
    """Most photos per run."""
    description: str
    """JSON: name, labels (classes, palette), precision."""


def serve_graph(graph: Path, buckets: Buckets, batch: int) -> Served:
    """An ONNX graph through Triton's onnxruntime backend, on a GPU where there is one."""
    model = onnx.load(graph, load_external_data=False)
    described = parse(graph, {entry.key: entry.value for entry in model.metadata_props})
    return Served(graph, "onnxruntime", buckets.sizes, batch, described.model_dump_json())


def serve_engine(folder: Path, precision: str) -> Served:
    """The TensorRT engine of a model folder, with its own buckets and batch.

    UserError unless there is exactly one, built from the graph that lies in the folder.
    """
    plans = {path: plan for path, plan in find_plans(folder).items() if plan.precision == precision}
    fitting = [path for path, plan in plans.items() if plan.binding == "tensorrt"]
    if len(fitting) != 1:
        found = f"there are {', '.join(path.name for path in fitting)}: move all but one away" if fitting else (
            f"run `semseg export {folder} --to tensorrt --precision {precision}` first"
            + (" (Triton does not run engines of TensorRT for RTX)" if plans else "")
        )  # fmt: skip
        raise UserError(f"{folder / FOLDER}: not one {precision} engine of TensorRT; {found}")
    plan = plans[fitting[0]]
    check_graph_of(fitting[0], plan)
    sizes = tuple(Size(*profile.largest[1:]) for profile in plan.profiles if profile.is_bucket)
    description = plan.model_dump_json(include={"name", "labels", "precision", "version", "gpu"})
    return Served(fitting[0], "tensorrt", sizes, plan.profiles[-1].largest.batch, description)


def export_triton(folder: Path, served: Served) -> Path:
    """Write the repository anew, whole or not at all, and say where it is. UserError when the file was rejected."""
    relative = served.file.relative_to(folder).as_posix()
    entry = artifact.read_manifest(folder).get("exports", {}).get(relative, {})
    if entry.get("verdict") == "rejected":
        raise UserError(f"{served.file}: rejected when it was verified: {'; '.join(entry['reasons'])}")
    name = re.sub(r"[^a-z0-9-]+", "-", artifact.read_config(folder).name.lower()).strip("-") or "model"
    repository = folder / REPOSITORY
    with atomic_folder(folder / f".{REPOSITORY}-new") as part:
        for model, config in configurations(name, served).items():
            version = part / model / "1"
            version.mkdir(parents=True)
            (part / model / "config.pbtxt").write_text(text_format(config), encoding="utf-8")
            _link(served.file, version / config["default_model_filename"])
    if repository.exists():
        remove_folder(repository)
    (folder / f".{REPOSITORY}-new").rename(repository)
    return repository


def configurations(name: str, served: Served) -> dict[str, dict[str, Any]]:
    """Name of a Triton model -> its ModelConfig (triton-inference-server/common, protobuf/model_config.proto)."""
    exact = {f"{name}_{size.width}x{size.height}": index for index, size in enumerate(served.sizes)}
    every = list(range(len(served.sizes) + 1))
    return {
        name: _configuration(name, served, (-1, -1), served.sizes, every),
        **{
            model: _configuration(model, served, served.sizes[index], served.sizes[index : index + 1], [index])
            for model, index in exact.items()
        },
    }


def _configuration(
    name: str, served: Served, side: tuple[int, int], warm: Sequence[Size], profiles: Sequence[int]
) -> dict[str, Any]:
    tensorrt = served.backend == "tensorrt"
    config: dict[str, Any] = {
        "name": name,
        "backend": served.backend,
        "default_model_filename": "model.plan" if served.file.suffix == SUFFIX else "model.onnx",
        "max_batch_size": served.batch,
        "input": [{"name": "images", "data_type": Word("TYPE_UINT8"), "dims": [*side, 3]}],
        "output": [
            {"name": output, "data_type": Word("TYPE_UINT8"), "dims": [*side]} for output in ("classes", "confidence")
        ],
        "dynamic_batching": {
            "preferred_batch_size": [served.batch],
            "max_queue_delay_microseconds": QUEUE_DELAY_MICROSECONDS,
            "default_queue_policy": {"max_queue_size": QUEUED_BATCHES * served.batch},
        },
        "instance_group": [
            {"count": 1, "kind": Word("KIND_GPU"), "profile": [str(profile) for profile in profiles]}
            if tensorrt
            else {"count": 1, "kind": Word("KIND_AUTO")}
        ],
        "model_warmup": [
            {
                "name": f"{size.width}x{size.height} batch {batch}",
                "batch_size": batch,
                "count": 2,
                "inputs": {"images": {"data_type": Word("TYPE_UINT8"), "dims": [*size, 3], "random_data": True}},
            }
            for size in warm
            for batch in dict.fromkeys((1, served.batch))
        ],
        "parameters": {KEY: {"string_value": served.description}},
    }
    if tensorrt and side[0] > 0:
        config["optimization"] = {"cuda": {"graphs": True}}
    return config


def text_format(message: dict[str, Any]) -> str:
    """A message in protobuf's text format. A dict under `inputs` or `parameters` is a map, a list is repeated."""
    return "\n".join(_fields(message)) + "\n"


def _fields(message: dict[str, Any]) -> Iterator[str]:
    for name, value in message.items():
        if name in ("inputs", "parameters"):
            value = [{"key": key, "value": entry} for key, entry in value.items()]
        if isinstance(value, list) and not any(isinstance(entry, dict) for entry in value):
            yield f"{name}: [{', '.join(map(_scalar, value))}]"
            continue
        for entry in value if isinstance(value, list) else [value]:
            if isinstance(entry, dict):
                yield from (f"{name} {{", *_indented(_fields(entry)), "}")
            else:
                yield f"{name}: {_scalar(entry)}"


def _indented(lines: Iterable[str]) -> Iterator[str]:
    return (f"  {line}" for line in lines)


def _scalar(value: str | bool | int) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, Word) else json.dumps(value, ensure_ascii=False)


def _link(source: Path, target: Path) -> None:
    """The same file under another name, or a copy where the disk has no links: a repository holds it once a bucket."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
