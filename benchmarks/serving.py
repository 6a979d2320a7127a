"""Requests per second and latencies of `semseg serve`, LitServe, plain FastAPI and the bare loop: one run, one graph.

    python benchmarks/serving.py [--graph GRAPH.onnx] [--seconds 2] [--rounds 3] [--json RESULT.json]
    python benchmarks/serving.py --graph MODEL/onnx/model.onnx --ours MODEL/onnx/model-int8.onnx --engine openvino

A 480x360 JPEG goes in as a form, a PNG mask comes out; server and client share the machine's cores. Without --graph it
measures two that it makes itself: DeepLabV3+ on ResNet-18 with random weights (needs the extra `export`), and one that
computes nearly nothing, so that what is left is the server. LitServe is measured where it is installed
(pip install litserve). With --ours, `semseg serve` has that graph while the others have GRAPH. Then, for `semseg serve`
alone: p99 at 80 % of the load that it can take against p99 unloaded, with even and with random (Poisson) arrivals, in
turn with a loop without a server that gets the same even arrivals, for what of it is the machine's; and five times that
load, with statuses and growth of memory.

Other programs on the machine move every figure, so compare within one run: in each round every server has its turn,
and what is shown are medians over the rounds, of ratios too.
"""

import argparse
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

HERE = Path(__file__).parent
CONCURRENCY = (1, 4, 16)
WIDTH, HEIGHT = 480, 360


def make_photo(path: Path) -> None:
    """A generated street as a JPEG of 480x360."""
    from semseg_app.synthetic import generate

    generate(path.parent / "streets", train=1, val=0, size=(HEIGHT, WIDTH))
    path.write_bytes(next((path.parent / "streets" / "images" / "train").iterdir()).read_bytes())


def make_deeplab(folder: Path) -> Path:
    """DeepLabV3+ on ResNet-18, random weights, 12 classes."""
    import torch

    from semseg_app import models
    from semseg_app.artifact import ModelConfig
    from semseg_app.export.onnx import export_onnx
    from semseg_app.labels import LabelSpace
    from semseg_app.model_spec import ModelSpec

    torch.manual_seed(0)
    spec = ModelSpec(architecture="deeplabv3plus", encoder="resnet18", num_classes=12)
    labels = LabelSpace(
        classes=[f"class {index}" for index in range(12)], palette=[(index, 0, 0) for index in range(12)]
    )
    models.save_network(folder, models.build(spec).eval(), ModelConfig(name="deeplab", model=spec, labels=labels))
    return export_onnx(folder)


