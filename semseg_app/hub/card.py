"""The card of a model: what it is, of what it was made and under which terms, how good it is, and how to use it.

Every number comes from config.json (what training wrote) or manifest.json (what verification measured); every code
block in it is run by the tests.
"""

import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import yaml

from semseg_app.artifact import ModelConfig
from semseg_app.artifact.licenses import License
from semseg_app.artifact.lineage import Lineage, Weights
from semseg_app.hub.card_results import distillation, results, speed
from semseg_app.hub.card_usage import usage
from semseg_app.hub.markdown import cell, details, table
from semseg_app.labels import hex_color

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class Facts(NamedTuple):
    """What a card is written from."""

    repo: str
    config: ModelConfig
    lineage: Lineage
    license: License
    data_license: str
    dataset: str | None
    """Id of the validation data on the Hub."""
    base_models: list[str]
    """Ids of the teachers on the Hub."""
    manifest: dict[str, Any]
    graphs: list[str]
    """The exported files that are published: onnx/model.onnx, ..."""
    samples: list[str]
    """Pictures of the repository: photo beside overlay."""
    benchmark: str | None
    """The Markdown table of `semseg benchmark`."""
    benchmark_plot: str | None
    runs: list[dict[str, Any]]
    """Reports of runs with other seeds, this one's included; empty = this one is all there is."""


def write_card(facts: Facts) -> str:
    """README.md: front matter and Markdown."""
    sections = [
        _head(facts),
        _classes(facts.config),
        _samples(facts),
        usage(facts.repo, facts.graphs),
        results(facts.config, facts.manifest, facts.graphs, facts.runs),
        speed(facts.manifest, facts.graphs, facts.benchmark, facts.benchmark_plot),
        _training(facts),
        distillation(facts.config, facts.lineage),
        _licenses(facts),
        _limits(facts),
    ]
    return f"---\n{_front_matter(facts)}---\n\n" + "\n\n".join(section for section in sections if section) + "\n"


def _front_matter(facts: Facts) -> str:
    from huggingface_hub import ModelCardData

    method = _training_of(facts.config).get("recipe", {}).get("method", {}).get("name")
    tags = ["semantic-segmentation", *(["onnx"] if facts.graphs else [])]
    if facts.lineage.teachers:
        tags.append("knowledge-distillation")
    elif method not in (None, "supervised"):
        tags.append("semi-supervised")
    optional: dict[str, Any] = {}
    if facts.license.name:
        optional["license_name"] = facts.license.name
        optional["license_link"] = facts.license.link or f"https://huggingface.co/{facts.repo}#licenses"
    if facts.base_models:
        # The Hub knows finetune, adapter, merge and quantized: a student is nearest to the first.
        optional["base_model"], optional["base_model_relation"] = facts.base_models, "finetune"
    if facts.dataset:
        optional["datasets"] = [facts.dataset]
    data = ModelCardData(
        license=facts.license.id,
        library_name="semseg_app",
        pipeline_tag="image-segmentation",
        metrics=["mean_iou"],
        tags=tags,
        **optional,
    )
    return data.to_yaml() + "\n"


def _head(facts: Facts) -> str:
    model, labels = facts.config.model, facts.config.labels
    made = "A compact student of a larger teacher. " if facts.lineage.teachers else ""
    return (
        f"# {cell(facts.config.name)}\n\n"
        f"Semantic segmentation: a photo of any size in, one of {len(labels.classes)} classes for each pixel out. "
        f"{made}The network is a {model.architecture} on {cell(model.encoder)}. Made with semseg-app"
        + (
            "; the exported graphs were compared with the trained network before they were published (manifest.json)."
            if facts.graphs
            else ". This is a draft from a training run: it has no exported graph, so nothing is verified yet."
        )
    )


def _classes(config: ModelConfig) -> str:
    rows = [
        (str(index), cell(name), hex_color(color))
        for index, (name, color) in enumerate(zip(config.labels.classes, config.labels.palette, strict=True))
    ]
    shown = table(("index", "class", "color"), rows)
    return "## Classes\n\n" + (shown if len(rows) <= 40 else details(f"{len(rows)} classes", shown))


def _samples(facts: Facts) -> str:
    if not facts.samples:
        return ""
    return "## Samples\n\nPhoto and prediction.\n\n" + "\n\n".join(f"![sample]({name})" for name in facts.samples)


