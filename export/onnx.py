"""A trained model folder -> onnx/model.onnx, the graph that is served.

The graph takes photos as they are decoded and gives what a client shows: uint8 RGB `[N, H, W, 3]` in, uint8 class map
and uint8 confidence `[N, H, W]` out. Normalization, padding to the stride, upsampling and argmax are inside, so no
client re-implements them, and two bytes per pixel leave the device instead of four for every class. N, H, W are free.
"""

import json
from pathlib import Path
from typing import Any

import onnx_ir
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from torch import Tensor, nn
from torch.onnx import OnnxExporterError

import semseg_app
from semseg_app import artifact, models
from semseg_app.errors import UserError
from semseg_app.export.graph import coarse_logits, fold_norms, join, name_layers
from semseg_app.export.merged_segformer import merge_segformer_head
from semseg_app.export.opset import lower, traced_opset
from semseg_app.export.steps import step
from semseg_app.export.traceable import make_traceable
from semseg_app.files import atomic_file, sha256
from semseg_app.inference.engines.base import GRAPHS
from semseg_app.inference.engines.metadata import KEY

OPSET = 20
"""What torch writes without converting, and ONNX Runtime reads since 1.17."""
LARGEST_FILE = 2_000_000_000
"""Bytes of weights. A protobuf message, which one .onnx file is, ends at 2 GiB."""
TRACED_SHAPE = (2, 576, 640, 3)
"""What the exporter sees. No side is 1, which it would take for a constant, and no two are equal. It is large so that
this holds for every map inside, too: a Swin's windows and PIDNet's poolings at stride 64. No pixel is computed."""


class Preparation(nn.Module):
    """uint8 RGB `[N, H, W, 3]` -> what the encoder reads: normalized and padded, `[N, 3, Hp, Wp]`.

    The arithmetic is that of `SegmentationNetwork.prepare`, on whole rows of pixels: an 8-bit graph keeps the channels
    last, and there ONNX Runtime 1.31 subtracts and divides by three numbers in steps of three (13.5 of the 161 ms that
    a PIDNet-S took at 512x1024 on one core).
    """

    def __init__(self, network: models.SegmentationNetwork):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        count, height, width, channels = images.shape
        mean, std = (values.flatten().repeat(width) for values in (self.network.mean, self.network.std))  # [3 W]
        rows = images.reshape(count, height, width * channels).float() / 255
        normalized = ((rows - mean) / std).reshape(count, height, width, channels)
        return self.network.pad(normalized.permute(0, 3, 1, 2))


class Core(nn.Module):
    """Prepared images `[N, 3, Hp, Wp]` -> logits `[N, C, h, w]`."""

    def __init__(self, network: models.SegmentationNetwork):
        super().__init__()
        self.network = network

    def forward(self, prepared: Tensor) -> Tensor:
        return self.network.head(self.network.encoder(prepared))


