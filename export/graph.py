"""What an exported graph is made of: its layers, the part that computes on pixels, and each layer's precision."""

from collections import Counter
from collections.abc import Sequence

import onnx_ir
from onnx_ir.passes.common import RemoveUnusedNodesPass
from onnxscript.rewriter.rules.common import fuse_batchnorm_into_conv_rule

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators that hold weights; a product of two activations (attention) is none of them."""
SIZE_ONLY = ("Shape", "Size")
"""Operators whose answer depends on how large their input is, not on what it holds."""
NAMES = {onnx_ir.DataType.FLOAT: "fp32", onnx_ir.DataType.FLOAT16: "fp16", onnx_ir.DataType.BFLOAT16: "bf16"}


def layers(graph: onnx_ir.Graph) -> list[onnx_ir.Node]:
    """The nodes that multiply by weights, in the graph's order."""
    return [node for node in graph if node.op_type in LAYERS and any(_is_weight(value) for value in node.inputs)]


def pixel_nodes(graph: onnx_ir.Graph) -> set[onnx_ir.Node]:
    """The nodes whose answer depends on the photos' pixels. The others compute on sizes and on weights alone."""
    found: set[onnx_ir.Node] = set()
    for node in graph:  # a graph lists its nodes in an order in which they can run
        if node.op_type not in SIZE_ONLY and any(
            value is not None and (value.is_graph_input() or value.producer() in found) for value in node.inputs
        ):
            found.add(node)
    return found


def network_nodes(graph: onnx_ir.Graph) -> set[onnx_ir.Node]:
    """The pixel nodes from the first layer to the last: what is neither preparation of the photo (normalization,
    padding) nor reading of the logits (upsampling, largest class, confidence)."""
    pixels = pixel_nodes(graph)
    from_first, to_last = set(layers(graph)), set(layers(graph))  # layers and what follows one; and what leads to one
    for node in graph:
        if any(value is not None and value.producer() in from_first for value in node.inputs):
            from_first.add(node)
    for node in reversed(graph):
        if any(consumer in to_last for value in node.outputs for consumer in value.consumers()):
            to_last.add(node)
    return pixels & from_first & to_last


def fold_norms(model: onnx_ir.Model) -> None:
    """Take batch norms into the convolutions before them, also where the size of the map between them is read.

    The exporter reads the size of a later map from the first one that has it, which keeps its own folding away from
    that pair. A norm changes no size, so the size is read behind it instead.
    """
    graph = model.graph
    for node in graph:
        if node.op_type == "BatchNormalization" and (before := node.inputs[0]) is not None:
            for reader, index in list(before.uses()):
                if reader.op_type in SIZE_ONLY:
                    reader.replace_input_with(index, node.outputs[0])
    graph.sort()
    fuse_batchnorm_into_conv_rule.apply_to_model(model)
    RemoveUnusedNodesPass()(model)  # their weights, which runtimes warn of


def join(parts: Sequence[onnx_ir.Model]) -> onnx_ir.Model:
    """One model of several that run one after another: an input takes the earlier output or input of its name.

    The inputs are those of the first, the outputs those of the last. The parts are used up. ValueError for an input
    that nothing before it gives.
    """
    whole, *rest = parts
    known = {value.name: value for value in (*whole.graph.inputs, *whole.graph.outputs)}
    taken = {thing.name for thing in (*whole.graph, *whole.graph.initializers.values(), *whole.graph.inputs)}
    taken |= {value.name for node in whole.graph for value in node.outputs}
    for index, part in enumerate(rest, 1):
        for value in part.graph.inputs:
            if value.name not in known:
                raise ValueError(f"no part before part {index} gives its input {value.name!r}")
            onnx_ir.convenience.replace_all_uses_with(value, known[value.name])
        outputs = list(part.graph.outputs)
        initializers = list(part.graph.initializers.values())
        nodes = list(part.graph)
        part.graph.outputs.clear()
        part.graph.initializers.clear()
        part.graph.remove(nodes)
        kept = {value.name for value in outputs}
        named: list[onnx_ir.Node | onnx_ir.Value] = [*initializers, *nodes]
        for thing in (*named, *(value for node in nodes for value in node.outputs)):
            if thing.name not in kept:
                thing.name = f"{thing.name}.part{index}" if thing.name in taken else thing.name
            taken.add(thing.name)
        whole.graph.extend(nodes)
        for value in initializers:
            whole.graph.register_initializer(value)
        whole.graph.outputs.clear()
        whole.graph.outputs.extend(outputs)
        known |= {value.name: value for value in outputs}
    return whole


