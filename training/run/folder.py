"""The folder of one run: what lies where, and how it stays whole when the process is killed.

recipe.yaml          the recipe with every default written out
log.jsonl            one line a log interval and one an evaluation
checkpoints/         for --resume (checkpoint.py)
models/              model folders, of which `best` and `last` point to one each (best-teacher ... for other roles)
report.json          the final report
report.html          the run as one page, anew with every evaluation (training/report)
evaluation.json      what the page shows of the newest evaluation, photos included
tracking/            how far the trackers are (trackers.py), and TensorBoard's files
"""

import json
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file

import semseg_app
from semseg_app.artifact import WEIGHTS, ModelConfig
from semseg_app.data.dataset import read_yaml
from semseg_app.errors import UserError
from semseg_app.files import atomic_file, atomic_symlink, remove_folder
from semseg_app.models import SegmentationNetwork, save_network
from semseg_app.training.recipe import Recipe, checked_recipe

# What may change between an interrupted run and its continuation without changing a number.
FREE_TO_CHANGE = {
    "name",
    "aims_at",
    "output",
    "license",
    "push_to",
    "log_every",
    "log_gradient_norms",
    "evaluate_every",
    "patience",
    "tracking",
    "val_window",  # the way out of a validation that ran out of memory; training itself does not read it
    "checkpoint_every",
    "threads",
    "data.root",
    "data.workers",
    "data.cache",
    "method.teacher_cache.folder",  # what it holds is computed from teacher and photo alone
}


