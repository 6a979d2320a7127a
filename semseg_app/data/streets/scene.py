"""The plan of a generated street: where road, houses, trees, cars and people are. `compose` turns dice into a Scene.

Street coordinates: `along` the road from the camera's foot, `across` to the right of its centre line, both in metres. The
road bends with a constant curvature; everything is placed in street coordinates, so it follows the bend.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from semseg_app.data.streets.lens import Lens, sample_lens
from semseg_app.data.streets.light import Light, sample_light
from semseg_app.data.streets.shapes import (
    ASPHALT,
    FOLIAGE,
    MARKING,
    PAVEMENT,
    PAVING,
    PLAIN,
    PUDDLE,
    ROAD,
    TREE,
    UNSEEN,
    Colour,
    Dice,
    Face,
    Place,
    Point,
    distance,
    mix,
    shaded,
)
from semseg_app.data.streets.things import BODIES, bicyclist, car, pedestrian
from semseg_app.data.streets.town import (
    LEAVES,
    METALS,
    bollard,
    building,
    fence,
    hedge,
    lamp,
    pole,
    sample_style,
    traffic_light,
    traffic_sign,
    tree,
    wall,
)

ASPHALTS: list[Colour] = [
    (0.30, 0.30, 0.32),
    (0.40, 0.40, 0.40),
    (0.52, 0.50, 0.48),
    (0.24, 0.25, 0.28),
    (0.46, 0.42, 0.40),
    (0.36, 0.39, 0.42),
]
PAVINGS: list[Colour] = [
    (0.62, 0.60, 0.57),
    (0.52, 0.51, 0.50),
    (0.70, 0.62, 0.52),
    (0.58, 0.42, 0.36),
    (0.44, 0.44, 0.47),
    (0.56, 0.54, 0.44),
]
KERB = 0.13
"""Height of the pavement above the road."""
CAR_KINDS = ["hatchback", "hatchback", "saloon", "saloon", "estate", "estate", "van", "bus"]


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


def compose(layout: Dice, weather: Dice, variety: float, clutter: float) -> Scene:
    """Roll a scene. `variety` scales the spread of appearances, `clutter` the number of things."""
    light = sample_light(weather, variety)
    lens = sample_lens(weather, variety, dark=light.kind == "night")
    return _Town(layout, light, lens, variety, clutter).build()


class _Town:
    """One scene under construction."""

    def __init__(self, dice: Dice, light: Light, lens: Lens, variety: float, clutter: float):
        self.dice, self.light, self.variety, self.clutter = dice, light, variety, clutter
        self.curvature = 0.0 if dice.chance(0.45) else dice.side() / dice.between(60, 220)
        self.end = min(130.0, 1.25 / abs(self.curvature)) if self.curvature else 130.0
        self.half = dice.pick([2.7, 3.4, 3.9, 5.2])
        self.walk = dice.between(1.8, 4.2)
        self.district = dice.pick(["suburb", "suburb", "town", "town", "town", "centre"])
        self.parking = {side: self.half > 3 and dice.chance(0.5) for side in (-1, 1)}
        self.drives = dice.side()
        """The side of the road that traffic keeps to."""
        start = dice.between(14, 42)
        self.crossing = (start, start + dice.between(6, 9)) if dice.chance(0.5) else None
        self.crossing_sides = dice.pick([(-1,), (1,), (-1, 1)])
        self.dead_end = dice.between(45, 85) if dice.chance(0.3) else None
        if self.dead_end:
            self.end = min(self.end, self.dead_end)
        on_foot = dice.chance(0.2)
        across = dice.side() * (self.half + 0.8) if on_foot else self.drives * self.half * dice.between(0.15, 0.6)
        self.across = across
        eye = self.at(0, across, dice.between(1.15, 2.3) + (KERB if on_foot else 0))
        toward = math.atan2(-across * 0.6, 25) if on_foot else 0.0
        self.scene = Scene(
            eye=eye,
            yaw=toward + dice.between(-1, 1) * (0.3 if dice.chance(0.2) else 0.1) + self.curvature * 6,
            pitch=dice.between(-0.13, 0.05),
            roll=dice.between(-0.035, 0.035),
            focal=dice.between(0.85, 1.25),
            light=light,
            lens=lens,
        )
        self.eye = eye
        self.things: list[tuple[float, list[Face]]] = []

    def build(self) -> Scene:
        self.skyline()
        self.ground()
        for side in (-1, 1):
            self.row(side)
            self.furniture(side)
        if self.dead_end:
            self.close_street(self.dead_end)
        self.traffic()
        self.people()
        self.things.sort(key=lambda thing: -thing[0])
        for _, faces in self.things:
            self.scene.faces += faces
        return self.scene

    # Street coordinates -------------------------------------------------------------------------------------------

    def at(self, along: float, across: float, up: float = 0.0) -> Point:
        bend = self.curvature
        turn = bend * along
        x, z = ((1 - math.cos(turn)) / bend, math.sin(turn) / bend) if bend else (0.0, along)
        return (x + across * math.cos(turn), up, z - across * math.sin(turn))

    def place(self, along: float, across: float, turn: float = 0.0, up: float = 0.0) -> Place:
        x, y, z = self.at(along, across, up)
        return Place(x, y, z, self.curvature * along + turn)

    def add(self, faces: list[Face], depth: float, shadow: bool = True) -> None:
        """Put a thing into the scene; `depth` is its distance from the eye."""
        self.things.append((depth, faces))
        if shadow and depth < 45 and self.light.sun[0] > 0.2:
            self.scene.casters += [face.points for face in faces if face.material != UNSEEN]

    def stand(self, place: Place, faces: list[Face], footprint: float) -> None:
        """Add something that stands on one spot."""
        self.add(faces, distance((place.x, self.eye[1], place.z), self.eye))
        if footprint:
            corners = ((-1, -1), (1, -1), (1, 1), (-1, 1))
            self.scene.footprints.append([place.at(x * footprint, 0, z * footprint) for x, z in corners])

    def visible(self, across: float, nearest: float, farthest: float) -> float:
        """An `along` at which something `across` the street is inside the photo."""
        aside = abs(across - self.across)
        low = max(nearest, aside * self.scene.focal * 1.75)
        return self.dice.between(low, max(low + 4, farthest))

    def on_crossing(self, along: float, side: int, margin: float = 0.5) -> bool:
        if self.crossing is None or side not in self.crossing_sides:
            return False
        return self.crossing[0] - margin < along < self.crossing[1] + margin

    # Ground -------------------------------------------------------------------------------------------------------

    def strip(
        self, face: Face, across: tuple[float, float], along: tuple[float, float], up: tuple[float, float] = (0, 0)
    ) -> None:
        """Paint a band of ground: `face` with its outline replaced."""
        first, last = along
        count = max(1, min(24, round((last - first) / 4))) if self.curvature else 1
        # Denser near the camera, where the bend shows.
        stops = [first + (last - first) * (number / count) ** 1.5 for number in range(count + 1)]
        edge = [self.at(stop, across[0], up[0]) for stop in stops]
        back = [self.at(stop, across[1], up[1]) for stop in reversed(stops)]
        self.scene.faces.append(face._replace(points=[*edge, *back]))

    def ground(self) -> None:
        dice, half = self.dice, self.half
        road = dice.tint(dice.pick(ASPHALTS), 0.25 * self.variety, 0.1)
        paved = (
            shaded(road, dice.between(0.9, 1.25))
            if dice.chance(0.25)
            else dice.tint(dice.pick(PAVINGS), 0.25 * self.variety, 0.15)
        )
        paving = (float(dice.whole(0, 2)), dice.between(0.3, 0.9), dice.between(0.4, 1.0), dice.between(0.0, 1.0))
        asphalt = (dice.between(0.3, 1.0), dice.between(0, 1.0), dice.between(0, 1))
        far = [(-400.0, 0.0, -5.0), (400.0, 0.0, -5.0), (400.0, 0.0, 400.0), (-400.0, 0.0, 400.0)]
        pavement = Face([], PAVEMENT, PAVING, paved, shaded(paved, 0.7), paving, (0, 1, 0))
        self.road_face = Face([], ROAD, ASPHALT, road, road, asphalt, (0, 1, 0))
        self.scene.faces.append(pavement._replace(points=far))
        self.strip(self.road_face, (-half, half), (-4, self.end))
        for side in (-1, 1):
            self.strip(pavement, (side * half, side * (half + 40)), (-4, self.end), (KERB, KERB))
        stone = shaded(mix(paved, (0.62, 0.62, 0.6), 0.6), dice.between(0.75, 1.15))
        if self.crossing:
            first, last = self.crossing
            for side in self.crossing_sides:
                corners = [
                    self.at(first, side * (half - 0.1)),
                    self.at(last, side * (half - 0.1)),
                    self.at(last, side * (half + 45)),
                    self.at(first, side * (half + 45)),
                ]
                self.scene.faces.append(self.road_face._replace(points=corners))
        for side in (-1, 1):
            pieces = [(-4.0, self.end)]
            if self.crossing and side in self.crossing_sides:
                pieces = [(-4.0, self.crossing[0]), (self.crossing[1], self.end)]
            for piece in pieces:
                if piece[1] > piece[0]:
                    flat = Face([], PAVEMENT, PLAIN, stone, normal=(0, 1, 0))
                    self.strip(flat, (side * half, side * (half + 0.18)), piece, (KERB, KERB))
                    self.strip(
                        flat._replace(normal=(0, 0.4, -0.6), colour=shaded(stone, 0.7)),
                        (side * half, side * half),
                        piece,
                        (0, KERB),
                    )
        self.markings(road)

    def markings(self, road: Colour) -> None:
        dice, half, end = self.dice, self.half, min(self.end, 75.0)
        wear = dice.between(0.0, 0.75)
        white: Colour = (0.86, 0.86, 0.84)
        paint = self.road_face._replace(material=MARKING, colour=white, trim=road, params=(0.4, 0.0, wear))
        for _ in range(dice.whole(0, 4)):
            along, across, length, width = (
                dice.between(2, 30),
                dice.between(-half, half - 1),
                dice.between(1, 9),
                dice.between(0.6, 1.6),
            )
            patch = self.road_face._replace(colour=shaded(road, dice.pick([0.72, 0.82, 1.15])))
            self.strip(patch, (across, min(half, across + width)), (along, along + length))
        if dice.chance(0.2):
            side, lane = dice.side(), dice.pick([(0.52, 0.20, 0.16), (0.20, 0.36, 0.24), (0.22, 0.30, 0.46)])
            self.strip(
                self.road_face._replace(colour=mix(road, lane, 0.7)), (side * half, side * (half - 1.4)), (-4, end)
            )
        middle = paint._replace(colour=(0.82, 0.66, 0.20)) if dice.chance(0.25) else paint
        kind = (
            dice.pick(["none", "dashes", "dashes", "dashes", "solid", "double"])
            if half > 3
            else dice.pick(["none", "none", "dashes"])
        )
        if kind == "dashes":
            period, length = dice.between(4, 8), dice.between(1.5, 3)
            for number in range(int(end / period)):
                first = number * period + 1
                if not self.on_crossing(first, 1, length) and not self.on_crossing(first, -1, length):
                    self.strip(middle, (-0.08, 0.08), (first, first + length))
        elif kind != "none":
            for offset in (0.0,) if kind == "solid" else (-0.14, 0.14):
                self.strip(middle, (offset - 0.07, offset + 0.07), (-4, end))
        if half > 5:
            for side in (-1, 1):
                for number in range(12):
                    self.strip(paint, (side * half / 2 - 0.07, side * half / 2 + 0.07), (number * 6, number * 6 + 2.5))
        if dice.chance(0.4):
            for side in (-1, 1):
                inset = half - (2.1 if self.parking[side] else 0.35)
                self.strip(paint, (side * inset, side * (inset - 0.12)), (-4, end))
        self.zebra = (self.crossing[0] - 4 if self.crossing else dice.between(9, 20)) if dice.chance(0.4) else None
        if self.zebra:
            count = int(half / 0.5)
            for number in range(-count, count):
                if number % 2 == 0:
                    self.strip(paint, (number * 0.5, number * 0.5 + 0.5), (self.zebra, self.zebra + 2.8))
        if self.light.wet or dice.chance(0.12):
            for _ in range(dice.whole(2, 5)):
                along, across = dice.between(3, 20), dice.between(-half, half)
                size = dice.between(0.5, 1.6)
                blob = [
                    self.at(
                        along + math.sin(t) * size * dice.between(0.8, 1.8),
                        max(-half, min(half, across + math.cos(t) * size * dice.between(0.6, 1))),
                    )
                    for t in (number * math.pi / 6 for number in range(12))
                ]
                self.scene.faces.append(self.road_face._replace(points=blob, material=PUDDLE))
        for _ in range(dice.whole(0, 2)):
            along, across = dice.between(4, 18), dice.between(-half * 0.8, half * 0.8)
            lid = [
                self.at(along + math.sin(t) * 0.36, across + math.cos(t) * 0.36)
                for t in (n * math.pi / 5 for n in range(10))
            ]
            self.scene.faces.append(self.road_face._replace(points=lid, colour=shaded(road, 0.55)))

    def skyline(self) -> None:
        """What closes the view far away: blocks, hills or a line of trees."""
        dice = self.dice
        kind = dice.pick(["blocks", "trees", "both"])
        if kind != "blocks":
            leaf = dice.tint(dice.pick(LEAVES[:5]), 0.2)
            crest = [(x * 10.0, dice.between(7, 16), 260.0) for x in range(40, -41, -1)]
            self.scene.faces.append(
                Face([(-400, 0, 260), (400, 0, 260), *crest], TREE, FOLIAGE, leaf, params=(0.2, 0.0))
            )
        if kind != "trees":
            for _ in range(10):
                x, width, height = dice.between(-170, 170), dice.between(14, 34), dice.between(8, 38)
                style = sample_style(dice, self.variety, self.district)
                self.scene.faces.append(wall((x, 0, 230), (x + width, 0, 230), height, style, dice))

    # Houses -------------------------------------------------------------------------------------------------------

    def row(self, side: int) -> None:
        """Lots along one side: houses, yards behind fences, parks."""
        dice = self.dice
        front = self.half + self.walk
        along = dice.between(-9, -3)
        base = {"suburb": 2, "town": 3, "centre": 5}[self.district]
        yard_share = {"suburb": 0.4, "town": 0.2, "centre": 0.12}[self.district]
        while along < self.end:
            if self.on_crossing(along + 1.5, side):
                along = self.crossing[1] + 1.8 if self.crossing else along
            limit = (
                self.crossing[0] - 1.8
                if self.crossing and side in self.crossing_sides and along < self.crossing[0]
                else 1e9
            )
            length = min(dice.between(7, 18), limit - along)
            if length < 3:
                along = limit + 2
                continue
            kind = "yard" if dice.chance(yard_share) else "park" if dice.chance(0.16) else "house"
            corner = self.crossing is not None and side in self.crossing_sides and abs(along - self.crossing[1]) < 3
            storeys = max(1, base + dice.whole(-1, 2 if self.district == "suburb" else 3))
            if kind == "house":
                self.house(side, along, along + length, front + dice.between(0, 0.4), storeys, 28 if corner else 11)
            elif kind == "yard":
                self.enclosure(side, along, along + length, front)
                self.house(side, along + 0.8, along + length - 0.8, front + dice.between(3, 7), storeys, 12)
                for _ in range(dice.whole(0, 2)):
                    self.plant(
                        along + dice.between(1, length - 1), side * (front + dice.between(1, 2.6)), dice.between(3, 7)
                    )
            else:
                if dice.chance(0.6):
                    self.enclosure(side, along, along + length, front)
                for _ in range(dice.whole(2, 5)):
                    self.plant(
                        along + dice.between(0, length), side * (front + dice.between(1.5, 14)), dice.between(5, 11)
                    )
            along += length + (dice.between(0.5, 3) if dice.chance(0.2) else 0)

    def house(self, side: int, first: float, last: float, front: float, storeys: int, deep: float) -> None:
        style = sample_style(self.dice, self.variety, self.district)
        height = storeys * style.storey + self.dice.between(0.3, 0.9)
        plan = [
            self.at(s, side * a, KERB)
            for s, a in ((first, front), (last, front), (last, front + deep), (first, front + deep))
        ]
        self.add(building(plan, height, style, self.eye, self.dice), distance(plan[1], self.eye) + 0.5, shadow=False)
        if self.light.sun[0] > 0.2:
            for number in range(4):
                a, b = plan[number], plan[(number + 1) % 4]
                self.scene.casters.append([a, b, (b[0], height, b[2]), (a[0], height, a[2])])
        self.scene.footprints.append(
            [
                self.at(s, side * a)
                for s, a in ((first, front - 0.5), (last, front - 0.5), (last, front + 2), (first, front + 2))
            ]
        )

    def enclosure(self, side: int, first: float, last: float, across: float) -> None:
        """A fence, a wall or a hedge along the pavement, in pieces short enough for painting by distance."""
        dice = self.dice
        kind = dice.pick(["planks", "rails", "rails", "masonry", "ivy", "panels", "hedge"])
        height = dice.between(1.0, 2.0) if kind != "rails" else dice.between(1.0, 1.5)
        style = sample_style(dice, self.variety, self.district)
        colour = {
            "planks": dice.tint(
                dice.pick([(0.42, 0.30, 0.20), (0.66, 0.62, 0.55), (0.30, 0.36, 0.26), (0.50, 0.48, 0.45)]), 0.25
            ),
            "panels": dice.tint(
                dice.pick([(0.75, 0.75, 0.74), (0.25, 0.40, 0.58), (0.62, 0.40, 0.22), (0.35, 0.45, 0.36)]), 0.2
            ),
        }.get(kind, dice.pick(METALS))
        leaf = dice.tint(dice.pick(LEAVES[:5]), 0.25)
        count = max(1, round((last - first) / 3.2))
        for number in range(count):
            a, b = (self.at(first + (last - first) * (number + end) / count, side * across, KERB) for end in (0, 1))
            depth = distance(((a[0] + b[0]) / 2, self.eye[1], (a[2] + b[2]) / 2), self.eye)
            if kind == "hedge":
                faces = hedge(a, b, height, leaf, self.eye, dice)
            else:
                faces = fence(a, b, kind, height, colour, style, self.eye, dice)
            self.add(faces, depth)

    def close_street(self, along: float) -> None:
        """The street ends at a house across it."""
        dice = self.dice
        style = sample_style(dice, self.variety, self.district)
        height = dice.whole(2, 6) * style.storey
        heading = self.place(along + 3, 0)
        plan = [heading.at(x, KERB, z) for x, z in ((-32, 0), (32, 0), (32, 10), (-32, 10))]
        self.add(
            building(plan, height, style, self.eye, dice), distance(heading.at(0, 0, 0), self.eye) + 45, shadow=False
        )

    def plant(self, along: float, across: float, height: float) -> None:
        dice = self.dice
        place = self.place(along, across, up=KERB)
        kind = dice.pick(["round", "round", "round", "poplar", "conifer"])
        # Conifers and poplars stay green; the others share the season of the scene, roughly.
        leaf = dice.pick(LEAVES[:5]) if kind != "round" or dice.chance(0.65) else dice.pick(LEAVES)
        self.stand(place, tree(place, self.eye, dice, self.variety, leaf, kind, height), 0.5)

    # Things -------------------------------------------------------------------------------------------------------

    def furniture(self, side: int) -> None:
        """Lamps, trees, bollards, signs, railings along one kerb."""
        dice, kerb = self.dice, side * (self.half + 0.45)
        metal = dice.tint(dice.pick(METALS), 0.2 * self.variety)
        glow = 6.0 * self.light.lamps
        if dice.chance(0.55 * self.clutter):
            height, period = dice.between(4.5, 7.0), dice.between(14, 24)
            along = self.visible(kerb, 6, 10)
            while along < 70:
                if not self.on_crossing(along, side):
                    place = self.place(along, kerb, up=KERB)
                    self.stand(place, lamp(place, -side * 1.3, height, metal, glow, self.eye), 0.15)
                    if glow:
                        self.scene.lamps.append(place.at(-side * 1.3, height, 0))
                along += period
        if dice.chance(0.45 * self.clutter):
            period, along, leaf = dice.between(7, 12), dice.between(7, 12), dice.pick(LEAVES)
            height = dice.between(4, 8)
            kind = dice.pick(["round", "round", "poplar"])
            while along < 80:
                if not self.on_crossing(along, side):
                    place = self.place(along, side * (self.half + 0.8), up=KERB)
                    size = height * dice.between(0.85, 1.15)
                    self.stand(place, tree(place, self.eye, dice, self.variety, leaf, kind, size), 0.5)
                along += period
        for _ in range(dice.pick([0, 0, 1, 1, 2]) if dice.chance(self.clutter) else 0):
            along = self.visible(kerb, 5.5, 17)
            if not self.on_crossing(along, side):
                place = self.place(along, kerb + side * dice.between(-0.1, 0.4), dice.between(-0.35, 0.35), KERB)
                self.stand(place, traffic_sign(place, metal, self.eye, dice), 0.12)
        if self.crossing and dice.chance(0.4):
            place = self.place(self.crossing[0] - 1, kerb, up=KERB)
            self.stand(place, traffic_light(place, metal, self.light.lamps, self.eye, dice), 0.12)
        choice = dice.between(0, 1)
        start = dice.between(4, 12)
        if choice < 0.16:
            for number in range(dice.whole(4, 8)):
                if not self.on_crossing(start + number * 1.8, side):
                    place = self.place(start + number * 1.8, kerb, up=KERB)
                    self.stand(place, bollard(place, metal, self.eye), 0.15)
        elif choice < 0.3:
            style = sample_style(dice, self.variety, self.district)
            for number in range(dice.whole(3, 7)):
                a, b = (self.at(start + (number + end) * 2.2, side * (self.half + 0.25), KERB) for end in (0, 1))
                if not self.on_crossing(start + number * 2.2 + 1, side, 2):
                    self.add(fence(a, b, "rails", 1.05, metal, style, self.eye, dice), distance(a, self.eye))
        elif choice < 0.42:
            along = self.visible(kerb, 8, 22)
            if not self.on_crossing(along, side):
                place = self.place(along, kerb, up=KERB)
                self.stand(place, [pole(place, dice.between(6, 9), 0.12, (0.36, 0.29, 0.22), self.eye)], 0.2)

    def vehicle(self, along: float, across: float, turn: float, kind: str) -> None:
        place = self.place(along, across, turn)
        lamps_on = self.light.lamps > 0 or self.light.rain
        self.stand(place, car(place, self.eye, self.dice, self.variety, kind, lamps_on), 0)
        width, length = BODIES[kind].width / 2, BODIES[kind].outline[-1][0]
        self.scene.footprints.append(
            [place.at(x * width, 0, z * length) for x, z in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
        )

    def traffic(self) -> None:
        dice = self.dice
        for side in (-1, 1):
            direction = 0.0 if side == self.drives else math.pi
            if self.parking[side]:
                along = dice.between(4.5, 11)
                while along < 60:
                    kind = dice.pick(CAR_KINDS[:7])
                    if dice.chance(0.72 * self.clutter) and not self.on_crossing(along, side, 4):
                        turn = (direction if dice.chance(0.85) else direction + math.pi) + dice.between(-0.03, 0.03)
                        self.vehicle(along, side * (self.half - 1.05), turn, kind)
                    along += dice.between(5.6, 7.0)
            along = dice.between(9, 22)
            lane = side * (self.half / 2 if not self.parking[side] else max(1.0, (self.half - 2.1) / 2))
            for _ in range(dice.pick([0, 1, 1, 2, 3]) if dice.chance(self.clutter) else 0):
                kind = dice.pick(CAR_KINDS)
                if along < self.end - 5:
                    self.vehicle(
                        along + (4 if kind == "bus" else 0),
                        lane + dice.between(-0.25, 0.25),
                        direction + dice.between(-0.04, 0.04),
                        kind,
                    )
                along += dice.between(9, 20)
        if self.crossing and dice.chance(0.35):
            side = dice.pick(self.crossing_sides)
            middle = (self.crossing[0] + self.crossing[1]) / 2
            self.vehicle(
                middle,
                side * (self.half + dice.between(3, 9)),
                side * math.pi / 2 * dice.side(),
                dice.pick(CAR_KINDS[:7]),
            )

    def people(self) -> None:
        dice = self.dice
        for _ in range(round(dice.pick([0, 1, 2, 2, 3, 5]) * self.clutter)):
            side = dice.side()
            across = side * (self.half + dice.between(0.5, self.walk - 0.3))
            along = self.visible(across, 5, 14)
            turn = dice.pick([0.0, 0.0, math.pi, math.pi, math.pi / 2, -math.pi / 2]) + dice.between(-0.4, 0.4)
            group = 2 if dice.chance(0.25) else 1
            for number in range(group):
                self.walker(along + 0.1 * number, across + 0.6 * number, turn, dice.chance(0.75))
        if self.zebra and dice.chance(0.5):
            self.walker(self.zebra + 1.4, dice.between(-self.half, self.half) * 0.8, dice.side() * math.pi / 2, True)
        for _ in range(dice.pick([0, 0, 1, 1]) if dice.chance(self.clutter) else 0):
            side = dice.side()
            across = side * (self.half - (2.6 if self.parking[side] else dice.between(0.6, 1.2)))
            place = self.place(
                self.visible(across, 5.5, 15),
                across,
                (0.0 if side == self.drives else math.pi) + dice.between(-0.35, 0.35),
            )
            if dice.chance(0.2):
                place = place._replace(heading=place.heading + dice.side() * math.pi / 2)
            self.stand(place, bicyclist(place, self.eye, dice, self.variety), 0.35)

    def walker(self, along: float, across: float, turn: float, walking: bool) -> None:
        place = self.place(along, across, turn, 0.0 if abs(across) < self.half else KERB)
        umbrella = self.light.rain and self.dice.chance(0.6)
        self.stand(place, pedestrian(place, self.eye, self.dice, self.variety, umbrella, walking), 0.3)
