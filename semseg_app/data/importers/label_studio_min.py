"""Label Studio's tasks as its JSON export has them, and as its JSON-MIN export has them: one record per annotation.

A record of JSON-MIN has the task's data, and the regions under the names of the tags that drew them, each with the size
of the picture, but without its kind and its id: `{"image": "a.jpg", "id": 1, "label": [{"points": [[25, 20], ...],
"polygonlabels": ["car"], "original_width": 40, "original_height": 30}], "annotator": "ann@host.com", "annotation_id":
7}`.
"""

from collections.abc import Iterator
from typing import Any, NotRequired

from pydantic import TypeAdapter
from typing_extensions import TypedDict

KINDS = {
    "points": "polygon",
    "rle": "brush",
    "imageDataURL": "bitmask",
    "radiusX": "ellipse",
    "height": "rectangle",
    "vertices": "vector",
    "x": "keypoint",
}
"""What regions of a kind have, and those of the kinds after it lack: where no label says the kind."""
SIZES = ("original_width", "original_height")
ANSWERS = {"choices", "datetime", "number", "rating", "taxonomy", "text"}
"""What is said of a region, once more with its shape."""


class Result(TypedDict):
    type: str
    id: NotRequired[str | None]
    value: NotRequired[dict[str, Any]]
    original_width: NotRequired[int | None]
    original_height: NotRequired[int | None]
    image_rotation: NotRequired[float | None]


class Annotation(TypedDict):
    result: list[Result]
    completed_by: NotRequired[int | str | dict[str, Any] | None]
    was_cancelled: NotRequired[bool | None]
    ground_truth: NotRequired[bool | None]


class Task(TypedDict):
    data: dict[str, Any]
    annotations: list[Annotation]
    file_upload: NotRequired[str | None]


RECORDS = TypeAdapter(list[dict[str, Any]])


def tasks_of_min(records: list[dict[str, Any]]) -> list[Task]:
    """The tasks of JSON-MIN. Annotations of one task stand in records of the same id."""
    tasks: dict[Any, Task] = {}
    for number, record in enumerate(records):
        results = list(_results(record))
        data = {key: value for key, value in record.items() if isinstance(value, str)}
        task = tasks.setdefault(record.get("id", f"record {number}"), {"data": data, "annotations": []})
        if record.get("annotation_id", 0) is not None:  # null: the task has no annotation
            task["annotations"].append({"result": results, "completed_by": record.get("annotator")})
    return list(tasks.values())


def _results(record: dict[str, Any]) -> Iterator[Result]:
    """The regions. Where one tag draws and another labels, both have the shape; the one without a label is left out."""
    values = [
        it
        for regions in record.values()
        for it in (regions if isinstance(regions, list) else ())
        if isinstance(it, dict) and not ANSWERS & it.keys()
    ]
    labeled = [_shape(value) for value in values if _labels(value)]
    for value in values:
        if (key := _labels(value)) or _shape(value) not in labeled:
            kind = next((kind for sign, kind in KINDS.items() if sign in value), None)
            if kind is None:  # a text or a choice
                continue
            yield {
                "type": key if key and key != "labels" else kind,
                "value": value,
                "original_width": value.get(SIZES[0]),
                "original_height": value.get(SIZES[1]),
            }


def _labels(value: dict[str, Any]) -> str | None:
    """The key of the labels: "polygonlabels", or "labels" for any kind."""
    return next((key for key in value if key.endswith("labels") and value[key]), None)


def _shape(value: dict[str, Any]) -> dict[str, Any]:
    return {key: part for key, part in value.items() if not key.endswith("labels")}
