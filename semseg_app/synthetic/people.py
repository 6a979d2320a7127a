"""People of a synthetic street, on foot and on bicycles: sticks and discs around 3-D joints. Faces come far to near."""

import math
from collections.abc import Callable

from semseg_app.synthetic.cars import PAINTS, RUBBER, TURN
from semseg_app.synthetic.shapes import (
    BICYCLIST,
    PEDESTRIAN,
    PLAIN,
    ROUND,
    UNSEEN,
    Color,
    Face,
    Place,
    Point,
    RandomSource,
    disc,
    far_to_near,
    limb,
    mix,
    shaded,
)

CLOTHS: list[Color] = [
    (0.15, 0.16, 0.20), (0.20, 0.27, 0.45), (0.45, 0.44, 0.42), (0.72, 0.70, 0.66), (0.60, 0.15, 0.15),
    (0.25, 0.40, 0.28), (0.75, 0.60, 0.25), (0.50, 0.30, 0.45), (0.32, 0.22, 0.16), (0.80, 0.40, 0.20),
    (0.30, 0.55, 0.65), (0.85, 0.85, 0.85),
]  # fmt: skip
SKINS: list[Color] = [(0.87, 0.68, 0.56), (0.76, 0.56, 0.43), (0.55, 0.37, 0.26), (0.36, 0.24, 0.17)]
HAIRS: list[Color] = [(0.10, 0.08, 0.07), (0.28, 0.18, 0.11), (0.55, 0.42, 0.25), (0.62, 0.60, 0.58)]


def pedestrian(
    place: Place, eye: Point, rng: RandomSource, variety: float, umbrella: bool, walking: bool
) -> list[Face]:
    """A person on foot, looking forward."""
    size = rng.between(0.94, 1.1) if rng.chance(0.88) else rng.between(0.62, 0.8)
    top, bottom = (rng.tint(rng.pick(CLOTHS), 0.3 * variety) for _ in range(2))
    skin, hair = rng.pick(SKINS), rng.pick(HAIRS)
    stride = rng.between(0.12, 0.36) if walking else 0.04
    shape = rng.pick(["trousers", "trousers", "coat", "skirt"])

    def p(right: float, up: float, forward: float) -> Point:
        return place.at(right * size, up * size, forward * size)

    def stick(a: Point, b: Point, ra: float, rb: float, color: Color) -> Face:
        return Face(limb(a, b, ra * size, rb * size, eye), PEDESTRIAN, PLAIN, color)

    parts: list[Face] = []
    swing = rng.side()
    legs = skin if shape == "skirt" else bottom
    for side in (-1, 1):
        step = stride * side * swing
        knee, foot, toes = (
            p(side * 0.1, 0.5, step * 0.6 + 0.04),
            p(side * 0.1, 0.07, step),
            p(side * 0.11, 0.05, step + 0.16),
        )
        elbow, hand = p(side * 0.27, 1.12, -step * 0.3 - 0.05), p(side * 0.27, 0.86, -step * 0.8)
        parts += [
            stick(p(side * 0.1, 0.92, 0), knee, 0.1, 0.075, legs),
            stick(knee, foot, 0.075, 0.055, shaded(legs, 0.9)),
            stick(foot, toes, 0.055, 0.045, RUBBER),
            stick(p(side * 0.21, 1.42, 0), elbow, 0.065, 0.055, top),
            stick(elbow, hand, 0.055, 0.04, shaded(top, 0.92)),
            Face(disc(hand, 0.05 * size, 0.06 * size, eye, ROUND), PEDESTRIAN, PLAIN, skin),
        ]
    hem, width = {"trousers": (0.9, 0.16), "coat": (0.55, 0.23), "skirt": (0.6, 0.23)}[shape]
    parts.append(stick(p(0, hem, 0), p(0, 1.0, 0), width, 0.15, top if shape == "coat" else bottom))
    parts.append(stick(p(0, 0.98, 0), p(0, 1.4, 0), 0.155, 0.19, top))
    if rng.chance(0.35):
        where = p(rng.side() * 0.3, 0.85, 0) if rng.chance(0.5) else p(0, 1.2, -0.22)
        parts.append(Face(disc(where, 0.15 * size, 0.2 * size, eye, ROUND), PEDESTRIAN, PLAIN, rng.pick(CLOTHS)))
    parts = far_to_near(parts, eye) + _head(p, size, eye, PEDESTRIAN, skin, hair)
    if umbrella:
        color = rng.pick(CLOTHS)
        parts.append(stick(p(0.22, 1.1, 0.1), p(0.12, 2.0, 0.1), 0.02, 0.02, RUBBER))
        dome = disc(p(0.1, 1.85, 0.05), 0.55 * size, 0.38 * size, eye, (*[1.0] * 7, 0.3, 0.12, 0.3, 0.12, 0.3))
        parts.append(Face(dome, PEDESTRIAN, PLAIN, color))
    return parts


