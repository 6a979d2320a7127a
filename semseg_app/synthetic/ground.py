"""The ground of a synthetic street: road, pavements, curbs, markings, patches, puddles; and the skyline behind it."""

import math

from semseg_app.synthetic.houses import sample_style, wall
from semseg_app.synthetic.plants import LEAVES
from semseg_app.synthetic.shapes import (
    ASPHALT,
    FOLIAGE,
    MARKING,
    PAVEMENT,
    PAVING,
    PLAIN,
    PUDDLE,
    ROAD,
    TREE,
    Color,
    Face,
    mix,
    shaded,
)  # fmt: skip
from semseg_app.synthetic.site import CURB, Site

ASPHALTS: list[Color] = [
    (0.30, 0.30, 0.32), (0.40, 0.40, 0.40), (0.52, 0.50, 0.48), (0.24, 0.25, 0.28), (0.46, 0.42, 0.40),
    (0.36, 0.39, 0.42),
]  # fmt: skip
PAVINGS: list[Color] = [
    (0.62, 0.60, 0.57), (0.52, 0.51, 0.50), (0.70, 0.62, 0.52), (0.58, 0.42, 0.36), (0.44, 0.44, 0.47),
    (0.56, 0.54, 0.44),
]  # fmt: skip
LANES: list[Color] = [(0.52, 0.20, 0.16), (0.20, 0.36, 0.24), (0.22, 0.30, 0.46)]
UP = (0.0, 1.0, 0.0)


def skyline(site: Site) -> None:
    """What closes the view far away: blocks, hills with trees, or both."""
    rng, faces = site.rng, site.scene.faces
    kind = rng.pick(["blocks", "trees", "both"])
    if kind != "blocks":
        leaf = rng.tint(rng.pick(LEAVES[:5]), 0.2)
        crest = [(x * 10.0, rng.between(7, 16), 260.0) for x in range(40, -41, -1)]
        faces.append(Face([(-400, 0, 260), (400, 0, 260), *crest], TREE, FOLIAGE, leaf, params=(0.2, 0.0)))
    if kind != "trees":
        for _ in range(10):
            x, width, height = rng.between(-170, 170), rng.between(14, 34), rng.between(8, 38)
            style = sample_style(rng, site.variety, site.district)
            faces.append(wall((x, 0, 230), (x + width, 0, 230), height, style, rng))


def ground(site: Site) -> None:
    """Pavement everywhere, the road with its side street on it, curbs between the two."""
    rng, half = site.rng, site.half
    road = rng.tint(rng.pick(ASPHALTS), 0.25 * site.variety, 0.1)
    if rng.chance(0.25):
        # Pavements of asphalt: only the curb tells them from the road.
        paved = shaded(road, rng.between(0.9, 1.25))
    else:
        paved = rng.tint(rng.pick(PAVINGS), 0.25 * site.variety, 0.15)
    texture = (float(rng.whole(0, 2)), rng.between(0.3, 0.9), rng.between(0.4, 1.0), rng.between(0.0, 1.0))
    pavement = Face([], PAVEMENT, PAVING, paved, params=texture, normal=UP)
    asphalt = Face([], ROAD, ASPHALT, road, params=(rng.between(0.3, 1.0), rng.between(0, 1)), normal=UP)
    everywhere = [(-400.0, 0.0, -5.0), (400.0, 0.0, -5.0), (400.0, 0.0, 400.0), (-400.0, 0.0, 400.0)]
    site.scene.faces.append(pavement._replace(points=everywhere))
    site.strip(asphalt, (-half, half), (-4, site.end))
    stone = shaded(mix(paved, (0.62, 0.62, 0.6), 0.6), rng.between(0.75, 1.15))
    curb = Face([], PAVEMENT, PLAIN, stone, normal=UP)
    upright = curb._replace(color=shaded(stone, 0.7), normal=(0, 0.4, -0.6))
    for side in (-1, 1):
        site.strip(pavement, (side * half, side * (half + 40)), (-4, site.end), (CURB, CURB))
        pieces = [(-4.0, site.end)]
        if site.crossing and side in site.crossing_sides:
            pieces = [(-4.0, site.crossing[0]), (site.crossing[1], site.end)]
            corners = ((0, -0.1), (1, -0.1), (1, 45), (0, 45))
            mouth = [site.at(site.crossing[which], side * (half + aside)) for which, aside in corners]
            site.scene.faces.append(asphalt._replace(points=mouth))
        for piece in pieces:
            if piece[0] < piece[1]:
                site.strip(curb, (side * half, side * (half + 0.18)), piece, (CURB, CURB))
                site.strip(upright, (side * half, side * half), piece, (0, CURB))
    _repairs(site, asphalt)
    _markings(site, asphalt)
    _spots(site, asphalt)


