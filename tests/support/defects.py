"""Defects to plant into a deployed graph of any precision: those that exporters really make, and that nobody sees."""

import json

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from semseg_app.model_spec import IMAGENET_MEAN


def swap_two_classes(model: ModelProto) -> None:
    (last,) = [node for node in model.graph.node if "classes" in node.output]
    last.output[0] = "before_swapping"
    table = numpy_helper.from_array(np.array([1, 0, 2, 3, 4], np.uint8), "table")
    model.graph.initializer.append(table)
    model.graph.node.append(helper.make_node("Cast", ["before_swapping"], ["index"], to=TensorProto.INT64))
    model.graph.node.append(helper.make_node("Gather", ["table", "index"], ["classes"]))


def take_the_mean_for_bgr(model: ModelProto) -> None:
    """Before any layer, the first number of each of the three channels is subtracted."""
    tiled = {node.input[0] for node in model.graph.node if node.op_type == "Tile"}
    tensors = [tensor for tensor in model.graph.initializer if tensor.name in tiled]
    mean = next(tensor for tensor in tensors if np.allclose(numpy_helper.to_array(tensor), IMAGENET_MEAN))
    values = numpy_helper.to_array(mean)
    mean.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values[::-1]), mean.name))


def align_the_corners(model: ModelProto) -> None:
    cropped = {name for node in model.graph.node if node.op_type == "Slice" for name in node.input}
    (upsampling,) = [node for node in model.graph.node if node.op_type == "Resize" and node.output[0] in cropped]
    (mode,) = [attribute for attribute in upsampling.attribute if attribute.name == "coordinate_transformation_mode"]
    mode.s = b"align_corners"


def scale_confidence_to_240(model: ModelProto) -> None:
    (last,) = [node for node in model.graph.node if node.op_type == "Round"]
    (times,) = [node for node in model.graph.node if last.input[0] in node.output]
    model.graph.initializer.append(helper.make_tensor("factor", TensorProto.FLOAT, [], [240.0]))
    times.input[1] = "factor"


def change_the_palette(model: ModelProto) -> None:
    (entry,) = [entry for entry in model.metadata_props if entry.key == "semseg_app"]
    metadata = json.loads(entry.value)
    metadata["labels"]["palette"][0] = [1, 2, 3]
    entry.value = json.dumps(metadata)


def one_layer_in_fp16(model: ModelProto) -> None:
    """In a graph that says fp32."""
    _one_layer_in(model, TensorProto.FLOAT16, TensorProto.FLOAT)


def one_layer_in_fp32(model: ModelProto) -> None:
    """In a graph that says fp16."""
    _one_layer_in(model, TensorProto.FLOAT, TensorProto.FLOAT16)


def one_layer_without_int8_activations(model: ModelProto) -> None:
    """In a graph that says int8: its weights stay 8-bit, and look it."""
    makers = {output: node for node in model.graph.node for output in node.output}
    layer = _a_layer(model)
    quantized = makers[makers[layer.input[0]].input[0]]
    layer.input[0] = quantized.input[0]


def _one_layer_in(model: ModelProto, kind: int, others: int) -> None:
    layer = _a_layer(model)
    position = list(model.graph.node).index(layer)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    for index, name in enumerate(layer.input):
        layer.input[index] = f"{name}_planted"
        if name in stored:
            values = numpy_helper.to_array(stored[name]).astype(dtype)
            model.graph.initializer.append(numpy_helper.from_array(values, f"{name}_planted"))
        else:
            cast = helper.make_node("Cast", [name], [f"{name}_planted"], to=kind)
            model.graph.node.insert(position, cast)
    output = layer.output[0]
    layer.output[0] = f"{output}_planted"
    position = list(model.graph.node).index(layer)
    model.graph.node.insert(position + 1, helper.make_node("Cast", [f"{output}_planted"], [output], to=others))
    # What was noted about types no longer holds.
    del model.graph.value_info[:]


def _a_layer(model: ModelProto) -> NodeProto:
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    return convolutions[len(convolutions) // 2]


def plant(file: str | bytes, defect: object) -> None:
    """Change an .onnx file."""
    model = onnx.load(file)
    defect(model)
    onnx.save(model, file)
