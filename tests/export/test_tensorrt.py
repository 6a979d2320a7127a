"""Engines built ahead of time by TensorRT for RTX, without a GPU: what they hold, what is refused, what is kept."""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import tensorrt_rtx
import typer
from onnx import ModelProto
from PIL import Image
from support.tensorrt_graphs import deployed_graph
from typer.testing import CliRunner

from semseg_app import artifact
from semseg_app.cli.export import export
from semseg_app.cli.export_engines import EngineOptions
from semseg_app.data.dataset import open_folder
from semseg_app.errors import UserError
from semseg_app.export import tensorrt as package
from semseg_app.export import verification_set as verification
from semseg_app.export import verify as verify_module
from semseg_app.export.fp16 import export_fp16
from semseg_app.export.int8 import Calibration, export_int8
from semseg_app.export.manifest import record
from semseg_app.export.tensorrt import export_tensorrt
from semseg_app.export.tensorrt import verify as engine_verification
from semseg_app.export.tensorrt.buckets import (
    Buckets,
    Size,
    choose_buckets,
    count_sizes,
    parse_buckets,
    profiles,
)
from semseg_app.export.tensorrt.builder import build, target_capabilities
from semseg_app.export.tensorrt.graph import prepare
from semseg_app.export.tensorrt.layer_precisions import Layer, layers_of_inspector, precision_counts
from semseg_app.export.tensorrt.verify import verify_engine
from semseg_app.export.verification_set import ExportData, generated_photos
from semseg_app.export.verify import verify
from semseg_app.inference.engines.base import GRAPHS, Prediction
from semseg_app.inference.engines.open import open_engine
from semseg_app.inference.engines.plans import Profile, Shape, read_plan
from semseg_app.models.registry import ARCHITECTURES

app = typer.Typer()
app.command()(export)
BUCKETS = parse_buckets("24x16,20x20,13x11")
ADA = ("8.9",)


def photos(height: int, width: int, batch: int = 2) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (batch, height, width, 3), np.uint8)


def run(model: ModelProto, images: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["classes", "confidence"], {"images": images})


# --- buckets ---------------------------------------------------------------------------------------------------------


def test_buckets_are_the_most_frequent_sizes_whatever_the_order() -> None:
    sizes = {Size(360, 480): 60, Size(480, 360): 20, Size(600, 800): 10, Size(100, 100): 9, Size(700, 90): 1}
    expected = Buckets((Size(360, 480), Size(480, 360), Size(600, 800)), Size(700, 800))
    assert choose_buckets(Counter(sizes)) == expected
    assert choose_buckets(Counter(dict(reversed(sizes.items())))) == expected


def test_rare_sizes_are_no_buckets_but_count_for_the_largest() -> None:
    sizes = Counter({Size(360, 480): 96, Size(500, 20): 4})
    assert choose_buckets(sizes) == Buckets((Size(360, 480),), Size(500, 480))
    # All different: one bucket, the largest photo.
    assert choose_buckets(Counter({Size(side, 2 * side): 1 for side in range(10, 40)})).sizes == (Size(39, 78),)


def test_photos_longer_than_a_tile_count_as_their_tiles() -> None:
    # 2048 wide: three tiles of 768 cover 2048 + 2 x 128; 1024 fits into one.
    assert choose_buckets(Counter({Size(1024, 2048): 5})) == Buckets((Size(1024, 768),), Size(1024, 768))


def test_given_buckets_are_width_by_height() -> None:
    assert parse_buckets("480x360, 512x512,480x360") == Buckets((Size(360, 480), Size(512, 512)), Size(512, 512))
    for text in ("480", "480x", "0x5", "480x360;512x512", "9000x10"):
        with pytest.raises(UserError, match=r"--buckets .* is no size; give width x height"):
            parse_buckets(text)


def test_profiles_are_one_a_bucket_and_one_for_every_other_size() -> None:
    assert profiles(Buckets((Size(360, 480), Size(20, 30)), Size(400, 500)), batch=4) == [
        Profile(Shape(1, 360, 480), Shape(4, 360, 480), Shape(4, 360, 480)),
        Profile(Shape(1, 20, 30), Shape(4, 20, 30), Shape(4, 20, 30)),
        Profile(Shape(1, 1, 1), Shape(4, 360, 480), Shape(4, 400, 500)),
    ]


