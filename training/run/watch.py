"""What of a run can be watched while it goes on: its log, its trackers, and the page report.html."""

import base64
import json
import time
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from accelerate import Accelerator
from PIL import Image

from semseg_app.data.listing import Sample
from semseg_app.files import atomic_file
from semseg_app.labels import LabelSpace
from semseg_app.metrics.scores import Scores
from semseg_app.plots.overlays import overlay
from semseg_app.training.recipe import Recipe
from semseg_app.training.report.page import write_page
from semseg_app.training.run.examples import Example, Examples
from semseg_app.training.run.folder import RunFolder
from semseg_app.training.run.trackers import Trackers


class Watch:
    """Writes on the main process of a run alone.

    Args:
        recipe: the run's.
        accelerator: made with the recipe's trackers.
        folder: where log and page lie.
        labels: classes and their colors.
        facts: provenance; the page shows it.
        first_step: steps that are behind the run.
        say: takes warnings.
    """

    def __init__(
        self,
        recipe: Recipe,
        accelerator: Accelerator,
        folder: RunFolder,
        labels: LabelSpace,
        facts: dict[str, Any],
        first_step: int,
        say: Callable[[str], None],
    ):
        self._folder, self._labels, self._facts = folder, labels, facts
        self._trackers = Trackers(recipe, accelerator, folder.path, first_step, say)

    def log(self, entry: dict[str, Any]) -> None:
        """A line of the log."""
        self._folder.log(entry)
        self._trackers.log(entry)

    def evaluated(
        self,
        entry: dict[str, Any],
        scores: Scores,
        examples: Examples,
        samples: Sequence[Sample],
        seconds: tuple[float, float],
    ) -> None:
        """A line of the log on an evaluation, the photos that go with it, and the page anew.

        Args:
            entry: the line.
            scores: of what the method delivers.
            examples: photos of that network's evaluation.
            samples: the validation list.
            seconds: what the run has taken so far, and this evaluation of it.
        """
        self.log(entry)
        worst, best = examples.extremes()
        groups = {"watched": examples.watched, "worst": worst, "best": best}
        content = {
            "step": entry["step"],
            "role": next(iter(entry["evaluation"])),
            "seconds": round(seconds[0], 1),
            "evaluation_seconds": round(seconds[1], 2),
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "palette": self._labels.palette,
            "confusion": scores.confusion.tolist(),
            "facts": self._facts,
            **scores.to_json(self._labels.classes),
            "photos": {
                kind: [self._photo(each, samples[each.number]) for each in group] for kind, group in groups.items()
            },
        }
        with atomic_file(self._folder.path / "evaluation.json") as part:
            part.write_text(json.dumps(content), encoding="utf-8")
        pictures = {samples[each.number].stem: self._overlay(each, each.predicted) for each in examples.watched}
        self._trackers.overlays(entry["step"], pictures)
        write_page(self._folder.path)

    def finish(self) -> None:
        """The page of the finished run; trackers write what they hold."""
        write_page(self._folder.path)
        self._trackers.finish()

    def _photo(self, example: Example, sample: Sample) -> dict[str, Any]:
        pictures = {
            "photo": example.image,
            "label": self._overlay(example, example.label),
            "predicted": self._overlay(example, example.predicted),
        }
        miou = None if np.isnan(example.miou) else round(example.miou, 4)
        return {"name": sample.stem, "miou": miou} | {name: _jpeg(picture) for name, picture in pictures.items()}

    def _overlay(self, example: Example, classes: np.ndarray) -> np.ndarray:
        return overlay(example.image, classes, self._labels.palette, 0.6)


def _jpeg(picture: np.ndarray) -> str:
    """uint8 RGB `[H, W, 3]` -> a JPEG in base64."""
    stream = BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=80)
    return base64.b64encode(stream.getvalue()).decode("ascii")
