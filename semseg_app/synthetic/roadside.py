"""What lines a synthetic street: fences, lamps, bollards, traffic lights and signs. Faces come far to near."""

import math

from semseg_app.synthetic.houses import BLACK, BLUE, GREEN, RED, WHITE, YELLOW, Style, advertisement, wall
from semseg_app.synthetic.plants import LEAVES, hedge
from semseg_app.synthetic.shapes import (
    FENCE,
    GLOW,
    PLAIN,
    PLANKS,
    POLE,
    ROUND,
    SIGN,
    UNSEEN,
    Color,
    Face,
    Place,
    Point,
    RandomSource,
    disc,
    limb,
    on_quad,
    shaded,
    upright,
)

METALS: list[Color] = [
    (0.22, 0.24, 0.25), (0.12, 0.14, 0.16), (0.16, 0.24, 0.20), (0.24, 0.20, 0.17),
]  # fmt: skip


def fence(
    start: Point, end: Point, kind: str, height: float, color: Color, style: Style, eye: Point, rng: RandomSource
) -> list[Face]:
    """A piece of fence on the ground line start-end: "planks", "panels", "masonry", "ivy" or see-through "rails".

    The gaps between rails are fence too: that is how people annotate.
    """
    quad = upright(start, end, height)
    if kind == "rails":
        faces = [Face(quad, FENCE, UNSEEN)]
        # Farther away the bars are too thin to be told apart.
        gap = 0.28 if math.dist(start, eye) < 20 else 0.56
        count = max(2, int(math.dist(start, end) / gap))
        for number in range(count + 1):
            fraction = number / count
            radius = 0.06 if number in (0, count) else 0.04
            faces.append(
                Face(
                    limb(on_quad(quad, fraction, 0), on_quad(quad, fraction, 1), radius, radius, eye),
                    UNSEEN,
                    PLAIN,
                    color,
                )
            )
        for level in (0.14, 0.93):
            faces.append(
                Face(limb(on_quad(quad, 0, level), on_quad(quad, 1, level), 0.05, 0.05, eye), UNSEEN, PLAIN, color)
            )
        return faces
    if kind in ("masonry", "ivy"):
        faces = [wall(start, end, height, style, rng, windows=False, label=FENCE)]
        if kind == "ivy":
            leaf = rng.tint(rng.pick(LEAVES[:5]), 0.2)
            faces += hedge(start, end, height * rng.between(0.5, 0.95), leaf, rng, FENCE)
        return faces
    period = 0.24 if kind == "planks" else 1.9
    faces = [Face(quad, FENCE, PLANKS, color, params=(period, 0.0, rng.between(0, 1)))]
    if kind == "panels" and rng.chance(0.25):
        corners = ((0.2, 0.2), (0.8, 0.2), (0.8, 0.85), (0.2, 0.85))
        faces += advertisement([on_quad(quad, u, v) for u, v in corners], FENCE, rng)
    return faces


def pole(place: Place, height: float, radius: float, color: Color, eye: Point) -> Face:
    return Face(limb(place.at(0, 0, 0), place.at(0, height, 0), radius, radius * 0.8, eye), POLE, PLAIN, color)


def lamp(place: Place, arm: float, height: float, color: Color, glow: float, eye: Point) -> list[Face]:
    """A street lamp; its arm reaches `arm` meters to the right. All of it is pole."""
    head = place.at(arm, height + 0.25, 0)
    arm_face = Face(limb(place.at(0, height - 0.1, 0), head, 0.1, 0.09, eye), POLE, PLAIN, color)
    bulb = disc(head, 0.42, 0.17, eye, ROUND)
    light = Face(bulb, POLE, GLOW, (1.0, 0.86, 0.6), params=(glow,)) if glow else Face(bulb, POLE, PLAIN, color)
    return [pole(place, height, 0.13, color, eye), arm_face, light]


def bollard(place: Place, color: Color, eye: Point) -> list[Face]:
    band = Face(limb(place.at(0, 0.72, 0), place.at(0, 0.84, 0), 0.14, 0.14, eye), POLE, PLAIN, WHITE)
    return [pole(place, 1.0, 0.14, color, eye), band]