class RunFolder:
    """Paths and writes of one run. Only the main process may call the writing methods."""

    def __init__(self, path: Path):
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.models = path / "models"

    def has_run(self) -> bool:
        return any(self.checkpoints.glob("step-*.pt"))

    def begin(self, recipe: Recipe, first_step: int) -> None:
        """Write the recipe; drop log lines of steps that will be run again, and what a killed process left behind."""
        self.path.mkdir(parents=True, exist_ok=True)
        with atomic_file(self.path / "recipe.yaml") as part:
            part.write_text(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False), encoding="utf-8")
        log = self.path / "log.jsonl"
        if log.is_file():
            kept = [line for line in log.read_text(encoding="utf-8").splitlines() if _step(line) <= first_step]
            with atomic_file(log) as part:
                part.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        for left in [*self.path.glob("*/.*.part"), *self.path.glob(".*.part")]:
            shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()

    def recipe(self) -> Recipe:
        """The recipe that the run was made by. UserError where another version of the product wrote it."""
        path = self.path / "recipe.yaml"
        return checked_recipe(read_yaml(path), path)

    def report(self) -> dict[str, Any] | None:
        """The final report; None before the run has ended. UserError where the file is damaged."""
        path = self.path / "report.json"
        try:
            report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError:
            raise UserError(f"{path}: not a report of semseg train; remove {self.path}, or restore the file") from None
        return report

    def log(self, entry: dict[str, Any]) -> None:
        """Append one line to log.jsonl."""
        with (self.path / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def evaluations(self) -> list[dict[str, Any]]:
        """What log.jsonl has of evaluations, oldest first: `{"step": ..., "evaluation": {role: scores}}`."""
        log = self.path / "log.jsonl"
        if not log.is_file():
            return []
        entries = (json.loads(line) for line in log.read_text(encoding="utf-8").splitlines())
        return [entry for entry in entries if "evaluation" in entry]

    def step_seconds(self, batch_size: int) -> float:
        """What a step took, by the log: the median, so neither a start nor another program on the machine moves it."""
        lines = (json.loads(line) for line in (self.path / "log.jsonl").read_text(encoding="utf-8").splitlines())
        return statistics.median(
            batch_size / max(line["images_per_second"], 0.01) for line in lines if "images_per_second" in line
        )

    def save_model(self, name: str, network: SegmentationNetwork, config: ModelConfig) -> Path:
        """Write a model folder, or keep the one that is there when it holds these weights.

        It is there when a run is resumed between its checkpoint and the log line of its evaluation; links to it stay
        sound all the while.
        """
        model = self.models / name
        if model.exists():
            if _holds(model, network):
                return model
            remove_folder(model)  # of an older run
        save_network(model, network, config)
        return model

    def link(self, name: str, model: Path) -> None:
        """Let `name` ("best") point to a model folder."""
        atomic_symlink(self.path / name, str(model.relative_to(self.path)))

    def prune(self) -> None:
        """Delete model folders that no link points to."""
        linked = {link.resolve() for link in self.path.iterdir() if link.is_symlink()}
        for model in self.models.iterdir():
            if model.is_dir() and not model.name.startswith(".") and model.resolve() not in linked:
                remove_folder(model)

    def write_report(self, report: dict[str, Any]) -> None:
        """Replace report.json."""
        with atomic_file(self.path / "report.json") as part:
            part.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def changed_key(before: Recipe, now: Recipe) -> tuple[str, str, str] | None:
    """The first dotted key whose change gives another run, with both values as JSON; None where it is the same run."""
    was, is_now = (leaves(recipe.model_dump(mode="json")) for recipe in (before, now))
    for key in {**is_now, **was}:
        if key not in FREE_TO_CHANGE and was.get(key) != is_now.get(key):
            return key, json.dumps(was.get(key)), json.dumps(is_now.get(key))
    return None


def leaves(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every value of nested sections by its dotted key."""
    values: dict[str, Any] = {}
    for key, value in content.items():
        values |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return values


def refuse_changed_recipe(before: Recipe, now: Recipe) -> None:
    """UserError when a resumed run would not be the same run."""
    change = changed_key(before, now)
    if change:
        key, was, is_now = change
        last = now.run_folder / "last"  # there since the first evaluation
        weights = f" and, to begin with its weights, model.weights={last}" if last.is_dir() else ""
        raise UserError(
            f"--resume: {key} was {was} in the interrupted run and is {is_now} now; put it back, or start a new run "
            f"with another output={weights}"
        )


def refuse_changed_data(before: dict[str, Any], now: dict[str, Any], root: Path) -> None:
    """UserError when a resumed run would read other images or masks than it began with; both are fingerprints."""
    for name in sorted({*before, *now}):
        was, is_now = before.get(name), now.get(name)
        if was != is_now:
            images = f"{(was or {}).get('images', 0)} images then, {(is_now or {}).get('images', 0)} now"
            raise UserError(
                f"--resume: the {name} images or masks of {root} have changed since the run began ({images}); put them "
                "back, or start a new run with another output="
            )


def refuse_changed_sources(before: dict[str, str], now: dict[str, str], recipe: Recipe) -> None:
    """UserError when a resumed run would follow another teacher, or other image labels, than it began with."""
    named = leaves(recipe.model_dump(mode="json"))
    for key in before:
        if before[key] != now.get(key):
            raise UserError(
                f"--resume: {key}={named[key]} holds something else than when the run began; put it back, or start a "
                "new run with another output="
            )


def provenance(
    packages: Sequence[str] = ("torch", "torchvision", "timm", "segmentation_models_pytorch"),
) -> dict[str, Any]:
    """Where and with what a run was made: versions, commit, hardware, time."""
    root = Path(semseg_app.__file__).parent.parent
    git = shutil.which("git")
    commit = ""
    if git and (root / ".git").exists():
        describe = [git, "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
        commit = subprocess.run(describe, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "semseg_app": semseg_app.__version__,
        "commit": commit or None,
        "versions": {name: version(name) for name in packages} | {"python": platform.python_version()},
        "machine": platform.machine(),
        "argv": sys.argv,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _holds(model: Path, network: SegmentationNetwork) -> bool:
    try:
        saved = load_file(model / WEIGHTS)
    except (OSError, SafetensorError):
        return False
    state = network.state_dict()
    return all(name in state and torch.equal(tensor, state[name].cpu()) for name, tensor in saved.items())


def _step(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError):  # the last line of a killed process may be cut short
        return sys.maxsize
