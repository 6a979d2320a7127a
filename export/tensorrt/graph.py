"""The deployed graph as TensorRT takes it: the same function, in operators that its parser and its shape algebra know.

Seen with TensorRT for RTX 1.7, which shares its parser with TensorRT 11:

- a uint8 input may only be cast, not transposed: the cast goes first;
- padding to the stride, `Mod(-x, s)` or `Mod(s - Mod(x, s), s)`, leaves the builder without a proof that a size is
  positive ("Resize shape dims should be non-"); the same number as `ceil(x / s) * s - x` gives it one;
- a Resize to a size that is computed from the photo's may leave it without that proof, too ("Resize shape dims should
  be non-negative"); to the size of another map, it needs none;
- quantized activations are symmetric int8. Our int8 graph has uint8 with a zero point, which is what CPUs are fast
  with; the int8 scale is the smallest that covers the same range;
- biases are not quantized: an int32 bias becomes the float that it stands for.
"""

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

IMAGES = "images"
HIGHEST = 127
"""Largest int8 value; the scale is symmetric."""

Constants = dict[str, np.ndarray]


def prepare(model: ModelProto) -> ModelProto:
    """A copy of the deployed graph that TensorRT parses. Its outputs are equal, but for rounding in int8."""
    prepared = ModelProto()
    prepared.CopyFrom(model)
    graph = prepared.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes = _cast_first(list(graph.node))
    nodes = _sizes_of_maps(nodes, graph)
    nodes = _ceil_for_mod(nodes, constants)
    nodes = _float_biases(nodes, constants)
    _signed_activations(nodes, constants)
    used = {name for node in nodes for name in node.input} | {value.name for value in graph.output}
    known = {tensor.name: tensor for tensor in graph.initializer}
    del graph.initializer[:], graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.initializer.extend(
        known[name] if name in known else numpy_helper.from_array(values, name)
        for name, values in constants.items()
        if name in used
    )
    return prepared


def _cast_first(nodes: list[NodeProto]) -> list[NodeProto]:
    """Everything that read the uint8 image reads it as float; the graph's own cast then changes nothing."""
    as_float = f"{IMAGES}_float"
    for node in nodes:
        node.input[:] = [as_float if name == IMAGES else name for name in node.input]
    return [helper.make_node("Cast", [IMAGES], [as_float], name=f"{IMAGES}_to_float", to=TensorProto.FLOAT), *nodes]


def _sizes_of_maps(nodes: list[NodeProto], graph: GraphProto) -> list[NodeProto]:
    """A Resize takes its height and width from the first map of that height and width, as the exporter noted them."""
    noted = {
        value.name: tuple(dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in graph.value_info
    }
    first_of_size: dict[tuple[str | int, ...], str] = {}
    replaced: list[NodeProto] = []
    for node in nodes:
        shape = noted.get(node.output[0], ())
        wanted = shape[2:] if len(shape) == 4 else ()
        if node.op_type == "Resize" and len(node.input) == 4 and wanted in first_of_size:
            parts = [f"{node.name}_channels", f"{node.name}_area"]
            replaced += [
                helper.make_node("Shape", [node.input[0]], [parts[0]], name=parts[0], start=0, end=2),
                helper.make_node("Shape", [first_of_size[wanted]], [parts[1]], name=parts[1], start=2, end=4),
                helper.make_node("Concat", parts, [f"{node.name}_sizes"], name=f"{node.name}_sizes", axis=0),
            ]
            node.input[3] = f"{node.name}_sizes"
        elif wanted and node.op_type != "Resize":
            first_of_size.setdefault(wanted, node.output[0])
        replaced.append(node)
    return replaced


def _ceil_for_mod(nodes: list[NodeProto], constants: Constants) -> list[NodeProto]:
    makers = {output: node for node in nodes for output in node.output}
    replaced: list[NodeProto] = []
    for node in nodes:
        stride = constants.get(node.input[1]) if node.op_type == "Mod" else None
        length = _negated(node.input[0], stride, makers, constants) if stride is not None else None
        if stride is None or length is None:
            replaced.append(node)
            continue
        (pad,) = node.output
        constants[f"{pad}_last"] = stride - 1
        replaced += [
            helper.make_node("Add", [length, f"{pad}_last"], [f"{pad}_up"], name=f"{node.name}_up"),
            helper.make_node("Div", [f"{pad}_up", node.input[1]], [f"{pad}_cells"], name=f"{node.name}_cells"),
            helper.make_node("Mul", [f"{pad}_cells", node.input[1]], [f"{pad}_whole"], name=f"{node.name}_whole"),
            helper.make_node("Sub", [f"{pad}_whole", length], [pad], name=node.name),
        ]
    return replaced


def _negated(value: str, stride: np.ndarray, makers: dict[str, NodeProto], constants: Constants) -> str | None:
    """x where a value is -x, but for multiples of the stride."""
    negative = False
    while (node := makers.get(value)) is not None:
        numbers = [constants[name] for name in node.input if name in constants]
        variables = [name for name in node.input if name not in constants]
        if len(variables) != 1 or len(numbers) > 1:
            break
        multiple = bool(numbers) and not (numbers[0] % stride).any()
        if node.op_type == "Neg" or (node.op_type == "Mul" and bool(numbers) and (numbers[0] == -1).all()):
            negative = not negative
        elif node.op_type == "Sub" and multiple:
            negative ^= node.input[1] == variables[0]
        elif not (multiple and node.op_type in ("Add", "Mod")):
            break
        value = variables[0]
    return value if negative else None


def _float_biases(nodes: list[NodeProto], constants: Constants) -> list[NodeProto]:
    kept = []
    for node in nodes:
        if node.op_type == "DequantizeLinear" and constants.get(node.input[0], np.empty(0)).dtype == np.int32:
            scale = constants[node.input[1]]
            constants[node.output[0]] = (constants[node.input[0]] * scale).astype(scale.dtype)
        else:
            kept.append(node)
    return kept


def _signed_activations(nodes: list[NodeProto], constants: Constants) -> None:
    """Every QuantizeLinear of an activation, and what dequantizes it, to int8 with zero point 0."""
    quantized = {node.output[0] for node in nodes if node.op_type == "QuantizeLinear"}
    for node in nodes:
        activation = node.op_type == "QuantizeLinear" or node.input[0] in quantized
        if not activation or node.op_type not in ("QuantizeLinear", "DequantizeLinear") or len(node.input) < 3:
            continue
        scale, zero = constants[node.input[1]], constants[node.input[2]]
        if zero.dtype == np.int8 and not zero.any():
            continue
        names = f"{node.input[1]}_symmetric", f"{node.input[1]}_zero"
        bounds = np.iinfo(zero.dtype)
        reach = np.maximum(bounds.max - zero.astype(np.int32), zero.astype(np.int32) - bounds.min)
        constants[names[0]] = (scale * (reach / HIGHEST)).astype(scale.dtype)
        constants[names[1]] = np.zeros_like(zero, dtype=np.int8)
        node.input[1:] = names
