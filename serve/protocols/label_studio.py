"""A machine-learning backend for Label Studio: annotators start from the model's masks.

Label Studio posts tasks to /predict with its labeling configuration, and gets masks for the labels that have the name
of a class, as brush or bitmask regions (https://labelstud.io/guide/ml_create). No task is stored between calls.
"""

import asyncio
import base64
import io
import logging
import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from semseg_app.errors import UserError
from semseg_app.inference.engines.base import Prediction
from semseg_app.labels import LabelSpace
from semseg_app.masks.brush import brush_rle
from semseg_app.masks.regions import regions
from semseg_app.serve.answers.segment_schema import COMMON_PROBLEMS, problems
from semseg_app.serve.http.query import options_checked
from semseg_app.serve.http.requester import requester
from semseg_app.serve.protocols.json_body import JsonObject, json_body, parse_json
from semseg_app.serve.protocols.label_studio_config import Control, parse_config
from semseg_app.serve.protocols.label_studio_images import ImageSource, TaskImages
from semseg_app.serve.scheduling.admission import Requester
from semseg_app.serve.scheduling.registry import Models
from semseg_app.serve.scheduling.segmentation import Segmentation
from semseg_app.serve.scheduling.served_model import ServedModel

log = logging.getLogger("semseg.serve")

MAX_TASKS = 100
MOST_NAMED = 10
"""Labels, or classes, in a message."""
MOST_KEYS = 200_000
"""Keys in one request: tasks come with all their annotations and earlier predictions."""
MOST_BRUSHES = 10_000
"""Brush regions in one request whose numbers are left out."""
_LIST_FOLLOWS = re.compile(rb"[ \t\r\n]*:[ \t\r\n]*\[")


class Task(JsonObject):
    """One image to label."""

    model_config = ConfigDict(extra="ignore")

    id: int | str | None = None
    data: dict[str, Any]


class PredictBody(JsonObject):
    """The body of /predict."""

    model_config = ConfigDict(extra="ignore")

    tasks: list[Task] = Field(max_length=MAX_TASKS, fail_fast=True)
    label_config: str


class SetUpBody(JsonObject):
    """The body of /setup."""

    model_config = ConfigDict(extra="ignore")

    project: int | str | None = None
    label_config: str | None = Field(None, alias="schema")


class Predicted(BaseModel):
    """One task's answer."""

    model_version: str
    score: float
    """Mean confidence over all pixels, 0 to 1."""
    result: list[dict[str, Any]]


class Predictions(BaseModel):
    """One answer per task, in the order of the tasks."""

    results: list[Predicted]


_EXAMPLE = {
    "tasks": [{"id": 1, "data": {"image": "data:image/png;base64,iVBORw0KGgo="}}],
    "label_config": '<View><Image name="image" value="$image"/><BrushLabels name="tag" toName="image">'
    '<Label value="road"/></BrushLabels></View>',
}


def router(models: Models, source: ImageSource) -> APIRouter:
    """The routes: the backend's address is /label-studio for the first model, /label-studio/NAME for any.

    Args:
        models: the served models.
        source: where images may come from.
    """
    checked = options_checked("the labeling configuration says which classes are wanted", ours=())
    routes = APIRouter(tags=["Label Studio"], dependencies=[checked])
    images = TaskImages(source)

    async def health(name: str | None = None) -> dict[str, str]:
        """The backend answers."""
        return {"status": "UP", "model_class": models.get(name).name}

    async def setup(request: Request, name: str | None = None) -> dict[str, str]:
        """Label Studio connects, or its labeling configuration has changed."""
        served = models.get(name)
        body = await parse_json(await request.body(), SetUpBody)
        if body.label_config:
            _controls(body.label_config, served)
        return {"model_version": _version(served)}

    async def predict(request: Request, name: str | None = None) -> Predictions:
        """Predict masks for tasks. A task that fails beside others that do not gets an empty result."""
        served = models.get(name)
        sent = await asyncio.to_thread(_without_brushes, await request.body())
        body = await parse_json(sent, PredictBody, MOST_KEYS)
        controls = _controls(body.label_config, served)
        who = requester("label-studio", request.scope)
        results, failures = [], []
        for task in body.tasks:
            try:
                results.append(await _predict(served, images, controls, task, who))
            except (UserError, HTTPException) as error:
                failures.append(error)
                reason = error.detail if isinstance(error, HTTPException) else str(error)
                log.warning("Label Studio gets no masks for %s", " ".join(reason.split()))
                results.append(Predicted(model_version=_version(served), score=0, result=[]))
        if failures and len(failures) == len(results):
            raise failures[0]
        return Predictions(results=results)

    for prefix in ("/label-studio", "/label-studio/{name}"):
        unknown = problems({404: "No model of that name is served."})
        routes.add_api_route(f"{prefix}/health", health, responses=unknown)
        for end, route, body in (
            ("setup", setup, json_body(SetUpBody)),
            ("predict", predict, json_body(PredictBody, _EXAMPLE)),
        ):
            routes.add_api_route(
                f"{prefix}/{end}", route, methods=["POST"], openapi_extra=body, responses=problems(COMMON_PROBLEMS)
            )
    return routes


