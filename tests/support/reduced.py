"""What the tests of reduced precisions share: comparing away from ties, and a function-preserving change of weights."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import ModelProto, NodeProto, numpy_helper

from semseg_app import models


def session(file: Path | bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def sure_pixels(folder: Path, images: np.ndarray, margin: float) -> tuple[np.ndarray, np.ndarray]:
    """The network's classes uint8 [N, H, W], and where its best logit leads the second by more than the margin."""
    network = models.load(folder)
    with torch.inference_mode():
        logits = network.full_logits(torch.from_numpy(images).permute(0, 3, 1, 2) / 255)
    best, second = logits.topk(2, dim=1).values.unbind(dim=1)
    return logits.argmax(dim=1).to(torch.uint8).numpy(), (best - second > margin).numpy()


def chained_convolutions(model: ModelProto) -> tuple[NodeProto, NodeProto]:
    """Two convolutions with nothing but a Relu between them, one after the other."""
    readers: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for first in model.graph.node:
        if first.op_type == "Conv" and len(readers[first.output[0]]) == 1:
            (relu,) = readers[first.output[0]]
            if relu.op_type == "Relu" and len(readers[relu.output[0]]) == 1:
                (second,) = readers[relu.output[0]]
                if second.op_type == "Conv" and not any(attribute.i > 1 for attribute in second.attribute):
                    return first, second
    raise AssertionError("no such pair")


def enlarge_a_channel(file: Path, factor: float) -> tuple[str, str]:
    """Make one channel between two layers `factor` times as large, and its weights behind as much smaller.

    The network computes the same, as Relu(k x) = k Relu(x). Returns the names of the two layers.
    """
    model = onnx.load(file)
    first, second = chained_convolutions(model)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}

    def scale(name: str, channel: tuple[int | slice, ...], by: float) -> None:
        values = numpy_helper.to_array(stored[name]).copy()
        values[channel] *= by
        stored[name].CopyFrom(numpy_helper.from_array(values, name))

    scale(first.input[1], (0,), factor)
    scale(first.input[2], (0,), factor)
    scale(second.input[1], (slice(None), 0), 1 / factor)
    onnx.save(model, file)
    return first.name, second.name
