"""What the manifest says of a TensorRT engine: the gate's answer, as far as this machine can give it.

The prepared graph always runs, in ONNX Runtime: it computes what the engine was asked to compute. The engine itself
runs where its GPU is; elsewhere it stays "unverified", and the reason says so.
"""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx

from semseg_app.data.listing import evenly_spaced
from semseg_app.errors import UserError
from semseg_app.export.acceptance import GATES, reasons_of_row, reasons_of_scores, score
from semseg_app.export.tensorrt.graph import prepare
from semseg_app.export.verification_set import VerificationSet, bounded, generated_photos, resized
from semseg_app.export.verify import PHOTOS, SIZES, compare, measure_latency, side_by_side, verify
from semseg_app.inference.engines.base import Engine
from semseg_app.inference.engines.open import open_engine
from semseg_app.inference.engines.plans import Plan, read_plan
from semseg_app.inference.engines.tensorrt import open_tensorrt


def verify_engine(folder: Path, engine: Path, verification: VerificationSet | None = None) -> dict[str, Any]:
    """The manifest's entry for an engine of a model folder.

    "verdict" is "rejected" when the graph or the engine is past the gate's limits, "passed" when the engine ran and is
    within, "unverified" when only the graph could be run. UserError for int8 without verification.
    """
    plan = read_plan(engine)
    trained = open_engine(folder, "torch", "cpu")
    before = score(trained, verification) if verification else None
    with TemporaryDirectory() as scratch:
        prepared = Path(scratch, "prepared.onnx")
        onnx.save(prepare(onnx.load(folder / plan.graph)), prepared)
        entry = verify(folder, prepared, verification, trained_scores=before)
    entry.pop("latency_ms", None)  # not the engine's
    entry |= {
        "engine": "tensorrt",
        "device": None,
        "built_for": plan.target,
        "built_with": f"{plan.binding} {plan.version}",
        "layers": plan.layers,
        "layers_read_from": plan.layers_read_from,
        "sha256": plan.sha256,
        "reasons": [f"its graph, in ONNX Runtime: {reason}" for reason in entry["reasons"]],
    }
    try:
        runner = open_tensorrt(engine, "cuda")
    except UserError as error:
        if entry["verdict"] == "passed":
            reason = f"the engine does not run here, these are the numbers of its graph in ONNX Runtime: {error}"
            entry |= {"verdict": "unverified", "reasons": [reason]}
        return entry
    found, reasons = _measured(runner, trained, plan, verification, before)
    entry |= found
    entry["reasons"] += reasons
    return entry | {"verdict": "rejected" if entry["reasons"] else "passed"}


def _measured(
    runner: Engine,
    trained: Engine,
    plan: Plan,
    verification: VerificationSet | None,
    before: Mapping[str, float] | None,
) -> tuple[dict[str, Any], list[str]]:
    """What `verify` measures, of the engine itself: at every bucket and at an odd size of the general profile."""
    if verification:
        photos = [verification.data.read_image(sample) for sample in evenly_spaced(verification.samples, PHOTOS)]
    else:
        photos = generated_photos(PHOTOS)
    most, highest, widest = plan.profiles[-1].largest
    buckets = [(one.largest.height, one.largest.width) for one in plan.profiles if one.is_bucket]
    odd = min(SIZES[0][0], highest), min(SIZES[0][1], widest)
    rows = compare(trained, runner, photos, [*buckets, odd], sorted({1, most}))
    gate = GATES[plan.precision]
    reasons = [reason for row in rows for reason in reasons_of_row(row, gate)]
    found: dict[str, Any] = {
        "device": runner.device,
        "by_size": rows,
        "agreement": min(row["agreement"] for row in rows),
        "confidence_difference": max(row["confidence_difference"] for row in rows),
    }
    if not any("error" in row for row in rows):
        found["latency_ms"] = measure_latency(runner, resized(photos[0], buckets[0]), 1)
        if verification and before and _all_fit(verification, highest, widest):
            after = score(runner, verification)
            found |= side_by_side(before, after)
            found["miou"]["images"] = len(verification.samples)
            reasons += reasons_of_scores(before, after, gate)
    return found, reasons


def _all_fit(verification: VerificationSet, highest: int, widest: int) -> bool:
    """Whether the engine takes every photo whole. Where it does not, the scores stay those of its graph."""
    sizes = (bounded(verification.data.read_image(sample)) for sample in verification.samples)
    return all(height <= highest and width <= widest for height, width in sizes)
