"""The graph in half precision: what is half, what is not, and that it says the same."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from support.reduced import enlarge_a_channel, session, sure_pixels

from semseg_app.export.fp16 import cast_to_half, export_fp16
from semseg_app.export.graph import layer_precisions, network_nodes
from semseg_app.export.verification_set import generated_photos

PHOTOS = np.stack([photo[100:227, 200:331] for photo in generated_photos(2)])  # 127x131
LEAD = 0.02
"""Of the best logit over the second, beyond which half precision must not change the class; both are about 2."""


@pytest.fixture(scope="module")
def folder(exported: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = shutil.copytree(exported("deeplabv3plus"), tmp_path_factory.mktemp("fp16") / "model")
    file = export_fp16(folder, folder / "onnx" / "model.onnx", PHOTOS)
    assert file == folder / "onnx" / "model-fp16.onnx"
    return folder


def test_network_is_half_and_the_rest_is_float(folder: Path) -> None:
    file = folder / "onnx" / "model-fp16.onnx"
    onnx.checker.check_model(onnx.load(file), full_check=True)
    model = onnx_ir.load(file)
    assert set(layer_precisions(model.graph).values()) == {"fp16"}
    network = network_nodes(model.graph)
    for node in model.graph:
        kinds = {value.dtype for value in node.outputs} & {onnx_ir.DataType.FLOAT, onnx_ir.DataType.FLOAT16}
        if node.op_type == "Cast" or not kinds:
            continue
        in_float = node not in network or node.op_type == "ReduceMean"
        assert kinds == {onnx_ir.DataType.FLOAT if in_float else onnx_ir.DataType.FLOAT16}, node
        if node.op_type == "Resize" and node.inputs[2] is not None:
            assert node.inputs[2].dtype == onnx_ir.DataType.FLOAT, "scales are coordinates"
    assert [value.dtype for value in (*model.graph.inputs, *model.graph.outputs)] == [onnx_ir.DataType.UINT8] * 3
    casts = [node for node in model.graph if node.op_type == "Cast"]
    assert not any(cast.inputs[0].producer() in casts for cast in casts), "one conversion after another"
    weights = (folder / "onnx" / "model.onnx").stat().st_size
    assert file.stat().st_size < 0.6 * weights


def test_metadata_and_axes_are_those_of_the_fp32_graph(folder: Path) -> None:
    before, after = (onnx.load(folder / "onnx" / name) for name in ("model.onnx", "model-fp16.onnx"))
    said, says = (
        json.loads({entry.key: entry.value for entry in model.metadata_props}["semseg_app"])
        for model in (before, after)
    )
    assert says.pop("logits") in {output for node in after.graph.node for output in node.output}
    del said["logits"]
    assert says == {**said, "precision": "fp16", "float_layers": []}
    assert list(after.graph.input) == list(before.graph.input)
    assert list(after.graph.output) == list(before.graph.output)
    assert list(after.opset_import) == list(before.opset_import)


def test_says_the_same_wherever_the_network_is_sure(folder: Path) -> None:
    half = session(folder / "onnx" / "model-fp16.onnx")
    for height, width, batch in ((127, 131, 2), (64, 100, 1)):
        images = PHOTOS[:batch, :height, :width]
        expected, sure = sure_pixels(folder, images, LEAD)
        assert sure.mean() > 0.97
        classes, _ = half.run(None, {"images": images})
        np.testing.assert_array_equal(classes[sure], expected[sure])


def test_says_the_same_when_every_operator_really_computes_in_half(folder: Path) -> None:
    """ONNX Runtime computes most of it in fp32 on a CPU; onnx's own evaluator takes the types at their word."""
    images = PHOTOS[:1, :40, :56]
    expected, sure = sure_pixels(folder, images, LEAD)
    classes, _ = ReferenceEvaluator(onnx.load(folder / "onnx" / "model-fp16.onnx")).run(None, {"images": images})
    np.testing.assert_array_equal(classes[sure], expected[sure])


def test_what_overflows_stays_float_and_is_listed(exported: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shutil.copytree(exported("deeplabv3plus"), tmp_path / "model")
    first, second = enlarge_a_channel(folder / "onnx" / "model.onnx", 1e6)
    file = export_fp16(folder, folder / "onnx" / "model.onnx", PHOTOS)
    model = onnx_ir.load(file)
    in_float = {name for name, kind in layer_precisions(model.graph).items() if kind == "fp32"}
    assert in_float == {first, second}
    listed = json.loads(model.metadata_props["semseg_app"])["float_layers"]
    assert in_float < set(listed)
    assert len(listed) == 3, "the two layers and the Relu between them"
    expected, sure = sure_pixels(folder, PHOTOS, LEAD)
    np.testing.assert_array_equal(session(file).run(None, {"images": PHOTOS})[0][sure], expected[sure])


def test_tiny_constants_and_shared_weights_keep_their_value() -> None:
    """x -> conv -> max(x, 1e-9) -> conv: half precision makes 1e-9 a zero. Both layers share their weights, and the
    network's first scale factor is shared with the float part."""
    weights = numpy_helper.from_array(np.full((1, 1, 1, 1), 0.1, np.float32), "weights")
    epsilon = numpy_helper.from_array(np.float32(1e-9), "epsilon")
    nodes = [
        helper.make_node("Mul", ["images", "weights"], ["scaled"], "scale"),
        helper.make_node("Conv", ["scaled", "weights"], ["one"], "conv1"),
        helper.make_node("Max", ["one", "epsilon"], ["positive"], "max"),
        helper.make_node("Conv", ["positive", "weights"], ["two"], "conv2"),
        helper.make_node("Exp", ["two"], ["result"], "exp"),
    ]
    shape = [1, 1, "h", "w"]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("result", TensorProto.FLOAT, shape)],
        [weights, epsilon],
    )
    model = onnx_ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))
    cast_to_half(model, set())
    proto = onnx_ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    kinds = {node.name: [stored[name].dtype for name in node.input if name in stored] for node in proto.graph.node}
    assert kinds["scale"] == kinds["max"] == [np.float32]
    assert kinds["conv1"] == kinds["conv2"] == [np.float16]
    assert sorted(stored) == ["epsilon", "weights", "weights_half"]
    (answer,) = session(proto.SerializeToString()).run(None, {"images": np.full((1, 1, 2, 2), 3.0, np.float32)})
    np.testing.assert_allclose(answer, np.exp(np.float32(0.003)), rtol=1e-4)
