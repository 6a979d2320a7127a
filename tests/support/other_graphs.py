"""Small .onnx files as other programs write them: one matrix product over the colors of a pixel."""

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from onnx import TensorProto, helper, numpy_helper, save
from support.tiny_models import COLORS

TYPES = {"float": TensorProto.FLOAT, "uint8": TensorProto.UINT8, "int64": TensorProto.INT64}


def other_graph(
    path: Path,
    gives: str = "logits",
    input_type: str = "float",
    shape: tuple[Any, ...] = ("n", 3, "h", "w"),
    stride: int = 1,
    last: bool = False,
    description: dict[str, Any] | None = None,
) -> Path:
    """Write `path`, and beside it its description where there is one.

    Args:
        path: the .onnx file.
        gives: "logits", "probabilities", "classes" (int64, alone), "green over red" (one channel, for two classes),
            "its probability", or "nan".
        input_type: "float" or "uint8".
        shape: of the input; channels first unless its last number is 3.
        stride: only every so many pixels, from the first of each cell on, are answered.
        last: answer `[N, h, w, C]`.
        description: the contents of the .yaml file.
    """
    first = shape[3] != 3
    nodes = [helper.make_node("Cast", ["input"], ["numbers"], to=TensorProto.FLOAT)]
    nodes.append(helper.make_node("Transpose", ["numbers"], ["pixels"], perm=[0, 2, 3, 1] if first else [0, 1, 2, 3]))
    nodes.append(helper.make_node("Slice", ["pixels", "starts", "ends", "axes", "steps"], ["coarse"]))
    nodes.append(helper.make_node("MatMul", ["coarse", "colors"], ["products"]))
    nodes.append(helper.make_node("Softmax", ["products"], ["shares"], axis=3))
    nodes.append(helper.make_node("MatMul", ["products", "green_over_red"], ["second"]))
    nodes.append(helper.make_node("Sigmoid", ["second"], ["probability"]))
    nodes.append(helper.make_node("Sub", ["products", "infinity"], ["low"]))
    nodes.append(helper.make_node("Softmax", ["low"], ["nan"], axis=3))
    values = {"probabilities": "shares", "green over red": "second", "its probability": "probability", "nan": "nan"}
    chosen = values.get(gives, "products")
    output = TensorProto.FLOAT
    if gives == "classes":
        nodes.append(helper.make_node("ArgMax", ["products"], ["output"], axis=3, keepdims=0))
        output = TensorProto.INT64
    else:
        nodes.append(helper.make_node("Transpose", [chosen], ["output"], perm=[0, 1, 2, 3] if last else [0, 3, 1, 2]))
    constants = {
        "starts": np.array([0, 0]),
        "ends": np.array([2**31, 2**31]),
        "axes": np.array([1, 2]),
        "steps": np.array([stride, stride]),
        "colors": COLORS * 255 if input_type == "float" else COLORS,
        "green_over_red": np.array([[-0.2], [0.2], [0]], np.float32),
        "infinity": np.array(np.inf, np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "other",
        [helper.make_tensor_value_info("input", TYPES[input_type], list(shape))],
        [helper.make_tensor_value_info("output", output, ["n", "a", "b"] + ([] if gives == "classes" else ["c"]))],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    # onnx's default IR version may be newer than what ONNX Runtime reads.
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    if description is not None:
        path.with_suffix(".yaml").write_text(yaml.safe_dump(description))
    return path
