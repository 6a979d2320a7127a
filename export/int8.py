"""The fp32 graph -> onnx/model-int8.onnx: layers in 8 bits, unsigned activations and signed weights per channel.

Unsigned activations are what x86 multiplies fast: in ONNX Runtime on two cores, DeepLabV3-ResNet18 at 512x512 takes
83 ms with them, 232 ms with signed ones, 276 ms in fp32. The file holds QuantizeLinear and DequantizeLinear pairs
around every layer; the runtime fuses them into integer operators.

Integers are where they pay: in layers (convolutions, products with weights), and between layers in what moves or joins
values without leaving 8 bits. All else is float, above all normalization, softmax, and the reading of the logits.
Layers whose quantization costs most pixels for the time that it saves stay float too, until the file passes the gate.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import onnx
import onnx_ir
import onnxruntime
from onnx import helper
from onnx_ir.passes.common import RemoveUnusedNodesPass, TopologicalSortPass
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.calibrate import TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from semseg_app.export.calibration import activation_ranges
from semseg_app.export.graph import SIZE_ONLY, layer_precisions, layers, network_nodes, pixel_nodes
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
"""Share of the network's multiplications that may stay float. With more the file would hardly be faster than fp32."""
RANKED_ON = 4
"""Photos on which the cost of each layer is measured."""


class Calibration(NamedTuple):
    """What the ranges of the activations are taken from."""

    photos: Sequence[np.ndarray]
    """uint8 `[H, W, 3]`, of the kind that the model will see; no labels are needed."""
    source: str
    """What they are, for the metadata: "streets train"."""
    method: CalibrationMethod = "minmax"


class LayerCost(NamedTuple):
    """What a layer costs in either precision."""

    changed: int
    """Pixels of the ranking photos whose class changes when this layer alone is in 8 bits."""
    work: int
    """Multiplications on one photo, which take longer in float."""


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
    """Layers to leave in float: none, then sets that keep 1/2, 3/4, 7/8, ... of what quantization damages."""
    yield []
    with step("int8: the gate refuses all layers in 8 bits; measuring what each of them costs"):
        costs = layer_costs(model, ranges, photos)
    yield from cheapest_sets(costs)


def cheapest_sets(costs: Mapping[str, LayerCost]) -> Iterator[list[str]]:
    """Growing sets of layers to leave in float, each of those that save most pixels for the time that they take.

    Every set leaves half of the damage of the one before it, taking damages to add up: the few worst layers do most of
    it, and a pass of the gate takes long. The last one is within MOST_FLOAT of all work.
    """
    damage, work = (sum(cost[index] for cost in costs.values()) for index in (0, 1))
    by_worth = sorted(costs, key=lambda name: -costs[name].changed / costs[name].work)
    allowed, chosen = damage / 2, list[str]()
    while damage:
        saved, candidates = 0, list[str]()
        for name in by_worth:
            if saved >= damage - allowed:
                break
            saved += costs[name].changed
            candidates.append(name)
        # A large layer that was needed in the end can make small ones before it superfluous.
        for name in sorted(candidates, key=lambda name: -costs[name].work):
            if saved - costs[name].changed >= damage - allowed:
                saved -= costs[name].changed
                candidates.remove(name)
        if sum(costs[name].work for name in candidates) > MOST_FLOAT * work:
            return
        if candidates != chosen:
            yield candidates
        if saved == damage:
            return
        chosen, allowed = candidates, allowed / 2


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
    _take_sizes_of_8_bits(quantized)
    quantized.metadata_props.pop("onnx.infer", None)  # the library's note to itself
    return quantized


def _take_sizes_of_8_bits(model: onnx_ir.Model) -> None:
    """Read the size of a map from its 8 bits: the runtime would turn the whole map to float for that."""
    for node in model.graph:
        source = node.inputs[0].producer() if node.op_type in SIZE_ONLY and node.inputs[0] is not None else None
        if source is not None and source.op_type == "DequantizeLinear":
            node.replace_input_with(0, source.inputs[0])
    RemoveUnusedNodesPass()(model)


def layer_costs(model: onnx_ir.Model, ranges: TensorsData, photos: Sequence[np.ndarray]) -> dict[str, LayerCost]:
    """What each layer costs in 8 bits, and what it costs in float: name -> `LayerCost`."""
    proto = onnx_ir.to_proto(model)
    expected = _classes(proto.SerializeToString(), photos)
    quantized = [node for node in layers(model.graph) if node.op_type in QUANTIZED_LAYERS]
    names = [str(node.name) for node in quantized]
    work = multiplications(proto, quantized, photos[0])
    costs = {}
    for name in names:
        alone = quantize(model, ranges, [other for other in names if other != name])
        found = _classes(onnx_ir.to_proto(alone).SerializeToString(), photos)
        changed = sum(int((before != after).sum()) for before, after in zip(expected, found, strict=True))
        costs[name] = LayerCost(changed, work[name])
    return costs


def multiplications(model: onnx.ModelProto, nodes: Sequence[onnx_ir.Node], photo: np.ndarray) -> dict[str, int]:
    """How often each layer multiplies on a photo. Counted, not timed: the same file comes out every time."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    results = [str(node.outputs[0].name) for node in nodes]
    watched.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in results)
    maps = _session(watched.SerializeToString()).run(results, {"images": photo[None]})
    counts = {}
    for node, result in zip(nodes, maps, strict=True):
        weight = next(value.const_value for value in node.inputs if value is not None and value.const_value is not None)
        channels = result.shape[1 if node.op_type == "Conv" else -1]
        counts[str(node.name)] = result.size * weight.size // channels
    return counts


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
    session = _session(graph)
    return [session.run(["classes"], {"images": photo[None]})[0] for photo in photos]


def _session(graph: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
