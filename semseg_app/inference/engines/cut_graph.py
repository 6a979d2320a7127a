"""A deployed graph without its last steps: the coarse logits come out, for `Decoder` to read.

ONNX Runtime computes every node of a file, also those whose results no output needs, so they have to go before it loads
the graph. It is done here on the file's own bytes: they need no package onnx, and the weights are copied once.
"""

import mmap
from pathlib import Path

from semseg_app.inference.engines.metadata import KEY, parse
from semseg_app.protobuf import fields, message, text

MODEL_GRAPH, MODEL_PROPERTY = 7, 14
GRAPH_NODE, GRAPH_OUTPUT = 1, 12
NODE_INPUT, NODE_OUTPUT, NODE_ATTRIBUTE = 1, 2, 5
ATTRIBUTE_GRAPHS = (6, 11)
PROPERTY_KEY, PROPERTY_VALUE = 1, 2
VALUE_NAME = 1
"""Numbers of fields in https://github.com/onnx/onnx/blob/main/onnx/onnx.proto."""


def coarse_graph(path: Path) -> bytes | None:
    """The deployed graph of a file up to its logits, as the content of a file.

    None where the file does not say where its logits are: a graph of another program or of an earlier release, or a
    damaged file. UserError where its metadata are not ours.
    """
    try:
        content = _content(path)
        properties = _properties(content)
        logits = parse(path, properties).logits if KEY in properties else None
        return cut(content, logits) if logits else None
    except ValueError:
        return None


def properties_of(path: Path) -> dict[str, str]:
    """The metadata of an .onnx file; its graph is passed over, unread. ValueError when it is damaged."""
    return _properties(_content(path))


def cut(model: memoryview, output: str) -> bytes:
    """A ModelProto whose only output is a value of the graph, and which holds no node that the value does not need.

    ValueError when the model is damaged.
    """
    parts = []
    for field in fields(model):
        if field.number == MODEL_GRAPH:
            parts.append(message(MODEL_GRAPH, _cut_graph(field.value, output)))
        else:
            parts.append(bytes(field.whole))
    return b"".join(parts)


def _cut_graph(graph: memoryview, output: str) -> bytes:
    parts = list(fields(graph))
    needed = {output}
    unneeded: set[int] = set()
    for index in range(len(parts) - 1, -1, -1):  # a graph lists its nodes in an order in which they can run
        if parts[index].number == GRAPH_NODE:
            inputs, outputs = _names(parts[index].value)
            if needed.isdisjoint(outputs):
                unneeded.add(index)
            else:
                needed |= inputs
    kept = [part.whole for index, part in enumerate(parts) if part.number != GRAPH_OUTPUT and index not in unneeded]
    return b"".join([*kept, message(GRAPH_OUTPUT, text(VALUE_NAME, output))])


def _names(node: memoryview) -> tuple[set[str], set[str]]:
    """Names of what a node reads, in its own branches too, and of what it gives."""
    inputs: set[str] = set()
    outputs: set[str] = set()
    for field in fields(node):
        if field.number in (NODE_INPUT, NODE_OUTPUT):
            (inputs if field.number == NODE_INPUT else outputs).add(str(field.value, "utf-8"))
        elif field.number == NODE_ATTRIBUTE:
            for part in fields(field.value):
                if part.number in ATTRIBUTE_GRAPHS:
                    for inner in fields(part.value):
                        if inner.number == GRAPH_NODE:
                            inputs |= _names(inner.value)[0]
    return inputs, outputs


def _content(path: Path) -> memoryview:
    """A file, read where it is looked at. ValueError when it is empty."""
    with path.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _properties(model: memoryview) -> dict[str, str]:
    entries = [field.value for field in fields(model) if field.number == MODEL_PROPERTY]
    pairs = [{field.number: str(field.value, "utf-8") for field in fields(entry)} for entry in entries]
    return {pair.get(PROPERTY_KEY, ""): pair.get(PROPERTY_VALUE, "") for pair in pairs}