def make_nearly_empty(path: Path) -> Path:
    """A deployed graph that takes the upper bits of one channel for the class."""
    from onnx import TensorProto, helper, numpy_helper, save

    nodes = [
        helper.make_node("Split", ["images"], ["red", "green", "blue"], axis=3, num_outputs=3),
        helper.make_node("Squeeze", ["green", "last"], ["level"]),
        helper.make_node("BitShift", ["level", "five"], ["classes"], direction="RIGHT"),
        helper.make_node("Squeeze", ["red", "last"], ["confidence"]),
    ]
    shape = ["batch", "height", "width"]
    graph = helper.make_graph(
        nodes,
        "nearly_empty",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, [*shape, 3])],
        [helper.make_tensor_value_info(name, TensorProto.UINT8, shape) for name in ("classes", "confidence")],
        [
            numpy_helper.from_array(np.array([3], np.int64), "last"),
            numpy_helper.from_array(np.array(5, np.uint8), "five"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    labels = {"classes": [str(index) for index in range(8)], "palette": [[30 * index, 0, 0] for index in range(8)]}
    metadata = {"format_version": 1, "name": "nearly empty", "labels": labels, "precision": "fp32"}
    helper.set_model_props(model, {"semseg_app": json.dumps(metadata)})
    save(model, path)
    return path


@contextmanager
def running(
    rival: str, graph: Path, engine: str = "onnxruntime", codec: str = "ours", session: str = "default"
) -> Iterator[tuple[str, int]]:
    """A server of its own process: (address that segments, process id). `engine` is ours, the rest the rivals'."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    if rival == "ours":
        command = [
            "-m",
            "semseg_app.cli",
            "serve",
            str(graph),
            "--engine",
            engine,
            "--device",
            "cpu",
            "--no-demo",
        ]
    else:
        command = [str(HERE / "serving_rivals.py"), rival, str(graph), "--codec", codec, "--session", session]
    with subprocess.Popen(
        [sys.executable, *command, "--port", str(port)], stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        url = f"http://127.0.0.1:{port}/{'v1/segment' if rival == 'ours' else 'segment'}"
        try:
            wait_until_ready(f"http://127.0.0.1:{port}/health/ready" if rival == "ours" else url, process)
            yield url, process.pid
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def wait_until_ready(url: str, process: "subprocess.Popen[bytes]") -> None:
    """Until it answers anything but 503."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"the server of {url} ended")
        try:
            urllib.request.urlopen(url, timeout=1)
            return
        except urllib.error.HTTPError as error:
            if error.code != 503:
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise SystemExit(f"nothing answers at {url}")


def load(url: str, photo: Path, seconds: float, *options: object) -> dict[str, Any]:
    """What load.py prints, in a process of its own."""
    command = [sys.executable, HERE / "load.py", url, photo, "--seconds", seconds, *options]
    done = subprocess.run([str(part) for part in command], capture_output=True, check=True, text=True)
    return dict(json.loads(done.stdout))


def without_server(kind: str, graph: Path, photo: Path, seconds: float, *options: object) -> dict[str, Any]:
    """What serving_rivals.py prints of a loop of this kind."""
    command = [sys.executable, HERE / "serving_rivals.py", kind, graph, "--photo", photo, "--seconds", seconds]
    done = subprocess.run([str(part) for part in [*command, *options]], capture_output=True, check=True, text=True)
    return dict(json.loads(done.stdout))


def bare(graph: Path, photo: Path, arguments: argparse.Namespace) -> float:
    options = "--codec", arguments.codec, "--session", arguments.session
    return float(without_server("bare", graph, photo, arguments.seconds, *options)["per_second"])


def resident_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def p99(each_ms: list[float]) -> float:
    return sorted(each_ms)[int(0.99 * len(each_ms))]


def ratios(loaded: list[list[float]], unloaded: list[list[float]]) -> list[float]:
    """The p99 under load divided by the unloaded p99, for each round."""
    return [round(p99(one) / p99(other), 2) for one, other in zip(loaded, unloaded, strict=True)]


def under_pressure(graph: Path, photo: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure `semseg serve`: latencies at 80 % of what it takes, and what becomes of five times as much.

    The machine's speed moves, and now and then it stands still, so in each round every kind of load has its turn.
    """
    seconds, engine = arguments.pressure_seconds, arguments.engine
    names = "unloaded", "even", "poisson", "loop unloaded", "loop even"
    rounds: dict[str, list[list[float]]] = {name: [] for name in names}
    with running("ours", graph, engine) as (url, pid):
        load(url, photo, 1, "--concurrency", 4)
        for _ in range(arguments.pressure_rounds):
            capacity = float(load(url, photo, seconds, "--concurrency", 16)["per_second"])
            even = "--rate", 0.8 * capacity
            for name, options in ("unloaded", ()), ("even", even), ("poisson", (*even, "--poisson")):
                rounds[name].append(load(url, photo, seconds, "--each", *options)["each_ms"])
            for name, options in ("loop unloaded", ()), ("loop even", even):
                loop = without_server("steady", graph, photo, seconds, "--engine", engine, *options)
                rounds[name].append(loop["each_ms"])
        before = resident_mib(pid)
        overload = load(url, photo, seconds, "--rate", 5 * capacity, "--concurrency", 512)
        together = {name: [each for part in parts for each in part] for name, parts in rounds.items()}
        return {
            "requests_at_80_percent": len(together["even"]),
            "p50_ms": {name: median(each) for name, each in together.items()},
            "p99_ms": {name: p99(each) for name, each in together.items()},
            "p99_even_over_unloaded_each_round": ratios(rounds["even"], rounds["unloaded"]),
            "the_loops": ratios(rounds["loop even"], rounds["loop unloaded"]),
            "overload": overload,
            "resident_growth_mib": round(resident_mib(pid) - before, 1),
        }


def compare(graph: Path, ours: Path, photo: Path, rivals: list[str], arguments: argparse.Namespace) -> dict[str, Any]:
    """In each round every server in turn, at every concurrency, and the bare loop. The others are held meanwhile:
    LitServe's processes ask their queues for work all the time, which takes 7 % of two cores even when idle."""
    result: dict[str, Any] = {"bare": [], **{rival: {count: [] for count in CONCURRENCY} for rival in rivals}}
    with ExitStack() as stack:
        graphs = {rival: ours if rival == "ours" else graph for rival in rivals}
        servers = {
            rival: stack.enter_context(
                running(rival, graphs[rival], arguments.engine, arguments.codec, arguments.session)
            )
            for rival in rivals
        }
        for url, pid in servers.values():
            load(url, photo, 1, "--concurrency", 4)
            os.killpg(pid, signal.SIGSTOP)
        for _ in range(arguments.rounds):
            result["bare"].append(bare(graph, photo, arguments))
            for count in CONCURRENCY:
                for rival, (url, pid) in servers.items():
                    os.killpg(pid, signal.SIGCONT)
                    load(url, photo, 0.3, "--concurrency", count)
                    result[rival][count].append(load(url, photo, arguments.seconds, "--concurrency", count))
                    os.killpg(pid, signal.SIGSTOP)
    return result


def show(name: str, result: dict[str, Any], rivals: list[str]) -> None:
    """Medians over the rounds; ratios are medians of each round's."""
    print(f"\n{name}: bare loop {median(result['bare'])} images per second")
    for count in CONCURRENCY:
        for rival in rivals:
            rows = result[rival][count]
            per_second = [row["per_second"] for row in rows]
            times_bare = median(a / b for a, b in zip(per_second, result["bare"], strict=True))
            times = ""
            if rival != "ours":
                ours = [row["per_second"] for row in result["ours"][count]]
                times = f"   ours does {median(a / b for a, b in zip(ours, per_second, strict=True)):.2f} times as many"
            p50, p99 = (median(row[name] for row in rows) for name in ("p50_ms", "p99_ms"))
            print(
                f"{count:3} at a time  {rival:9} {median(per_second):7.1f} a second ({times_bare:.2f} of bare)   "
                f"p50 {p50:6.1f}   p99 {p99:6.1f} ms{times}"
            )
    if "pressure" in result:
        print(json.dumps(result["pressure"], indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graph", type=Path, help="an exported graph; else the two that it makes")
    parser.add_argument("--ours", type=Path, help="what `semseg serve` has in its place, such as its int8 graph")
    parser.add_argument("--seconds", type=float, default=2, help="of every single measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rivals", nargs="*", choices=["plain", "litserve"], default=["plain", "litserve"])
    parser.add_argument("--codec", choices=["ours", "pillow"], default="ours", help="of the rivals and the bare loop")
    parser.add_argument("--session", choices=["default", "ours"], default="default", help="likewise")
    parser.add_argument("--engine", default="onnxruntime", help="of `semseg serve`")
    parser.add_argument("--pressure-seconds", type=float, default=8, help="of each load that is not as much as goes")
    parser.add_argument("--pressure-rounds", type=int, default=6)
    parser.add_argument("--no-pressure", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rivals = ["ours"] + [
        rival for rival in arguments.rivals if rival != "litserve" or importlib.util.find_spec("litserve")
    ]
    results = {}
    with tempfile.TemporaryDirectory() as name:
        photo = Path(name) / "photo.jpg"
        make_photo(photo)
        graphs = (
            {"given": arguments.graph}
            if arguments.graph
            else {
                "nearly empty": make_nearly_empty(Path(name) / "empty.onnx"),
                "DeepLabV3+/R18": make_deeplab(Path(name) / "deeplab"),
            }
        )
        for title, graph in graphs.items():
            ours = arguments.ours or graph
            result = compare(graph, ours, photo, rivals, arguments)
            if not arguments.no_pressure:
                result["pressure"] = under_pressure(ours, photo, arguments)
            results[title] = result
            show(title, result, rivals)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
