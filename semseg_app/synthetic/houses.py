"""Buildings of a synthetic street: walls, roofs, balconies, awnings, advertisements. Faces come far to near."""

import math
from typing import NamedTuple

from semseg_app.synthetic.shapes import (
    BUILDING,
    PLAIN,
    PLANKS,
    WALL,
    Color,
    Face,
    Point,
    RandomSource,
    on_quad,
    shaded,
    upright,
)

WALLS: list[Color] = [
    (0.76, 0.70, 0.60), (0.60, 0.32, 0.24), (0.56, 0.56, 0.55), (0.82, 0.80, 0.76), (0.70, 0.55, 0.38),
    (0.42, 0.35, 0.31), (0.50, 0.56, 0.60), (0.74, 0.52, 0.46), (0.36, 0.38, 0.40), (0.58, 0.62, 0.50),
    (0.50, 0.26, 0.20), (0.66, 0.64, 0.62),
]  # fmt: skip
TRIMS: list[Color] = [(0.88, 0.87, 0.84), (0.30, 0.29, 0.28), (0.62, 0.60, 0.56), (0.35, 0.22, 0.15)]
ROOFS: list[Color] = [(0.45, 0.22, 0.17), (0.30, 0.30, 0.33), (0.38, 0.30, 0.26), (0.24, 0.22, 0.22)]
RED: Color = (0.78, 0.08, 0.09)
BLUE: Color = (0.08, 0.22, 0.62)
WHITE: Color = (0.93, 0.93, 0.92)
BLACK: Color = (0.05, 0.05, 0.05)
YELLOW: Color = (0.93, 0.76, 0.10)
GREEN: Color = (0.05, 0.42, 0.25)
BRIGHT = [RED, BLUE, WHITE, BLACK, YELLOW, GREEN]


class Style(NamedTuple):
    """How a building looks. Lengths in meters."""

    wall: Color
    trim: Color
    roof: Color
    storey: float
    bay: float
    window_width: float
    """Fraction of the bay."""
    window_height: float
    """Fraction of the storey; 0: no windows."""
    shop: bool
    pattern: int
    """0 plaster or concrete, 1 brick, 2 boards."""
    gable: bool


def sample_style(rng: RandomSource, variety: float, district: str) -> Style:
    glassy = district == "center" and rng.chance(0.45)
    return Style(
        wall=rng.tint(rng.pick(WALLS), 0.25 * variety),
        trim=rng.pick(TRIMS),
        roof=rng.tint(rng.pick(ROOFS), 0.2 * variety),
        storey=rng.between(2.7, 3.8),
        bay=rng.between(1.5, 2.6) if glassy else rng.between(2.2, 4.5),
        window_width=rng.between(0.82, 0.94) if glassy else rng.between(0.25, 0.6),
        window_height=rng.between(0.75, 0.92) if glassy else rng.between(0.38, 0.62),
        shop=rng.chance({"suburb": 0.08, "town": 0.55, "center": 0.6}[district]),
        pattern=0 if glassy else rng.pick([0, 0, 0, 1, 1, 2]),
        gable=rng.chance({"suburb": 0.85, "town": 0.4, "center": 0.0}[district]),
    )


def wall(
    start: Point,
    end: Point,
    height: float,
    style: Style,
    rng: RandomSource,
    windows: bool = True,
    label: int = BUILDING,
) -> Face:
    """An upright wall on the ground line from start to end."""
    fraction = style.window_height if windows else 0.0
    shop, seed = float(style.shop), rng.between(0, 1)
    params = (style.storey, _bay(start, end, style), style.window_width, fraction, shop, seed, style.pattern, height)
    return Face(upright(start, end, height), label, WALL, style.wall, style.trim, params)


def _bay(start: Point, end: Point, style: Style) -> float:
    """Width of a bay such that a whole number of them fills the wall."""
    length = max(0.5, math.dist(start, end))
    return length / max(1, round(length / style.bay))


def building(plan: list[Point], height: float, style: Style, eye: Point, rng: RandomSource) -> list[Face]:
    """A building on four ground points: near and far front corner, far and near back corner."""
    center = (sum(point[0] for point in plan) / 4, 0.0, sum(point[2] for point in plan) / 4)
    rise = rng.between(0.25, 0.5) * math.dist(plan[1], plan[2]) * 0.7 if style.gable else 0.0
    blind = rng.chance(0.4)
    faces: list[Face] = []
    ridge = [
        ((plan[a][0] + plan[b][0]) / 2, plan[0][1] + height + rise, (plan[a][2] + plan[b][2]) / 2)
        for a, b in ((0, 3), (1, 2))
    ]
    for number in (2, 1, 3, 0):
        start, end = plan[number], plan[(number + 1) % 4]
        face = wall(start, end, height, style, rng, windows=number in (0, 2) or not blind)
        if not _looks_at(start, end, center, eye):
            continue
        if number in (0, 2) and style.gable:
            slope = [face.points[3], face.points[2], ridge[1], ridge[0]]
            if _above_slope(slope, eye):
                faces.append(Face(slope, BUILDING, PLANKS, style.roof, params=(0.0, 0.35, 0.5)))
        if number in (1, 3) and style.gable:
            peak = ridge[0 if number == 3 else 1]
            face = face._replace(points=[face.points[0], face.points[1], face.points[2], peak, face.points[3]])
        faces.append(face)
    if _looks_at(plan[0], plan[1], center, eye):
        faces += _front(plan[0], plan[1], center, height, style, eye, rng)
    return faces


