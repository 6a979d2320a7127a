"""A deployed graph of a few hundred bytes, to try engines on: the class of a pixel is its strongest color.

It is written without the package onnx, which a machine that only serves does not have. An .onnx file is a protobuf
message: a sequence of (field number and kind, value). The numbers below are those of onnx.proto; see
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto and https://protobuf.dev/programming-guides/encoding/.
"""

import json
import struct
from collections.abc import Iterable

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
    identity = b"".join(_number(1, side) for side in (3, 3, 1, 1)) + _number(2, FLOAT)
    identity += _text(8, "identity") + _message(9, weights)
    graph = b"".join(_message(1, node) for node in nodes) + _text(2, "tiny") + _message(5, identity)
    graph += _message(11, _value("images", ["batch", "height", "width", 3]))
    graph += b"".join(_message(12, _value(name, ["batch", "height", "width"])) for name in ("classes", "confidence"))
    opset = _text(1, "") + _number(2, 17)
    properties = _text(1, "semseg_app") + _text(2, json.dumps(METADATA))
    return _number(1, 8) + _message(7, graph) + _message(8, opset) + _message(14, properties)


def _node(operator: str, inputs: Iterable[str], output: str, **attributes: int | list[int]) -> bytes:
    """NodeProto."""
    node = b"".join(_text(1, name) for name in inputs) + _text(2, output) + _text(4, operator)
    for name, value in attributes.items():
        if isinstance(value, int):
            attribute = _text(1, name) + _number(3, value) + _number(20, INT)
        else:
            attribute = _text(1, name) + b"".join(_number(8, item) for item in value) + _number(20, INTS)
        node += _message(5, attribute)
    return node


def _value(name: str, shape: Iterable[str | int]) -> bytes:
    """ValueInfoProto of a uint8 tensor; a side is a number or a name."""
    sides = (_number(1, side) if isinstance(side, int) else _text(2, side) for side in shape)
    tensor = _number(1, UINT8) + _message(2, b"".join(_message(1, side) for side in sides))
    return _text(1, name) + _message(2, _message(1, tensor))


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _text(field: int, value: str) -> bytes:
    return _message(field, value.encode())


def _message(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    groups = bytearray()
    while value > 127:
        groups.append(value & 127 | 128)
        value >>= 7
    return bytes([*groups, value])