def traffic_light(place: Place, color: Color, glow: float, eye: Point, rng: RandomSource) -> list[Face]:
    """The post is pole, the head is sign (as in CamVid)."""
    case = upright(place.at(-0.28, 2.3, -0.12), place.at(0.28, 2.3, -0.12), 1.4)
    faces = [pole(place, 2.6, 0.14, color, eye), Face(case, SIGN, PLAIN, (0.07, 0.08, 0.08))]
    burning = rng.whole(0, 2)
    for number, tint in enumerate(((0.1, 0.85, 0.4), (0.95, 0.65, 0.1), (0.95, 0.1, 0.08))):
        lit = number == burning
        ring = disc(place.at(0, 2.55 + 0.45 * number, -0.14), 0.17, 0.17, eye, ROUND)
        disc_color = tint if lit else shaded(tint, 0.2)
        faces.append(Face(ring, SIGN, GLOW if lit else PLAIN, disc_color, params=(1.0 + 3 * glow,)))
    return faces


Outline = list[tuple[float, float]]


def _regular(corners: int, radius: float, turn: float = 0.0) -> Outline:
    turns = [turn + 2 * math.pi * number / corners for number in range(corners)]
    return [(radius * math.sin(turn), radius * math.cos(turn)) for turn in turns]


def _bar(x: float, y: float, width: float, height: float) -> Outline:
    return [(x - width, y - height), (x + width, y - height), (x + width, y + height), (x - width, y + height)]


# What is painted on a plate, layer over layer, in halves of its size.
RING: list[tuple[Outline, Color]] = [(_regular(16, 1), RED), (_regular(16, 0.76), WHITE)]
PLATES: dict[str, list[tuple[Outline, Color]]] = {
    "limit": [*RING, (_bar(-0.22, 0, 0.12, 0.38), BLACK), (_bar(0.22, 0, 0.14, 0.38), BLACK)],
    "ban": [*RING, (_bar(0, 0, 0.7, 0.14), RED)],
    "warning": [(_regular(3, 1.2), RED), (_regular(3, 0.78), WHITE), (_bar(0, -0.05, 0.09, 0.3), BLACK)],
    "yield": [(_regular(3, 1.2, math.pi), RED), (_regular(3, 0.78, math.pi), WHITE)],
    "parking": [
        (_bar(0, 0, 0.92, 0.92), BLUE),
        (_bar(-0.2, 0, 0.13, 0.55), WHITE),
        (_bar(0.12, 0.25, 0.25, 0.28), WHITE),
    ],
    "stop": [(_regular(8, 1.05, math.pi / 8), RED), (_bar(0, 0, 0.7, 0.2), WHITE)],
}
BOARD = [_bar(0, 0, 1.7, 1.0), _bar(-0.3, 0.4, 0.9, 0.13), _bar(-0.1, -0.1, 1.1, 0.13), _bar(-0.5, -0.55, 0.7, 0.13)]


def traffic_sign(place: Place, color: Color, eye: Point, rng: RandomSource) -> list[Face]:
    """A post (pole) and its plate (sign), which faces backwards from `place`; or a direction board on two posts."""
    size, height = rng.between(0.5, 0.7), rng.between(2.0, 2.6)
    kind = rng.pick(["board", "limit", *PLATES])
    if kind == "board":
        paint, ink = rng.pick([(BLUE, WHITE), (GREEN, WHITE), (YELLOW, BLACK), (WHITE, BLACK)])
        layers = list(zip(BOARD, (paint, ink, ink, ink), strict=True))
        faces = [pole(place._replace(x=place.x + aside), height, 0.1, color, eye) for aside in (-0.6, 0.6)]
    else:
        layers = PLATES[kind]
        faces = [pole(place, height + size * 0.6, 0.1, color, eye)]
    for outline, paint in layers:
        faces.append(Face([place.at(x * size, height + y * size, -0.1) for x, y in outline], SIGN, PLAIN, paint))
    return faces
