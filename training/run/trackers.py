"""A run in TensorBoard, Weights & Biases, MLflow or trackio, through accelerate's trackers.

They get what log.jsonl gets, by the same steps, and overlays of the same few validation photos. A resumed run repeats
steps that its trackers know already, with the same losses; tracking/sent.json says up to which step, so that nothing is
there twice. A tracker that fails while the run goes on is a warning, once, and is left alone from then on.
"""

import importlib.util
import json
import re
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker
from PIL import Image

from semseg_app.errors import UserError
from semseg_app.files import atomic_file
from semseg_app.training.recipe import Recipe

PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow", "trackio": "trackio"}
"""Tracker -> the module that must be there."""


def require_trackers(names: Sequence[str]) -> None:
    """UserError where the package of a tracker is missing; accelerate would leave that tracker out in silence."""
    for name in names:
        if importlib.util.find_spec(PACKAGES[name]) is None:
            extra = "pip install mlflow" if name == "mlflow" else "pip install 'semseg-app[tracking]'"
            raise UserError(f"tracking: {name} is not installed: {extra}, or take it out of tracking")


class Trackers:
    """The trackers of one run, on its main process.

    Args:
        recipe: its `tracking` says which.
        accelerator: made with these trackers.
        folder: of the run.
        first_step: steps that are behind the run.
        say: takes warnings.
    """

    def __init__(
        self, recipe: Recipe, accelerator: Accelerator, folder: Path, first_step: int, say: Callable[[str], None]
    ):
        self._say, self._accelerator = say, accelerator
        self._file = folder / "tracking" / "sent.json"
        state = json.loads(self._file.read_text(encoding="utf-8")) if first_step and self._file.is_file() else {}
        self._sent: dict[str, int] = state.get("steps", {})
        self._id: str = state.get("id", uuid.uuid4().hex[:8])
        self._mlflow_run: str | None = state.get("mlflow_run")
        self._active: list[GeneralTracker] = []
        if not recipe.tracking:
            return
        self._file.parent.mkdir(parents=True, exist_ok=True)
        title = f"{recipe.name}-{self._id}"
        options: dict[str, dict[str, Any]] = {
            "wandb": {"name": title, "id": title, "resume": "allow", "dir": str(self._file.parent)},
            "mlflow": {"run_name": title, "run_id": self._mlflow_run},
            "trackio": {"name": title, "resume": "allow", "embed": False},
        }
        if "mlflow" in recipe.tracking and self._mlflow_run is not None:
            _end_interrupted(self._mlflow_run)
        settings = None if state else {key: str(value) for key, value in recipe.model_dump(mode="json").items()}
        try:
            with redirect_stdout(sys.stderr):  # trackio and wandb print, and stdout holds the answer of --json
                accelerator.init_trackers(
                    recipe.name, settings, {name: options.get(name, {}) for name in recipe.tracking}
                )
        except Exception as error:  # each of them fails in its own way, before the first step
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"tracking: {' and '.join(recipe.tracking)} cannot start: {reason}") from error
        self._active = [tracker for tracker in accelerator.trackers if tracker.name in recipe.tracking]
        for tracker in self._active:
            if tracker.name == "mlflow":
                self._mlflow_run = tracker.tracker.info.run_id

    def log(self, entry: Mapping[str, Any]) -> None:
        """An entry of log.jsonl."""
        kind = "evaluation" if "evaluation" in entry else "training"
        if not self._active or entry["step"] <= self._sent.get(kind, 0):
            return
        values = flat(entry)
        self._each(lambda tracker: tracker.log(values, step=entry["step"]))
        self._sent[kind] = entry["step"]
        self._remember()

    def overlays(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Name -> uint8 RGB `[H, W, 3]`, of the same photos each time."""
        if not self._active or step <= self._sent.get("overlays", 0):
            return
        self._each(lambda tracker: _send_pictures(tracker, step, pictures))
        self._sent["overlays"] = step
        self._remember()

    def finish(self) -> None:
        """Let them write what they hold."""
        self._each(lambda tracker: tracker.finish())
        self._active = []

    def _each(self, act: Callable[[GeneralTracker], None]) -> None:
        for tracker in list(self._active):
            try:
                with redirect_stdout(sys.stderr):
                    act(tracker)
            except Exception as error:  # a server that is gone, a full disk: the run goes on
                self._active.remove(tracker)
                self._say(f"warning: tracking: {tracker.name} failed and is left alone from now on: {error}")

    def _remember(self) -> None:
        with atomic_file(self._file) as part:
            content = {"id": self._id, "mlflow_run": self._mlflow_run, "steps": self._sent}
            part.write_text(json.dumps(content), encoding="utf-8")


def _end_interrupted(run_id: str) -> None:
    """End an MLflow run that this process began and was interrupted in: MLflow would not open it a second time."""
    import mlflow

    active = mlflow.active_run()
    if active is not None and active.info.run_id == run_id:
        mlflow.end_run("KILLED")


def flat(entry: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of an entry by the path of their keys ("losses/supervised"); what is no number is left out.

    Only characters that every tracker takes are kept in names.
    """
    numbers: dict[str, float] = {}
    for key, value in entry.items():
        name = prefix + re.sub(r"[^\w. -]", "_", key)
        if isinstance(value, Mapping):
            numbers |= flat(value, f"{name}/")
        elif isinstance(value, int | float) and name != "step":
            numbers[name] = value
    return numbers


def _send_pictures(tracker: GeneralTracker, step: int, pictures: Mapping[str, np.ndarray]) -> None:
    match tracker.name:
        case "tensorboard":
            for name, picture in pictures.items():
                tracker.tracker.add_image(f"overlays/{name}", picture, global_step=step, dataformats="HWC")
        case "wandb":
            import wandb

            tracker.log({f"overlays/{name}": wandb.Image(picture) for name, picture in pictures.items()}, step=step)
        case "trackio":
            import trackio

            tracker.log({f"overlays/{name}": trackio.Image(picture) for name, picture in pictures.items()}, step=step)
        case "mlflow":
            import mlflow

            for name, picture in pictures.items():
                mlflow.log_image(Image.fromarray(picture), f"overlays/{step:07d}/{name}.png")
