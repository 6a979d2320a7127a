"""Trees and hedges of a synthetic street. Faces come far to near."""

import math

import numpy as np

from semseg_app.synthetic.shapes import FOLIAGE, PLAIN, TREE, Color, Face, Place, Point, RandomSource, limb

LEAVES: list[Color] = [
    (0.22, 0.36, 0.12), (0.15, 0.27, 0.12), (0.32, 0.42, 0.14), (0.30, 0.36, 0.20), (0.18, 0.32, 0.20),
    (0.62, 0.42, 0.12), (0.55, 0.24, 0.12), (0.42, 0.34, 0.16), (0.72, 0.55, 0.58),
]  # fmt: skip


def tree(
    place: Place, eye: Point, rng: RandomSource, variety: float, leaf: Color, kind: str, height: float
) -> list[Face]:
    """A tree: trunk, branches, and a crown of ragged clumps ("round", "poplar" or "conifer")."""
    bark = rng.tint((0.27, 0.21, 0.16), 0.3 * variety)
    leaf = rng.tint(leaf, 0.15 * variety)
    low = height * {"round": 0.32, "poplar": 0.15, "conifer": 0.1}[kind]
    width = height * {"round": rng.between(0.27, 0.38), "poplar": 0.15, "conifer": 0.2}[kind]
    thick = 0.022 * height + 0.04
    top = place.at(rng.between(-0.3, 0.3), low + (height - low) * 0.5, 0)
    faces = [Face(limb(place.at(0, 0, 0), top, thick, thick * 0.6, eye), TREE, PLAIN, bark)]
    if kind == "round":
        for side in (-1, 1):
            tip = place.at(side * width * 0.6, low + (height - low) * 0.4, 0)
            faces.append(Face(limb(place.at(0, low * 0.85, 0), tip, thick * 0.5, thick * 0.25, eye), TREE, PLAIN, bark))
    half = (height - low) / 2
    middle = np.array(place.at(0, low + half, 0))
    away = middle - eye
    flat = np.hypot(away[0], away[2])
    count = 36 if flat < 15 else 18 if flat < 28 else 10
    turn, level, reach, size, squeeze, shade, seed = rng.many(7, count)
    # One clump per level, from bottom to top, so that even a crown of few clumps has no gap.
    turn, level = 2 * np.pi * turn, 1.9 * (np.arange(count) + level) / count - 0.95
    slim = (1 - level) * 0.55 + 0.06 if kind == "conifer" else np.sqrt(1 - level * level)
    reach = slim * width * (0.3 + 0.6 * reach)
    # Big clumps fill the crown, small ones fray its edge.
    small = np.arange(count) % 2 == 1
    reach = np.where(small, np.maximum(reach, slim * width * 0.8), reach)
    size = width * np.where(small, 0.14 + 0.12 * size, 0.32 + 0.18 * size) * (0.8 if kind == "conifer" else 1.0)
    # Slim crowns keep no gaps.
    size = np.maximum(size, half * np.where(small, 0.12, 0.25))
    offset = np.stack([np.cos(turn) * reach, level * half * 0.84, np.sin(turn) * reach], axis=1)
    center = middle + offset
    normal = (offset + np.array([0, 0.25 * half, 0])) / (half + width) - 0.35 * away / np.linalg.norm(away)
    # Outlines in the plane that faces the eye: [count, 12, 3].
    radii = 0.75 + 0.4 * rng.many(count, 12)
    right = np.array([away[2], 0, -away[0]]) / flat
    along = (size[:, None] * radii * _COSINES)[..., None]
    up = ((size * (0.75 + 0.25 * squeeze))[:, None] * radii * _SINES)[..., None]
    outlines = center[:, None] + along * right + up * np.array([0, 1, 0])
    gain = (0.72 + 0.18 * level + 0.22 * (shade - 0.5))[:, None]
    colors = np.minimum(np.array(leaf) * gain, 1)
    order = np.argsort(-np.square(center - eye).sum(axis=1) + 2 * small, kind="stable")
    columns = (array[order].tolist() for array in (outlines, colors, 9 * seed, normal))
    clumps = [
        Face(points, TREE, FOLIAGE, color, params=(0.75, seed), normal=normal)
        for points, color, seed, normal in zip(*columns, strict=True)
    ]
    return faces + clumps


_TURNS = np.arange(12) * (np.pi / 6)
_COSINES, _SINES = np.cos(_TURNS), np.sin(_TURNS)


def hedge(start: Point, end: Point, height: float, leaf: Color, rng: RandomSource, label: int = TREE) -> list[Face]:
    """A clipped hedge, or with another label the ivy over a wall."""
    length = math.dist(start, end)
    count = max(2, int(length / 0.6))
    crest = []
    for number in range(count, -1, -1):
        fraction = number / count
        up = height * rng.between(0.9, 1.06)
        crest.append(
            (start[0] + (end[0] - start[0]) * fraction, start[1] + up, start[2] + (end[2] - start[2]) * fraction)
        )
    return [Face([start, end, *crest], label, FOLIAGE, leaf, params=(0.45, rng.between(0, 9)))]