def test_sizes_are_those_of_upright_photos(tmp_path: Path) -> None:
    (tmp_path / "dataset.yaml").write_text("name: turned\nclasses: [a, b]\n")
    folder = tmp_path / "images" / "val"
    folder.mkdir(parents=True)
    turned = Image.Exif()
    turned[0x0112] = 6  # a camera held upright
    Image.new("RGB", (40, 30)).save(folder / "turned.jpg", exif=turned)
    Image.new("RGB", (40, 30)).save(folder / "level.jpg")
    Image.new("RGB", (40, 30)).save(folder / "level2.png")
    assert count_sizes(open_folder(tmp_path)) == {Size(30, 40): 2, Size(40, 30): 1}
    (folder / "level.jpg").write_bytes(b"no photo")
    with pytest.raises(UserError, match=r"level\.jpg: unreadable image"):
        count_sizes(open_folder(tmp_path))


# --- the graph -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pad", ["negative", "remainder"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_prepared_graph_computes_the_same(precision: str, pad: str) -> None:
    model = deployed_graph(precision, pad=pad)
    prepared = prepare(model)
    onnx.checker.check_model(prepared, full_check=True)
    assert "Mod" not in {node.op_type for node in prepared.graph.node if node.output[0].endswith("_pad")}
    for height, width in ((16, 24), (13, 11), (1, 1)):
        for before, after in zip(run(model, photos(height, width)), run(prepared, photos(height, width)), strict=True):
            np.testing.assert_array_equal(before, after)


def test_int8_becomes_symmetric_and_signed_within_half_a_step() -> None:
    model = deployed_graph("int8")
    prepared = prepare(model)
    onnx.checker.check_model(prepared, full_check=True)
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in prepared.graph.initializer}
    quantizers = [node for node in prepared.graph.node if node.op_type == "QuantizeLinear"]
    assert len(quantizers) == 2
    for node in quantizers:
        assert tensors[node.input[2]].dtype == np.int8
        assert tensors[node.input[2]] == 0
    # 0 to 6 in 255 steps from zero point 0 becomes -6 to 6 in 254.
    assert tensors[quantizers[1].input[1]] == pytest.approx(6 / 127)
    assert not any(values.dtype == np.int32 for values in tensors.values()), "an int32 bias is left"
    images = photos(40, 40, 4)
    (classes, _), (unsigned, _), (signed, _) = (run(one, images) for one in (deployed_graph("fp32"), model, prepared))
    assert (signed == unsigned).mean() > 0.98
    assert (signed == classes).mean() > 0.94 < (unsigned == classes).mean()


# --- precisions of layers --------------------------------------------------------------------------------------------


def built(model: ModelProto, shapes: Sequence[Profile] | None = None) -> list[Layer]:
    shapes = shapes or profiles(BUCKETS, batch=2)
    result = build(tensorrt_rtx, prepare(model).SerializeToString(), shapes, ADA)
    assert result.layers_read_from == "builder log"
    assert len(result.engine) > 10_000
    return result.layers


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_engine_runs_in_what_was_asked_for_in_every_profile(precision: str) -> None:
    model = deployed_graph(precision)
    layers = built(model)
    assert precision_counts(layers, prepare(model), precision) == {precision: 2}
    assert {layer.profile for layer in layers if "first" in layer.nodes} == {0, 1, 2, 3}


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_planted_fp32_layer_is_caught_and_named(precision: str) -> None:
    model = deployed_graph(precision, float_layers=("second",))
    layers, graph = built(model), prepare(model)
    with pytest.raises(UserError, match=rf"the engine is not {precision}: second \(fp32\) run in another precision"):
        precision_counts(layers, graph, precision)
    assert precision_counts(layers, graph, precision, float_layers=["second"]) == {precision: 1, "fp32": 1}
    with pytest.raises(UserError, match=r"not fp32: first \((fp16|int8)\)"):
        precision_counts(layers, graph, "fp32")


