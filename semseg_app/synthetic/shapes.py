"""What a synthetic street is made of: faces (flat polygons in the world), simple solids, and random numbers.

World: meters, x to the right, y up, z away from the camera. Colors: sRGB from 0 to 1. Everything random is drawn
from `RandomSource`, which uses only `Generator.random()`: its doubles are the raw PCG64 bits on every platform and in
every version of NumPy, which the other distributions do not promise.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

Point = tuple[float, float, float]
Color = tuple[float, float, float]
Choice = TypeVar("Choice")

# Class indices: the eleven classes of CamVid, in its order.
SKY, BUILDING, POLE, ROAD, PAVEMENT, TREE, SIGN, FENCE, CAR, PEDESTRIAN, BICYCLIST = range(11)
# Materials: how a face is painted (paint.py).
PLAIN, GLOW, GLASS, ASPHALT, MARKING, PAVING, PUDDLE, WALL, FOLIAGE, PLANKS = range(10)
UNSEEN = -1
"""As a label: paint the face only in the photo. As a material: paint it only in the label."""


class Face(NamedTuple):
    """A flat polygon. Its texture's origin is the first point, its u axis points to the second one."""

    points: Sequence[Point]
    label: int
    material: int
    color: Color = (0.0, 0.0, 0.0)
    trim: Color = (0.0, 0.0, 0.0)
    params: tuple[float, ...] = ()
    """Up to eight numbers; each material reads its own (paint.py)."""
    normal: Point | None = None
    """For lighting; None: the polygon's own, toward the camera."""


class Place(NamedTuple):
    """A local frame on the ground: where a thing stands and which way it faces."""

    x: float
    y: float
    z: float
    heading: float
    """Radians from the z axis toward the x axis."""

    def at(self, right: float, up: float, forward: float) -> Point:
        """World point of local coordinates."""
        cos, sin = math.cos(self.heading), math.sin(self.heading)
        return (self.x + right * cos + forward * sin, self.y + up, self.z - right * sin + forward * cos)

    def local(self, point: Point) -> Point:
        """Local coordinates (right, up, forward) of a world point."""
        cos, sin = math.cos(self.heading), math.sin(self.heading)
        dx, dz = point[0] - self.x, point[2] - self.z
        return (dx * cos - dz * sin, point[1] - self.y, dx * sin + dz * cos)


class RandomSource:
    """Draws from one stream of random numbers."""

    def __init__(self, seed: np.random.SeedSequence):
        self._draw = np.random.Generator(np.random.PCG64(seed)).random

    def chance(self, probability: float) -> bool:
        return float(self._draw()) < probability

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * float(self._draw())

    def whole(self, low: int, high: int) -> int:
        """An integer from low to high, both included."""
        return low + int((high - low + 1) * float(self._draw()))

    def pick(self, options: Sequence[Choice]) -> Choice:
        return options[int(len(options) * float(self._draw()))]

    def many(self, *shape: int) -> NDArray[np.float64]:
        """Uniform numbers in [0, 1)."""
        return self._draw(shape)

    def side(self) -> int:
        """-1 (left) or 1 (right)."""
        return 1 if self.chance(0.5) else -1

    def tint(self, color: Color, spread: float, hue: float = 0.33) -> Color:
        """`color` brighter or darker by up to `spread`, and each channel on its own by up to `hue` of that."""
        gain = 1.0 + self.between(-spread, spread)
        shift = spread * hue
        red, green, blue = (min(1.0, max(0.0, channel * gain + self.between(-shift, shift))) for channel in color)
        return (red, green, blue)


def mix(first: Color, second: Color, fraction: float) -> Color:
    """`fraction` of the second color in the first."""
    return (
        first[0] + (second[0] - first[0]) * fraction,
        first[1] + (second[1] - first[1]) * fraction,
        first[2] + (second[2] - first[2]) * fraction,
    )


def shaded(color: Color, gain: float) -> Color:
    return (min(1.0, color[0] * gain), min(1.0, color[1] * gain), min(1.0, color[2] * gain))


def on_quad(quad: Sequence[Point], u: float, v: float) -> Point:
    """The point at fraction u of the first edge and fraction v of the way to the opposite one."""
    (ax, ay, az), (bx, by, bz), (cx, cy, cz), (dx, dy, dz) = quad
    p, q, r, s = (1 - u) * (1 - v), u * (1 - v), u * v, (1 - u) * v
    return (
        p * ax + q * bx + r * cx + s * dx,
        p * ay + q * by + r * cy + s * dy,
        p * az + q * bz + r * cz + s * dz,
    )


def upright(start: Point, end: Point, height: float) -> list[Point]:
    """The upright rectangle on the ground line from start to end."""
    return [start, end, (end[0], end[1] + height, end[2]), (start[0], start[1] + height, start[2])]


def limb(start: Point, end: Point, start_radius: float, end_radius: float, eye: Point) -> list[Point]:
    """A rounded stick from start to end that turns its flat side to the eye. -> 6 points"""
    ax, ay, az = end[0] - start[0], end[1] - start[1], end[2] - start[2]
    vx, vy, vz = start[0] - eye[0], start[1] - eye[1], start[2] - eye[2]
    sx, sy, sz = ay * vz - az * vy, az * vx - ax * vz, ax * vy - ay * vx
    side = math.sqrt(sx * sx + sy * sy + sz * sz) or 1.0
    sx, sy, sz = sx / side, sy / side, sz / side
    length = math.sqrt(ax * ax + ay * ay + az * az) or 1.0
    ax, ay, az = ax / length, ay / length, az / length
    a, b = start_radius, end_radius
    return [
        (start[0] - sx * a, start[1] - sy * a, start[2] - sz * a),
        (end[0] - sx * b, end[1] - sy * b, end[2] - sz * b),
        (end[0] + ax * b * 0.7, end[1] + ay * b * 0.7, end[2] + az * b * 0.7),
        (end[0] + sx * b, end[1] + sy * b, end[2] + sz * b),
        (start[0] + sx * a, start[1] + sy * a, start[2] + sz * a),
        (start[0] - ax * a * 0.7, start[1] - ay * a * 0.7, start[2] - az * a * 0.7),
    ]


def disc(center: Point, width: float, height: float, eye: Point, radii: Sequence[float]) -> list[Point]:
    """A round outline (half axes `width`, `height`, times `radii` around it) that faces the eye."""
    dx, dz = center[0] - eye[0], center[2] - eye[2]
    flat = math.hypot(dx, dz) or 1.0
    right_x, right_z = dz / flat, -dx / flat
    points = []
    for number, radius in enumerate(radii):
        angle = 2 * math.pi * number / len(radii)
        along, up = math.cos(angle) * width * radius, math.sin(angle) * height * radius
        points.append((center[0] + right_x * along, center[1] + up, center[2] + right_z * along))
    return points


ROUND = (1.0,) * 12
"""Radii of a plain disc."""


def far_to_near(faces: list[Face], eye: Point) -> list[Face]:
    """Order faces for painting by the distance of their middle."""

    def key(face: Face) -> float:
        count = len(face.points)
        middle = (
            sum(point[0] for point in face.points) / count,
            sum(point[1] for point in face.points) / count,
            sum(point[2] for point in face.points) / count,
        )
        return -math.dist(middle, eye)

    return sorted(faces, key=key)
