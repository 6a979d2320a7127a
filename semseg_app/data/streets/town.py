"""The things of a generated street that stay: buildings, trees, hedges, fences, poles, signs. Faces come far to near."""

import math
from typing import NamedTuple

import numpy as np

from semseg_app.data.streets.shapes import (
    BUILDING,
    FENCE,
    FOLIAGE,
    GLOW,
    PLAIN,
    PLANKS,
    POLE,
    ROUND,
    SIGN,
    TREE,
    UNSEEN,
    WALL,
    Colour,
    Dice,
    Face,
    Place,
    Point,
    disc,
    distance,
    far_to_near,
    limb,
    shaded,
)

WALLS: list[Colour] = [
    (0.76, 0.70, 0.60), (0.60, 0.32, 0.24), (0.56, 0.56, 0.55), (0.82, 0.80, 0.76), (0.70, 0.55, 0.38), (0.42, 0.35, 0.31),
    (0.50, 0.56, 0.60), (0.74, 0.52, 0.46), (0.36, 0.38, 0.40), (0.58, 0.62, 0.50), (0.50, 0.26, 0.20), (0.66, 0.64, 0.62),
]  # fmt: skip
TRIMS: list[Colour] = [(0.88, 0.87, 0.84), (0.30, 0.29, 0.28), (0.62, 0.60, 0.56), (0.35, 0.22, 0.15)]
ROOFS: list[Colour] = [(0.45, 0.22, 0.17), (0.30, 0.30, 0.33), (0.38, 0.30, 0.26), (0.24, 0.22, 0.22)]
LEAVES: list[Colour] = [
    (0.22, 0.36, 0.12), (0.15, 0.27, 0.12), (0.32, 0.42, 0.14), (0.30, 0.36, 0.20), (0.18, 0.32, 0.20),
    (0.62, 0.42, 0.12), (0.55, 0.24, 0.12), (0.42, 0.34, 0.16), (0.72, 0.55, 0.58),
]  # fmt: skip
METALS: list[Colour] = [
    (0.50, 0.51, 0.52),
    (0.22, 0.24, 0.25),
    (0.66, 0.66, 0.64),
    (0.16, 0.24, 0.20),
    (0.34, 0.28, 0.24),
]
RED, BLUE, WHITE, BLACK, YELLOW, GREEN = (
    (0.78, 0.08, 0.09), (0.08, 0.22, 0.62), (0.93, 0.93, 0.92), (0.05, 0.05, 0.05), (0.93, 0.76, 0.10), (0.05, 0.42, 0.25),
)  # fmt: skip


class Style(NamedTuple):
    """How a building looks. Lengths in metres."""

    wall: Colour
    trim: Colour
    roof: Colour
    storey: float
    bay: float
    window_width: float
    """Share of the bay."""
    window_height: float
    """Share of the storey; 0: no windows."""
    shop: bool
    pattern: int
    """0 plaster or concrete, 1 brick, 2 boards."""
    gable: bool


def sample_style(dice: Dice, variety: float, district: str) -> Style:
    glassy = district == "centre" and dice.chance(0.45)
    return Style(
        wall=dice.tint(dice.pick(WALLS), 0.25 * variety),
        trim=dice.pick(TRIMS),
        roof=dice.tint(dice.pick(ROOFS), 0.2 * variety),
        storey=dice.between(2.7, 3.8),
        bay=dice.between(1.5, 2.6) if glassy else dice.between(2.2, 4.5),
        window_width=dice.between(0.82, 0.94) if glassy else dice.between(0.25, 0.6),
        window_height=dice.between(0.75, 0.92) if glassy else dice.between(0.38, 0.62),
        shop=dice.chance({"suburb": 0.08, "town": 0.55, "centre": 0.6}[district]),
        pattern=0 if glassy else dice.pick([0, 0, 0, 1, 1, 2]),
        gable=dice.chance({"suburb": 0.85, "town": 0.4, "centre": 0.0}[district]),
    )