def test_a_layer_that_the_engine_does_not_name_is_refused() -> None:
    model = deployed_graph("fp16")
    layers = built(model, profiles(BUCKETS, 1)[:2])
    assert precision_counts(layers, prepare(model), "fp16") == {"fp16": 2}
    hidden = [layer for layer in layers if layer.profile == 0 or "second" not in layer.nodes]
    with pytest.raises(UserError, match=r"second \(fp16 and unknown\)"):
        precision_counts(hidden, prepare(model), "fp16")


def inspected(kind: str, field: str, image: str, weights: dict[str, object]) -> str:
    layer = {
        "Name": "first + hidden_node",
        "LayerType": kind,
        "Inputs": [{"Name": "x", "Dimensions": [1, 3, 16, 24], field: image}],
        "Outputs": [{"Name": "y", "Dimensions": [1, 8, 4, 6], field: image}],
        "Metadata": "[ONNX Layer: first]\u001e[ONNX Layer: hidden_node]",
        **weights,
    }
    return json.dumps({"Layers": [layer, "Signal"], "I/O Tensors": []})


def test_inspector_of_tensorrt_11_and_before_is_understood() -> None:
    new = inspected(
        "correlation", "DataType", "Half", {"Constants": [{"Dimensions": [8, 3, 4, 4], "DataType": "Half"}]}
    )
    old = inspected(
        "CaskConvolution",
        "Format/Datatype",
        "Thirty-two wide channel vectorized row major Int8 format",
        {"Weights": {"Type": "Int8", "Count": 384}},
    )
    unknown = inspected("CaskConvolution", "Format/Datatype", "N/A due to dynamic shapes", {})
    assert [layer.precision for layer in layers_of_inspector(new)] == ["fp16"]
    assert [layer.precision for layer in layers_of_inspector(old)] == ["int8"]
    assert layers_of_inspector(new)[0].nodes == {"first", "hidden_node"}
    assert layers_of_inspector(unknown)[0].precision not in ("", "fp32", "fp16", "int8")


