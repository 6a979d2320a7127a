"""What reading a network's coarse logits costs: the portable graph's last steps against ours.

    python benchmarks/decoding.py [--rounds 7] [--json FILE]
    python benchmarks/decoding.py --model MODEL.onnx --size 1024x512

The first form runs the tail alone, on logits as a trained network gives them ("areas": large areas with narrow borders)
and on the worst case ("noise": every logit has another largest class). The portable tail is Resize, ArgMax and the
largest softmax probability in ONNX Runtime, as `semseg export` writes it. The second form runs an exported graph whole,
and as the engine runs it. Process time of one thread; all take turns, and the table shows medians. Peak memory is what
one call takes beside the logits, each in a process of its own; that needs Linux.
"""

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from semseg_app.inference.class_map import Grid, class_and_confidence_map, class_map
from semseg_app.inference.engines.onnxruntime import open_graph

CASES = ((11, 480, 360, 8), (19, 1024, 512, 8), (19, 1024, 512, 4), (150, 512, 512, 4), (150, 2048, 1024, 4))
"""Classes, width, height, pixels between logits."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--size", default="1024x512")
    arguments = parser.parse_args()
    if arguments.model:
        width, height = (int(side) for side in arguments.size.split("x"))
        whole_graph(arguments.model, height, width, arguments.rounds)
        return
    print("| classes | photo | logits | mixed cells | portable ms | classes ms | with confidence ms | memory MB |")
    print("|---|---|---|---|---|---|---|---|")
    rows = []
    for classes, width, height, step in CASES:
        for kind in ("areas", "noise"):
            rows.append(row := tail(classes, width, height, step, kind, arguments.rounds))
            ratios = [row["portable_ms"] / row[name] for name in ("classes_ms", "confidence_ms")]
            memory = " / ".join(f"{row['memory_mb'][name]:.0f}" for name in ("portable", "classes", "confidence"))
            print(
                f"| {classes} | {width}x{height} | {kind}, 1/{step} | {row['mixed']:.0%} | {row['portable_ms']:.1f} | "
                f"{row['classes_ms']:.1f} (x {ratios[0]:.1f}) | {row['confidence_ms']:.1f} (x {ratios[1]:.1f}) | "
                f"{memory} |",
                flush=True,
            )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


def tail(classes: int, width: int, height: int, step: int, kind: str, rounds: int) -> dict[str, Any]:
    """One row: both ways on the same logits."""
    calls, logits = ways(classes, width, height, step, kind)
    largest = logits.argmax(axis=0)
    pure = (largest[:-1, :-1] == largest[1:, 1:]) & (largest[:-1, 1:] == largest[1:, :-1])
    pure &= largest[:-1, :-1] == largest[1:, :-1]
    milliseconds = in_turn(calls, rounds)
    context = multiprocessing.get_context("spawn")
    memory = {}
    for name in calls:
        with context.Pool(1) as pool:
            memory[name] = pool.apply(added_memory, (classes, width, height, step, kind, name))
    return {
        "classes": classes,
        "photo": [width, height],
        "step": step,
        "logits": kind,
        "mixed": 1 - float(pure.mean()),
        **{f"{name}_ms": value for name, value in milliseconds.items()},
        "memory_mb": memory,
    }


def ways(
    classes: int, width: int, height: int, step: int, kind: str
) -> tuple[dict[str, Callable[[], object]], np.ndarray]:
    """The three calls, and the logits `[C, h, w]` that they read."""
    logits = make_logits(kind, classes, height // step, width // step)
    grid = Grid(height, width, step, step)
    session = portable_tail(step)
    calls: dict[str, Callable[[], object]] = {
        "portable": lambda: session.run(None, {"logits": logits[None]}),
        "classes": lambda: class_map(logits, grid),
        "confidence": lambda: class_and_confidence_map(logits, grid),
    }
    return calls, logits


def added_memory(classes: int, width: int, height: int, step: int, kind: str, name: str) -> float:
    """Megabytes that one call takes at its peak, beside the logits.

    numpy tells tracemalloc of its arrays, and they fit into pages that the process holds already. ONNX Runtime tells
    nothing; its tensors show in the resident size.
    """
    call = ways(classes, width, height, step, kind)[0][name]
    if name != "portable":
        tracemalloc.start()
        call()
        return tracemalloc.get_traced_memory()[1] / 1e6
    Path("/proc/self/clear_refs").write_text("5")  # the peak is now what the process holds
    before = _peak_memory()
    call()
    return (_peak_memory() - before) / 1e6


def _peak_memory() -> int:
    """Bytes: the largest resident size of this process since its record was cleared."""
    status = Path("/proc/self/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


def in_turn(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median milliseconds of process time of each."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.process_time()
            call()
            seconds[name].append(time.process_time() - start)
    return {name: 1000 * statistics.median(own) for name, own in seconds.items()}


def make_logits(kind: str, classes: int, height: int, width: int) -> np.ndarray:
    random = np.random.default_rng(0)
    if kind == "noise":
        return random.normal(0, 3, (classes, height, width)).astype(np.float32)
    coarse = random.normal(0, 8, (classes, height // 12 + 2, width // 12 + 2))
    for axis, side in ((1, height), (2, width)):
        places = np.linspace(0, coarse.shape[axis] - 1.001, side)
        low = places.astype(int)
        share = (places - low).reshape((-1, 1) if axis == 1 else (-1,))
        coarse = coarse.take(low, axis) * (1 - share) + coarse.take(low + 1, axis) * share
    return (coarse + random.normal(0, 0.3, coarse.shape)).astype(np.float32)


def portable_tail(step: int) -> onnxruntime.InferenceSession:
    """What `semseg export` writes behind the logits."""
    nodes = [
        helper.make_node("Resize", ["logits", "", "scales"], ["full"], mode="linear"),
        helper.make_node("ReduceMax", ["full", "one"], ["highest"], keepdims=1),
        helper.make_node("ArgMax", ["full"], ["index"], axis=1, keepdims=0),
        helper.make_node("Sub", ["full", "highest"], ["below"]),
        helper.make_node("Exp", ["below"], ["powers"]),
        helper.make_node("ReduceSum", ["powers", "one"], ["sum"], keepdims=0),
        helper.make_node("Reciprocal", ["sum"], ["probability"]),
        helper.make_node("Mul", ["probability", "full_scale"], ["scaled"]),
        helper.make_node("Round", ["scaled"], ["rounded"]),
        helper.make_node("Cast", ["index"], ["classes"], to=TensorProto.UINT8),
        helper.make_node("Cast", ["rounded"], ["confidence"], to=TensorProto.UINT8),
    ]
    constants = {
        "scales": np.array([1, 1, step, step], np.float32),
        "one": np.array([1], np.int64),
        "full_scale": np.array(255, np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "tail",
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", "c", "h", "w"])],
        [helper.make_tensor_value_info(name, TensorProto.UINT8, None) for name in ("classes", "confidence")],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        onnx.save(model, Path(folder, "tail.onnx"))
        return onnxruntime.InferenceSession(Path(folder, "tail.onnx"), options, providers=["CPUExecutionProvider"])


def whole_graph(file: Path, height: int, width: int, rounds: int) -> None:
    whole, engine = open_graph(file, "cpu", 1, whole=True), open_graph(file, "cpu", 1)
    blocks = np.random.default_rng(0).integers(0, 256, (1, height // 16 + 1, width // 16 + 1, 3), np.uint8)
    photo = blocks.repeat(16, axis=1).repeat(16, axis=2)[:, :height, :width]
    milliseconds = in_turn(
        {
            "the file": lambda: whole.infer(photo),
            "engine": lambda: engine.infer(photo),
            "engine, classes alone": lambda: engine.classes(photo),
        },
        rounds,
    )
    for name, value in milliseconds.items():
        print(f"{name}: {value:.1f} ms (x {milliseconds['the file'] / value:.2f})")


if __name__ == "__main__":
    main()