def wall(
    start: Point, end: Point, height: float, style: Style, dice: Dice, windows: bool = True, label: int = BUILDING
) -> Face:
    """An upright wall on the ground line from start to end."""
    length = max(0.5, distance(start, end))
    bay = length / max(1, round(length / style.bay))
    top = [(end[0], end[1] + height, end[2]), (start[0], start[1] + height, start[2])]
    share = style.window_height if windows else 0.0
    params = (
        style.storey,
        bay,
        style.window_width,
        share,
        float(style.shop),
        dice.between(0, 1),
        style.pattern,
        height,
    )
    return Face([start, end, *top], label, WALL, style.wall, style.trim, params)


def building(plan: list[Point], height: float, style: Style, eye: Point, dice: Dice) -> list[Face]:
    """A building on four ground points: near and far front corner, far and near back corner."""
    centre = (sum(point[0] for point in plan) / 4, 0.0, sum(point[2] for point in plan) / 4)
    rise = dice.between(0.25, 0.5) * distance(plan[1], plan[2]) * 0.7 if style.gable else 0.0
    blind = dice.chance(0.4)
    faces: list[Face] = []
    ridge = [
        ((plan[a][0] + plan[b][0]) / 2, plan[0][1] + height + rise, (plan[a][2] + plan[b][2]) / 2)
        for a, b in ((0, 3), (1, 2))
    ]
    for number in (2, 1, 3, 0):
        start, end = plan[number], plan[(number + 1) % 4]
        face = wall(start, end, height, style, dice, windows=number in (0, 2) or not blind)
        if not _looks_at(start, end, centre, eye):
            continue
        if number in (0, 2) and style.gable:
            slope = [face.points[3], face.points[2], ridge[1], ridge[0]]
            if _above_slope(slope, eye):
                faces.append(Face(slope, BUILDING, PLANKS, style.roof, params=(0.0, 0.35, 0.5)))
        if number in (1, 3) and style.gable:
            peak = ridge[0 if number == 3 else 1]
            face = face._replace(points=[face.points[0], face.points[1], face.points[2], peak, face.points[3]])
        faces.append(face)
    if _looks_at(plan[0], plan[1], centre, eye):
        faces += _front(plan[0], plan[1], centre, height, style, eye, dice)
    return faces


def _looks_at(start: Point, end: Point, centre: Point, eye: Point) -> bool:
    """Whether the eye is on the other side of the ground line start-end than the building's centre."""
    dx, dz = end[0] - start[0], end[2] - start[2]

    def side(point: Point) -> float:
        return dx * (point[2] - start[2]) - dz * (point[0] - start[0])

    return side(centre) * side(eye) < 0


def _above_slope(slope: list[Point], eye: Point) -> bool:
    (ax, ay, az), (bx, by, bz), _, (dx, dy, dz) = slope
    ux, uy, uz, vx, vy, vz = bx - ax, by - ay, bz - az, dx - ax, dy - ay, dz - az
    nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
    sign = 1 if ny > 0 else -1
    return sign * (nx * (eye[0] - ax) + ny * (eye[1] - ay) + nz * (eye[2] - az)) > 0


