"""`semseg benchmark`: the measurement with engines whose speed and memory are known, and the verb with real graphs."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import helper
from PIL import Image
from support.sleeping_engine import sleeping

from semseg_app.artifact import read_config, write_manifest
from semseg_app.benchmark import BenchmarkPlan, benchmark
from semseg_app.benchmark.report import pareto_front
from semseg_app.benchmark.variants import find_variants
from semseg_app.benchmark.worker import Worker, WorkerError, identify, take_turn
from semseg_app.cli.main import main
from semseg_app.errors import UserError
from semseg_app.inference.engines import plans
from semseg_app.machine import Gpu

MakeGraph = Callable[..., Path]


def test_speed_and_memory_are_each_engine_s_own() -> None:
    told: list[tuple[int, int]] = []
    slow, fast, failing = benchmark(
        [sleeping(0.1), sleeping(0.005, megabytes=200), sleeping(0.001, fails="running")],
        BenchmarkPlan(sizes=[(32, 16)], batch_sizes=[2], concurrency=[1], threads=1, rounds=3),
        update=lambda *steps: told.append(steps),
    )
    assert told == [(step + 1, 3 + 3 * 3) for step in range(12)]
    assert (slow.width, slow.height, slow.batch, slow.concurrency, slow.miou) == (32, 16, 2, 1, None)
    assert slow.p50_ms >= 100
    assert 5 <= fast.p50_ms < slow.p50_ms
    assert slow.speedup == 1
    assert fast.speedup > 2
    # The other engine's images a second are of a batch of two.
    assert slow.images_per_second <= 2 / 0.1
    assert 150 < fast.peak_memory_mb - slow.peak_memory_mb < 250
    # A turn of 0.2 s has at most two calls of 0.1 s: too few for a percentile.
    assert 3 <= slow.calls <= 3 * 2
    assert (slow.p95_ms, slow.p99_ms) == (None, None)
    assert (failing.error, failing.p50_ms, failing.speedup) == ("RuntimeError: no room for these", None, None)


def test_concurrency_is_engines_side_by_side() -> None:
    plan = BenchmarkPlan(sizes=[(8, 8)], batch_sizes=[1], concurrency=[1, 3], threads=7, rounds=3)
    one, three = benchmark([sleeping(0.1)], plan)
    assert (one.threads, three.threads) == (7, 2)
    assert one.images_per_second <= 1 / 0.1
    assert one.images_per_second * 1.5 < three.images_per_second <= 3 / 0.1
    assert one.error is three.error is None  # an engine never had two calls at once


def test_a_process_that_dies_is_a_line_of_its_own() -> None:
    with Worker(sleeping(0, fails="dying").open, threads=1) as worker:
        assert worker.call(identify).kind == "fake"
        with pytest.raises(WorkerError, match="its process was killed; most likely memory ran out"):
            worker.call(take_turn, (1, 8, 8), 0)


def test_an_engine_that_does_not_open_ends_it_before_anything_is_measured() -> None:
    plan = BenchmarkPlan(sizes=[(8, 8)], batch_sizes=[1], concurrency=[1], threads=1, rounds=1000)
    with pytest.raises(UserError, match="fake does not open it: RuntimeError: no such weights"):
        benchmark([sleeping(1, fails="opening")], plan)


def test_pareto_front() -> None:
    points = [(5.0, 60.0), (1.0, 50.0), (3.0, 49.0), (2.0, 55.0), (2.0, 54.0), (6.0, 60.0)]
    assert pareto_front(points) == [(1.0, 50.0), (2.0, 55.0), (5.0, 60.0)]


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run `semseg` in this process; -> exit code."""

    def run(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["semseg", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        assert isinstance(caught.value.code, int)
        return caught.value.code

    return run


def slowed(path: Path, target: Path) -> Path:
    """The same graph with a detour that changes nothing: each pixel squared, and the root taken, forty times."""
    model = onnx.load(path)
    detour, value = [], "pixels"
    for index in range(40):
        detour.append(helper.make_node("Mul", [value, value], [f"square{index}"]))
        detour.append(helper.make_node("Sqrt", [f"square{index}"], [f"root{index}"]))
        value = f"root{index}"
    model.graph.node[1].input[0] = value
    nodes = [model.graph.node[0], *detour, *list(model.graph.node)[1:]]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, target)
    return target


def test_the_verb_with_real_graphs(
    make_graph: MakeGraph,
    tiny_dataset: Path,
    tmp_path: Path,
    verb: Callable[..., int],
    capfd: pytest.CaptureFixture[str],
) -> None:
    classes = ["ground", "box", "disc"]
    metadata = {"format_version": 1, "precision": "fp32"}
    metadata["labels"] = {"classes": classes, "palette": [[90, 90, 90], [200, 60, 40], [40, 90, 210]]}
    fast = make_graph(metadata=metadata | {"name": "fast"})
    make_graph(tmp_path / "slow.onnx", metadata=metadata | {"name": "slow"})
    slow = slowed(tmp_path / "slow.onnx", tmp_path / "slow.onnx")
    out = tmp_path / "out"
    options = ("--sizes", "640x480,320x240", "--rounds", 3, "--threads", 1, "--data", tiny_dataset, "--json")
    assert verb("benchmark", slow, fast, "--out", out, *options) == 0
    report = json.loads(capfd.readouterr().out)
    assert verb("evaluate", fast, "--data", tiny_dataset, "--json") == 0
    scores = json.loads(capfd.readouterr().out)

    assert json.loads((out / "results.json").read_text()) == report
    assert [(row["model"], row["width"], row["height"]) for row in report["rows"]] == [
        ("slow", 640, 480),
        ("fast", 640, 480),
        ("slow", 320, 240),
        ("fast", 320, 240),
    ]
    large, small = report["rows"][:2], report["rows"][2:]
    for slow_row, fast_row in (large, small):
        assert slow_row["p50_ms"] > fast_row["p50_ms"]
        assert fast_row["speedup"] > 1
    assert large[0]["p50_ms"] > small[0]["p50_ms"]
    assert {row["miou"] for row in report["rows"]} == {scores["miou"]}
    assert 0 < scores["miou"] < 1
    assert report["data"]["fingerprint"] == scores["data_fingerprint"]
    assert {"python", "numpy", "onnxruntime"} <= report["versions"].keys()
    assert report["hardware"]["cores"] >= 1

    table = (out / "results.md").read_text()
    assert "| model | engine | precision | size | batch | clients | p50 ms |" in table
    assert "GPU MB" not in table  # a column without a value
    fast_line = next(line for line in table.splitlines() if line.startswith("| fast | onnxruntime | fp32 | 640x480 |"))
    assert fast_line.endswith(f" | {100 * scores['miou']:.2f} |")
    with Image.open(out / "pareto.png") as plot:
        assert plot.format == "PNG"
        assert plot.width > plot.height  # a panel a size

    assert verb("benchmark", fast, "--out", out, "--sizes", "64x48", "--rounds", 1) == 0
    assert not (out / "pareto.png").exists()  # it would be taken for one of these results


def test_what_a_folder_has(
    make_graph: MakeGraph, network_folder: Path, verb: Callable[..., int], capfd: pytest.CaptureFixture[str]
) -> None:
    make_graph(network_folder / "onnx" / "model.onnx")
    int8 = make_graph(network_folder / "onnx" / "model-int8.onnx")  # which calls itself fp32
    write_manifest(network_folder, {"exports": {"onnx/model-int8.onnx": {"verdict": "rejected"}}})

    def found(*options: list[str]) -> list[tuple[str, str | None, str | None]]:
        return [(each.kind, each.precision, each.verdict) for each in find_variants([str(network_folder)], *options)]

    torch, fp32, rejected = (
        ("torch", "fp32", None),
        ("onnxruntime", "fp32", None),
        ("onnxruntime", "int8", "rejected"),
    )
    openvino = [("openvino", *each[1:]) for each in (fp32, rejected)]
    assert found() == [torch, fp32, rejected, *openvino]
    assert found(["onnxruntime"], []) == [fp32, rejected]
    assert found(["openvino"], ["int8"]) == openvino[1:]
    assert found([], ["fp32"]) == [torch, fp32, openvino[0]]
    assert len(find_variants([str(network_folder), str(int8)])) == 5  # named twice, measured once
    # It runs although it was rejected, and then gives itself away.
    assert verb("benchmark", network_folder, "--precision", "int8", "--out", "out") == 2
    assert f"{int8}: is in fp32, not in int8" in capfd.readouterr().err


def test_tensorrt_engines_that_run_here(network_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    h200 = plans.Plan(
        name="tiny",
        labels=read_config(network_folder).labels,
        precision="fp16",
        binding="tensorrt",
        version="11.4.0",
        gpu="NVIDIA H200",
        capabilities=["9.0"],
        profiles=[plans.Profile(*[plans.Shape(1, 64, 96)] * 3)],
        graph="onnx/model-fp16.onnx",
        graph_sha256="",
        sha256="",
        key="",
        layers={"fp16": 1},
        layers_read_from="engine inspector",
        seconds=1,
    )
    built = {
        "h200": h200,
        "older": h200.model_copy(update={"version": "11.3.0"}),
        "l40": h200.model_copy(update={"gpu": "NVIDIA L40", "capabilities": ["8.9"]}),
    }
    folder = network_folder / "tensorrt"
    folder.mkdir()
    for name, plan in built.items():
        (folder / f"{name}.engine").touch()
        (folder / f"{name}.json").write_text(plan.model_dump_json())

    def found(**options: Any) -> list[str]:
        return [variant.path.name for variant in find_variants([str(network_folder)], **options)]

    assert found() == ["tiny"]  # no GPU
    monkeypatch.setattr("semseg_app.machine.gpus", lambda: [Gpu("NVIDIA H200", "580.95", 143_771, 0, "9.0")])
    monkeypatch.setattr("semseg_app.machine.versions", lambda: {"tensorrt": "11.4.0"})
    assert found() == ["tiny", "h200.engine"]
    assert found(device="cpu") == ["tiny"]
    assert found(engines=["tensorrt"]) == ["h200.engine", "l40.engine", "older.engine"]
    named = folder / "l40.engine"
    assert [(variant.kind, variant.precision) for variant in find_variants([str(named)])] == [("tensorrt", "fp16")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sizes", "512"], "--sizes 512: width x height in pixels"),
        (["--sizes", "0x4"], "--sizes 0x4: width x height"),
        (["--batch-sizes", "1,zero"], "--batch-sizes 1,zero: whole numbers from 1"),
        (["--concurrency", "0"], "--concurrency 0: whole numbers from 1"),
        (["--engine", "tflite"], "--engine tflite: unknown; choose one of torch"),
        (["--precision", "fp8"], "--precision fp8: unknown; choose one of fp32"),
        (["--limit", "3"], "--limit: belongs to --data DATASET"),
        (["--precision", "fp16"], "model-fp16.onnx: missing; run `semseg export"),
        (["--engine", "torch", "--precision", "int8"], "the torch engine runs fp32, not int8"),
        (["--engine", "tensorrt"], "no engine in fp32 or fp16 or int8; run `semseg export"),
        (["--data", "nowhere"], "nowhere"),
        (["--engine", "torch", "--out", __file__], f"because {__file__} is no folder; choose another path"),
    ],
)
def test_misuse_is_one_line_and_exits_with_2(
    network_folder: Path,
    tmp_path: Path,
    verb: Callable[..., int],
    capfd: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    assert verb("benchmark", network_folder, "--out", tmp_path / "out", *options) == 2
    said = capfd.readouterr()
    assert message in said.err
    assert len(said.err.splitlines()) == 1
    assert not said.out
    assert not (tmp_path / "out").exists()