def test_residual_of_another_type_does_not_hide_what_is_multiplied() -> None:
    def layer(inputs: set[str], weights: str | None) -> str:
        return Layer("x", "correlation", frozenset(inputs), weights, frozenset()).precision

    assert layer({"int8", "fp16"}, "int8") == "int8"
    assert layer({"int8"}, None) == "int8"
    assert layer({"fp32"}, "int8") == "fp32 x int8"  # weights in 8 bits, arithmetic in float
    assert layer({"fp16", "fp32"}, "fp16") == "fp16 x fp32"
    assert layer({"int64"}, "int64") == ""


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder with an fp16 graph, of no network."""
    (tmp_path / "m" / "onnx").mkdir(parents=True)
    onnx.save(deployed_graph("fp16"), tmp_path / "m" / GRAPHS["fp16"])
    return tmp_path / "m"


def make(folder: Path, buckets: Buckets = BUCKETS, capabilities: Sequence[str] = ADA) -> Path:
    return export_tensorrt(folder, folder / GRAPHS["fp16"], buckets, 2, "tensorrt_rtx", capabilities)


def test_engine_lies_beside_its_description(folder: Path) -> None:
    engine = make(folder, capabilities=("8.6", "8.9"))
    plan = read_plan(engine)
    version = tensorrt_rtx.__version__
    assert engine.name == f"fp16-rtx{version}-sm86-sm89-{plan.key}.engine"
    assert {path.name for path in engine.parent.iterdir()} == {engine.name, engine.with_suffix(".json").name}
    assert (plan.binding, plan.version, plan.gpu, plan.capabilities) == ("tensorrt_rtx", version, None, ["8.6", "8.9"])
    assert (plan.name, plan.precision, plan.graph) == ("Two Layers", "fp16", "onnx/model-fp16.onnx")
    assert plan.profiles == profiles(BUCKETS, 2)
    assert (plan.layers, plan.layers_read_from) == ({"fp16": 2}, "builder log")
    assert plan.labels.classes == ["a", "b", "c"]


def test_engine_is_built_once_for_equal_graph_buckets_and_target(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make(folder)
    builds = []
    monkeypatch.setattr(package, "build", lambda *arguments: builds.append(arguments) or build(*arguments))
    assert make(folder) == engine
    assert not builds
    engine.write_bytes(b"damaged")
    assert make(folder) == engine
    assert len(builds) == 1


def test_new_graph_or_buckets_supersede_the_engine_and_its_verdict(folder: Path) -> None:
    first = make(folder)
    relative = first.relative_to(folder).as_posix()
    artifact.write_manifest(folder, {"exports": {relative: {"verdict": "passed"}, "onnx/model.onnx": {}}})
    second = make(folder, parse_buckets("24x16"))
    onnx.save(deployed_graph("fp16", pad="remainder"), folder / GRAPHS["fp16"])
    third = make(folder, parse_buckets("24x16"))
    assert len({first, second, third}) == 3
    assert list((folder / "tensorrt").glob("*.engine")) == [third]
    assert list((folder / "tensorrt").glob("*.json")) == [third.with_suffix(".json")]
    assert artifact.read_manifest(folder)["exports"] == {"onnx/model.onnx": {}}


def test_nothing_is_written_when_layers_run_in_another_precision(folder: Path) -> None:
    onnx.save(deployed_graph("fp16", float_layers=("first",)), folder / GRAPHS["fp16"])
    with pytest.raises(UserError, match=r"the engine is not fp16: first \(fp32\)"):
        make(folder)
    assert not (folder / "tensorrt").exists()


def test_refusals_are_one_line_that_names_the_fix(folder: Path) -> None:
    graph = folder / GRAPHS["fp16"]
    with pytest.raises(UserError, match=r"TensorRT is not installed: pip install 'semseg-app\[gpu\]'"):
        export_tensorrt(folder, graph, BUCKETS, 2, "tensorrt")
    with pytest.raises(UserError, match="TensorRT builds for the GPU of this machine; ahead of time, use --to tens"):
        export_tensorrt(folder, graph, BUCKETS, 2, "tensorrt", ADA)
    with pytest.raises(UserError, match=r"builds ahead of time for 7\.5, 8\.0, 8\.6, 8\.9, 12\.0"):
        make(folder, capabilities=["9.0"])
    broken = deployed_graph("fp16")
    next(node for node in broken.graph.node if node.op_type == "Relu").op_type = "Nonsense"
    graph.write_bytes(broken.SerializeToString())
    with pytest.raises(UserError, match=r"TensorRT cannot parse Nonsense 'hidden_node' of the graph: "):
        make(folder)
    assert "8.9" in target_capabilities(tensorrt_rtx)


# --- the command -----------------------------------------------------------------------------------------------------


class OnGpu:
    """Stands for the engine where its GPU is: the graph in ONNX Runtime, and what a defect makes of its classes."""

    kind, device = "tensorrt", "cuda:0"

    def __init__(self, graph: Path, defect: Callable[[np.ndarray], np.ndarray] = np.copy):
        self._engine = open_engine(graph, "onnxruntime", "cpu")
        self._defect = defect
        self.precision, self.labels, self.name = "fp32", self._engine.labels, "on gpu"

    def infer(self, images: np.ndarray) -> Prediction:
        classes, confidence = self._engine.infer(images)
        return Prediction(self._defect(classes), confidence)


def test_command_builds_checks_verifies_and_records(
    exported: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "GENERATED_SIZE", (48, 64))
    monkeypatch.setattr(verify_module, "SIZES", ((37, 41),))
    monkeypatch.setattr(verify_module, "TIMED_RUNS", 1)
    monkeypatch.setattr("semseg_app.machine.cores", lambda: 1)  # threads that share a busy core wait for each other
    folder = shutil.copytree(exported("deeplabv3plus"), tmp_path / "model")
    record(folder, folder / GRAPHS["fp32"], verify(folder, folder / GRAPHS["fp32"]))
    graph = (folder / GRAPHS["fp32"]).read_bytes()
    arguments = ["--to", "tensorrt-rtx", "--buckets", "64x48,40x40", "--compute-capability", "8.9", "--max-batch", "2"]
    result = CliRunner().invoke(app, [str(folder), *arguments, "--json"])
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    engine = Path(answer.pop("file"))
    assert answer == artifact.read_manifest(folder)["exports"][f"tensorrt/{engine.name}"]
    assert (answer["verdict"], answer["device"], answer["layers_read_from"]) == ("unverified", None, "builder log")
    assert "does not run here" in answer["reasons"][0]
    assert answer["layers"] == {"fp32": 30}
    assert "latency_ms" not in answer, "ONNX Runtime's, not the engine's"
    assert "verdict: unverified" in result.stderr
    assert (folder / GRAPHS["fp32"]).read_bytes() == graph, "what has passed is not exported again"

    # The same engine, where a GPU runs it.
    monkeypatch.setattr(engine_verification, "open_tensorrt", lambda path, device: OnGpu(folder / GRAPHS["fp32"]))
    entry = verify_engine(folder, engine)
    assert (entry["verdict"], entry["reasons"], entry["device"]) == ("passed", [], "cuda:0")
    shapes = {(row["height"], row["width"], row["batch"]) for row in entry["by_size"]}
    assert shapes == {(*size, batch) for size in ((48, 64), (40, 40), (48, 64)) for batch in (1, 2)}
    assert entry["latency_ms"]["height"] == 48

    def swap(classes: np.ndarray) -> np.ndarray:
        return np.where(classes < 2, 1 - classes, classes)

    monkeypatch.setattr(engine_verification, "open_tensorrt", lambda path, device: OnGpu(folder / GRAPHS["fp32"], swap))
    entry = verify_engine(folder, engine)
    assert entry["verdict"] == "rejected"
    assert "of the pixels agree, below 99.99%" in entry["reasons"][0]


def test_command_says_what_it_needs_before_it_exports(exported: Callable[[str], Path], tiny_dataset: Path) -> None:
    folder = str(exported("deeplabv3plus"))
    for arguments, line in (
        (["tensorrt", "--buckets", "64x48"], r"TensorRT is not installed: pip install 'semseg-app\[gpu\]'"),
        (["tensorrt-rtx"], "no photo sizes: give --buckets, e.g. 512x512,480x360, or --data to take a dataset's sizes"),
        (["triton", "--buckets", "64"], "--buckets 64: '64' is no size"),
        (
            ["triton", "--buckets", "64x48", "--compute-capability", "8.9"],
            "--compute-capability: only for --to tensorrt-",
        ),
    ):
        result = CliRunner().invoke(app, [folder, "--to", *arguments])
        assert isinstance(result.exception, UserError)
        assert line.replace("\\", "") in str(result.exception)
    assert EngineOptions.check(
        "triton", ExportData(open_folder(tiny_dataset)), None, 4, None, "onnxruntime"
    ).buckets.sizes == (Size(48, 64),)


# --- every architecture ----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("architecture", [*ARCHITECTURES][::-1])  # another process may be at the first ones
def test_every_architecture_compiles_with_three_buckets(
    exported: Callable[[str], Path], tmp_path: Path, architecture: str, precision: str
) -> None:
    source = exported(architecture)
    folder = tmp_path / "model"
    (folder / "onnx").mkdir(parents=True)
    (folder / "config.json").write_bytes((source / "config.json").read_bytes())
    if precision == "fp16":
        graph = export_fp16(folder, source / GRAPHS["fp32"], generated_photos(1))
    else:
        calibration = Calibration(generated_photos(1), "generated")
        graph = export_int8(folder, source / GRAPHS["fp32"], calibration, lambda candidate: True)
    buckets = parse_buckets("160x120,128x128,131x127")
    plan = read_plan(export_tensorrt(folder, graph, buckets, 2, "tensorrt_rtx", ADA))
    assert len(plan.profiles) == 4
    assert plan.layers[precision] > 0.5 * sum(plan.layers.values())