def _front(start: Point, end: Point, centre: Point, height: float, style: Style, eye: Point, dice: Dice) -> list[Face]:
    """Balconies, awnings and posters on a front. All of them are building, posters of cars and signs too."""
    length = distance(start, end)
    ux, uz = (end[0] - start[0]) / length, (end[2] - start[2]) / length
    nx, nz = -uz, ux
    if nx * (centre[0] - start[0]) + nz * (centre[2] - start[2]) > 0:
        nx, nz = -nx, -nz

    def at(u: float, v: float, out: float) -> Point:
        return (start[0] + ux * u + nx * out, start[1] + v, start[2] + uz * u + nz * out)

    def slab(u0: float, u1: float, v0: float, v1: float, out: float, colour: Colour) -> list[Face]:
        quads = [
            ([at(u0, v0, 0), at(u1, v0, 0), at(u1, v0, out), at(u0, v0, out)], 0.5),
            ([at(u0, v0, out), at(u0, v0, 0), at(u0, v1, 0), at(u0, v1, out)], 0.8),
            ([at(u0, v0, out), at(u1, v0, out), at(u1, v1, out), at(u0, v1, out)], 1.0),
        ]
        return [Face(points, BUILDING, PLAIN, shaded(colour, gain)) for points, gain in quads]

    faces: list[Face] = []
    if style.shop and height > 4 and dice.chance(0.7):
        bay = length / max(1, round(length / style.bay))
        for number in range(round(length / bay) - 1, -1, -1):
            if dice.chance(0.45):
                colour, low = dice.pick([RED, BLUE, WHITE, YELLOW, GREEN, style.trim]), style.storey * 0.72
                u0, u1, out = bay * (number + 0.06), bay * (number + 0.94), dice.between(0.5, 1.1)
                roof = [at(u0, low, out), at(u1, low, out), at(u1, low + 0.45, 0), at(u0, low + 0.45, 0)]
                faces.append(Face(roof, BUILDING, PLAIN, colour))
    elif height > 6 and dice.chance(0.35):
        step = length / max(1, round(length / dice.between(3.5, 6)))
        for storey in range(1, min(5, int(height / style.storey))):
            for number in range(int(length / step) - 1, -1, -1):
                base = storey * style.storey
                faces += slab(step * (number + 0.2), step * (number + 0.8), base - 0.1, base + 0.75, 0.8, style.trim)
    if dice.chance(0.35) and length > 6:
        u, v, size = (
            dice.between(2, length - 3),
            dice.between(0.3, max(0.4, min(4.5, height - 3))),
            dice.between(1.2, 2.4),
        )
        faces += _poster(
            [at(u, v, 0.05), at(u + size * 1.3, v, 0.05), at(u + size * 1.3, v + size, 0.05), at(u, v + size, 0.05)],
            dice,
        )
    return faces


def _poster(quad: list[Point], dice: Dice) -> list[Face]:
    """An advertisement: a flat picture of a car, a person, a tree or a sign."""

    def picture(outline: list[tuple[float, float]], colour: Colour) -> Face:
        (ax, ay, az), (bx, by, bz), _, (dx, dy, dz) = quad
        points = [
            (ax + (bx - ax) * u + (dx - ax) * v, ay + (by - ay) * u + (dy - ay) * v, az + (bz - az) * u + (dz - az) * v)
            for u, v in outline
        ]
        return Face(points, BUILDING, PLAIN, colour)

    def oval(u: float, v: float, du: float, dv: float) -> list[tuple[float, float]]:
        return [(u + du * math.cos(t * math.pi / 5), v + dv * math.sin(t * math.pi / 5)) for t in range(10)]

    paint = [dice.pick([RED, BLUE, WHITE, BLACK, YELLOW, GREEN]) for _ in range(2)]
    faces = [
        picture(
            [(0, 0), (1, 0), (1, 1), (0, 1)],
            dice.tint(dice.pick([WHITE, YELLOW, (0.45, 0.62, 0.75), (0.75, 0.55, 0.5)]), 0.2),
        )
    ]
    kind = dice.pick(["car", "person", "sign", "words", "tree"])
    if kind == "car":
        faces.append(
            picture(
                [
                    (0.1, 0.25),
                    (0.9, 0.25),
                    (0.88, 0.5),
                    (0.68, 0.52),
                    (0.55, 0.72),
                    (0.3, 0.72),
                    (0.2, 0.5),
                    (0.1, 0.48),
                ],
                paint[0],
            )
        )
        faces += [picture(oval(u, 0.25, 0.08, 0.1), BLACK) for u in (0.27, 0.73)]
    elif kind == "person":
        faces.append(picture([(0.4, 0.05), (0.6, 0.05), (0.64, 0.65), (0.36, 0.65)], paint[0]))
        faces.append(picture(oval(0.5, 0.78, 0.08, 0.12), (0.8, 0.6, 0.48)))
    elif kind == "sign":
        faces += [picture(oval(0.5, 0.5, 0.3, 0.4), paint[0]), picture(oval(0.5, 0.5, 0.2, 0.27), paint[1])]
    elif kind == "tree":
        faces += [
            picture([(0.46, 0), (0.54, 0), (0.54, 0.5), (0.46, 0.5)], (0.3, 0.2, 0.12)),
            picture(oval(0.5, 0.62, 0.3, 0.3), (0.2, 0.4, 0.15)),
        ]
    else:
        faces += [
            picture([(0.1, v), (dice.between(0.5, 0.9), v), (0.9, v + 0.14), (0.1, v + 0.14)], paint[0])
            for v in (0.2, 0.45, 0.7)
        ]
    return faces