async def _predict(
    served: ServedModel, images: TaskImages, controls: Sequence[Control], task: Task, who: Requester
) -> Predicted:
    """Every image of a task that a control lies over, once, for all its controls."""
    predicted = []
    try:
        for key in dict.fromkeys(control.key for control in controls):
            over_image = [control for control in controls if control.key == key]
            render = partial(_render, over_image, _version(served))
            data = await images.read(task.data.get(key), task.id)
            predicted.append(await served.segment(data, render, who))
    except UserError as error:
        raise type(error)(f"task {task.id}: {error}") from error
    except HTTPException as error:
        raise HTTPException(error.status_code, f"task {task.id}: {error.detail}") from None
    return Predicted(
        model_version=predicted[0].model_version,
        score=round(sum(answer.score for answer in predicted) / len(predicted), 4),
        result=[region for answer in predicted for region in answer.result],
    )


def _controls(config: str, served: ServedModel) -> list[Control]:
    """What a configuration asks for. HTTPException 422 when none of its labels is a class of the model."""
    controls = parse_config(config)
    classes = served.engine.labels.classes
    if not any(control.label_of(name) for control in controls for name in classes):
        labels = dict.fromkeys(label for control in controls for label in control.labels.values())
        raise HTTPException(
            422,
            f"none of the labels ({_some(list(labels))}) is a class of {served.name} ({_some(classes)}); give each "
            "label the name of its class, as its value, alias or predicted_values",
        )
    return controls


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:MOST_NAMED])
    return f"{shown}, ..." if len(names) > MOST_NAMED else shown


def _without_brushes(body: bytes) -> bytes:
    """A request whose brush regions are empty. One image's have a hundred thousand numbers, and none is needed."""
    before, *parts = body.split(b'"rle"', MOST_BRUSHES)
    kept = [before]
    for part in parts:
        opened, end = _LIST_FOLLOWS.match(part), part.find(b"]")
        if opened and end > 0 and not any(part.find(mark, opened.end(), end) > 0 for mark in (b'"', b"[", b"{")):
            part = part[: opened.end()] + part[end:]
        kept += [b'"rle"', part]
    return b"".join(kept)


def _version(served: ServedModel) -> str:
    """What Label Studio shows beside the predictions."""
    return f"{served.name}-{served.engine.precision}"


def _render(controls: Sequence[Control], version: str, segmented: Segmentation) -> Predicted:
    prediction = Prediction(segmented.classes, segmented.confidence)
    return _answer(prediction, segmented.engine.labels, controls, version)


def _answer(prediction: Prediction, labels: LabelSpace, controls: Sequence[Control], version: str) -> Predicted:
    """A region for each class of one image and each control over it that has a label of the class's name."""
    classes, confidence = prediction
    height, width = classes.shape
    result = []
    for region in regions(classes):
        class_name = labels.classes[region.class_index]
        labeled = [(control, label) for control in controls if (label := control.label_of(class_name)) is not None]
        if not labeled:
            continue
        mask = classes == region.class_index
        score = round(float(confidence[mask].mean()) / 255, 4)
        for control, label in labeled:
            kind = control.tag.lower()
            result.append(
                {
                    "id": f"{control.name}-{region.class_index}",
                    "from_name": control.name,
                    "to_name": control.image,
                    "type": kind,
                    "original_width": width,
                    "original_height": height,
                    "image_rotation": 0,
                    "score": score,
                    "value": (_bitmask(mask) if kind == "bitmasklabels" else _brush(mask)) | {kind: [label]},
                }
            )
    return Predicted(model_version=version, score=round(float(np.mean(confidence)) / 255, 4), result=result)


def _brush(mask: np.ndarray) -> dict[str, Any]:
    """bool `[H, W]` -> the value of a brush region."""
    return {"format": "rle", "rle": brush_rle(mask)}


def _bitmask(mask: np.ndarray) -> dict[str, Any]:
    """bool `[H, W]` -> the value of a bitmask region: a PNG of black pixels on a transparent background."""
    encoded = io.BytesIO()
    Image.fromarray(np.dstack([np.zeros_like(mask, np.uint8), mask * np.uint8(255)]), "LA").save(encoded, "PNG")
    return {"imageDataURL": "data:image/png;base64," + base64.b64encode(encoded.getvalue()).decode("ascii")}
