"""The fp32 graph -> onnx/model-int8.onnx: layers in 8 bits, unsigned activations and signed weights per channel.

Unsigned activations are what x86 multiplies fast: in ONNX Runtime on two cores, DeepLabV3-ResNet18 at 512x512 takes
83 ms with them, 232 ms with signed ones, 276 ms in fp32. The file holds QuantizeLinear and DequantizeLinear pairs
around every layer; the runtime fuses them into integer operators.

Integers are where they pay: in layers (convolutions, products with weights), and between layers in what moves or joins
values without leaving 8 bits. All else is float, above all normalization, softmax, and the reading of the logits.
Layers whose quantization costs most stay float too, as many as it takes until the file passes the gate.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import onnx_ir
import onnxruntime
from onnx_ir.passes.common import TopologicalSortPass
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.calibrate import TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from semseg_app.export.calibration import activation_ranges
from semseg_app.export.graph import layer_precisions, layers, network_nodes, pixel_nodes
from semseg_app.export.onnx import metadata_of, save_graph, write_metadata
from semseg_app.export.steps import step
from semseg_app.export.verification_set import CalibrationMethod

QUANTIZED_LAYERS = ("Conv", "Gemm", "MatMul")
"""ONNX Runtime has no integer transposed convolution."""
PASSED_THROUGH = (
    *("Relu", "Clip", "Add", "Concat", "MaxPool", "AveragePool", "Resize"),
    *("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Slice"),
)
"""Operators that stay in 8 bits when all pixels that they take come in 8 bits."""
FLOAT_RESULT = ("Gemm", "MatMul")
"""Layers whose result is float, which costs the runtime nothing: it goes to a softmax, to a norm or into the sum that
runs through the whole depth of a transformer."""
MOST_FLOAT = 0.5
"""Share of the layers that may stay float. With more the file would be slower than fp32."""
RANKED_ON = 4
"""Photos on which the cost of each layer is measured."""


class Calibration(NamedTuple):
    """What the ranges of the activations are taken from."""

    photos: Sequence[np.ndarray]
    """uint8 `[H, W, 3]`, of the kind that the model will see; no labels are needed."""
    source: str
    """What they are, for the metadata: "streets train"."""
    method: CalibrationMethod = "minmax"


def export_int8(folder: Path, graph_file: Path, calibration: Calibration, passes: Callable[[Path], bool]) -> Path:
    """Write onnx/model-int8.onnx of a model folder and say where that is.

    Args:
        folder: the model folder.
        graph_file: its fp32 graph.
        calibration: photos and method.
        passes: whether a candidate, an .onnx file, is within the gate's limits. The first that is gets written; when
            none is, the last one, for `verify` to reject.

    The metadata has `float_layers` (names of those that are not int8) and `calibration` (method, photos, source).
    """
    model = onnx_ir.load(graph_file)
    operators = {*QUANTIZED_LAYERS, *PASSED_THROUGH}
    with step(f"int8: calibrating on {len(calibration.photos)} photos of {calibration.source}"):
        ranges = activation_ranges(model, calibration.photos, calibration.method, operators)
    metadata = metadata_of(model)
    metadata |= {
        "precision": "int8",
        "calibration": {
            "method": calibration.method,
            "photos": len(calibration.photos),
            "source": calibration.source,
        },
        "producer": f"{metadata['producer']}, onnxruntime {onnxruntime.__version__}",
    }
    with TemporaryDirectory() as scratch:
        file = Path(scratch, "candidate.onnx")
        for float_layers in _choices(model, ranges, calibration.photos[:RANKED_ON]):
            candidate = quantize(model, ranges, float_layers)
            precisions = layer_precisions(candidate.graph)
            metadata["float_layers"] = [name for name, precision in precisions.items() if precision != "int8"]
            write_metadata(candidate, metadata)
            onnx_ir.save(candidate, file)
            if passes(file):
                break
    return save_graph(folder, candidate, metadata)


def _choices(model: onnx_ir.Model, ranges: TensorsData, photos: Sequence[np.ndarray]) -> Iterator[list[str]]:
    """Layers to leave in float: none, then the 1, 2, 4, ... whose quantization costs most."""
    yield []
    with step("int8: the gate refuses all layers in 8 bits; measuring what each of them costs"):
        costly = most_costly(model, ranges, photos)
    count = 1
    while count <= MOST_FLOAT * len(costly):
        yield costly[:count]
        count *= 2  # the few worst layers do most of the damage, and a pass of the gate takes long


def quantize(model: onnx_ir.Model, ranges: TensorsData, float_layers: Collection[str]) -> onnx_ir.Model:
    """A copy of a deployed fp32 graph with all layers in 8 bits but those named."""
    names = [str(node.name) for node in _in_8_bits(model.graph, float_layers)]
    quantizer = QDQQuantizer(
        onnx_ir.to_proto(model),
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=ranges,
        nodes_to_quantize=names,
        nodes_to_exclude=[],
        op_types_to_quantize=[*QUANTIZED_LAYERS, *PASSED_THROUGH],
        extra_options={"OpTypesToExcludeOutputQuantization": list(FLOAT_RESULT), "MatMulConstBOnly": True},
    )
    quantizer.quantize_model()
    quantized: onnx_ir.Model = onnx_ir.from_proto(quantizer.model.model)
    TopologicalSortPass()(quantized)
    quantized.metadata_props.pop("onnx.infer", None)  # the library's note to itself
    return quantized


def most_costly(model: onnx_ir.Model, ranges: TensorsData, photos: Sequence[np.ndarray]) -> list[str]:
    """Names of the layers, first the one whose quantization alone changes the class of most pixels of the photos."""
    expected = _classes(onnx_ir.to_proto(model).SerializeToString(), photos)
    quantized = [str(node.name) for node in layers(model.graph) if node.op_type in QUANTIZED_LAYERS]
    changed = {}
    for name in quantized:
        alone = quantize(model, ranges, [other for other in quantized if other != name])
        found = _classes(onnx_ir.to_proto(alone).SerializeToString(), photos)
        changed[name] = sum(int((one != other).sum()) for one, other in zip(expected, found, strict=True))
    return sorted(quantized, key=lambda name: -changed[name])


def _in_8_bits(graph: onnx_ir.Graph, float_layers: Collection[str]) -> list[onnx_ir.Node]:
    """The layers that are quantized, and between layers the nodes whose pixels all come in 8 bits, in order."""
    network, pixels = network_nodes(graph), pixel_nodes(graph)
    giving_8_bits: set[onnx_ir.Node] = set()
    chosen = []
    holding_weights = set(layers(graph))
    for node in graph:
        if node in holding_weights:
            if node.op_type not in QUANTIZED_LAYERS or node.name in float_layers:
                continue
            if node.op_type not in FLOAT_RESULT:
                giving_8_bits.add(node)
        else:
            sources = [value.producer() for value in node.inputs if value is not None]
            from_pixels = [producer for producer in sources if producer in pixels]
            if not (
                node in network
                and node.op_type in PASSED_THROUGH
                and giving_8_bits.issuperset(from_pixels)
                and (node.op_type != "Add" or len(from_pixels) == 2)  # a bias would lose its precision
            ):
                continue
            giving_8_bits.add(node)
        chosen.append(node)
    return chosen


def _classes(graph: bytes, photos: Sequence[np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return [session.run(["classes"], {"images": photo[None]})[0] for photo in photos]
