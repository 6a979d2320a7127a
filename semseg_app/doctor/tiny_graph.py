"""A deployed graph of a few hundred bytes, to try engines on: the class of a pixel is its strongest color.

It is written without the package onnx, which a machine that only serves does not have. An .onnx file is a protobuf
message; the numbers of the fields below are those of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

import json
import struct
from collections.abc import Iterable

from semseg_app.protobuf import message, number, text

FLOAT, UINT8 = 1, 2
"""TensorProto.DataType."""
INT, INTS = 2, 7
"""AttributeProto.AttributeType."""
METADATA = {
    "format_version": 1,
    "name": "tiny",
    "labels": {"classes": ["red", "green", "blue"], "palette": [[200, 0, 0], [0, 200, 0], [0, 0, 200]]},
    "precision": "fp32",
}


def tiny_graph() -> bytes:
    """ModelProto: uint8 `images` [N, H, W, 3] -> uint8 `classes` (strongest channel), `confidence` (its value).

    A convolution, so that a GPU that answers has its cuDNN too.
    """
    nodes = [
        _node("Cast", ["images"], "pixels", to=FLOAT),
        _node("Transpose", ["pixels"], "planes", perm=[0, 3, 1, 2]),
        _node("Conv", ["planes", "identity"], "logits", kernel_shape=[1, 1]),
        _node("ArgMax", ["logits"], "index", axis=1, keepdims=0),
        _node("Cast", ["index"], "classes", to=UINT8),
        _node("ReduceMax", ["logits"], "highest", axes=[1], keepdims=0),
        _node("Cast", ["highest"], "confidence", to=UINT8),
    ]
    weights = b"".join(struct.pack("<3f", *(float(row == column) for column in range(3))) for row in range(3))
    identity = b"".join(number(1, side) for side in (3, 3, 1, 1)) + number(2, FLOAT)
    identity += text(8, "identity") + message(9, weights)
    graph = b"".join(message(1, node) for node in nodes) + text(2, "tiny") + message(5, identity)
    graph += message(11, _value("images", ["batch", "height", "width", 3]))
    graph += b"".join(message(12, _value(name, ["batch", "height", "width"])) for name in ("classes", "confidence"))
    opset = text(1, "") + number(2, 17)
    properties = text(1, "semseg_app") + text(2, json.dumps(METADATA))
    return number(1, 8) + message(7, graph) + message(8, opset) + message(14, properties)


def _node(operator: str, inputs: Iterable[str], output: str, **attributes: int | list[int]) -> bytes:
    """NodeProto."""
    node = b"".join(text(1, name) for name in inputs) + text(2, output) + text(4, operator)
    for name, value in attributes.items():
        if isinstance(value, int):
            attribute = text(1, name) + number(3, value) + number(20, INT)
        else:
            attribute = text(1, name) + b"".join(number(8, item) for item in value) + number(20, INTS)
        node += message(5, attribute)
    return node


def _value(name: str, shape: Iterable[str | int]) -> bytes:
    """ValueInfoProto of a uint8 tensor; a side is a number or a name."""
    sides = (number(1, side) if isinstance(side, int) else text(2, side) for side in shape)
    tensor = number(1, UINT8) + message(2, b"".join(message(1, side) for side in sides))
    return text(1, name) + message(2, message(1, tensor))
