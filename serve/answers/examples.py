"""Answers that OpenAPI shows: a 4 x 3 image whose middle and lower rows are road."""

from typing import Any

_CLASS: dict[str, Any] = {"index": 1, "name": "road", "color": "#804080", "area": 6, "box": [0, 1, 3, 2]}
_IMAGE: dict[str, Any] = {"model": "street", "width": 4, "height": 3}

SUMMARY = _IMAGE | {
    "engine": {"kind": "onnxruntime", "device": "cpu", "precision": "int8"},
    "confidence": 0.93,
    "classes": [_CLASS | {"share": 0.5, "confidence": 0.95}],
    "unknown": 0.5,
    "latency_ms": {"decode": 1.2, "inference": 17.4},
}
RUN_LENGTHS = _IMAGE | {"classes": [_CLASS | {"segmentation": {"size": [3, 4], "counts": "121203"}}]}
POLYGONS = _IMAGE | {"classes": [_CLASS | {"polygons": [{"exterior": [[0, 1], [3, 1], [3, 3], [0, 3]], "holes": []}]}]}
GEOJSON = {
    "type": "FeatureCollection",
    "features": [
        {
            "type": "Feature",
            "properties": {"index": 1, "name": "road", "color": "#804080", "model": "street"},
            "geometry": {"type": "Polygon", "coordinates": [[[0, 1], [3, 1], [3, 3], [0, 3], [0, 1]]]},
        }
    ],
}
