"""Small deployed graphs in the three precisions, made by hand: two convolutions, three classes."""

import json

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

STRIDE = 4
TYPES = {"fp32": np.float32, "fp16": np.float16, "int8": np.float32}


def deployed_graph(precision: str = "fp32", float_layers: tuple[str, ...] = (), pad: str = "negative") -> ModelProto:
    """uint8 `[N, H, W, 3]` -> classes and confidence `[N, H, W]`, padded to the stride inside.

    Args:
        precision: of the convolutions.
        float_layers: those of "first" and "second" that are fp32 all the same. The metadata do not say so.
        pad: how the rest to the stride is computed: "negative" is Mod(-x, 4), "remainder" Mod(4 - Mod(x, 4), 4).
    """
    random = np.random.default_rng(0)
    build = _Builder(precision)
    build.constant("axes", np.array([2, 3]))
    build.constant("origin", np.zeros(2, np.int64))
    build.constant(
        "zero_pads", np.zeros(6, np.int64)
    )  # with `axes`, Pad falls over in ONNX Runtime 1.31's int8 layouts
    build.constant("stride", np.array([STRIDE]))
    build.constant("minus_one", np.array([-1]))
    build.constant("scale", np.float32(127.5))
    build.node("Transpose", ["images"], "planes", perm=[0, 3, 1, 2])
    build.node("Cast", ["planes"], "floats", to=TensorProto.FLOAT)
    build.node("Div", ["floats", "scale"], "scaled")
    for name, axis in (("height", 2), ("width", 3)):
        build.node("Shape", ["scaled"], name, start=axis, end=axis + 1)
        if pad == "negative":
            build.node("Mul", [name, "minus_one"], f"{name}_negative")
        else:
            build.node("Mod", [name, "stride"], f"{name}_over")
            build.node("Sub", ["stride", f"{name}_over"], f"{name}_negative")
        build.node("Mod", [f"{name}_negative", "stride"], f"{name}_pad")
    build.node("Concat", ["zero_pads", "height_pad", "width_pad"], "pads", axis=0)
    build.node("Pad", ["scaled", "pads"], "padded")
    first = random.normal(0, 0.5, (8, 3, 4, 4)), random.normal(0, 0.5, 8)
    second = random.normal(0, 0.5, (3, 8, 3, 3)), random.normal(0, 0.5, 3)
    build.convolution("first", "padded", *first, (0, 255 / 127.5), "first" in float_layers, strides=[4, 4])
    build.node("Relu", ["first_out"], "hidden")
    build.convolution("second", "hidden", *second, (0, 6), "second" in float_layers, pads=[1, 1, 1, 1])
    build.node("Shape", ["padded"], "padded_size", start=2, end=4)
    build.node("Shape", ["second_out"], "channels", start=0, end=2)
    build.node("Concat", ["channels", "padded_size"], "full_size", axis=0)
    build.node("Resize", ["second_out", "", "", "full_size"], "wide", mode="linear")
    build.node("Concat", ["height", "width"], "size", axis=0)
    build.node("Slice", ["wide", "origin", "size", "axes"], "logits")
    build.constant("channel_axis", np.array([1]))
    build.node("ArgMax", ["logits"], "best", axis=1, keepdims=0)
    build.node("Cast", ["best"], "classes", to=TensorProto.UINT8)
    build.node("Softmax", ["logits"], "shares", axis=1)
    build.node("ReduceMax", ["shares", "channel_axis"], "share", keepdims=0)
    build.constant("most", np.float32(255))
    build.node("Mul", ["share", "most"], "bytes")
    build.node("Round", ["bytes"], "rounded")
    build.node("Cast", ["rounded"], "confidence", to=TensorProto.UINT8)
    return build.model()


class _Builder:
    def __init__(self, precision: str):
        self.precision = precision
        self.nodes: list[NodeProto] = []
        self.tensors: list[TensorProto] = []

    def constant(self, name: str, values: np.ndarray | np.floating) -> None:
        self.tensors.append(numpy_helper.from_array(np.asarray(values), name))

    def node(self, kind: str, inputs: list[str], output: str, **attributes: object) -> None:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=f"{output}_node", **attributes))

    def convolution(
        self,
        name: str,
        source: str,
        weights: np.ndarray,
        bias: np.ndarray,
        reach: tuple[float, float],
        in_float: bool,
        **attributes: object,
    ) -> None:
        """A convolution fp32 -> fp32 in the graph's precision; the node bears the name."""
        precision = "fp32" if in_float else self.precision
        kind = TYPES[precision]
        inputs, output = [source, f"{name}_weights", f"{name}_bias"], f"{name}_out"
        if precision == "fp16":
            self.node("Cast", [source], f"{source}_half", to=TensorProto.FLOAT16)
            inputs[0], output = f"{source}_half", f"{name}_half"
        if precision == "int8":
            self._quantized(name, source, weights, bias, reach)
            inputs = [f"{source}_back", f"{name}_weights", f"{name}_bias"]
        else:
            self.constant(inputs[1], weights.astype(kind))
            self.constant(inputs[2], bias.astype(kind))
        self.nodes.append(helper.make_node("Conv", inputs, [output], name=name, **attributes))
        if precision == "fp16":
            self.node("Cast", [output], f"{name}_out", to=TensorProto.FLOAT)

    def _quantized(
        self, name: str, source: str, weights: np.ndarray, bias: np.ndarray, reach: tuple[float, float]
    ) -> None:
        """As for CPUs: unsigned activations with a zero point, signed weights per channel, int32 biases."""
        step = np.float32((reach[1] - reach[0]) / 255)
        zero = np.uint8(round(-reach[0] / step))
        self.constant(f"{source}_step", step)
        self.constant(f"{source}_zero", zero)
        self.node("QuantizeLinear", [source, f"{source}_step", f"{source}_zero"], f"{source}_bytes")
        self.node("DequantizeLinear", [f"{source}_bytes", f"{source}_step", f"{source}_zero"], f"{source}_back")
        steps = np.abs(weights).max(axis=(1, 2, 3)).astype(np.float32) / 127
        self.constant(f"{name}_steps", steps)
        self.constant(f"{name}_zeros", np.zeros(len(steps), np.int8))
        self.constant(f"{name}_ints", np.rint(weights / steps[:, None, None, None]).astype(np.int8))
        self.node("DequantizeLinear", [f"{name}_ints", f"{name}_steps", f"{name}_zeros"], f"{name}_weights", axis=0)
        self.constant(f"{name}_bias_steps", steps * step)
        self.constant(f"{name}_bias_zeros", np.zeros(len(steps), np.int32))
        self.constant(f"{name}_bias_ints", np.rint(bias / (steps * step)).astype(np.int32))
        biases = [f"{name}_bias_ints", f"{name}_bias_steps", f"{name}_bias_zeros"]
        self.node("DequantizeLinear", biases, f"{name}_bias", axis=0)

    def model(self) -> ModelProto:
        sides = ["batch", "height", "width"]
        graph = helper.make_graph(
            self.nodes,
            "deployed",
            [helper.make_tensor_value_info("images", TensorProto.UINT8, [*sides, 3])],
            [helper.make_tensor_value_info(name, TensorProto.UINT8, sides) for name in ("classes", "confidence")],
            self.tensors,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        labels = {"classes": ["a", "b", "c"], "palette": [[0, 0, 0], [9, 9, 9], [200, 0, 0]]}
        described = {"format_version": 1, "name": "Two Layers", "labels": labels, "precision": self.precision}
        helper.set_model_props(model, {"semseg_app": json.dumps(described)})
        onnx.checker.check_model(model, full_check=True)
        return model
