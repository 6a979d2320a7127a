"""A model folder -> the files of a repository: only what may be published, with the card that says so."""

import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from semseg_app.artifact import CONFIG, MANIFEST, WEIGHTS, ModelConfig, read_config, read_manifest
from semseg_app.artifact.licenses import as_license, decide
from semseg_app.artifact.lineage import lineage_of
from semseg_app.errors import UserError
from semseg_app.files import sha256
from semseg_app.hub.card import HUB_ID, Facts, eval_results, preprocessor, published_config, write_card
from semseg_app.hub.contents import CARD, PREPROCESSOR
from semseg_app.inference.engines.base import GRAPHS
from semseg_app.inference.engines.open import open_engine
from semseg_app.inference.predictor import Predictor
from semseg_app.plots.overlays import overlay

SAMPLES, LONGEST_SIDE = 3, 640
OURS = re.compile(r"onnx/[^/]+|samples/[^/]+|benchmark/[^/]+|\.eval_results/semseg\.yaml|preprocessor_config\.json")
"""What an earlier push may have left and this one replaces."""

Files = dict[str, Path | bytes]


class Choices(NamedTuple):
    """What the author says that the folder does not know."""

    license: str | None = None
    weights_license: str | None = None
    """License of pretrained weights whose license is not known here."""
    data_license: str | None = None
    dataset: str | None = None
    """The validation data on the Hub: user/dataset."""
    base_model: str | None = None
    """The teacher on the Hub, where the folder does not know it: user/teacher."""
    data: Path | None = None
    """Dataset folder to take sample photos of."""
    split: str = "val"
    benchmark: Path | None = None
    """Folder that `semseg benchmark --out` wrote."""
    runs: Sequence[Path] = ()
    """Run folders of other seeds."""
    precisions: Sequence[str] = ()
    """Which exported graphs; empty = all."""
    weights_only: bool = False
    """A draft without exported graphs."""


def gather(folder: Path, repo: str, choices: Choices) -> Files:
    """Name in the repository -> content. Nothing is sent anywhere.

    UserError for graphs that the gate rejected or never verified, and for a license that is unknown or not free to
    choose.
    """
    from huggingface_hub import constants

    config, manifest = read_config(folder), read_manifest(folder)
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"{folder / WEIGHTS}: missing; the model folder is incomplete")
    for option, given in (("--dataset", choices.dataset), ("--base-model", choices.base_model)):
        if given is not None and not HUB_ID.fullmatch(given):
            raise UserError(f"{option} {given}: an id on the Hub, user/name")
    graphs = [] if choices.weights_only else published_graphs(folder, manifest, choices.precisions)
    lineage = lineage_of(config)
    if choices.weights_license:
        named = as_license(choices.weights_license, None)
        known = [
            one if one.license else one.model_copy(update={"license": named.name or named.id})
            for one in lineage.weights
        ]
        lineage = lineage.model_copy(update={"weights": known})
    license = decide(choices.license or lineage.license, lineage.weights)
    trained_on = config.provenance.get("training", {}).get("data", {})
    source = trained_on.get("source")
    teachers = [teacher.repo for teacher in lineage.teachers if teacher.repo]
    data_license = choices.data_license or trained_on.get("license")
    if not data_license:
        raise UserError(
            f"{folder}: which license has the training data ({trained_on.get('name', 'unknown')})? Add --data-license, "
            "or license: to dataset.yaml before you train"
        )
    published = published_config(config, repo, license)
    published.provenance["training"]["lineage"] = {
        **lineage.model_dump(mode="json"),
        "license": license.name or license.id,
    }
    dataset = choices.dataset or (source if source and HUB_ID.fullmatch(source) else None)
    files: Files = {
        CONFIG: (published.model_dump_json(indent=2) + "\n").encode(),
        WEIGHTS: folder / WEIGHTS,
        PREPROCESSOR: preprocessor(config),
    }
    if graphs:
        exports = {name: manifest["exports"][name] for name in graphs}
        files[MANIFEST] = (json.dumps({**manifest, "exports": exports}, indent=2) + "\n").encode()
        files |= {name: folder / name for name in graphs}
    if dataset and (scores := eval_results(repo, dataset, config, constants.ENDPOINT)):
        files[".eval_results/semseg.yaml"] = scores
    samples = (
        sample_overlays(folder / graphs[0] if graphs else folder, choices.data, choices.split) if choices.data else {}
    )
    measured, plot = _benchmark(choices.benchmark)
    facts = Facts(
        repo=repo,
        config=published,
        lineage=lineage,
        license=license,
        data_license=data_license,
        dataset=dataset,
        base_models=[choices.base_model] if choices.base_model else teachers[:1],
        manifest=manifest,
        graphs=graphs,
        samples=list(samples),
        benchmark=measured["benchmark/results.md"].decode() if measured else None,
        benchmark_plot=plot,
        runs=_reports(choices.runs, config),
    )
    return files | samples | measured | {CARD: write_card(facts).encode()}


