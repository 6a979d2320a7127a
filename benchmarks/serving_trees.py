"""`semseg serve` of this source tree against another tree's, each with the graph that its own tree exported.

    python benchmarks/serving_trees.py OTHER_TREE OTHER.onnx THIS.onnx [--seconds 6] [--rounds 5] [--json RESULT.json]

A 480x360 JPEG goes in as a form, a PNG mask comes out, 4 requests at a time. Both servers run on the cores of this
machine and take turns; the one that waits is held. The table shows the processor time of the server per request, which
other programs on the machine move less than the requests per second: medians over the rounds, of ratios too.
"""

import argparse
import json
import os
import signal
import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from serving import load, make_photo, running

from semseg_app import machine

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other_tree", type=Path)
    parser.add_argument("other_graph", type=Path)
    parser.add_argument("this_graph", type=Path)
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    os.environ.pop("OMP_NUM_THREADS", None)
    os.environ["PYTHONSAFEPATH"] = "1"  # else the tree in which this was started serves for both
    sides = {
        "other": (arguments.other_tree.resolve(), arguments.other_graph.resolve()),
        "this": (Path(__file__).resolve().parents[1], arguments.this_graph.resolve()),
    }
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        photo = Path(scratch, "photo.jpg")
        make_photo(photo)
        servers = {}
        for name, (tree, graph) in sides.items():
            os.environ["PYTHONPATH"] = str(tree)
            servers[name] = url, pid = stack.enter_context(running("ours", graph))
            load(url, photo, 1, "--concurrency", arguments.concurrency)
            os.killpg(pid, signal.SIGSTOP)
        for _ in range(arguments.rounds):
            for name, (url, pid) in servers.items():
                os.killpg(pid, signal.SIGCONT)
                load(url, photo, 0.5, "--concurrency", arguments.concurrency)  # weights back into the caches
                before = processor_s(pid)
                answered = load(url, photo, arguments.seconds, "--concurrency", arguments.concurrency)
                spent = processor_s(pid) - before
                os.killpg(pid, signal.SIGSTOP)
                requests = answered["per_second"] * arguments.seconds
                rows[name].append({"cpu_ms": 1000 * spent / requests, "per_second": answered["per_second"]})
    result: dict[str, Any] = {"hardware": machine.hardware(), "versions": machine.versions(), "rounds": rows}
    for figure in ("cpu_ms", "per_second"):
        own = {name: median(row[figure] for row in rows[name]) for name in rows}
        pairs = [(this[figure], other[figure]) for this, other in zip(rows["this"], rows["other"], strict=True)]
        ratio = median(this / other if figure == "per_second" else other / this for this, other in pairs)
        result[figure] = {
            **{name: round(value, 2) for name, value in own.items()},
            "this is better by": round(ratio, 3),
        }
        print(figure, result[figure], flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


def processor_s(pid: int) -> float:
    """Seconds that a process and its threads have computed."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


if __name__ == "__main__":
    main()
