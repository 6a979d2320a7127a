"""The Triton repository: its files, and its config.pbtxt read by protobuf against Triton's own field names."""

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from support.tensorrt_graphs import deployed_graph

from semseg_app import artifact
from semseg_app.artifact import ModelConfig
from semseg_app.errors import UserError
from semseg_app.export.tensorrt.buckets import parse_buckets
from semseg_app.export.triton import export_triton, serve_engine, serve_graph
from semseg_app.inference.engines.base import GRAPHS
from semseg_app.inference.engines.plans import Plan, Profile, Shape
from semseg_app.labels import LabelSpace
from semseg_app.model_spec import ModelSpec

BUCKETS = parse_buckets("480x360,512x512")
LABELS = LabelSpace(classes=["Straße", "sky", 'the "rest"'], palette=[(0, 0, 0), (1, 1, 1), (2, 2, 2)])

STRING, INT32, INT64, UINT64, UINT32, BOOL, ENUM, MESSAGE = 9, 5, 3, 4, 13, 8, 14, 11
MESSAGES = {
    "ModelConfig": [
        ("name", 1, STRING),
        ("backend", 17, STRING),
        ("max_batch_size", 4, INT32),
        ("input", 5, "ModelInput", True),
        ("output", 6, "ModelOutput", True),
        ("instance_group", 7, "ModelInstanceGroup", True),
        ("default_model_filename", 8, STRING),
        ("dynamic_batching", 11, "ModelDynamicBatching"),
        ("optimization", 12, "ModelOptimizationPolicy"),
        ("parameters", 14, "ParametersEntry", True),
        ("model_warmup", 16, "ModelWarmup", True),
    ],
    "ModelInput": [("name", 1, STRING), ("data_type", 2, "DataType"), ("dims", 4, INT64, True)],
    "ModelOutput": [("name", 1, STRING), ("data_type", 2, "DataType"), ("dims", 3, INT64, True)],
    "ModelInstanceGroup": [("kind", 4, "Kind"), ("count", 2, INT32), ("profile", 5, STRING, True)],
    "ModelDynamicBatching": [
        ("preferred_batch_size", 1, INT32, True),
        ("max_queue_delay_microseconds", 2, UINT64),
        ("default_queue_policy", 5, "ModelQueuePolicy"),
    ],
    "ModelQueuePolicy": [("max_queue_size", 4, UINT32)],
    "ModelOptimizationPolicy": [("cuda", 3, "Cuda")],
    "Cuda": [("graphs", 1, BOOL)],
    "ModelWarmup": [
        ("name", 1, STRING),
        ("batch_size", 2, UINT32),
        ("inputs", 3, "InputsEntry", True),
        ("count", 4, UINT32),
    ],
    "InputsEntry": [("key", 1, STRING), ("value", 2, "WarmupInput")],
    "WarmupInput": [("data_type", 1, "DataType"), ("dims", 2, INT64, True), ("random_data", 4, BOOL)],
    "ParametersEntry": [("key", 1, STRING), ("value", 2, "ModelParameter")],
    "ModelParameter": [("string_value", 1, STRING)],
}
"""What we use of triton-inference-server/common, protobuf/model_config.proto: (name, number, type, repeated)."""
ENUMS = {"DataType": {"TYPE_INVALID": 0, "TYPE_UINT8": 2}, "Kind": {"KIND_AUTO": 0, "KIND_GPU": 1, "KIND_CPU": 2}}


def model_config() -> Any:
    """An empty ModelConfig."""
    file = descriptor_pb2.FileDescriptorProto(name="model_config.proto", package="inference", syntax="proto3")
    for name, numbers in ENUMS.items():
        enum = file.enum_type.add(name=name)
        for word, number in numbers.items():
            enum.value.add(name=word, number=number)
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind, *repeated in fields:
            entry = message.field.add(name=field, number=number, label=3 if repeated else 1)
            if isinstance(kind, str):
                entry.type, entry.type_name = ENUM if kind in ENUMS else MESSAGE, f".inference.{kind}"
            else:
                entry.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))()


def parsed(repository: Path) -> dict[str, Any]:
    return {
        path.parent.name: text_format.Parse(path.read_text(), model_config()) for path in repository.glob("*/*.pbtxt")
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "m"
    (root / "onnx").mkdir(parents=True)
    onnx.save(deployed_graph("fp16"), root / GRAPHS["fp16"])
    spec = ModelSpec(architecture="unet", encoder="tu-test_resnet", num_classes=3)
    (root / "config.json").write_text(ModelConfig(name="Street, Student", model=spec, labels=LABELS).model_dump_json())
    return root


def add_engine(folder: Path, name: str, **changes: Any) -> Path:
    sizes = ((360, 480), (512, 512))
    shapes = [Profile(Shape(1, *size), Shape(8, *size), Shape(8, *size)) for size in sizes]
    values = {
        "name": "Street, Student",
        "labels": LABELS,
        "precision": "int8",
        "binding": "tensorrt",
        "version": "11.4.0",
        "gpu": "NVIDIA L4",
        "capabilities": ["8.9"],
        "profiles": [*shapes, Profile(Shape(1, 1, 1), Shape(8, 360, 480), Shape(8, 512, 512))],
        "graph": "onnx/model-int8.onnx",
        "graph_sha256": "",
        "sha256": "",
        "key": "",
        "layers": {},
        "layers_read_from": "engine inspector",
        "seconds": 1.0,
    }
    path = folder / "tensorrt" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"engine")
    path.with_suffix(".json").write_text(Plan.model_validate(values | changes).model_dump_json())
    return path


