"""A machine-learning backend for Label Studio: annotators start from the model's masks.

Label Studio posts tasks to /predict with its labeling configuration, and gets brush masks for the labels that have a
class's name (https://labelstud.io/guide/ml_create). Nothing is stored between calls.
"""

from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from semseg_app.errors import UserError
from semseg_app.inference.engines.base import Prediction
from semseg_app.labels import LabelSpace
from semseg_app.masks.brush import brush_rle
from semseg_app.masks.regions import regions
from semseg_app.serve.answers.segment_schema import COMMON_PROBLEMS, problems
from semseg_app.serve.protocols.json_body import json_body, parse_json
from semseg_app.serve.protocols.label_studio_config import Brush, parse_config
from semseg_app.serve.protocols.label_studio_images import ImageSource
from semseg_app.serve.scheduling.registry import Models, ServedModel

MAX_TASKS = 100


class Task(BaseModel):
    """One image to label."""

    model_config = ConfigDict(extra="ignore")

    id: int | str | None = None
    data: dict[str, Any]


class Asked(BaseModel):
    """The body of /predict."""

    model_config = ConfigDict(extra="ignore")

    tasks: list[Task] = Field(max_length=MAX_TASKS)
    label_config: str


class SetUp(BaseModel):
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
    """One answer a task, in their order."""

    results: list[Predicted]


_EXAMPLE = {
    "tasks": [{"id": 1, "data": {"image": "data:image/png;base64,iVBORw0KGgo="}}],
    "label_config": '<View><Image name="image" value="$image"/><BrushLabels name="tag" toName="image">'
    '<Label value="road"/></BrushLabels></View>',
}


def router(models: Models, source: ImageSource) -> APIRouter:
    """The routes: the backend's address is /label-studio for the first model, /label-studio/NAME for any.

    Args:
        models: what is served.
        source: where images may come from.
    """
    routes = APIRouter(tags=["Label Studio"])

    async def health(name: str | None = None) -> dict[str, str]:
        """The backend answers."""
        return {"status": "UP", "model_class": models.get(name).name}

    async def setup(request: Request, name: str | None = None) -> dict[str, str]:
        """Label Studio connects, or its labeling configuration has changed."""
        served = models.get(name)
        asked = await parse_json(await request.body(), SetUp)
        if asked.label_config:
            parse_config(asked.label_config)
        return {"model_version": _version(served)}

    async def predict(request: Request, name: str | None = None) -> Predictions:
        """Masks for tasks."""
        served = models.get(name)
        asked = await parse_json(await request.body(), Asked)
        brush = parse_config(asked.label_config)
        return Predictions(results=[await _predict(served, source, brush, task) for task in asked.tasks])

    for prefix in ("/label-studio", "/label-studio/{name}"):
        unknown = problems({404: "No model of that name is served."})
        routes.add_api_route(f"{prefix}/health", health, responses=unknown)
        for end, route, body in (("setup", setup, json_body(SetUp)), ("predict", predict, json_body(Asked, _EXAMPLE))):
            routes.add_api_route(
                f"{prefix}/{end}", route, methods=["POST"], openapi_extra=body, responses=problems(COMMON_PROBLEMS)
            )
    return routes


async def _predict(served: ServedModel, source: ImageSource, brush: Brush, task: Task) -> Predicted:
    try:
        with served.place() as place:
            run = await served.run(await place.decode(await source.read(task.data.get(brush.key))))
            labels = run.engine.labels
            return await place.encode(lambda: _answer(run.prediction, labels, brush, _version(served)))
    except UserError as error:
        raise type(error)(f"task {task.id}: {error}") from error
    except HTTPException as error:
        raise HTTPException(error.status_code, f"task {task.id}: {error.detail}") from None


def _version(served: ServedModel) -> str:
    """What Label Studio shows beside the predictions."""
    return f"{served.name}-{served.engine.precision}"


def _answer(prediction: Prediction, labels: LabelSpace, brush: Brush, version: str) -> Predicted:
    classes, confidence = prediction
    height, width = classes.shape
    found = []
    for region in regions(classes):
        label = brush.label_of(labels.classes[region.class_index])
        if label is None:
            continue
        mask = classes == region.class_index
        found.append(
            {
                "id": f"class-{region.class_index}",
                "from_name": brush.name,
                "to_name": brush.image,
                "type": "brushlabels",
                "original_width": width,
                "original_height": height,
                "image_rotation": 0,
                "score": round(float(confidence[mask].mean()) / 255, 4),
                "value": {"format": "rle", "rle": brush_rle(mask), "brushlabels": [label]},
            }
        )
    return Predicted(model_version=version, score=round(float(np.mean(confidence)) / 255, 4), result=found)
