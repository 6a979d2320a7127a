"""The site of a synthetic street: its camera, its weather, its course, and what has been built on it so far.

Street coordinates: `along` the road from the camera's foot, `across` to the right of its center line, both in meters.
The road bends with a constant curvature; everything is placed in street coordinates, so it follows the bend.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

from semseg_app.synthetic.lens import Lens, sample_lens
from semseg_app.synthetic.light import Light, sample_light
from semseg_app.synthetic.shapes import UNSEEN, Face, Place, Point, RandomSource

CURB = 0.13
"""Height of the pavement above the road."""


@dataclass
class Scene:
    """Everything that the renderer needs; independent of the photo's size."""

    eye: Point
    yaw: float
    pitch: float
    roll: float
    focal: float
    """Focal length in photo heights."""
    light: Light
    lens: Lens
    faces: list[Face] = field(default_factory=list)
    """In painting order."""
    casters: list[Sequence[Point]] = field(default_factory=list)
    """Polygons that throw a shadow on the ground."""
    footprints: list[Sequence[Point]] = field(default_factory=list)
    """Ground that sees little of the sky: below cars, along walls."""
    lamps: list[Point] = field(default_factory=list)


class _Thing(NamedTuple):
    """Something built, until it is painted."""

    depth: float
    """Distance from the eye."""
    faces: list[Face]
    place: Place | None
    """Where it stands, if on one spot."""
    size: tuple[float, float]
    """Width and length."""


