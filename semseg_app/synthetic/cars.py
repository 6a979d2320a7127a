"""Cars of a synthetic street: bodies, windows, wheels, lamps. Faces come far to near."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

from semseg_app.synthetic.shapes import (
    CAR,
    GLASS,
    GLOW,
    PLAIN,
    Color,
    Face,
    Place,
    Point,
    RandomSource,
    far_to_near,
    on_quad,
    shaded,
)

PAINTS: list[Color] = [
    (0.75, 0.76, 0.77), (0.88, 0.88, 0.86), (0.12, 0.12, 0.13), (0.38, 0.40, 0.42), (0.62, 0.10, 0.10),
    (0.12, 0.22, 0.45), (0.20, 0.38, 0.58), (0.14, 0.30, 0.22), (0.72, 0.62, 0.20), (0.45, 0.36, 0.28),
    (0.80, 0.45, 0.15), (0.50, 0.62, 0.60),
]  # fmt: skip
RUBBER: Color = (0.06, 0.06, 0.065)


class Body(NamedTuple):
    """A kind of car, seen from its right: (forward, up) outlines in meters."""

    outline: list[tuple[float, float]]
    """From the bottom of the tail over the roof to the bottom of the nose."""
    glazed: tuple[int, ...]
    """Edges of the outline that are glass: rear window, windscreen."""
    windows: list[list[tuple[float, float]]]
    axles: tuple[float, ...]
    wheel: float
    width: float
    belt: float
    """Height above which the body leans inwards."""


BODIES = {
    "hatchback": Body(
        [(-1.95, 0.28), (-2.0, 0.85), (-1.72, 1.40), (-1.35, 1.5), (0.15, 1.48), (0.95, 1.0), (1.85, 0.84), (2.0, 0.6),
         (1.97, 0.26)],
        (1, 4),
        [[(-1.55, 0.98), (-0.58, 0.98), (-0.58, 1.38), (-1.38, 1.38)],
         [(-0.48, 0.98), (0.68, 0.98), (0.16, 1.38), (-0.48, 1.38)]],
        (-1.25, 1.25), 0.32, 1.74, 0.95,
    ),
    "saloon": Body(
        [(-2.25, 0.28), (-2.3, 0.88), (-1.45, 0.98), (-0.85, 1.40), (-0.4, 1.45), (0.35, 1.43), (1.15, 0.97),
         (2.15, 0.82), (2.3, 0.55), (2.25, 0.26)],
        (2, 5),
        [[(-1.15, 0.99), (-0.3, 0.99), (-0.3, 1.35), (-0.78, 1.35)],
         [(-0.2, 0.99), (0.92, 0.99), (0.4, 1.35), (-0.2, 1.35)]],
        (-1.35, 1.4), 0.33, 1.8, 0.95,
    ),
    "estate": Body(
        [(-2.2, 0.34), (-2.25, 1.0), (-2.0, 1.62), (-1.6, 1.7), (0.2, 1.68), (1.0, 1.12), (2.05, 0.98), (2.25, 0.7),
         (2.2, 0.32)],
        (1, 4),
        [[(-1.9, 1.1), (-1.1, 1.1), (-1.1, 1.56), (-1.72, 1.56)],
         [(-1.0, 1.1), (-0.1, 1.1), (-0.1, 1.56), (-1.0, 1.56)],
         [(0.0, 1.1), (0.75, 1.1), (0.2, 1.56), (0.0, 1.56)]],
        (-1.4, 1.4), 0.37, 1.86, 1.08,
    ),
    "van": Body(
        [(-2.4, 0.34), (-2.45, 1.95), (-2.3, 2.1), (1.0, 2.1), (1.65, 1.28), (2.3, 1.05), (2.45, 0.7), (2.4, 0.32)],
        (3,),
        [[(0.25, 1.25), (1.35, 1.25), (0.85, 1.85), (0.25, 1.85)]],
        (-1.5, 1.55), 0.36, 1.95, 1.2,
    ),
    "bus": Body(
        [(-4.6, 0.36), (-4.65, 2.8), (-4.5, 3.0), (4.4, 3.0), (4.6, 2.7), (4.65, 0.9), (4.6, 0.34)],
        (4,),
        [[(z, 1.35), (z + 1.35, 1.35), (z + 1.35, 2.35), (z, 2.35)] for z in (-4.4, -2.9, -1.4, 0.1, 1.6, 3.1)],
        (-2.8, 2.9), 0.48, 2.5, 3.2,
    ),
}  # fmt: skip
GLASS_TINT: Color = (0.16, 0.19, 0.22)
TURN = [2 * math.pi * number / 12 for number in range(12)]


def car(place: Place, eye: Point, rng: RandomSource, variety: float, kind: str, lamps_on: bool) -> list[Face]:
    """A car (van, bus) standing at `place`, its nose pointing forward."""
    body = BODIES[kind]
    paint = rng.tint(rng.pick(PAINTS), 0.15 * variety)
    lower = shaded(paint, 0.45) if rng.chance(0.25) else paint
    roof = max(up for _, up in body.outline)
    at = place.local(eye)

    def half(up: float) -> float:
        lean = max(0.0, (up - body.belt) / max(0.1, roof - body.belt))
        return body.width / 2 * (1 - 0.14 * lean)

    strips: list[Face] = []
    for edge, ((z0, y0), (z1, y1)) in enumerate(pairwise(body.outline)):
        if (at[2] - z0) * (y0 - y1) + (at[1] - y0) * (z1 - z0) <= 0:
            continue  # The eye is behind this strip of the body.
        corners = ((-1, y0, z0), (1, y0, z0), (1, y1, z1), (-1, y1, z1))
        quad = [place.at(side * half(up), up, z) for side, up, z in corners]
        strips.append(Face(quad, CAR, PLAIN, lower if y1 < 0.6 else paint))
        if edge in body.glazed:
            pane = [on_quad(quad, u, v) for u, v in ((0.07, 0.06), (0.93, 0.06), (0.93, 0.92), (0.07, 0.92))]
            strips.append(Face(pane, CAR, GLASS, GLASS_TINT))
    # A pane follows its strip and is as far away, give or take: sorting by pairs would change nothing to be seen.
    faces = _tyres_of_end(place, body, at) + far_to_near(strips, eye)
    if abs(at[0]) > half(0.6):
        faces += _flank(place, body, 1 if at[0] > 0 else -1, half, paint, lower)
    return faces + _lamps(place, body, at, lamps_on, half)


def _flank(
    place: Place, body: Body, side: int, half: Callable[[float], float], paint: Color, lower: Color
) -> list[Face]:
    """One long side: body, sill, windows, wheels."""

    def plate(outline: list[tuple[float, float]]) -> list[Point]:
        return [place.at(side * half(up), up, z) for z, up in outline]

    tail, nose = body.outline[0][0], body.outline[-1][0]
    faces = [
        Face(plate(body.outline), CAR, PLAIN, shaded(paint, 0.92)),
        Face(plate([(tail, 0.3), (nose, 0.3), (nose, 0.55), (tail, 0.55)]), CAR, PLAIN, shaded(lower, 0.7)),
        *(Face(plate(window), CAR, GLASS, GLASS_TINT) for window in body.windows),
    ]
    x = side * (half(0.5) + 0.02)
    for axle in body.axles:
        for radius, color in ((body.wheel, RUBBER), (body.wheel * 0.58, (0.55, 0.56, 0.58))):
            rim = [place.at(x, body.wheel + math.sin(t) * radius, axle + math.cos(t) * radius) for t in TURN]
            faces.append(Face(rim, CAR, PLAIN, color))
    return faces


def _panel(
    place: Place, x: tuple[float, float], y: tuple[float, float], z: float, color: Color, glow: float = 0
) -> Face:
    """An upright rectangle across the car."""
    points = [place.at(*corner, z) for corner in ((x[0], y[0]), (x[1], y[0]), (x[1], y[1]), (x[0], y[1]))]
    return Face(points, CAR, GLOW if glow else PLAIN, color, params=(glow,))


def _tyres_of_end(place: Place, body: Body, at: Point) -> list[Face]:
    """Tyres below the bumper that looks at us, and the dark between them."""
    z = body.outline[0][0] + 0.3 if at[2] < 0 else body.outline[-1][0] - 0.3
    half = body.width / 2
    tyres = [_panel(place, (side * half * 0.68, side * half * 0.98), (0.0, 0.5), z, RUBBER) for side in (-1, 1)]
    return [_panel(place, (-half * 0.9, half * 0.9), (0.12, 0.5), z, (0.03, 0.03, 0.03)), *tyres]


def _lamps(place: Place, body: Body, at: Point, lamps_on: bool, half: Callable[[float], float]) -> list[Face]:
    """Lamps, number plate and bumper of the end that looks at us."""
    tail = at[2] < body.outline[0][0]
    if not tail and at[2] < body.outline[-1][0]:
        return []
    ends = [z for z, _ in body.outline]
    z = min(ends) - 0.02 if tail else max(ends) + 0.02
    low = 0.62 if tail else 0.56
    color, glow, plate = (
        ((0.70, 0.06, 0.05), 1.6, (0.86, 0.84, 0.62)) if tail else ((0.92, 0.92, 0.86), 5.0, (0.9, 0.9, 0.9))
    )
    faces = [
        _panel(place, (side * half(low) * 0.66, side * half(low) * 0.96), (low, low + 0.17), z, color, glow * lamps_on)
        for side in (-1, 1)
    ]
    faces.append(_panel(place, (-0.26, 0.26), (0.42, 0.54), z, plate))
    faces.append(_panel(place, (-half(low) * 0.9, half(low) * 0.9), (0.28, 0.36), z, (0.1, 0.1, 0.1)))
    return faces