def tree(place: Place, eye: Point, dice: Dice, variety: float, leaf: Colour, kind: str, height: float) -> list[Face]:
    """A tree: trunk, branches, and a crown of ragged clumps ("round", "poplar" or "conifer")."""
    bark = dice.tint((0.27, 0.21, 0.16), 0.3 * variety)
    leaf = dice.tint(leaf, 0.15 * variety)
    low = height * {"round": 0.32, "poplar": 0.15, "conifer": 0.1}[kind]
    width = height * {"round": dice.between(0.27, 0.38), "poplar": 0.15, "conifer": 0.2}[kind]
    thick = 0.022 * height + 0.04
    top = place.at(dice.between(-0.3, 0.3), low + (height - low) * 0.5, 0)
    faces = [Face(limb(place.at(0, 0, 0), top, thick, thick * 0.6, eye), TREE, PLAIN, bark)]
    if kind == "round":
        for side in (-1, 1):
            tip = place.at(side * width * 0.6, low + (height - low) * 0.4, 0)
            faces.append(Face(limb(place.at(0, low * 0.85, 0), tip, thick * 0.5, thick * 0.25, eye), TREE, PLAIN, bark))
    half = (height - low) / 2
    middle = np.array(place.at(0, low + half, 0))
    away = middle - eye
    flat = np.hypot(away[0], away[2])
    count = 36 if flat < 15 else 20 if flat < 30 else 12
    turn, level, reach, size, squeeze, shade, seed = dice.many(7, count)
    turn, level = 2 * np.pi * turn, 1.9 * level - 0.93
    slim = (1 - level) * 0.55 + 0.06 if kind == "conifer" else np.sqrt(1 - level * level)
    reach = slim * width * (0.3 + 0.6 * reach)
    # Big clumps fill the crown, small ones fray its edge.
    small = np.arange(count) % 2 == 1
    reach = np.where(small, np.maximum(reach, slim * width * 0.8), reach)
    size = width * np.where(small, 0.14 + 0.12 * size, 0.32 + 0.18 * size) * (0.8 if kind == "conifer" else 1.0)
    size = np.maximum(size, half * np.where(small, 0.09, 0.15))
    offset = np.stack([np.cos(turn) * reach, level * half * 0.84, np.sin(turn) * reach], axis=1)
    centre = middle + offset
    normal = (offset + (0, 0.25 * half, 0)) / (half + width) - 0.35 * away / np.linalg.norm(away)
    # Outlines in the plane that faces the eye: [count, 12, 3].
    radii = 0.75 + 0.4 * dice.many(count, 12)
    right = np.array([away[2], 0, -away[0]]) / flat
    along = (size[:, None] * radii * _COSINES)[..., None]
    up = ((size * (0.75 + 0.25 * squeeze))[:, None] * radii * _SINES)[..., None]
    outlines = centre[:, None] + along * right + up * np.array([0, 1, 0])
    gain = (0.72 + 0.18 * level + 0.22 * (shade - 0.5))[:, None]
    colours = np.minimum(np.array(leaf) * gain, 1)
    order = np.argsort(-np.square(centre - eye).sum(axis=1) + 2 * small, kind="stable")
    rows = zip(outlines[order].tolist(), colours[order].tolist(), seed[order].tolist(), normal[order].tolist(), strict=True)
    return faces + [Face(points, TREE, FOLIAGE, colour, params=(0.75, 9 * seed), normal=up) for points, colour, seed, up in rows]


_TURNS = np.arange(12) * (np.pi / 6)
_COSINES, _SINES = np.cos(_TURNS), np.sin(_TURNS)