class Site:
    """A street without anything on it, and the means to put things there."""

    def __init__(self, rng: RandomSource, weather: RandomSource, variety: float, clutter: float):
        self.rng, self.variety, self.clutter = rng, variety, clutter
        self.light = sample_light(weather, variety)
        lens = sample_lens(weather, variety, dark=self.light.kind == "night")
        self.curvature = 0.0 if rng.chance(0.45) else rng.side() / rng.between(60, 220)
        self.end = min(130.0, 1.25 / abs(self.curvature)) if self.curvature else 130.0
        self.half = rng.pick([2.7, 3.4, 3.9, 5.2])
        """Half the width of the road."""
        self.walk = rng.between(1.8, 4.2)
        """Width of the pavements."""
        self.district = rng.pick(["suburb", "suburb", "town", "town", "town", "center"])
        self.parking = {side: self.half > 3 and rng.chance(0.5) for side in (-1, 1)}
        self.drives = rng.side()
        """The side of the road that traffic keeps to."""
        first = rng.between(14, 42)
        self.crossing = (first, first + rng.between(6, 9)) if rng.chance(0.5) else None
        """Where a side street joins, along."""
        self.crossing_sides = rng.pick([(-1,), (1,), (-1, 1)]) if self.crossing else ()
        self.dead_end = rng.between(45, 85) if rng.chance(0.3) else None
        if self.dead_end:
            self.end = min(self.end, self.dead_end)
        ahead = self.crossing[0] - 4 if self.crossing else rng.between(9, 20)
        self.zebra = ahead if rng.chance(0.4) else None

        on_foot = rng.chance(0.2)
        self.across = rng.side() * (self.half + 0.8) if on_foot else self.drives * self.half * rng.between(0.15, 0.6)
        """Where the camera is."""
        glance = rng.between(-1, 1) * (0.3 if rng.chance(0.2) else 0.1)
        self.eye = self.at(0, self.across, rng.between(1.15, 2.3) + (CURB if on_foot else 0))
        self.scene = Scene(
            eye=self.eye,
            yaw=glance + self.curvature * 6 + (math.atan2(-self.across * 0.6, 25) if on_foot else 0.0),
            pitch=rng.between(-0.13, 0.05),
            roll=rng.between(-0.035, 0.035),
            focal=rng.between(0.85, 1.25),
            light=self.light,
            lens=lens,
        )
        self._things: list[_Thing] = []

    def at(self, along: float, across: float, up: float = 0.0) -> Point:
        """World point of street coordinates."""
        bend = self.curvature
        turn = bend * along
        x, z = ((1 - math.cos(turn)) / bend, math.sin(turn) / bend) if bend else (0.0, along)
        return (x + across * math.cos(turn), up, z - across * math.sin(turn))

    def place(self, along: float, across: float, turn: float = 0.0, up: float = 0.0) -> Place:
        """A place that faces along the street, `turn` radians to the right of it."""
        x, y, z = self.at(along, across, up)
        return Place(x, y, z, self.curvature * along + turn)

    def on_crossing(self, along: float, side: int, margin: float = 0.5) -> bool:
        """Whether a side street joins there."""
        if self.crossing is None or side not in self.crossing_sides:
            return False
        return self.crossing[0] - margin < along < self.crossing[1] + margin

    def visible(self, across: float, nearest: float, farthest: float) -> float:
        """A random `along` at which something `across` the street is likely inside the photo."""
        aside = abs(across - self.across)
        low = max(nearest, aside * self.scene.focal * 1.75)
        return self.rng.between(low, max(low + 4, farthest))

    def strip(
        self, face: Face, across: tuple[float, float], along: tuple[float, float], up: tuple[float, float] = (0, 0)
    ) -> None:
        """Paint a band of ground that follows the street: `face` with its outline replaced."""
        first, last = along
        count = max(1, min(24, round((last - first) / 4))) if self.curvature else 1
        # Denser near the camera, where the bend shows.
        stops = [first + (last - first) * (number / count) ** 1.5 for number in range(count + 1)]
        edge = [self.at(stop, across[0], up[0]) for stop in stops]
        back = [self.at(stop, across[1], up[1]) for stop in reversed(stops)]
        self.scene.faces.append(face._replace(points=[*edge, *back]))

    def add(self, faces: list[Face], depth: float) -> None:
        """Build something extended that is painted before all that is nearer than `depth` to the eye."""
        self._things.append(_Thing(depth, faces, None, (0.0, 0.0)))

    def shadow(self, *polygons: Sequence[Point]) -> None:
        """Let polygons throw shadows, where the sun is strong enough to be worth it."""
        if self.light.sun[0] > 0.2:
            self.scene.casters += polygons

    def stand(self, place: Place, faces: list[Face], width: float, length: float) -> None:
        """Build something that stands on a rectangle around `place`."""
        depth = math.dist((place.x, self.eye[1], place.z), self.eye)
        self._things.append(_Thing(depth, faces, place, (width, length)))
        if depth < 45:
            self.shadow(*(face.points for face in faces if face.material != UNSEEN))
        corners = ((-1, -1), (1, -1), (1, 1), (-1, 1))
        self.scene.footprints.append([place.at(x * width / 2, 0, z * length / 2) for x, z in corners])

    def finish(self) -> Scene:
        """Paint the things, far to near, over the ground."""
        things = sorted(self._things, key=lambda thing: -thing.depth)
        for car in [thing for thing in things if thing.size[0] > 1.5]:
            # Distances mislead beside something long: what is near a car goes before or after it by where it stands.
            reach = car.size[1] / 2 + 1
            near = [n for n, thing in enumerate(things) if thing is car or abs(thing.depth - car.depth) < reach]
            part = slice(near[0], near[-1] + 1)
            others = [(thing, self._hides(thing, car)) for thing in things[part] if thing is not car]
            behind, in_front = ([thing for thing, hides in others if hides == wanted] for wanted in (False, True))
            things[part] = [*behind, car, *in_front]
        self.scene.faces += chain.from_iterable(thing.faces for thing in things)
        return self.scene

    def _hides(self, thing: _Thing, car: _Thing) -> bool:
        """Whether `thing` is in front of `car`: beyond a side of it that looks at the eye."""
        if thing.place is None or car.place is None:
            return thing.depth < car.depth
        spot, eye = (car.place.local(point) for point in ((thing.place.x, 0.0, thing.place.z), self.eye))
        half = (car.size[0] / 2, 0.0, car.size[1] / 2)
        return any(min(sign * spot[axis], sign * eye[axis]) > half[axis] for axis in (0, 2) for sign in (-1, 1))
