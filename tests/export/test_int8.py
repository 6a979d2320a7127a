"""The graph in 8 bits: what is quantized and how, what is left out, and that it says the same."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from support.reduced import enlarge_a_channel, session, sure_pixels
from torch.utils.flop_counter import FlopCounterMode

from semseg_app import models
from semseg_app.export.calibration import activation_ranges
from semseg_app.export.graph import layer_precisions, layers
from semseg_app.export.int8 import Calibration, LayerCost, cheapest_sets, export_int8, multiplications
from semseg_app.export.verification_set import generated_photos

PHOTOS = np.stack([photo[100:227, 200:331] for photo in generated_photos(3)])  # 127x131
LEAD = 0.8
"""Of the best logit over the second, beyond which 8 bits must not change the class; both are about 2."""


def agreement(folder: Path, file: Path) -> float:
    plain = session(folder / "onnx" / "model.onnx").run(["classes"], {"images": PHOTOS})[0]
    return float((session(file).run(["classes"], {"images": PHOTOS})[0] == plain).mean())


@pytest.fixture(scope="module")
def folder(exported: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = shutil.copytree(exported("deeplabv3plus"), tmp_path_factory.mktemp("int8") / "model")
    calibration = Calibration(list(PHOTOS), "generated photos")
    file = export_int8(folder, folder / "onnx" / "model.onnx", calibration, lambda candidate: True)
    assert file == folder / "onnx" / "model-int8.onnx"
    return folder


def test_activations_are_unsigned_and_weights_signed_per_channel(folder: Path) -> None:
    file = folder / "onnx" / "model-int8.onnx"
    onnx.checker.check_model(onnx.load(file), full_check=True)
    graph = onnx_ir.load(file).graph
    assert Counter(layer_precisions(graph).values()) == {"int8": 30}
    for layer in layers(graph):
        activation, weight = (value.producer() for value in layer.inputs[:2])
        assert activation.inputs[2].dtype == onnx_ir.DataType.UINT8
        assert weight.inputs[2].dtype == weight.inputs[0].dtype == onnx_ir.DataType.INT8
        assert weight.inputs[1].shape == [layer.outputs[0].shape[1]], "a scale a channel"
    for node in graph:
        if node.op_type == "QuantizeLinear":
            assert node.inputs[2].dtype == onnx_ir.DataType.UINT8
    (upsampling,) = [
        node for node in graph if node.op_type == "Resize" and node.outputs[0].consumers()[0].op_type == "Slice"
    ]
    assert upsampling.outputs[0].dtype == onnx_ir.DataType.FLOAT
    after = {consumer.op_type for consumer in upsampling.outputs[0].consumers()}
    assert after == {"Slice"}, "the logits are read in float"
    assert file.stat().st_size < 0.4 * (folder / "onnx" / "model.onnx").stat().st_size


def test_runtime_computes_every_layer_in_integers(folder: Path, tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    file = folder / "onnx" / "model-int8.onnx"
    onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    operators = Counter(node.op_type for node in onnx.load(tmp_path / "fused.onnx").graph.node)
    assert operators["QLinearConv"] == 30
    assert not {"Conv", "FusedConv"} & set(operators)


def test_metadata_and_axes_are_those_of_the_fp32_graph(folder: Path) -> None:
    before, after = (onnx.load(folder / "onnx" / name) for name in ("model.onnx", "model-int8.onnx"))
    said, says = ({entry.key: entry.value for entry in model.metadata_props} for model in (before, after))
    assert said.keys() == says.keys() == {"semseg_app"}
    said, says = (json.loads(metadata["semseg_app"]) for metadata in (said, says))
    assert says.pop("producer") == f"{said.pop('producer')}, onnxruntime {onnxruntime.__version__}"
    assert says.pop("logits") in {output for node in after.graph.node for output in node.output}
    del said["logits"]
    calibration = {"method": "minmax", "photos": 3, "source": "generated photos"}
    assert says == {**said, "precision": "int8", "float_layers": [], "calibration": calibration}
    assert list(after.graph.input) == list(before.graph.input)
    assert list(after.graph.output) == list(before.graph.output)
    assert [(opset.domain, opset.version) for opset in after.opset_import] == [("", 20)]


def test_says_the_same_wherever_the_network_is_sure(folder: Path) -> None:
    eight_bits = session(folder / "onnx" / "model-int8.onnx")
    for height, width, batch in ((127, 131, 3), (64, 100, 1)):
        images = PHOTOS[:batch, :height, :width]
        expected, sure = sure_pixels(folder, images, LEAD)
        assert sure.mean() > 0.5
        classes, _ = eight_bits.run(None, {"images": images})
        assert (classes[sure] == expected[sure]).mean() > 0.999


def test_layers_that_cost_most_stay_float_until_the_file_passes(
    exported: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(exported("deeplabv3plus"), tmp_path / "model")
    graph_file = folder / "onnx" / "model.onnx"
    untouched = agreement(folder, graph_file)
    # One channel takes all 256 levels and leaves the others none: around it, 8 bits lose everything.
    harmed = enlarge_a_channel(graph_file, 1e4)
    assert agreement(folder, graph_file) == untouched
    agreements = []

    def passes(candidate: Path) -> bool:
        agreements.append(agreement(folder, candidate))
        return agreements[-1] > 0.9

    file = export_int8(folder, graph_file, Calibration(list(PHOTOS), "photos"), passes)
    assert len(agreements) <= 3, "with none, one and two layers in float, or both at once"
    assert agreements[0] < 0.9 < agreements[-1]
    found = onnx_ir.load(file)
    assert {name for name, kind in layer_precisions(found.graph).items() if kind == "fp32"} == set(harmed)
    assert set(json.loads(found.metadata_props["semseg_app"])["float_layers"]) == set(harmed)


def test_gives_up_where_half_of_the_layers_in_float_do_not_help(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(folder, tmp_path / "model")
    monkeypatch.setattr(
        "semseg_app.export.int8.layer_costs",
        lambda model, *_: {str(node.name): LayerCost(changed=1, work=1) for node in layers(model.graph)},
    )
    tried = []

    def passes(candidate: Path) -> bool:
        tried.append(Counter(layer_precisions(onnx_ir.load(candidate).graph).values())["fp32"])
        return False

    export_int8(copy, copy / "onnx" / "model.onnx", Calibration(list(PHOTOS[:1]), "photos"), passes)
    assert tried == [0, 15]
    kinds = Counter(layer_precisions(onnx_ir.load(copy / "onnx" / "model-int8.onnx").graph).values())
    assert kinds == {"int8": 15, "fp32": 15}, "the last one, for the gate to judge"


def test_float_goes_where_it_saves_most_pixels_for_its_time() -> None:
    costs = {
        "large": LayerCost(changed=60, work=100),
        "harmless": LayerCost(changed=0, work=200),
        "small": LayerCost(changed=50, work=1),
        "middle": LayerCost(changed=10, work=50),
    }
    # 1/2 of 120 pixels, 3/4, 7/8 (the same layers), 15/16
    assert list(cheapest_sets(costs)) == [["large"], ["small", "large"], ["small", "large", "middle"]]
    cheap = {"wide": LayerCost(10, 40), "narrow": LayerCost(9, 4), "rest": LayerCost(0, 100)}
    assert list(cheapest_sets(cheap))[-1] == ["narrow", "wide"]
    twins = {"slow": LayerCost(10, 30), "fast": LayerCost(10, 3), "rest": LayerCost(0, 100)}
    assert next(cheapest_sets(twins)) == ["fast"]
    assert list(cheapest_sets({"half": LayerCost(10, 51), "rest": LayerCost(0, 49)})) == [], "no faster than fp32"
    assert list(cheapest_sets({"good": LayerCost(0, 5)})) == []


def test_work_of_the_layers_is_what_torch_counts(exported: Callable[[str], Path]) -> None:
    folder = exported("deeplabv3plus")
    model = onnx_ir.load(folder / "onnx" / "model.onnx")
    counts = multiplications(onnx_ir.to_proto(model), layers(model.graph), PHOTOS[0])
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        models.load(folder).eval().full_logits(torch.from_numpy(PHOTOS[:1]).permute(0, 3, 1, 2) / 255)
    assert 2 * sum(counts.values()) == counter.get_total_flops(), "a multiplication and an addition each"


def test_sizes_are_read_from_8_bits(folder: Path) -> None:
    graph = onnx_ir.load(folder / "onnx" / "model-int8.onnx").graph
    sources = [node.inputs[0].producer() for node in graph if node.op_type == "Shape"]
    kinds = Counter(source.op_type for source in sources if source is not None)
    assert kinds["QuantizeLinear"] >= 1
    assert kinds["DequantizeLinear"] == 0


def test_ranges_are_those_of_numpy_over_photos_of_several_sizes() -> None:
    """y = relu(x) of float images: minmax is exact; a percentile leaves out one value in 33000."""
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["images"], ["x"], "cast", to=TensorProto.FLOAT),
            helper.make_node("Sub", ["x", "middle"], ["y"], "shift"),
            helper.make_node("Relu", ["y"], ["z"], "relu"),
        ],
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", "h", "w", 3])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", "h", "w", 3])],
        [numpy_helper.from_array(np.float32(100), "middle")],
    )
    model = onnx_ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))
    random = np.random.default_rng(0)
    photos = [
        random.normal(110, 10, (height, width, 3)).clip(80, 140).astype(np.uint8)
        for height, width in ((80, 70), (60, 90))
    ]
    photos[1][5, 5, 0] = 250
    found = {method: activation_ranges(model, photos, method) for method in ("minmax", "percentile", "entropy")}
    lowest, highest = (float(value.item()) for value in found["minmax"]["y"].range_value)
    assert (lowest, highest) == (min(photo.min() for photo in photos) - 100.0, 150.0)
    assert [float(value.item()) for value in found["minmax"]["z"].range_value] == [0.0, 150.0]
    assert float(found["percentile"]["z"].range_value[1]) == pytest.approx(40, abs=3)
    assert 10 < float(found["entropy"]["z"].range_value[1]) <= 150
    only = activation_ranges(model, photos[:1], "minmax", ["Relu"])
    assert set(only.keys()) == {"y", "z"}
