"""How much faster an exported graph is than the network in plain eager PyTorch, as most people would run it.

    python benchmarks/int8_speed.py MODEL [--size 512x512] [--threads 2] [--rounds 15]

Plain eager is the network of the model folder in its default memory format under torch.inference_mode, from a uint8
photo to a uint8 class map; `semseg benchmark` measures our torch engine instead, which is in channels_last. All take
turns in one process; the table shows medians, and medians of the ratios within the rounds.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from semseg_app import models
from semseg_app.inference.engines.base import GRAPHS
from semseg_app.inference.engines.open import open_engine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--size", default="512x512")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    width, height = (int(side) for side in arguments.size.split("x"))
    photo = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), np.uint8)
    torch.set_num_threads(arguments.threads)
    calls: dict[str, Callable[[], object]] = {"eager fp32": eager(arguments.model, photo)}
    for precision, name in GRAPHS.items():
        if (arguments.model / name).exists():
            engine = open_engine(arguments.model / name, "onnxruntime", "cpu", arguments.threads)
            calls[f"ONNX Runtime {precision}"] = lambda engine=engine: engine.infer(photo)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(arguments.rounds):
        for name, call in calls.items():
            call()  # brings its weights back into the caches, which the one before it has filled
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    print(f"| {arguments.size}, {arguments.threads} threads | ms | faster than eager | than ONNX Runtime fp32 |")
    print("|---|---|---|---|")
    for name, own in seconds.items():
        ratios = [
            statistics.median(other / mine for other, mine in zip(seconds[base], own, strict=True))
            for base in ("eager fp32", "ONNX Runtime fp32")
            if base in seconds
        ]
        print(f"| {name} | {1000 * statistics.median(own):.0f} | {' | '.join(f'x {ratio:.2f}' for ratio in ratios)} |")


def eager(folder: Path, photo: np.ndarray) -> Callable[[], object]:
    network = models.load(folder).eval()

    @torch.inference_mode()
    def call() -> np.ndarray:
        images = torch.from_numpy(photo).permute(0, 3, 1, 2).contiguous().float() / 255
        return network.full_logits(images).argmax(1).to(torch.uint8).numpy()

    return call


if __name__ == "__main__":
    main()
