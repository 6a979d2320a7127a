"""Polygons as GeoJSON (RFC 7946), in pixels or, through an affine transform, in coordinates of the world."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from semseg_app.errors import UserError
from semseg_app.masks.polygons import Polygon

Transform = tuple[float, float, float, float, float, float]
"""(a, b, c, d, e, f): X = a x + b y + c, Y = d x + e y + f of pixel corners, in the order of rasterio's Affine."""

_ORDER = "a,b,c,d,e,f; X = ax + by + c, Y = dx + ey + f"
LARGEST = 1e12
"""Largest absolute value in a transform. The Earth's circumference is 4e10 mm; products of 1e12 with any pixel
coordinate stay finite, which JSON needs."""


def features(shapes: list[Polygon], properties: Mapping[str, Any], transform: Transform | None = None) -> list[Any]:
    """One GeoJSON Feature per polygon.

    Args:
        shapes: the polygons of one class, corners in pixels.
        properties: the properties of each feature.
        transform: None = coordinates stay in pixels, x to the right, y down.

    Rings are arrays `[N, 2]`, and closed; exteriors run counterclockwise in the plane of the coordinates, holes
    clockwise (RFC 7946, 3.1.6).
    """
    return [
        {
            "type": "Feature",
            "properties": dict(properties),
            "geometry": {
                "type": "Polygon",
                "coordinates": [_ring(ring, transform) for ring in (shape.exterior, *shape.holes)],
            },
        }
        for shape in shapes
    ]


def parse_transform(text: str) -> Transform:
    """ "a,b,c,d,e,f" -> six numbers. UserError when they are not, are too large, map everything onto a line, or are in
    another order.
    """
    quoted = repr(text if len(text) <= 100 else text[:100] + "...")
    try:
        a, b, c, d, e, f = (float(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"transform {quoted}: give six numbers {_ORDER}") from None
    if not all(abs(number) <= LARGEST for number in (a, b, c, d, e, f)):  # NaN compares false
        raise UserError(f"transform {quoted}: each number must lie between -{LARGEST:g} and {LARGEST:g}")
    if a * e - b * d == 0:
        raise UserError(f"transform {quoted}: it maps every area onto a line (ae - bd is 0)")
    # Six numbers of a map with north up have two zeros, and each order has them elsewhere.
    other = "GDAL" if a != 0 and c == e == 0 else "shapely and world files" if b == c == 0 and d != 0 else None
    if other:
        raise UserError(f"transform {quoted}: seems to be in the order of {other}; give them as {_ORDER}")
    return a, b, c, d, e, f


def _ring(ring: np.ndarray, transform: Transform | None) -> np.ndarray:
    """int64 `[N, 2]` -> closed `[N + 1, 2]`."""
    points: np.ndarray = np.append(ring, ring[:1], axis=0)
    if transform is not None:
        a, b, c, d, e, f = transform
        points = points @ np.array([[a, d], [b, e]]) + (c, f)
        if a * e - b * d < 0:  # a mirror image: it turned the rings round
            points = points[::-1]
    return points
