"""Checks that every convolution and matrix product of an engine runs in the requested precision.

What runs is read from what TensorRT says of the finished engine, layer by layer: from the engine inspector's JSON where
the engine can be loaded, else (built ahead of time, no GPU) from the list of layers that the builder logs at the end.
Both name, for each layer, the types of what it multiplies and the ONNX nodes that it came from.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from onnx import ModelProto, NodeProto

from semseg_app.errors import UserError

HEAVY = ("Conv", "ConvTranspose", "Gemm", "MatMul")
FUSED = ("runtime_fusion", "runtime_function")
"""Kinds of layers, lower case, that hold a product now and then, and then multiply for it."""
GENERATED = ("kgen", "reformat", "constant", "shapehosttodevice", "noop")
"""Kinds that convert and move what others multiply; they multiply where nothing else does."""
NOT_MULTIPLIED = {"uint8", "bool", "int32", "int64"}
"""Types of images, indices and shapes."""
TYPES = {
    "float": "fp32", "fp32": "fp32", "half": "fp16", "fp16": "fp16", "bf16": "bf16", "bfloat16": "bf16",
    "int8": "int8", "uint8": "uint8", "fp8": "fp8", "int32": "int32", "int64": "int64", "bool": "bool",
}  # fmt: skip
"""TensorRT's words, lower case -> ours."""
NAMED = 5
"""Layers that a message names."""


class Layer(NamedTuple):
    """One layer of an engine."""

    name: str
    kind: str
    inputs: frozenset[str]
    """Types: "fp32", "fp16", "int8" ..."""
    weights: str | None
    """Type of its largest constant."""
    nodes: frozenset[str]
    """Names of the ONNX nodes that it computes, or part of them."""
    profile: int = 0

    @property
    def precision(self) -> str:
        """What it multiplies in; int8 layers may add a residual of another type. "" where it multiplies no numbers."""
        if "int8" in self.inputs and self.weights in ("int8", None):
            return "int8"
        return " x ".join(sorted((self.inputs | {self.weights or ""}) - NOT_MULTIPLIED - {""}))


def layers_of_log(lines: Iterable[str]) -> list[Layer]:
    """The layers in the messages of a builder that logs verbosely (profiling verbosity: detailed)."""
    said = (line for text in lines for line in text.splitlines() if re.match(r"Name: .*, LayerType: ", line))
    return _with_profiles([_logged(line) for line in said])


def layers_of_inspector(answer: str) -> list[Layer]:
    """The layers in the JSON of get_engine_information (profiling verbosity: detailed)."""
    return _with_profiles([_inspected(entry) for entry in json.loads(answer)["Layers"] if isinstance(entry, dict)])


def precision_counts(
    layers: Collection[Layer], graph: ModelProto, asked: str, float_layers: Collection[str] = ()
) -> dict[str, int]:
    """Compare an engine's layers with the requested precision.

    Args:
        layers: of the engine, of all its profiles.
        graph: what it was built from.
        asked: "fp32", "fp16" or "int8". int8 is asked of what multiplies by weights, not of products of activations.
        float_layers: nodes that the graph keeps in float, and says so in its metadata.

    Returns precision -> number of heavy nodes (HEAVY) that run in it, in every profile.

    Raises:
        UserError: one line that names the layers which run in something else, or which the engine does not name.
    """
    makers = {output: node for node in graph.graph.node for output in node.output}
    stored = {tensor.name for tensor in graph.graph.initializer}
    counts: Counter[str] = Counter()
    wrong = []
    for node in graph.graph.node:
        if node.op_type not in HEAVY:
            continue
        ran = _ran(node.name, layers)
        if ran == {""}:  # arithmetic of shapes
            continue
        precision = " and ".join(sorted(ran))
        counts[precision] += 1
        free = node.name in float_layers or (asked == "int8" and not _holds_weights(node, makers, stored))
        if ran != {asked} and not free:
            wrong.append(f"{node.name} ({precision})")
    if wrong:
        more = f" and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
        raise UserError(
            f"the engine is not {asked}: {', '.join(wrong[:NAMED])}{more} run in another precision than was asked for; "
            f"make its graph again with `semseg export --to onnx --precision {asked}`"
        )
    if not counts:
        raise UserError("the graph has no convolution or matrix product; export it again")
    return dict(counts)


