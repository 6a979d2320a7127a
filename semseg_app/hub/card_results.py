"""Scores, proof, speed and descent, as sections of a model card."""

import statistics
from collections.abc import Sequence
from typing import Any

from semseg_app.artifact import ModelConfig
from semseg_app.artifact.lineage import Lineage
from semseg_app.hub.markdown import cell, table


def results(
    config: ModelConfig, manifest: dict[str, Any], graphs: Sequence[str], runs: Sequence[dict[str, Any]]
) -> str:
    """mIoU with its seeds, classes one by one, and each exported graph against the trained network."""
    training = config.provenance.get("training", {})
    scores = training.get("val", {})
    parts = ["## Results"]
    if scores.get("miou") is None:
        parts.append("Not measured: the training had no validation images.")
    else:
        data = training.get("data", {})
        on = f"{data.get('name')}, {training.get('recipe', {}).get('data', {}).get('val')}"
        parts.append(
            f"On {cell(on)} ({data.get('val', {}).get('images')} images, whole): mIoU "
            f"**{_percent(scores['miou'])} %**, pixel accuracy {_percent(scores.get('pixel_accuracy'))} %. "
            + seeds(training, runs)
        )
        rows = [
            (cell(name), _percent(one.get("iou")), _percent(one.get("accuracy")), _percent(one.get("label_share")))
            for name, one in scores.get("classes", {}).items()
        ]
        parts.append(table(("class", "IoU %", "accuracy %", "label share %"), rows))
    if graphs:
        entries = [(name, manifest["exports"][name]) for name in graphs]
        files = [
            (
                f"`{name}`",
                cell(str(entry["precision"])),
                f"{100 * entry['agreement']:.3f}",
                str(entry["confidence_difference"]),
                f"{100 * entry['miou']['trained']:.2f} / {100 * entry['miou']['exported']:.2f}"
                if "miou" in entry
                else "-",
            )
            for name, entry in entries
        ]
        headings = (
            "file",
            "precision",
            "same class, % of pixels",
            "confidence off by, of 255",
            "mIoU % trained / file",
        )
        photos = ", ".join(sorted({cell(str(entry["photos"])) for _, entry in entries}))
        parts.append(f"The exported files against the trained network (photos: {photos}):\n\n{table(headings, files)}")
    return "\n\n".join(parts)


def seeds(training: dict[str, Any], runs: Sequence[dict[str, Any]]) -> str:
    """How much chance there is in the score."""
    if not runs:
        return (
            f"One run, seed {training.get('recipe', {}).get('seed')}, the best of its evaluations on these images; "
            "with other seeds it will differ."
        )
    found = {run["recipe"]["seed"]: 100 * next(iter(run["best"].values()))["miou"] for run in runs}
    each = ", ".join(f"{score:.2f} (seed {seed})" for seed, score in sorted(found.items()))
    spread = f" ± {statistics.stdev(found.values()):.2f}" if len(found) > 1 else ""
    return f"Over {len(found)} seeds: {statistics.mean(found.values()):.2f}{spread} %, namely {each}."


def speed(manifest: dict[str, Any], graphs: Sequence[str], benchmark: str | None, plot: str | None) -> str:
    """The benchmark where there is one, else what verification timed."""
    if benchmark is not None:
        picture = f"\n\n![mIoU over latency]({plot})" if plot else ""
        return f"## Speed\n\n{benchmark.strip()}{picture}"
    rows = []
    for name in graphs:
        entry = manifest["exports"][name]
        if latency := entry.get("latency_ms"):
            hardware = entry.get("hardware", {})
            place = f"{hardware.get('processor')}, {latency['threads']} threads" if entry["device"] == "cpu" else "GPU"
            size = f"{latency['width']}x{latency['height']}"
            rows.append((f"`{name}`", size, f"{latency['median']:.1f}", cell(place)))
    if not rows:
        return ""
    return "## Speed\n\nTimed when the files were verified, one photo at a time.\n\n" + table(
        ("file", "photo", "ms", "on"), rows
    )


def distillation(config: ModelConfig, lineage: Lineage) -> str:
    """From whom it learned, and by what."""
    if not lineage.teachers:
        return ""
    training = config.provenance.get("training", {})
    method = training.get("recipe", {}).get("method", {})
    lines = []
    for teacher in lineage.teachers:
        where = f"[{cell(teacher.repo)}](https://huggingface.co/{teacher.repo})" if teacher.repo else cell(teacher.name)
        network = f"{teacher.architecture} on {teacher.encoder}" if teacher.architecture else "network not recorded"
        lines.append(f"- {where}: {cell(network)}, by {teacher.by}; sha256 `{teacher.sha256}`")
    text = "## Distillation\n\nIts teachers, the nearest first:\n\n" + "\n".join(lines)
    known = ("kd", "cwd", "skd", "ifvd", "attention_transfer", "fitnet", "mgd", "af_dcd", "cirkd", "maskd")
    used = [name for name in known if method.get(name)]
    if used:
        text += f"\n\nIt follows the teacher by {', '.join(used)}; their weights are in the recipe above."
    if (before := training.get("teacher", {}).get("miou")) is not None:
        text += f" On the same images the teacher has a mIoU of {100 * before:.2f} %."
    return text


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"
