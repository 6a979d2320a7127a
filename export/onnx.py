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
from semseg_app.export.graph import coarse_logits, name_layers
from semseg_app.export.opset import lower, traced_opset
from semseg_app.export.steps import step
from semseg_app.files import atomic_file, sha256
from semseg_app.inference.engines.base import GRAPHS
from semseg_app.inference.engines.metadata import KEY
from semseg_app.models.pyramid_pooling import adaptive_average_pool

OPSET = 20
"""What torch writes without converting, and ONNX Runtime reads since 1.17."""
LARGEST_FILE = 2_000_000_000
"""Bytes of weights. A protobuf message, which one .onnx file is, ends at 2 GiB."""
TRACED_SHAPE = (2, 576, 640, 3)
"""What the exporter sees. No side is 1, which it would take for a constant, and no two are equal. It is large so that
this holds for every map inside, too: a Swin's windows and PIDNet's poolings at stride 64. No pixel is computed."""


class DeployedGraph(nn.Module):
    """A network with everything between a decoded photo and a class map: what is exported.

    uint8 RGB `[N, H, W, 3]` -> classes uint8 `[N, H, W]`, confidence uint8 `[N, H, W]` (the largest softmax probability
    times 255, rounded).
    """

    def __init__(self, network: models.SegmentationNetwork):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.network.full_logits(images.permute(0, 3, 1, 2).float() / 255)  # [N, C, H, W]
        highest, classes = logits.max(dim=1, keepdim=True)
        # The largest softmax probability is 1 / sum(exp(logits - highest)). In ONNX Runtime 1.31 on one core, with
        # 11 classes at 480x360: 7 ms with upsampling and argmax, against 25 ms by way of softmax.
        confidence = 255 / (logits - highest).exp().sum(dim=1)
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
    free_pooling(network)
    with step(f"tracing the network of {folder}"):
        model = _trace(DeployedGraph(network).eval(), traced_opset(opset))
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


class _AnySizePooling(nn.Module):
    """nn.AdaptiveAvgPool2d as a product with averaging matrices that are computed from the photo's own size."""

    def __init__(self, bins: int):
        super().__init__()
        self.bins = bins

    def forward(self, maps: Tensor) -> Tensor:
        return adaptive_average_pool(maps, self.bins)


def free_pooling(network: nn.Module) -> None:
    """Replace what pools to a fixed grid by an equal operator that exports for every size, in place.

    Traced with free height and width, adaptive pooling bakes the windows of the traced size, after minutes in the
    exporter's solver (timm's pvt_v2_b2_li has 16 of them: no end within 8 minutes, 2.5 minutes with this). UserError
    for a grid that is not square, and for adaptive maximum pooling.
    """
    for name, parent in network.named_modules():
        for attribute, module in parent.named_children():
            if isinstance(module, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d):
                size = module.output_size
                rows, columns = (size, size) if isinstance(size, int | None) else size
                if (rows, columns) == (1, 1):
                    continue  # a mean over the whole map exports at any size
                if rows is None or rows != columns or isinstance(module, nn.AdaptiveMaxPool2d):
                    raise UserError(
                        f"{name}.{attribute} is {module}, which cannot be exported for photos of any size; take "
                        "another encoder"
                    )
                setattr(parent, attribute, _AnySizePooling(rows))


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


def _trace(graph: DeployedGraph, opset: int) -> onnx_ir.Model:
    images = torch.zeros(TRACED_SHAPE, dtype=torch.uint8)
    axes = {axis: torch.export.Dim(name) for axis, name in enumerate(("batch", "height", "width"))}
    try:
        program = torch.onnx.export(
            graph,
            (images,),
            input_names=["images"],
            output_names=["classes", "confidence"],
            dynamic_shapes={"images": axes},
            opset_version=opset,
            dynamo=True,
            optimize=True,
            verbose=False,
        )
    except OnnxExporterError as error:
        spec = graph.network.spec
        raise UserError(
            f"{spec.architecture} on {spec.encoder}: torch {torch.__version__} cannot export this network for images "
            f"of any size ({type(error).__name__}); take another encoder, or run the model folder with --engine torch"
        ) from error
    assert program is not None
    return program.model
