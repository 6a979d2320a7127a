"""The fp32 graph -> onnx/model-fp16.onnx: the network in half precision, what half cannot hold in float.

Three things stay in fp32: everything before the first layer and after the last (normalization, upsampling of the
logits, softmax), the operators of FLOAT_OPERATORS, and the nodes whose values overflow half precision on given photos.

onnxruntime.transformers.float16 does not serve here: between two nodes that it was told to keep it sends the value
through fp16 all the same (and there it overflows), and it rounds the arithmetic of sizes to 11 bits.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx_ir
from onnx_ir import DataType
from onnx_ir.passes.common import RemoveUnusedNodesPass, ShapeInferencePass
from onnxruntime.quantization.calibrate import TensorsData

from semseg_app.export.calibration import activation_ranges
from semseg_app.export.graph import network_nodes
from semseg_app.export.onnx import metadata_of, save_graph

LARGEST = 65504.0
"""The largest number of half precision."""
SMALLEST = 2.0**-24
"""And the smallest above 0."""
MARGIN = 0.5
"""Values above this share of it are taken to overflow: other photos go further than those that were looked at."""
FLOAT_OPERATORS = {
    *("Softmax", "LogSoftmax", "Exp", "Log", "Pow", "Sqrt"),
    *("LayerNormalization", "GroupNormalization", "InstanceNormalization", "BatchNormalization", "RMSNormalization"),
    *("ReduceSum", "ReduceMean", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp"),
}
"""Sums over many values and steep functions: eleven bits are too few for them."""
FLOAT_INPUTS = {"Resize": (1, 2)}
"""Inputs that are coordinates (region, scales), not pixels."""


def export_fp16(folder: Path, graph_file: Path, photos: Iterable[np.ndarray]) -> Path:
    """Write onnx/model-fp16.onnx of a model folder and say where that is. Not verified here.

    Args:
        folder: the model folder.
        graph_file: its fp32 graph.
        photos: uint8 `[H, W, 3]`, on which overflow is looked for.

    The metadata lists what was found in `float_layers`: nodes that are fp32 because half precision overflows there.
    """
    model = onnx_ir.load(graph_file)
    overflowing = overflowing_nodes(model, activation_ranges(model, photos))
    cast_to_half(model, overflowing)
    metadata = {**metadata_of(model), "precision": "fp16", "float_layers": sorted(overflowing)}
    return save_graph(folder, model, metadata)


def overflowing_nodes(model: onnx_ir.Model, ranges: TensorsData) -> set[str]:
    """Names of the nodes of the network that take or give a value that half precision cannot hold."""
    largest = {name: float(np.abs(ranges[name].range_value).max()) for name in ranges}
    return {
        str(node.name)
        for node in network_nodes(model.graph)
        if node.op_type not in FLOAT_OPERATORS
        and any(
            value is not None and largest.get(str(value.name), 0.0) > MARGIN * LARGEST
            for value in (*node.inputs, *node.outputs)
        )
    }


def cast_to_half(model: onnx_ir.Model, in_float: set[str]) -> None:
    """Change the network's part of a deployed fp32 graph to half precision, in place; nodes named `in_float` stay.

    Weights become half precision themselves; elsewhere a value is converted once, where it crosses over.
    """
    ShapeInferencePass()(model)
    graph = model.graph
    halved = {
        node
        for node in network_nodes(graph)
        if node.op_type not in FLOAT_OPERATORS and node.name not in in_float and not _has_extreme_constant(node)
    }
    converted: dict[tuple[onnx_ir.Value, DataType], onnx_ir.Value] = {}
    for node in list(graph):
        kind = DataType.FLOAT16 if node in halved else DataType.FLOAT
        for index, value in enumerate(node.inputs):
            if value is None or value.dtype not in (DataType.FLOAT, DataType.FLOAT16):
                continue
            wanted = DataType.FLOAT if index in FLOAT_INPUTS.get(node.op_type, ()) else kind
            if value.dtype != wanted:
                if (value, wanted) not in converted:
                    converted[value, wanted] = _convert(graph, value, wanted)
                node.replace_input_with(index, converted[value, wanted])
        if node in halved:
            for value in node.outputs:
                if value.dtype == DataType.FLOAT:
                    value.dtype = DataType.FLOAT16
            if node.op_type == "Cast" and node.attributes["to"].as_int() == DataType.FLOAT:
                node.attributes["to"] = onnx_ir.AttrInt64("to", DataType.FLOAT16)
    RemoveUnusedNodesPass()(model)


def _has_extreme_constant(node: onnx_ir.Node) -> bool:
    """Whether half precision would turn a constant of a node into 0 or infinity: an epsilon, a mask's -1e9."""
    constants = [value.const_value for value in node.inputs if value is not None and value.const_value is not None]
    for constant in constants:
        if constant.size == 1 and constant.dtype == DataType.FLOAT:
            number = float(constant.numpy().reshape(()))
            if not (SMALLEST <= abs(number) <= LARGEST or number == 0):
                return True
    return False


def _convert(graph: onnx_ir.Graph, value: onnx_ir.Value, kind: DataType) -> onnx_ir.Value:
    """The value in another precision: a stored tensor as a stored tensor, anything else through a Cast."""
    name = f"{value.name}_{'half' if kind == DataType.FLOAT16 else 'float'}"
    if value.is_initializer() and value.const_value is not None:
        with np.errstate(over="ignore"):
            numbers = value.const_value.numpy().astype(kind.numpy())
        tensor = onnx_ir.tensor(numbers, name=name)
        converted = onnx_ir.Value(name=name, shape=value.shape, type=onnx_ir.TensorType(kind), const_value=tensor)
        graph.register_initializer(converted)
        return converted
    cast = onnx_ir.node("Cast", [value], {"to": kind}, name=f"{name}_cast")
    (converted,) = cast.outputs
    converted.name, converted.shape, converted.type = name, value.shape, onnx_ir.TensorType(kind)
    producer = value.producer()
    assert producer is not None, "a deployed graph takes integers only"
    graph.insert_after(producer, cast)
    return converted
