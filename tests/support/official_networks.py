"""Names of our tensors -> names in the authors' code, and the weights that golden networks have under those names."""

import json
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from semseg_app.models import ModelSpec, SegmentationNetwork, build

GOLDEN = Path(__file__).parents[1] / "golden"

PIDNET = {
    r"^encoder\.stem\.6": "layer1",
    r"^encoder\.stem": "conv1",
    r"^encoder\.stride_8": "layer2",
    r"^encoder\.stride_16": "layer3",
    r"^encoder\.stride_32": "layer4",
    r"^encoder\.stride_64": "layer5",
    r"^decoder\.detail_16": "layer3_",
    r"^decoder\.detail_32": "layer4_",
    r"^decoder\.detail_64": "layer5_",
    r"^decoder\.context_16": "compression3",
    r"^decoder\.context_32": "compression4",
    r"^decoder\.fusion_16": "pag3",
    r"^decoder\.fusion_32": "pag4",
    r"^(pag\d)\.detail": r"\1.f_x",
    r"^(pag\d)\.context": r"\1.f_y",
    r"^decoder\.boundary_16": "layer3_d",
    r"^decoder\.boundary_32": "layer4_d",
    r"^decoder\.boundary_64": "layer5_d",
    r"^decoder\.difference_16": "diff3",
    r"^decoder\.difference_32": "diff4",
    r"^decoder\.pyramid\.same": "spp.scale0",
    r"^decoder\.pyramid\.pooled\.0": "spp.scale1",
    r"^decoder\.pyramid\.pooled\.1": "spp.scale2",
    r"^decoder\.pyramid\.pooled\.2": "spp.scale3",
    r"^decoder\.pyramid\.whole\.(\d)": lambda found: f"spp.scale4.{int(found[1]) + 1}",  # the pooling is their 0
    r"^decoder\.pyramid\.process\.(\d)\.(\d)": lambda found: f"spp.process{int(found[1]) + 1}.{found[2]}",
    r"^decoder\.pyramid\.process": "spp.scale_process",
    r"^decoder\.pyramid\.compress": "spp.compression",
    r"^decoder\.pyramid\.shortcut": "spp.shortcut",
    r"^decoder\.fusion\.detail": "dfm.conv_p",
    r"^decoder\.fusion\.context": "dfm.conv_i",
    r"^decoder\.fusion\.mix": "dfm.conv",
    r"^decoder\.head\.": "final_layer.",
    r"^classifier": "final_layer.5",
    r"^decoder\.auxiliary\.detail\.": "seghead_p.",
    r"^decoder\.auxiliary\.boundary\.": "seghead_d.",
    r"^(final_layer|seghead_.)\.0": r"\1.bn1",
    r"^(final_layer|seghead_.)\.2": r"\1.conv1",
    r"^(final_layer|seghead_.)\.3": r"\1.bn2",
    r"^(final_layer|seghead_.)\.5": r"\1.conv2",
    r"^(?!spp)(.*)\.(\d)\.(body|shortcut)\.": lambda found: (
        f"{found[1]}.{int(found[2]) // 2}.{found[3]}."
    ),  # ours counts ReLUs
    r"body\.(\d)": lambda found: f"{'conv' if int(found[1]) % 3 == 0 else 'bn'}{int(found[1]) // 3 + 1}",
    r"^(layer.*)shortcut": r"\1downsample",
}
DEEPLABV3PLUS = {
    r"^encoder\.(model\.)?bn1": "backbone.bn1",
    r"^encoder\.(model\.)?": "backbone.",
    r"^decoder\.pyramid\.here": "head.b0",
    r"^decoder\.pyramid\.atrous\.(\d)": lambda found: f"head.b{int(found[1]) + 1}",
    r"^decoder\.pyramid\.whole\.(\d)": lambda found: f"head.b4.gap.{int(found[1]) + 1}",
    r"^decoder\.pyramid\.project": "head.project",
    r"^decoder\.reduce": "reduce",
    r"^decoder\.fuse\.(\d)\.(\d)": lambda found: f"fuse.{3 * int(found[1]) + int(found[2])}",
}
"""Regular expression -> what stands for it in the authors' name; all are applied, in this order."""


def official_name(rules: dict[str, Any], name: str) -> str:
    """The authors' name of one of our tensors."""
    for pattern, replacement in rules.items():
        name = re.sub(pattern, replacement, name)
    return name


def filled(spec: ModelSpec, rules: dict[str, Any], entries: np.ndarray) -> SegmentationNetwork:
    """The network in eval mode, every tensor with the golden weights of its official name; none is left over.

    It takes images that are normalized already.
    """
    with torch.device("meta"):  # no time for initial weights
        network = build(spec)
    weights = golden_weights(entries)
    counters = {name: torch.tensor(0) for name in network.state_dict() if name.endswith("num_batches_tracked")}
    ours = network.state_dict().keys() - counters
    network.load_state_dict(counters | {name: weights.pop(official_name(rules, name)) for name in ours}, assign=True)
    assert not weights
    network.mean, network.std = torch.zeros(1), torch.ones(1)
    return network.eval()


def golden_network(name: str) -> dict[str, np.ndarray]:
    """The file network_<name>.npz."""
    with np.load(GOLDEN / f"network_{name}.npz") as stored:
        return dict(stored)


def golden_input() -> torch.Tensor:
    """The input of every golden network, `[1, 3, 128, 192]`, already normalized."""
    return torch.from_numpy(np.random.default_rng(0).normal(size=(1, 3, 128, 192)).astype(np.float32))


def golden_weights(entries: np.ndarray) -> dict[str, torch.Tensor]:
    """Official names -> tensors; each follows from its own name."""
    tensors = {}
    for name, shape in json.loads(str(entries)):
        random = np.random.default_rng(zlib.crc32(name.encode()))
        if len(shape) >= 2:
            values = random.normal(size=shape) / np.sqrt(np.prod(shape[1:]))
        elif name.endswith(("running_var", "weight")):
            values = random.uniform(0.5, 1.5, size=shape)
        else:
            values = random.normal(size=shape) * 0.2
        tensors[name] = torch.from_numpy(np.asarray(values, np.float32))
    return tensors