def _repairs(site: Site, asphalt: Face) -> None:
    """Patches of newer or older asphalt, and a colored bicycle lane."""
    rng, half = site.rng, site.half
    for _ in range(rng.whole(0, 4)):
        along, across, length, width = (
            rng.between(2, 30),
            rng.between(-half, half - 1),
            rng.between(1, 9),
            rng.between(0.6, 1.6),
        )
        patch = asphalt._replace(color=shaded(asphalt.color, rng.pick([0.72, 0.82, 1.15])))
        site.strip(patch, (across, min(half, across + width)), (along, along + length))
    if rng.chance(0.2):
        side, lane = rng.side(), mix(asphalt.color, rng.pick(LANES), 0.7)
        site.strip(asphalt._replace(color=lane), (side * half, side * (half - 1.4)), (-4, min(site.end, 75)))


def _markings(site: Site, asphalt: Face) -> None:
    """Lines and zebra crossings, more or less worn."""
    rng, half, end = site.rng, site.half, min(site.end, 75.0)
    paint = asphalt._replace(
        material=MARKING, color=(0.86, 0.86, 0.84), trim=asphalt.color, params=(0.4, 0.0, rng.between(0.0, 0.75))
    )
    middle = paint._replace(color=(0.82, 0.66, 0.20)) if rng.chance(0.25) else paint
    wide = ["none", "dashes", "dashes", "dashes", "solid", "double"]
    kind = rng.pick(wide if half > 3 else ["none", "none", "dashes"])
    if kind == "dashes":
        period, length = rng.between(4, 8), rng.between(1.5, 3)
        for number in range(int(end / period)):
            first = number * period + 1
            if not any(site.on_crossing(first, side, length) for side in (-1, 1)):
                site.strip(middle, (-0.08, 0.08), (first, first + length))
    for offset in {"solid": (0.0,), "double": (-0.14, 0.14)}.get(kind, ()):
        site.strip(middle, (offset - 0.07, offset + 0.07), (-4, end))
    if half > 5:
        for side in (-1, 1):
            for number in range(12):
                site.strip(paint, (side * half / 2 - 0.07, side * half / 2 + 0.07), (number * 6, number * 6 + 2.5))
    if rng.chance(0.4):
        for side in (-1, 1):
            inset = half - (2.1 if site.parking[side] else 0.35)
            site.strip(paint, (side * inset, side * (inset - 0.12)), (-4, end))
    if site.zebra:
        count = int(half)
        for number in range(-count, count):
            site.strip(paint, (number + 0.25, number + 0.75), (site.zebra, site.zebra + 2.8))


def _spots(site: Site, asphalt: Face) -> None:
    """Puddles that mirror, and lids of manholes."""
    rng, half = site.rng, site.half
    if site.light.wet or rng.chance(0.12):
        for _ in range(rng.whole(2, 5)):
            along, across, size = rng.between(3, 20), rng.between(-half, half), rng.between(0.5, 1.6)
            rim = []
            for number in range(12):
                turn = number * math.pi / 6
                aside = across + math.cos(turn) * size * rng.between(0.6, 1)
                rim.append(site.at(along + math.sin(turn) * size * rng.between(0.8, 1.8), max(-half, min(half, aside))))
            site.scene.faces.append(asphalt._replace(points=rim, material=PUDDLE))
    for _ in range(rng.whole(0, 2)):
        along, across = rng.between(4, 18), rng.between(-half * 0.8, half * 0.8)
        turns = [number * math.pi / 5 for number in range(10)]
        lid = [site.at(along + math.sin(turn) * 0.36, across + math.cos(turn) * 0.36) for turn in turns]
        site.scene.faces.append(asphalt._replace(points=lid, color=shaded(asphalt.color, 0.55)))