def _training(facts: Facts) -> str:
    training = _training_of(facts.config)
    if not training:
        return "## Training\n\nNot recorded."
    data = training.get("data", {})
    rows = [
        (cell(f"{data.get('name')}, {part}"), str(data[part].get("images")), f"`{data[part].get('hash')}`")
        for part in ("labeled", "unlabeled", "val")
        if data.get(part)
    ]
    source = data.get("source")
    where = [
        f"{training.get('processes', 1)} x {training.get('device')}",
        *(f"{name} {version}" for name, version in training.get("versions", {}).items()),
    ]
    recipe = training.get("recipe", {})
    return (
        f"## Training\n\nMethod: {cell(str(recipe.get('method', {}).get('name')))}, seed {recipe.get('seed')}, "
        f"step {training.get('step')} of {recipe.get('schedule', {}).get('steps')}. On {cell(', '.join(where))}.\n\n"
        f"Data: {cell(str(data.get('name')))}, license: {cell(facts.data_license)}"
        + (f", from {cell(source)}" if source else "")
        + ".\n\n"
        + table(("images", "count", "hash of the list"), rows)
        + "\n\n"
        + details("Recipe", f"```yaml\n{yaml.safe_dump(recipe, sort_keys=False)}```")
    )


def _licenses(facts: Facts) -> str:
    own = facts.license.name or facts.license.id
    rows = [
        (cell(part.name), cell(part.role), cell(part.license or "unknown"), part.link or "", cell(_taken(part)))
        for part in facts.lineage.weights
    ]
    inherited = (
        table(("weights", "as", "license", "text", "tensors"), rows)
        if rows
        else "No pretrained weights went into it: it started from random ones."
    )
    return f"## Licenses\n\nThis model: **{cell(own)}**. What went into it:\n\n{inherited}"


def _taken(weights: Weights) -> str:
    """How much of a network started from these weights; "" where training did not record it."""
    if weights.matched is None:
        return ""
    fresh = f"; started from random weights: {', '.join(weights.fresh)}" if weights.fresh else ""
    unused = f"; not used: {', '.join(weights.unused)}" if weights.unused else ""
    return f"{weights.matched} taken{fresh}{unused}"


def _limits(facts: Facts) -> str:
    training = _training_of(facts.config)
    data = training.get("data", {})
    classes = training.get("val", {}).get("classes", {})
    weak = sorted((score["iou"], name) for name, score in classes.items() if score.get("iou") is not None)[:3]
    lines = [
        "It knows its classes and no others: whatever else is in a photo becomes one of them.",
        "Its scores hold for photos like those it was measured on"
        + (f" ({cell(str(data.get('name')))})" if data else "")
        + "; elsewhere, measure before you rely on it.",
    ]
    if weak:
        named = ", ".join(f"{cell(name)} ({100 * iou:.0f} % IoU)" for iou, name in weak)
        lines.append(f"It is worst at {named}.")
    lines.append("The confidence is the largest softmax probability; manifest.json holds its calibration error.")
    lines.append("It was not examined for use where an error can harm somebody.")
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _training_of(config: ModelConfig) -> dict[str, Any]:
    training: dict[str, Any] = config.provenance.get("training", {})
    return training


def eval_results(repo: str, dataset: str, config: ModelConfig, endpoint: str) -> bytes | None:
    """.eval_results/*.yaml as the Hub reads it; None where training measured nothing."""
    from huggingface_hub import EvalResultEntry
    from huggingface_hub import eval_result_entries_to_yaml as to_yaml

    training = _training_of(config)
    scores = training.get("val", {})
    if scores.get("miou") is None:
        return None
    images = training.get("data", {}).get("val", {}).get("images")
    split = training.get("recipe", {}).get("data", {}).get("val")
    entry = EvalResultEntry(
        dataset_id=dataset,
        task_id="semantic-segmentation",
        value=round(100 * scores["miou"], 2),
        date=str(training.get("time", ""))[:10] or None,
        source_url=f"{endpoint}/{repo}",
        source_name="Model card",
        notes=f"mIoU in percent, {split}, {images} images, whole; seed {training.get('recipe', {}).get('seed')}",
    )
    return yaml.safe_dump(to_yaml([entry]), sort_keys=False).encode()


def preprocessor(config: ModelConfig) -> bytes:
    """preprocessor_config.json: what the weights expect. The exported graphs do all of it themselves."""
    content = {
        "do_resize": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(config.model.mean),
        "image_std": list(config.model.std),
    }
    return (json.dumps(content, indent=2) + "\n").encode()


def published_config(config: ModelConfig, repo: str, license: License) -> ModelConfig:
    """The config as strangers may see it: no paths and no command lines of this machine, but its id and license."""
    training = _without_paths({key: value for key, value in _training_of(config).items() if key != "argv"})
    lineage = training.setdefault("lineage", Lineage().model_dump(mode="json"))
    lineage["license"] = license.name or license.id
    provenance = {**config.provenance, "training": training, "hub": {"repo": repo}}
    return config.model_copy(update={"provenance": provenance})


def _without_paths(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_paths(one) for key, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_without_paths(one) for one in value]
    if isinstance(value, str) and re.match(r"(/|~|[A-Za-z]:[\\/])", value):
        return re.split(r"[\\/]", value.rstrip("\\/"))[-1]
    return value
