"""The wire format against protobuf's own reader and writer, by way of the package onnx."""

import onnx
import pytest
from onnx import helper

from semseg_app import protobuf


def test_fields_are_those_that_protobuf_wrote() -> None:
    model = helper.make_model(helper.make_graph([], "one", [], []), ir_version=300, producer_name="ünïcode" * 40)
    content = memoryview(model.SerializeToString())
    parts = list(protobuf.fields(content))
    assert b"".join(part.whole for part in parts) == content
    values = {part.number: bytes(part.value) for part in parts}
    assert values[2].decode() == "ünïcode" * 40
    assert onnx.GraphProto.FromString(values[7]).name == "one"


def test_protobuf_reads_what_is_written() -> None:
    graph = protobuf.message(7, protobuf.text(2, "g" * 1000))
    model = onnx.ModelProto.FromString(protobuf.number(1, 1 << 40) + graph + protobuf.text(2, "ü"))
    assert (model.ir_version, model.graph.name, model.producer_name) == (1 << 40, "g" * 1000, "ü")


@pytest.mark.parametrize("damaged", [b"\x0a\x05ab", b"\x08", b"\x08" + b"\xff" * 12, b"\x0b\x00", b"\x0d\x00"])
def test_damage_is_found(damaged: bytes) -> None:
    with pytest.raises(ValueError, match=r"message|kind|ten bytes"):
        list(protobuf.fields(memoryview(damaged)))
