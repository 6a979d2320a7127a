"""`semseg check` of this source tree against another tree's: processor time and time per pair of photo and mask.

    python benchmarks/check_speed.py OTHER_TREE [--pairs 4000] [--side 64] [--rounds 3] [--json RESULT.json]

Both trees check the same generated dataset, whose few streets are repeated under other names, by their command line;
what an empty dataset takes is taken off. Children count, and so do all threads.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from semseg_app import machine
from semseg_app.synthetic import generate

STREETS = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other_tree", type=Path)
    parser.add_argument("--pairs", type=int, default=4000)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    trees = {"other": arguments.other_tree.resolve(), "this": Path(__file__).resolve().parents[1]}
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in trees}
    with tempfile.TemporaryDirectory() as scratch:
        small, large = Path(scratch, "small"), Path(scratch, "large")
        for root in (small, large):
            generate(root, train=STREETS, val=1, size=(arguments.side, arguments.side))
        for file in [*large.glob("images/train/*"), *large.glob("labels/train/*")]:
            for copy in range(1, arguments.pairs // STREETS):
                file.with_stem(f"{file.stem}-{copy}").write_bytes(file.read_bytes())
        for _ in range(arguments.rounds):
            for name, tree in trees.items():
                few, many = checked(tree, small), checked(tree, large)
                pairs = arguments.pairs - STREETS
                spent[name].append(((many[0] - few[0]) / pairs, (many[1] - few[1]) / pairs))
    result: dict[str, Any] = {"hardware": machine.hardware(), "pairs": arguments.pairs, "side": arguments.side}
    for index, figure in enumerate(("cpu_ms", "wall_ms")):
        own = {name: 1000 * median(row[index] for row in rows) for name, rows in spent.items()}
        ratio = median(other[index] / this[index] for other, this in zip(spent["other"], spent["this"], strict=True))
        result[figure] = {**{name: round(value, 3) for name, value in own.items()}, "ratio": round(ratio, 2)}
        print(figure, result[figure])
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


def checked(tree: Path, data: Path) -> tuple[float, float]:
    """Seconds of the processor and of the clock."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    # Copies of a street are a finding, exit code 1.
    command = [sys.executable, "-m", "semseg_app.cli", "check", str(data), "--json"]
    status = subprocess.run(command, env=environment, cwd=data, stdout=subprocess.DEVNULL, check=False).returncode
    if status not in (0, 1):
        raise SystemExit(f"{tree}: check ended with {status}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, time.perf_counter() - start


if __name__ == "__main__":
    main()