def _looks_at(start: Point, end: Point, center: Point, eye: Point) -> bool:
    """Whether the eye is on the other side of the ground line start-end than the building's center."""
    dx, dz = end[0] - start[0], end[2] - start[2]

    def side(point: Point) -> float:
        return dx * (point[2] - start[2]) - dz * (point[0] - start[0])

    return side(center) * side(eye) < 0


def _above_slope(slope: list[Point], eye: Point) -> bool:
    (ax, ay, az), (bx, by, bz), _, (dx, dy, dz) = slope
    ux, uy, uz, vx, vy, vz = bx - ax, by - ay, bz - az, dx - ax, dy - ay, dz - az
    nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
    sign = 1 if ny > 0 else -1
    return sign * (nx * (eye[0] - ax) + ny * (eye[1] - ay) + nz * (eye[2] - az)) > 0


def _front(
    start: Point, end: Point, center: Point, height: float, style: Style, eye: Point, rng: RandomSource
) -> list[Face]:
    """Balconies, awnings and advertisements on a front; all of them are building."""
    length = math.dist(start, end)
    ux, uz = (end[0] - start[0]) / length, (end[2] - start[2]) / length
    nx, nz = -uz, ux
    if nx * (center[0] - start[0]) + nz * (center[2] - start[2]) > 0:
        nx, nz = -nx, -nz

    def at(u: float, v: float, out: float) -> Point:
        return (start[0] + ux * u + nx * out, start[1] + v, start[2] + uz * u + nz * out)

    def slab(u0: float, u1: float, v0: float, v1: float, out: float, color: Color) -> list[Face]:
        quads = [
            ([at(u0, v0, 0), at(u1, v0, 0), at(u1, v0, out), at(u0, v0, out)], 0.5),
            ([at(u0, v0, out), at(u0, v0, 0), at(u0, v1, 0), at(u0, v1, out)], 0.8),
            ([at(u0, v0, out), at(u1, v0, out), at(u1, v1, out), at(u0, v1, out)], 1.0),
        ]
        return [Face(points, BUILDING, PLAIN, shaded(color, gain)) for points, gain in quads]

    faces: list[Face] = []
    if style.shop and height > 4 and rng.chance(0.7):
        bay = _bay(start, end, style)
        for number in reversed(range(round(length / bay))):
            if rng.chance(0.45):
                color, low = rng.pick([*BRIGHT, style.trim]), style.storey * 0.72
                u0, u1, out = bay * (number + 0.06), bay * (number + 0.94), rng.between(0.5, 1.1)
                awning = [at(u0, low, out), at(u1, low, out), at(u1, low + 0.45, 0), at(u0, low + 0.45, 0)]
                faces.append(Face(awning, BUILDING, PLAIN, color))
    elif height > 6 and rng.chance(0.35):
        step = length / max(1, round(length / rng.between(3.5, 6)))
        for storey in range(1, min(5, int(height / style.storey))):
            for number in reversed(range(int(length / step))):
                base = storey * style.storey
                faces += slab(step * (number + 0.2), step * (number + 0.8), base - 0.1, base + 0.75, 0.8, style.trim)
    if rng.chance(0.35) and length > 6:
        u, v, tall = (
            rng.between(2, length - 3),
            rng.between(0.3, max(0.4, min(4.5, height - 3))),
            rng.between(1.2, 2.4),
        )
        wide = 1.3 * tall
        faces += advertisement(upright(at(u, v, 0.05), at(u + wide, v, 0.05), tall), BUILDING, rng)
    return faces


def advertisement(quad: list[Point], label: int, rng: RandomSource) -> list[Face]:
    """A flat picture of a car, a person, a sign or a tree: part of what it hangs on, whatever it shows."""

    def oval(u: float, v: float, width: float, height: float) -> list[tuple[float, float]]:
        turns = [number * math.pi / 5 for number in range(10)]
        return [(u + width * math.cos(turn), v + height * math.sin(turn)) for turn in turns]

    first, second = rng.pick(BRIGHT), rng.pick(BRIGHT)
    paper = rng.tint(rng.pick([WHITE, YELLOW, (0.45, 0.62, 0.75), (0.75, 0.55, 0.5)]), 0.2)
    slant = rng.between(0.0, 0.4)
    person = [(0.4, 0.05), (0.6, 0.05), (0.64, 0.65), (0.36, 0.65)]
    trunk = [(0.46, 0.0), (0.54, 0.0), (0.54, 0.5), (0.46, 0.5)]
    body = [(0.1, 0.25), (0.9, 0.25), (0.88, 0.5), (0.68, 0.52), (0.55, 0.72), (0.3, 0.72), (0.2, 0.5), (0.1, 0.48)]
    layers: list[tuple[list[tuple[float, float]], Color]] = rng.pick([
        [(body, first), (oval(0.27, 0.25, 0.08, 0.1), BLACK), (oval(0.73, 0.25, 0.08, 0.1), BLACK)],
        [(person, first), (oval(0.5, 0.78, 0.08, 0.12), (0.8, 0.6, 0.48))],
        [(oval(0.5, 0.5, 0.3, 0.4), first), (oval(0.5, 0.5, 0.2, 0.27), second)],
        [(trunk, (0.3, 0.2, 0.12)), (oval(0.5, 0.62, 0.3, 0.3), (0.2, 0.4, 0.15))],
        [([(0.1, v), (0.9 - slant, v), (0.9, v + 0.14), (0.1, v + 0.14)], first) for v in (0.2, 0.45, 0.7)],
    ])  # fmt: skip
    layers = [([(0, 0), (1, 0), (1, 1), (0, 1)], paper), *layers]
    return [Face([on_quad(quad, u, v) for u, v in outline], label, PLAIN, color) for outline, color in layers]
