"""The parts of a graph, on one small enough to be read."""

from collections import Counter

import numpy as np
import onnx_ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from semseg_app.export.graph import layer_precisions, layers, name_layers, network_nodes, pixel_nodes

WEIGHT = np.ones((1, 1, 1, 1), np.float32)


def node(operator: str, inputs: str, name: str, **attributes: object) -> object:
    return helper.make_node(operator, inputs.split(), [f"{name}_out"], name, **attributes)


@pytest.fixture
def graph() -> onnx_ir.Graph:
    """Two convolutions that share weights, attention between them, and a factor that depends on the size alone."""
    nodes = [
        node("Cast", "images", "as_float", to=TensorProto.FLOAT),
        node("Sub", "as_float_out mean", "normalize"),
        node("Conv", "normalize_out network.stem.weight", "a"),
        node("MatMul", "a_out a_out", "attention"),
        node("Shape", "a_out", "size"),
        node("Cast", "size_out", "size_as_float", to=TensorProto.FLOAT),
        node("ReduceMax", "size_as_float_out", "longest"),
        node("Div", "attention_out longest_out", "scale"),
        node("Conv", "scale_out network.stem.weight", "b"),
        node("Cast", "network.stem.weight", "half_weight", to=TensorProto.FLOAT16),
        node("Cast", "scale_out", "half", to=TensorProto.FLOAT16),
        node("Conv", "half_out half_weight_out", "c"),
        node("Exp", "b_out", "read"),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, [1, 1, "h", "w"])
    outputs = [
        helper.make_tensor_value_info("read_out", TensorProto.FLOAT, [1, 1, "h", "w"]),
        helper.make_tensor_value_info("c_out", TensorProto.FLOAT16, [1, 1, "h", "w"]),
    ]
    stored = [numpy_helper.from_array(WEIGHT, "network.stem.weight"), numpy_helper.from_array(np.float32(3), "mean")]
    graph = helper.make_graph(nodes, "small", [images], outputs, stored)
    return onnx_ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])).graph


def names(nodes: object) -> set[str]:
    return {node.name for node in nodes}


def test_parts(graph: onnx_ir.Graph) -> None:
    assert names(layers(graph)) == {"a", "b", "c"}, "attention has no weights"
    everything = names(graph)
    assert names(pixel_nodes(graph)) == everything - {"size", "size_as_float", "longest", "half_weight"}
    assert names(network_nodes(graph)) == {"a", "attention", "scale", "b", "half", "c"}


def test_precisions(graph: onnx_ir.Graph) -> None:
    assert layer_precisions(graph) == {"a": "fp32", "b": "fp32", "c": "fp16"}


def test_names_are_those_of_the_network_and_unique(graph: onnx_ir.Graph) -> None:
    (third,) = [node for node in graph if node.name == "c"]
    third.metadata_props["pkg.torch.onnx.name_scopes"] = "['', 'network', 'network.head', 'conv2d']"
    name_layers(graph)
    assert [layer.name for layer in layers(graph)] == ["stem", "stem#2", "head"]
    assert max(Counter(node.name for node in graph).values()) == 1