def test_graph_is_served_at_every_size_and_once_a_bucket(folder: Path) -> None:
    graph = folder / GRAPHS["fp16"]
    repository = export_triton(folder, serve_graph(graph, BUCKETS, batch=4))
    assert repository == folder / "triton"
    models = parsed(repository)
    sides = {
        "street-student": [-1, -1],
        "street-student_480x360": [360, 480],
        "street-student_512x512": [512, 512],
    }
    assert models.keys() == sides.keys()
    for name, config in models.items():
        assert (repository / name / "1" / config.default_model_filename).read_bytes() == graph.read_bytes()
        assert (config.name, config.backend, config.max_batch_size) == (name, "onnxruntime", 4)
        assert [(one.name, one.data_type, list(one.dims)) for one in config.input] == [("images", 2, [*sides[name], 3])]
        assert [(one.name, one.data_type, list(one.dims)) for one in config.output] == [
            ("classes", 2, sides[name]),
            ("confidence", 2, sides[name]),
        ]
        assert list(config.dynamic_batching.preferred_batch_size) == [4]
        assert config.dynamic_batching.max_queue_delay_microseconds == 2000
        assert config.dynamic_batching.default_queue_policy.max_queue_size == 64
        assert [(group.count, group.kind, list(group.profile)) for group in config.instance_group] == [(1, 0, [])]
        (parameter,) = config.parameters
        assert parameter.key == "semseg_app"
        assert json.loads(parameter.value.string_value)["precision"] == "fp16"
    warm = {(one.batch_size, *one.inputs[0].value.dims) for one in models["street-student"].model_warmup}
    assert warm == {(batch, *size, 3) for batch in (1, 4) for size in BUCKETS.sizes}
    (first, second) = models["street-student_480x360"].model_warmup
    assert (first.batch_size, second.batch_size) == (1, 4)
    assert first.inputs[0].key == "images"
    assert first.inputs[0].value.random_data
    assert list(first.inputs[0].value.dims) == [360, 480, 3]


def test_engine_brings_its_buckets_and_each_has_an_instance_with_its_profile(folder: Path) -> None:
    engine = add_engine(folder, "int8-trt.engine")
    add_engine(folder, "fp16-trt.engine", precision="fp16")
    add_engine(folder, "int8-rtx.engine", binding="tensorrt_rtx")
    repository = export_triton(folder, serve_engine(folder, "int8"))
    models = parsed(repository)
    profiles = {
        "street-student": ["0", "1", "2"],
        "street-student_480x360": ["0"],
        "street-student_512x512": ["1"],
    }
    assert models.keys() == profiles.keys()
    for name, config in models.items():
        assert (config.backend, config.max_batch_size, config.default_model_filename) == ("tensorrt", 8, "model.plan")
        assert [(one.kind, list(one.profile)) for one in config.instance_group] == [(1, profiles[name])]
        assert config.optimization.cuda.graphs == (name != "street-student")
        assert (repository / name / "1" / "model.plan").read_bytes() == engine.read_bytes()
        described = json.loads(config.parameters[0].value.string_value)
        assert described["labels"]["classes"] == LABELS.classes
        assert (described["gpu"], described["version"]) == ("NVIDIA L4", "11.4.0")


def test_repository_is_replaced_whole(folder: Path) -> None:
    served = serve_graph(folder / GRAPHS["fp16"], BUCKETS, batch=4)
    export_triton(folder, served)
    (folder / "triton" / "left" / "over").mkdir(parents=True)
    export_triton(folder, served._replace(sizes=served.sizes[:1]))
    assert {path.name for path in (folder / "triton").iterdir()} == {"street-student", "street-student_480x360"}
    assert {path.name for path in folder.iterdir()} == {"config.json", "onnx", "triton"}


def test_what_is_missing_or_was_rejected_is_not_served(folder: Path) -> None:
    with pytest.raises(
        UserError, match=r"not one fp16 engine of TensorRT; run `semseg export .* --precision fp16` fir"
    ):
        serve_engine(folder, "fp16")
    add_engine(folder, "a.engine", precision="fp16", binding="tensorrt_rtx")
    with pytest.raises(UserError, match="Triton does not run engines of TensorRT for RTX"):
        serve_engine(folder, "fp16")
    add_engine(folder, "b.engine", precision="fp16")
    add_engine(folder, "c.engine", precision="fp16", gpu="NVIDIA A10")
    with pytest.raises(UserError, match=r"there are b\.engine, c\.engine: move all but one away"):
        serve_engine(folder, "fp16")
    add_engine(folder, "d.engine", precision="int8", graph_sha256="of the graph before", graph="onnx/model-fp16.onnx")
    with pytest.raises(UserError, match=r"d\.engine: was built from an earlier onnx/model-fp16\.onnx"):
        serve_engine(folder, "int8")
    entry = {"verdict": "rejected", "reasons": ["swapped"]}
    artifact.write_manifest(folder, {"exports": {"onnx/model-fp16.onnx": entry}})
    with pytest.raises(UserError, match=r"model-fp16\.onnx: rejected when it was verified: swapped"):
        export_triton(folder, serve_graph(folder / GRAPHS["fp16"], BUCKETS, 4))
    assert not (folder / "triton").exists()
