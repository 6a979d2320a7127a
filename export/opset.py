"""The deployed graph in another operator set, for runtimes that take no other, with the IR version that goes with it.

PyTorch's exporter writes opset 18 and newer. Below that onnx's own converter has no adapters for Pad and others; what
the graphs of this package need is written here: axes that became inputs in opset 18 are attributes again.
"""

import onnx
import onnx_ir
from onnx import helper, numpy_helper

from semseg_app.errors import UserError

IR_VERSIONS = {16: 8, 17: 8, 18: 8, 19: 9, 20: 9, 21: 10}
"""Opset -> the IR version that the onnx release had which introduced it."""
LOWEST_TRACED = 18
_REDUCTIONS = ("ReduceMax", "ReduceMin", "ReduceMean", "ReduceProd", "ReduceL2")
_NEW_IN_18 = {
    "Resize": ("antialias", "axes", "keep_aspect_ratio_policy"),
    "Split": ("num_outputs",),
    **dict.fromkeys(_REDUCTIONS, ("noop_with_empty_axes",)),
}


def lower(model: onnx_ir.Model, opset: int) -> onnx_ir.Model:
    """A graph that was traced for opset `traced_opset(opset)`, in `opset`. UserError where it has younger operators.

    Nothing is proven here: the gate compares the result with the network, like any other export.
    """
    proto = onnx_ir.to_proto(model)
    try:
        if opset < LOWEST_TRACED:
            _below_18(proto)
            for entry in proto.opset_import:
                if not entry.domain:
                    entry.version = opset
        proto.ir_version = IR_VERSIONS[opset]
        onnx.checker.check_model(proto)
    except (onnx.checker.ValidationError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"--opset {opset}: the network needs an operator that this opset lacks ({reason}); take a newer opset or "
            "another architecture"
        ) from None
    return onnx_ir.from_proto(proto)


def traced_opset(opset: int) -> int:
    """What the exporter is asked for. UserError for an opset that is not offered."""
    if opset not in IR_VERSIONS:
        raise UserError(f"--opset {opset}: choose one of {', '.join(map(str, IR_VERSIONS))}")
    return max(opset, LOWEST_TRACED)


def _below_18(model: onnx.ModelProto) -> None:
    """Operators of opset 18 as opset 16 and 17 write them. ValueError for what they cannot express."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            constants[node.output[0]] = node.attribute[0].t
    for node in model.graph.node:
        if node.op_type in _REDUCTIONS and len(node.input) > 1:
            axes = constants.get(node.input[1])
            if axes is None:
                raise ValueError(f"{node.op_type} with computed axes")
            del node.input[1]
            node.attribute.append(helper.make_attribute("axes", numpy_helper.to_array(axes).ravel().tolist()))
        if node.op_type == "Pad" and len(node.input) > 3:
            if node.input[3]:
                raise ValueError("Pad with axes")
            del node.input[3]
        new = _NEW_IN_18.get(node.op_type, ())
        for attribute in [attribute for attribute in node.attribute if attribute.name in new]:
            if attribute.name == "antialias" and attribute.i:
                raise ValueError("Resize with antialias")
            node.attribute.remove(attribute)