def hedge(
    start: Point, end: Point, height: float, leaf: Colour, eye: Point, dice: Dice, label: int = TREE
) -> list[Face]:
    """A clipped hedge, or with another label the ivy over a wall."""
    length = distance(start, end)
    count = max(2, int(length / 0.6))
    crest = []
    for number in range(count, -1, -1):
        share = number / count
        up = height * dice.between(0.9, 1.06)
        crest.append((start[0] + (end[0] - start[0]) * share, start[1] + up, start[2] + (end[2] - start[2]) * share))
    return [Face([start, end, *crest], label, FOLIAGE, leaf, params=(0.45, dice.between(0, 9)))]


def fence(
    start: Point, end: Point, kind: str, height: float, colour: Colour, style: Style, eye: Point, dice: Dice
) -> list[Face]:
    """A piece of fence on the ground line start-end: "planks", "panels", "masonry", "ivy" or see-through "rails".

    The gaps between rails are fence too: that is how people annotate.
    """
    top = [(end[0], end[1] + height, end[2]), (start[0], start[1] + height, start[2])]
    quad = [start, end, *top]
    if kind == "rails":
        faces = [Face(quad, FENCE, UNSEEN)]
        # Farther away the bars are too thin to be told apart.
        gap = 0.28 if distance(start, eye) < 20 else 0.56
        count = max(2, int(distance(start, end) / gap))

        def along(share: float, up: float) -> Point:
            return (start[0] + (end[0] - start[0]) * share, start[1] + up, start[2] + (end[2] - start[2]) * share)

        for number in range(count + 1):
            share = number / count
            radius = 0.045 if number in (0, count) else 0.02
            faces.append(Face(limb(along(share, 0), along(share, height), radius, radius, eye), UNSEEN, PLAIN, colour))
        for up in (height * 0.14, height * 0.93):
            faces.append(Face(limb(along(0, up), along(1, up), 0.03, 0.03, eye), UNSEEN, PLAIN, colour))
        return faces
    if kind in ("masonry", "ivy"):
        face = wall(start, end, height, style, dice, windows=False, label=FENCE)
        faces = [face]
        if kind == "ivy":
            leaf = dice.tint(dice.pick(LEAVES[:5]), 0.2)
            faces += hedge(start, end, height * dice.between(0.5, 0.95), leaf, eye, dice, FENCE)
        return faces
    period = 0.24 if kind == "planks" else 1.9
    faces = [Face(quad, FENCE, PLANKS, colour, params=(period, 0.0, dice.between(0, 1)))]
    if kind == "panels" and dice.chance(0.25):
        faces += [
            face._replace(label=FENCE)
            for face in _poster(
                [_slide(quad, u, v) for u, v in ((0.2, 0.2), (0.8, 0.2), (0.8, 0.85), (0.2, 0.85))], dice
            )
        ]
    return faces


def _slide(quad: list[Point], u: float, v: float) -> Point:
    a, b, _, d = quad
    return (
        a[0] + (b[0] - a[0]) * u + (d[0] - a[0]) * v,
        a[1] + (d[1] - a[1]) * v,
        a[2] + (b[2] - a[2]) * u + (d[2] - a[2]) * v,
    )


def pole(place: Place, height: float, radius: float, colour: Colour, eye: Point) -> Face:
    return Face(limb(place.at(0, 0, 0), place.at(0, height, 0), radius, radius * 0.8, eye), POLE, PLAIN, colour)


def lamp(place: Place, arm: float, height: float, colour: Colour, glow: float, eye: Point) -> list[Face]:
    """A street lamp; its arm reaches `arm` metres to the right. All of it is pole."""
    head = place.at(arm, height + 0.25, 0)
    return [
        pole(place, height, 0.1, colour, eye),
        Face(limb(place.at(0, height - 0.1, 0), head, 0.07, 0.06, eye), POLE, PLAIN, colour),
        Face(
            disc(head, 0.36, 0.13, eye, ROUND),
            POLE,
            GLOW if glow else PLAIN,
            (1.0, 0.86, 0.6) if glow else colour,
            params=(glow,),
        ),
    ]


def bollard(place: Place, colour: Colour, eye: Point) -> list[Face]:
    band = Face(limb(place.at(0, 0.72, 0), place.at(0, 0.84, 0), 0.11, 0.11, eye), POLE, PLAIN, WHITE)
    return [pole(place, 1.0, 0.11, colour, eye), band]