class Reading(nn.Module):
    """Logits `[N, C, h, w]`, and the images for their size -> classes uint8 `[N, H, W]`, confidence uint8 `[N, H, W]`
    (the largest softmax probability times 255, rounded)."""

    def __init__(self, network: models.SegmentationNetwork):
        super().__init__()
        self.network = network

    def forward(self, logits: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        enlarged = self.network.upsample(logits, images.shape[1], images.shape[2])
        highest, classes = enlarged.max(dim=1, keepdim=True)
        # The largest softmax probability is 1 / sum(exp(logits - highest)). In ONNX Runtime 1.31 on one core, with
        # 11 classes at 480x360: 7 ms with upsampling and argmax, against 25 ms by way of softmax.
        confidence = 255 / (enlarged - highest).exp().sum(dim=1)
        return classes.squeeze(1).to(torch.uint8), confidence.round().to(torch.uint8)


def export_onnx(folder: Path, opset: int = OPSET) -> Path:
    """Write the deployed graph of a model folder to its onnx/model.onnx, whole or not at all, and say where that is.

    The file holds its weights, and in `metadata_props["semseg_app"]` a JSON object: format_version, name, labels
    (classes, palette), precision, stride, logits (name of the value before it is enlarged), opset, source_sha256 (of
    model.safetensors), producer. Nothing is checked here: verify.py compares the file with the network, and until it
    has, the manifest says nothing of the file. UserError when the folder is no model folder, its weights pass 2 GB, or
    `opset` lacks an operator of it.
    """
    config = artifact.read_config(folder)
    network = models.load(folder)
    weights = folder / artifact.WEIGHTS
    if (size := weights.stat().st_size) > LARGEST_FILE:
        raise UserError(f"{weights}: {size / 1e9:.1f} GB of weights; one .onnx file holds 2 GB, take a smaller encoder")
    source = sha256(weights)
    make_traceable(network)
    merge_segformer_head(network)
    with step(f"tracing the network of {folder}"):
        model = trace(network.eval(), traced_opset(opset))
    name_layers(model.graph)
    # The exporter notes for every node which line of which file on this machine made it; that is not to be published.
    ClearMetadataAndDocStringPass()(model)
    if opset != OPSET:
        model = lower(model, opset)
    metadata = {
        "format_version": 1,
        "name": config.name,
        "labels": config.labels.model_dump(),
        "precision": "fp32",
        "stride": network.stride,
        "opset": opset,
        "source_sha256": source,
        "producer": f"semseg_app {semseg_app.__version__}, torch {torch.__version__}",
    }
    return save_graph(folder, model, metadata)


def metadata_of(model: onnx_ir.Model) -> dict[str, Any]:
    """What `export_onnx` wrote into a graph, for the graphs that are made from it."""
    metadata: dict[str, Any] = json.loads(model.metadata_props[KEY])
    return metadata


def write_metadata(model: onnx_ir.Model, metadata: dict[str, Any]) -> None:
    """Put metadata into a graph, with the name of the value that its logits have in it."""
    model.metadata_props[KEY] = json.dumps({**metadata, "logits": coarse_logits(model.graph)})


def save_graph(folder: Path, model: onnx_ir.Model, metadata: dict[str, Any]) -> Path:
    """Write a graph to its model folder, whole or not at all, under the name of `metadata["precision"]`; say where.

    What the manifest says of an earlier file is forgotten: it must not pass for a verdict on the new one.
    """
    write_metadata(model, metadata)
    target = folder / GRAPHS[metadata["precision"]]
    manifest = artifact.read_manifest(folder)
    if manifest.get("exports", {}).pop(target.relative_to(folder).as_posix(), None) is not None:
        artifact.write_manifest(folder, manifest)
    with atomic_file(target) as part:
        onnx_ir.save(model, part)
    return target


def trace(network: models.SegmentationNetwork, opset: int) -> onnx_ir.Model:
    """The deployed graph of a network in eval mode, for any number and size of images.

    Its three parts are traced one by one and joined. The middle one is told that its sides are multiples of the stride:
    behind a padding, the exporter's solver has to carry the remainder of every side through every layer, which took
    three times as long. UserError for what torch cannot export.
    """
    batch, height, width, rows, columns = (
        torch.export.Dim(name) for name in ("batch", "height", "width", "rows", "columns")
    )
    count, *sides = TRACED_SHAPE[:3]
    images = torch.zeros(TRACED_SHAPE, dtype=torch.uint8)
    prepared = torch.zeros(count, 3, *(-(-side // network.stride) * network.stride for side in sides))
    logits = torch.zeros(count, network.spec.num_classes, sides[0] // 4, sides[1] // 4)
    of_images = {0: batch, 1: height, 2: width}
    try:
        parts = [
            _traced(Preparation(network), {"images": images}, [of_images], ["prepared"], opset),
            _traced(
                Core(network),
                {"prepared": prepared},
                [{0: batch, 2: network.stride * rows, 3: network.stride * columns}],
                ["logits"],
                opset,
            ),
            _traced(
                Reading(network),
                {"logits": logits, "images": images},
                [{axis: torch.export.Dim(f"logits_{axis}") for axis in (0, 2, 3)}, of_images],
                ["classes", "confidence"],
                opset,
            ),
        ]
    except OnnxExporterError as error:
        spec = network.spec
        raise UserError(
            f"{spec.architecture} on {spec.encoder}: torch {torch.__version__} cannot export this network for images "
            f"of any size ({type(error).__name__}); take another encoder, or run the model folder with --engine torch"
        ) from error
    fold_norms(parts[1])
    whole = join(parts)
    for answer in whole.graph.outputs:  # traced apart, the logits' number and the images' are two symbols
        answer.shape = onnx_ir.Shape(("batch", "height", "width"))
    return whole


def _traced(
    part: nn.Module,
    inputs: dict[str, Tensor],
    shapes: list[dict[int, torch.export.Dim]],
    outputs: list[str],
    opset: int,
) -> onnx_ir.Model:
    program = torch.onnx.export(
        part.eval(),
        tuple(inputs.values()),
        input_names=list(inputs),
        output_names=outputs,
        dynamic_shapes=dict(zip(inputs, shapes, strict=True)),
        opset_version=opset,
        dynamo=True,
        optimize=True,
        verbose=False,
    )
    assert program is not None
    return program.model