def coarse_logits(graph: onnx_ir.Graph) -> str | None:
    """Name of the value that a deployed graph enlarges and then reads: float32 `[N, C, h, w]`.

    None where that is not a bilinear Resize with half-pixel centers, which is what `inference/class_map.py` computes.
    """
    network, pixels = network_nodes(graph), pixel_nodes(graph)
    for node in reversed(graph):
        if node.op_type == "Resize" and node in pixels and node not in network:
            attributes = {name: attribute.value for name, attribute in node.attributes.items()}
            plain = (
                attributes.get("mode") == "linear"
                and attributes.get("coordinate_transformation_mode", "half_pixel") == "half_pixel"
                and not attributes.get("antialias")
                and not attributes.get("exclude_outside")
            )
            return str(node.inputs[0].name) if plain and node.inputs[0] is not None else None
    return None


def layer_precisions(graph: onnx_ir.Graph) -> dict[str, str]:
    """Name of every layer -> "fp32", "fp16", "bf16" or "int8", as the graph's own types say.

    A layer is int8 when its activations and its weights come out of a DequantizeLinear, which is what a runtime fuses
    into integer arithmetic; with the weights alone it computes in float: "int8 weights".
    """
    return {str(node.name): _precision(node) for node in layers(graph)}


def name_layers(graph: onnx_ir.Graph) -> None:
    """Name each layer after its place in the network ("decoder.block1.0"), so that lists of layers can be read.

    Reads what torch's exporter notes about every node; call it before that is cleared away.
    """
    taken: Counter[str] = Counter()
    for node in layers(graph):
        weight = next((str(value.name) for value in node.inputs if value is not None and _is_weight(value)), "")
        scopes = node.metadata_props.get("pkg.torch.onnx.name_scopes", "")
        # A convolution that took in its batch norm bears the norm's scope, but its own weight's name. The weight of a
        # product is transposed and has lost its name; there the scope is right.
        place = weight.removesuffix(".weight") if weight.endswith(".weight") else _innermost(scopes)
        name = place.removeprefix("network.") or str(node.name)
        taken[name] += 1
        node.name = name if taken[name] == 1 else f"{name}#{taken[name]}"


def _innermost(scopes: str) -> str:
    """The module of "['', 'network', 'network.decoder', 'linear']": all but the last are modules."""
    modules = [scope.strip(" '\"") for scope in scopes.strip("[]").split(",")[:-1]]
    return modules[-1] if modules else ""


def _is_weight(value: onnx_ir.Value | None) -> bool:
    """Whether a value is a stored tensor, or one that is only converted first."""
    while value is not None and not value.is_initializer():
        producer = value.producer()
        if producer is None or producer.op_type not in ("Cast", "DequantizeLinear"):
            return False
        value = producer.inputs[0]
    return value is not None


def _precision(node: onnx_ir.Node) -> str:
    operands = [value for value in node.inputs[:2] if value is not None]
    dequantized = [_producer_type(value) == "DequantizeLinear" for value in operands]
    if all(dequantized):
        return "int8"
    weight, in_8_bits = next(
        (value, flag) for value, flag in zip(operands, dequantized, strict=True) if _is_weight(value)
    )
    if in_8_bits:
        return "int8 weights"
    cast = weight.producer()
    kind = weight.dtype if cast is None else onnx_ir.DataType(cast.attributes["to"].as_int())
    return NAMES.get(kind, str(kind)) if kind is not None else "unknown"


def _producer_type(value: onnx_ir.Value) -> str | None:
    producer = value.producer()
    return None if producer is None else producer.op_type