def traffic_light(place: Place, colour: Colour, glow: float, eye: Point, dice: Dice) -> list[Face]:
    """The post is pole, the head is sign (as in CamVid)."""
    faces = [pole(place, 2.6, 0.09, colour, eye)]
    faces.append(
        Face(
            [place.at(x, y, -0.12) for x, y in ((-0.28, 2.3), (0.28, 2.3), (0.28, 3.7), (-0.28, 3.7))],
            SIGN,
            PLAIN,
            (0.07, 0.08, 0.08),
        )
    )
    burning = dice.whole(0, 2)
    for number, tint in enumerate(((0.1, 0.85, 0.4), (0.95, 0.65, 0.1), (0.95, 0.1, 0.08))):
        lit = number == burning
        ring = disc(place.at(0, 2.55 + 0.45 * number, -0.14), 0.17, 0.17, eye, ROUND)
        faces.append(
            Face(ring, SIGN, GLOW if lit else PLAIN, tint if lit else shaded(tint, 0.2), params=(1.0 + 3 * glow,))
        )
    return faces


def traffic_sign(place: Place, colour: Colour, eye: Point, dice: Dice) -> list[Face]:
    """A post (pole) and its plate (sign), which faces backwards from `place`."""
    size, height = dice.between(0.42, 0.56), dice.between(2.0, 2.6)
    kind = dice.pick(["limit", "limit", "warning", "parking", "ban", "stop", "board", "yield"])

    def plate(outline: list[tuple[float, float]], paint: Colour, layer: int) -> Face:
        points = [place.at(x * size, height + y * size, -0.1 - 0.01 * layer) for x, y in outline]
        return Face(points, SIGN, PLAIN, paint)

    def regular(count: int, radius: float, turn: float = 0.0) -> list[tuple[float, float]]:
        return [
            (radius * math.sin(turn + 2 * math.pi * n / count), radius * math.cos(turn + 2 * math.pi * n / count))
            for n in range(count)
        ]

    def bar(x: float, y: float, width: float, tall: float) -> list[tuple[float, float]]:
        return [(x - width, y - tall), (x + width, y - tall), (x + width, y + tall), (x - width, y + tall)]

    if kind in ("limit", "ban"):
        layers = [(regular(16, 1), RED), (regular(16, 0.76), WHITE)]
        layers += (
            [(bar(-0.22, 0, 0.12, 0.38), BLACK), (bar(0.22, 0, 0.14, 0.38), BLACK)]
            if kind == "limit"
            else [(bar(0, 0, 0.7, 0.14), RED)]
        )
    elif kind in ("warning", "yield"):
        turn = 0.0 if kind == "warning" else math.pi
        layers = [(regular(3, 1.2, turn), RED), (regular(3, 0.78, turn), WHITE)]
        layers += [(bar(0, -0.05, 0.09, 0.3), BLACK)] if kind == "warning" else []
    elif kind == "parking":
        layers = [
            (bar(0, 0, 0.92, 0.92), BLUE),
            (bar(-0.2, 0, 0.13, 0.55), WHITE),
            (bar(0.12, 0.25, 0.25, 0.28), WHITE),
        ]
    elif kind == "stop":
        layers = [(regular(8, 1.05, math.pi / 8), RED), (bar(0, 0, 0.7, 0.2), WHITE)]
    else:
        paint = dice.pick([BLUE, GREEN, YELLOW, WHITE])
        ink = BLACK if paint in (YELLOW, WHITE) else WHITE
        layers = [
            (bar(0, 0, 1.7, 1.0), paint),
            (bar(-0.3, 0.4, 0.9, 0.13), ink),
            (bar(-0.1, -0.1, 1.1, 0.13), ink),
            (bar(-0.5, -0.55, 0.7, 0.13), ink),
        ]
    faces = [pole(place, height + size * 0.6, 0.065, colour, eye)]
    if kind == "board":
        faces = [pole(place._replace(x=place.x + dx), height, 0.07, colour, eye) for dx in (-0.6, 0.6)]
    return faces + [plate(outline, paint, layer) for layer, (outline, paint) in enumerate(layers)]
