"""What freezing, LoRA and activation checkpointing save: time of a training step, and activations kept for it.

    python benchmarks/frozen_encoder.py
    python benchmarks/frozen_encoder.py --encoder tu-vit_base_patch14_dinov2 --architecture dpt --crop 518

Random weights and random images; one thread, fp32, AdamW. "kept" is what autograd holds at the end of the forward
pass, parameters left out. All variants run side by side, a step of each in turn;
the median of their processor times counts.
"""

import argparse
import statistics
import time
from typing import Any

import torch
from torch.nn import functional

from semseg_app.models import ModelSpec, SegmentationNetwork, build
from semseg_app.models.adaptation import LoraSection, adapt

VARIANTS: dict[str, dict[str, Any]] = {
    "everything learns": {},
    "freeze: encoder": {"freeze": "encoder"},
    "lora: {rank: 8}": {"lora": LoraSection()},
    "activation_checkpointing": {"activation_checkpointing": True},
}


def main() -> None:
    """Print a line for each variant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="tu-vit_small_patch16_dinov3")
    parser.add_argument("--architecture", default="linear")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--crop", type=int, default=256)
    parser.add_argument("--steps", type=int, default=5)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    networks = {}
    for name, options in VARIANTS.items():
        torch.manual_seed(0)
        spec = ModelSpec(architecture=chosen.architecture, encoder=chosen.encoder, num_classes=19)
        networks[name] = build(spec)
        adapt(networks[name], **options)
        networks[name].train()
    learned = {name: [one for one in net.parameters() if one.requires_grad] for name, net in networks.items()}
    optimizers = {name: torch.optim.AdamW(parameters, lr=1e-4, fused=True) for name, parameters in learned.items()}
    images = torch.rand(chosen.batch, 3, chosen.crop, chosen.crop)
    labels = torch.randint(19, (chosen.batch, chosen.crop, chosen.crop))
    times: dict[str, list[float]] = {name: [] for name in networks}
    kept = {name: kept_mb(network, images) for name, network in networks.items()}
    for _ in range(chosen.steps + 1):
        for name, network in networks.items():
            began = time.process_time()
            functional.cross_entropy(network.upsample(network(images), *images.shape[2:]), labels).backward()
            optimizers[name].step()
            optimizers[name].zero_grad(set_to_none=True)
            times[name].append(time.process_time() - began)
    print(f"{chosen.architecture}, {chosen.encoder}, {chosen.batch} crops of {chosen.crop}, one thread")
    print(f"{'variant':<26}{'learns':>9}{'seconds per step':>19}{'kept':>11}")
    for name in networks:
        share = sum(one.numel() for one in learned[name]) / sum(one.numel() for one in networks[name].parameters())
        print(f"{name:<26}{share:>8.1%}{statistics.median(times[name][1:]):>19.3f}{kept[name]:>8.1f} MB")


def kept_mb(network: SegmentationNetwork, images: torch.Tensor) -> float:
    """Megabytes of activations that autograd keeps of one pass through encoder and decoder, each storage once."""
    owned = {one.untyped_storage().data_ptr() for one in [*network.parameters(), *network.buffers()]}
    storages: dict[int, int] = {}
    held: list[torch.Tensor] = []  # as long as they live, no address is used twice

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in owned:
            storages[storage.data_ptr()] = storage.nbytes()
            held.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        network(images)
    return sum(storages.values()) / 1e6


if __name__ == "__main__":
    main()