def _head(
    p: Callable[[float, float, float], Point], size: float, eye: Point, label: int, skin: Color, hair: Color
) -> list[Face]:
    neck = Face(limb(p(0, 1.42, 0), p(0, 1.52, 0.01), 0.06 * size, 0.06 * size, eye), label, PLAIN, shaded(skin, 0.8))
    center = p(0, 1.63, 0.02)
    back = Face(disc(p(0, 1.66, -0.02), 0.115 * size, 0.13 * size, eye, ROUND), label, PLAIN, hair)
    face = Face(disc(center, 0.1 * size, 0.125 * size, eye, ROUND), label, PLAIN, skin)
    cap = Face(disc(p(0, 1.72, -0.01), 0.11 * size, 0.06 * size, eye, ROUND), label, PLAIN, hair)
    looks_away = math.dist(p(0, 1.63, 0.5), eye) > math.dist(p(0, 1.63, -0.5), eye)
    return [neck, face, back] if looks_away else [neck, back, face, cap]


def bicyclist(place: Place, eye: Point, rng: RandomSource, variety: float) -> list[Face]:
    """A person riding forward; person and bicycle are one class. The wheels' insides belong to it, though one sees
    through them: that is how people annotate."""
    top, bottom = (rng.tint(rng.pick(CLOTHS), 0.3 * variety) for _ in range(2))
    frame, skin, hair = rng.pick(PAINTS), rng.pick(SKINS), rng.pick([*HAIRS, *CLOTHS])
    at = place.at
    faces = []
    for z in (-0.53, 0.53):
        tyre = [at(0, 0.35 + 0.35 * math.sin(t), z + 0.35 * math.cos(t)) for t in TURN]
        inside = [at(0, 0.35 + 0.29 * math.sin(t), z + 0.29 * math.cos(t)) for t in TURN]
        faces.append(Face(tyre, BICYCLIST, UNSEEN))
        faces.append(Face([*tyre, tyre[0], inside[0], *reversed(inside)], UNSEEN, PLAIN, RUBBER))
        # Seen from the front the wheel's plane vanishes and its tyre remains.
        faces.append(Face(limb(at(0, 0.03, z), at(0, 0.67, z), 0.025, 0.025, eye), BICYCLIST, PLAIN, RUBBER))
    pedal = rng.between(0, 2 * math.pi)
    hip, shoulder, crank = at(0, 0.98, -0.2), at(0, 1.45, 0.12), at(0, 0.32, -0.02)
    bars = at(0, 1.0, 0.42)
    tubes = [
        (at(0, 0.35, -0.53), crank), (crank, at(0, 0.92, -0.22)), (crank, at(0, 0.85, 0.36)),
        (at(0, 0.85, -0.2), at(0, 0.85, 0.36)), (at(0, 0.35, -0.53), at(0, 0.85, -0.2)), (at(0, 0.35, 0.53), bars),
    ]  # fmt: skip
    for a, b in tubes:
        faces.append(Face(limb(a, b, 0.03, 0.03, eye), BICYCLIST, PLAIN, frame))
    faces.append(Face(limb(at(-0.28, 1.02, 0.42), at(0.28, 1.02, 0.42), 0.025, 0.025, eye), BICYCLIST, PLAIN, RUBBER))
    person = []
    for side in (-1, 1):
        turn = pedal + (math.pi if side > 0 else 0)
        foot = at(side * 0.12, 0.32 + 0.17 * math.sin(turn), 0.05 + 0.17 * math.cos(turn))
        toes = at(side * 0.12, foot[1] - place.y - 0.02, 0.2 + 0.17 * math.cos(turn))
        knee = at(side * 0.13, 0.72 + 0.1 * math.sin(turn), 0.22 + 0.05 * math.cos(turn))
        start, hand = at(side * 0.11, 0.98, -0.18), at(side * 0.27, 1.04, 0.42)
        elbow, arm = at(side * 0.29, 1.18, 0.22), at(side * 0.2, 1.42, 0.1)
        pieces = [
            (start, knee, 0.1, 0.075, bottom), (knee, foot, 0.075, 0.055, shaded(bottom, 0.9)),
            (foot, toes, 0.06, 0.05, RUBBER), (arm, elbow, 0.06, 0.05, top),
            (elbow, hand, 0.05, 0.04, mix(top, skin, 0.3)),
        ]  # fmt: skip
        for a, b, ra, rb, color in pieces:
            person.append(Face(limb(a, b, ra, rb, eye), BICYCLIST, PLAIN, color))
    person.append(Face(limb(hip, shoulder, 0.16, 0.18, eye), BICYCLIST, PLAIN, top))

    def leaned(right: float, up: float, forward: float) -> Point:
        return at(right, up + 0.03, forward + 0.2)

    return faces + far_to_near(person, eye) + _head(leaned, 1.0, eye, BICYCLIST, skin, hair)
