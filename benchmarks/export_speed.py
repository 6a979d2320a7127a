"""What an export costs and what it gives, this source tree against another one.

    python benchmarks/export_speed.py MODEL OTHER_TREE --data DATASET [--size 512x512] [--rounds 15]

Each tree exports a copy of the model folder by its own command line, to fp32 and, from that, to int8, on one thread;
the table shows the processor time of export and verification together. Then the graphs of both trees run in turn in one
process, on one thread of ONNX Runtime, to their end and not as the engines run them: medians of the processor time, and
medians of the ratios within the rounds.
"""

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime

PRECISIONS = {"fp32": "onnx/model.onnx", "int8": "onnx/model-int8.onnx"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("other_tree", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--size", default="512x512")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    trees = {"other": arguments.other_tree.resolve(), "this": Path(__file__).resolve().parents[1]}
    width, height = (int(side) for side in arguments.size.split("x"))
    with tempfile.TemporaryDirectory() as scratch:
        folders = {name: Path(scratch, name) for name in trees}
        for folder in folders.values():
            shutil.copytree(arguments.model, folder, ignore=shutil.ignore_patterns("onnx"))
        print("| export and verification | other, CPU s | this, CPU s | this of other |\n|---|---|---|---|")
        for precision in PRECISIONS:
            spent = {
                name: exported(tree, folders[name], precision, arguments.data.resolve()) for name, tree in trees.items()
            }
            share = spent["this"] / spent["other"]
            print(f"| {precision} | {spent['other']:.0f} | {spent['this']:.0f} | {share:.2f} |", flush=True)
        print(f"\n| graph, {arguments.size} | other, ms | this, ms | this is faster by |\n|---|---|---|---|")
        photo = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), np.uint8)
        for precision, file in PRECISIONS.items():
            times = latencies([folder / file for folder in folders.values()], photo, arguments.rounds)
            other, this = (1000 * statistics.median(own) for own in times)
            ratio = statistics.median(before / after for before, after in zip(*times, strict=True))
            print(f"| {precision} | {other:.1f} | {this:.1f} | x {ratio:.2f} |", flush=True)


def exported(tree: Path, folder: Path, precision: str, data: Path | None = None) -> float:
    """Export a model folder by the command line of a source tree; the processor seconds that it took.

    A file that verification rejects is measured like another one: what it answers is no question of speed.
    """
    command = [sys.executable, "-m", "semseg_app.cli", "export", folder, "--precision", precision]
    command += ["--data", data] if data else []
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    status = subprocess.run(command, env=environment, cwd=folder, check=False, stdout=subprocess.DEVNULL).returncode
    if status not in (0, 1) or not (folder / PRECISIONS[precision]).exists():
        raise SystemExit(f"{tree}: the export ended with {status}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def latencies(files: list[Path], photo: np.ndarray, rounds: int) -> list[list[float]]:
    """Processor seconds of the graphs, which take turns on a photo uint8 `[1, H, W, 3]`: a list per file."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    sessions = [onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"]) for file in files]
    seconds: list[list[float]] = [[] for _ in files]
    for number in range(rounds + 1):
        for session, own in zip(sessions, seconds, strict=True):
            session.run(None, {"images": photo})  # brings its weights back into the caches
            start = time.process_time()
            session.run(None, {"images": photo})
            if number:  # the first round warms up
                own.append(time.process_time() - start)
    return seconds


if __name__ == "__main__":
    main()
