"""Processor time of `semseg export` to fp32, with its verification, for encoders that the documents name.

    python benchmarks/export_encoders.py [--only hrnet] [--json RESULT.json]

Each network has random weights and 11 classes and is exported by the command line on one thread, without a dataset, so
that its answers are compared on generated photos and no scores are measured. The time includes the start of Python.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from export_speed import PRECISIONS, exported

from semseg_app import artifact, machine, models
from semseg_app.errors import UserError
from semseg_app.labels import LabelSpace
from semseg_app.model_spec import ModelSpec
from semseg_app.training.run.folder import provenance

ENCODERS = {
    "mit_b0": "segformer",
    "mit_b5": "segformer",
    "pidnet_l": "pidnet",
    "resnet101": "deeplabv3plus",
    "tu-deit_base_patch16_224": "setr",
    "tu-eva02_small_patch14_224": "linear",
    "tu-hrnet_w18": "hrnet",
    "tu-hrnet_w48": "ocr",
    "tu-mobilenetv3_small_100": "segformer",
    "tu-pvt_v2_b2_li": "segformer",
    "tu-resnet101s": "deeplabv3plus",
    "tu-swin_tiny_patch4_window7_224": "upernet",
    "tu-tf_efficientnet_lite0": "deeplabv3plus",
    "tu-tf_efficientnet_lite2": "upernet",
    "tu-vit_pe_spatial_small_patch16_512": "linear",
    "tu-vit_small_patch14_dinov2": "linear",
    "tu-vit_small_patch16_dinov3": "linear",
    "tu-vit_small_patch16_lingbot": "linear",
    "tu-vit_small_patch16_rope_224": "linear",
    "tu-xception65.tf_in1k": "deeplabv3plus",
}
"""Encoder -> architecture."""
CLASSES = 11


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="part of the encoders' names")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = []
    for encoder, architecture in ENCODERS.items():
        if arguments.only in encoder:
            rows.append({"architecture": architecture, "encoder": encoder} | measured(architecture, encoder))
            print(rows[-1], flush=True)
            if arguments.json:
                record = provenance() | {"hardware": machine.hardware(), "versions": machine.versions(), "rows": rows}
                arguments.json.write_text(json.dumps(record, indent=1) + "\n")


def measured(architecture: str, encoder: str) -> dict[str, Any]:
    """Processor and clock seconds of an export, parameters in millions and the verdict, or what went wrong."""
    spec = ModelSpec(architecture=architecture, encoder=encoder, num_classes=CLASSES)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "model")
        try:
            network = models.build(spec)
        except UserError as error:
            return {"error": str(error)}
        labels = LabelSpace(
            classes=[f"class {index}" for index in range(CLASSES)], palette=[(index, 0, 0) for index in range(CLASSES)]
        )
        models.save_network(folder, network, artifact.ModelConfig(name="export", model=network.spec, labels=labels))
        start = time.perf_counter()
        try:
            seconds = exported(Path(__file__).parents[1], folder, "fp32")
        except SystemExit as error:
            return {"error": str(error)}
        return {
            "parameters_m": round(sum(weights.numel() for weights in network.parameters()) / 1e6, 1),
            "cpu_s": round(seconds, 1),
            "wall_s": round(time.perf_counter() - start, 1),
            "verdict": artifact.read_manifest(folder)["exports"][PRECISIONS["fp32"]]["verdict"],
        }


if __name__ == "__main__":
    main()