def _ran(node: str, layers: Collection[Layer]) -> set[str]:
    """Precisions of the layers that multiply for this node, "unknown" where a profile has none."""
    found = set()
    for profile in {layer.profile for layer in layers}:
        mine = [layer for layer in layers if node in layer.nodes and layer.profile == profile]
        ranked = sorted({_rank(layer) for layer in mine})
        found |= {layer.precision for layer in mine if _rank(layer) == ranked[0]} or {"unknown"}
    return found


def _rank(layer: Layer) -> int:
    """The lower, the likelier it is that a layer multiplies for the nodes that it names."""
    kind = layer.kind.lower()
    return 3 if not layer.precision else 2 if kind in GENERATED else 1 if kind in FUSED else 0


def _holds_weights(node: NodeProto, makers: Mapping[str, NodeProto], stored: Collection[str]) -> bool:
    """Whether a factor is a stored tensor, or one that is only converted first."""
    for name in node.input[:2]:
        while name in makers and makers[name].op_type in ("Cast", "DequantizeLinear"):
            name = makers[name].input[0]
        if name in stored:
            return True
    return False


def _logged(line: str) -> Layer:
    def tensors(section: str) -> list[tuple[str, int]]:
        found = re.search(rf", {section}: \[(.*?)\](?=, (?:Constants|Outputs|TacticName): )", line)
        described = re.findall(r"Dimensions: \[([^\]]*)\].*?Datatype: (\w+)", found[1]) if found else []
        return [(_type(word), math.prod(int(side) for side in sides.split(",") if side)) for sides, word in described]

    head = re.match(r"Name: (.*?), LayerType: ([^,]*)", line)
    if head is None:
        raise UserError(
            f"TensorRT describes a layer as {line[:80]!r}, without name and kind, so precisions cannot be attested; "
            "install the version of TensorRT that pyproject.toml names"
        )
    name, kind = head.groups()
    return _layer(name, kind, [word for word, _ in tensors("Inputs")], tensors("Constants"), line)


def _inspected(entry: dict[str, Any]) -> Layer:
    def type_of(tensor: dict[str, Any]) -> str:
        # TensorRT 11 gives the type a field of its own; before, it was part of the format.
        fields = {key.lower(): str(value) for key, value in tensor.items()}
        return _type(fields.get("datatype") or fields.get("format/datatype") or fields.get("type") or "")

    constants = [(type_of(one), math.prod(one.get("Dimensions", []))) for one in entry.get("Constants", [])]
    if isinstance(weights := entry.get("Weights"), dict):
        constants.append((type_of(weights), int(weights.get("Count", 0))))
    inputs = [type_of(tensor) for tensor in entry.get("Inputs", [])]
    return _layer(str(entry.get("Name", "")), str(entry.get("LayerType", "")), inputs, constants, json.dumps(entry))


def _layer(name: str, kind: str, inputs: list[str], constants: list[tuple[str, int]], said: str) -> Layer:
    # A product of two activations has constants too, but only scalars, which scale its result.
    weights = max((one for one in constants if one[1] > 1), key=lambda constant: constant[1], default=(None, 0))[0]
    nodes = re.findall(r"\[ONNX Layer: ([^\]]+)\]", said)
    profile = re.search(r"\[profile (\d+)\]", said)
    return Layer(name, kind, frozenset(inputs), weights, frozenset(nodes), int(profile[1]) if profile else 0)


def _with_profiles(layers: list[Layer]) -> list[Layer]:
    """Generated layers do not name their profile, but the region of the engine that they belong to, as others do."""
    regions = {region: layer.profile for layer in layers if layer.profile and (region := _region(layer))}
    return [layer._replace(profile=layer.profile or regions.get(_region(layer), 0)) for layer in layers]


def _region(layer: Layer) -> str:
    found = re.search(r"_myl(\d+)_\d+$", layer.name)
    return found[1] if found else ""


def _type(words: str) -> str:
    """Our word for TensorRT's: "Half" -> "fp16"; "Row major linear FP16 format" -> "fp16"."""
    found = [TYPES[word] for word in re.findall(r"\w+", words.lower()) if word in TYPES]
    return found[0] if found else words or "unknown"