def published_graphs(folder: Path, manifest: dict[str, Any], precisions: Sequence[str]) -> list[str]:
    """The exported files to publish; UserError unless each of them passed, as it lies there."""
    for precision in precisions:
        if precision not in GRAPHS:
            raise UserError(f"unknown --precision {precision}; choose from {', '.join(GRAPHS)}")
    chosen = [precision for precision in GRAPHS if precision in precisions or not precisions]
    graphs = [GRAPHS[precision].as_posix() for precision in chosen if (folder / GRAPHS[precision]).is_file()]
    missing = [precision for precision in precisions if not (folder / GRAPHS[precision]).is_file()]
    if missing or not graphs:
        wanted = missing[0] if missing else "fp32"
        raise UserError(f"{folder / GRAPHS[wanted]}: missing; run `semseg export {folder} --precision {wanted}` first")
    weights = sha256(folder / WEIGHTS)
    for name in graphs:
        entry = manifest.get("exports", {}).get(name, {})
        if entry.get("verdict") == "rejected":
            others = ", ".join(precision for precision in chosen if GRAPHS[precision].as_posix() != name)
            raise UserError(
                f"{folder / name}: rejected: {'; '.join(map(str, entry.get('reasons', [])))}. It is not published: "
                f"export it again, or leave it out (--precision {others or '...'})"
            )
        if (entry.get("verdict"), entry.get("sha256"), entry.get("source_sha256")) != (
            "passed",
            sha256(folder / name),
            weights,
        ):
            raise UserError(
                f"{folder / name}: is not the file that was verified; run `semseg verify {folder} --data DATASET` first"
            )
    return graphs


def sample_overlays(model: Path, data: Path, split: str) -> dict[str, bytes]:
    """Photos beside what the model makes of them, as JPEG: samples/1.jpg, ..."""
    from semseg_app.data.layouts import open_dataset
    from semseg_app.data.listing import evenly_spaced

    opened = open_dataset(data)
    samples = opened.samples(split)
    if not samples:
        raise UserError(f"{data}: {split} holds no photos to show; choose another --split")
    engine = open_engine(model, device="cpu")
    predictor = Predictor(engine)
    pictures = {}
    for number, sample in enumerate(evenly_spaced(samples, SAMPLES), 1):
        photo = Image.fromarray(opened.read_image(sample))
        photo.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
        pixels = np.asarray(photo)
        both = np.concatenate([pixels, overlay(pixels, predictor.class_map(pixels), engine.labels.palette)], axis=1)
        target = io.BytesIO()
        Image.fromarray(both).save(target, "JPEG", quality=88)
        pictures[f"samples/{number}.jpg"] = target.getvalue()
    return pictures


def _benchmark(folder: Path | None) -> tuple[dict[str, bytes], str | None]:
    if folder is None:
        return {}, None
    names = ("results.md", "results.json", "pareto.png")
    found = {f"benchmark/{name}": (folder / name).read_bytes() for name in names if (folder / name).is_file()}
    if not {"benchmark/results.md", "benchmark/results.json"} <= found.keys():
        raise UserError(
            f"--benchmark {folder}: holds no results.md and results.json; `semseg benchmark --out` writes them"
        )
    for row in json.loads(found["benchmark/results.json"]).get("rows", []):
        if Path(row["model"]).is_absolute():
            raise UserError(
                f"--benchmark {folder}: names {row['model']}, and would publish that path; run `semseg benchmark` with "
                "a relative one"
            )
    return found, "benchmark/pareto.png" if "benchmark/pareto.png" in found else None


def _reports(folders: Sequence[Path], config: ModelConfig) -> list[dict[str, Any]]:
    """Reports of runs that differ in their seed alone."""
    training = config.provenance.get("training", {})
    val = training.get("data", {}).get("val", {}).get("hash")
    method = training.get("recipe", {}).get("method", {}).get("name")
    reports = []
    for folder in folders:
        path = folder / "report.json"
        try:
            report = json.loads(path.read_bytes())
            fits = (
                report["data"]["val"]["hash"] == val and report["recipe"]["method"]["name"] == method and report["best"]
            )
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(f"--runs {folder}: no finished run with data.val ({path})") from None
        if not fits:
            raise UserError(f"--runs {folder}: another method or other validation images than the model's")
        reports.append(report)
    return reports
