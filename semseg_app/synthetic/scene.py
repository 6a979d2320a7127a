"""The plan of a synthetic street: `compose` draws at random where houses, trees, lamps, signs, cars and people are."""

import math

from semseg_app.synthetic.cars import BODIES, car
from semseg_app.synthetic.ground import ground, skyline
from semseg_app.synthetic.houses import building, sample_style
from semseg_app.synthetic.people import bicyclist, pedestrian
from semseg_app.synthetic.plants import LEAVES, hedge, tree
from semseg_app.synthetic.roadside import METALS, bollard, fence, lamp, pole, traffic_light, traffic_sign
from semseg_app.synthetic.shapes import Color, RandomSource
from semseg_app.synthetic.site import CURB, Scene, Site

SMALL_CARS = ["hatchback", "hatchback", "saloon", "saloon", "estate", "estate", "van"]
PLANKS: list[Color] = [(0.42, 0.30, 0.20), (0.66, 0.62, 0.55), (0.30, 0.36, 0.26), (0.50, 0.48, 0.45)]
PANELS: list[Color] = [(0.75, 0.75, 0.74), (0.25, 0.40, 0.58), (0.62, 0.40, 0.22), (0.35, 0.45, 0.36)]


def compose(layout: RandomSource, weather: RandomSource, variety: float, clutter: float) -> Scene:
    """Draw a scene at random. `variety` scales the spread of appearances, `clutter` the number of things."""
    site = Site(layout, weather, variety, clutter)
    skyline(site)
    ground(site)
    for side in (-1, 1):
        _lots(site, side)
        _kerbside(site, side)
        _traffic(site, side)
    if site.dead_end:
        _close(site, site.dead_end)
    if site.crossing and site.rng.chance(0.35 * site.clutter):
        side = site.rng.pick(site.crossing_sides)
        across = side * (site.half + site.rng.between(3, 9))
        turn = site.rng.side() * math.pi / 2
        _vehicle(site, sum(site.crossing) / 2, across, turn, site.rng.pick(SMALL_CARS))
    _people(site)
    return site.finish()


# Behind the pavement ------------------------------------------------------------------------------------------------


def _lots(site: Site, side: int) -> None:
    """Lots along one side: houses, yards behind fences, parks."""
    rng = site.rng
    front = site.half + site.walk
    along = rng.between(-9, -3)
    storeys = {"suburb": 2, "town": 3, "center": 5}[site.district]
    yards = {"suburb": 0.55, "town": 0.3, "center": 0.15}[site.district]
    opening = site.crossing if site.crossing and side in site.crossing_sides else (math.inf, math.inf)
    while along < site.end:
        if opening[0] - 4.8 < along < opening[1] + 1.8:
            along = opening[1] + 1.8
        length = rng.between(7, 18)
        if along < opening[0]:
            length = min(length, opening[0] - 1.8 - along)
        kind = "yard" if rng.chance(yards) else "park" if rng.chance(0.16) else "house"
        floors = max(1, storeys + rng.whole(-1, 2 if site.district == "suburb" else 3))
        if kind == "house":
            # A corner house reaches far back along the side street.
            deep = 28.0 if abs(along - opening[1] - 1.8) < 0.1 else 11.0
            _house(site, side, (along, along + length), front + rng.between(0, 0.4), floors, deep)
        elif kind == "yard":
            _enclose(site, side, (along, along + length), front)
            _house(site, side, (along + 0.8, along + length - 0.8), front + rng.between(3, 7), floors, 12.0)
            for _ in range(rng.whole(0, 2)):
                _plant(
                    site, along + rng.between(1, length - 1), side * (front + rng.between(1, 2.6)), rng.between(3, 7)
                )
        else:
            if rng.chance(0.6):
                _enclose(site, side, (along, along + length), front)
            for _ in range(rng.whole(2, 5)):
                across = side * (front + rng.between(1.5, 14))
                _plant(site, along + rng.between(0, length), across, rng.between(5, 11))
        along += length + (rng.between(0.5, 3) if rng.chance(0.2) else 0)


def _house(site: Site, side: int, along: tuple[float, float], front: float, storeys: int, deep: float) -> None:
    style = sample_style(site.rng, site.variety, site.district)
    height = storeys * style.storey + site.rng.between(0.3, 0.9)
    back = front + deep
    corners = ((along[0], front), (along[1], front), (along[1], back), (along[0], back))
    plan = [site.at(stop, side * across, CURB) for stop, across in corners]
    # Nothing in front of a house is farther away than its far corner, and all that it hides is.
    depth = math.dist(plan[1], site.eye) + 0.5
    site.add(building(plan, height, style, site.eye, site.rng), depth)
    for number in range(4):
        a, b = plan[number], plan[(number + 1) % 4]
        site.shadow([a, b, (b[0], height, b[2]), (a[0], height, a[2])])
    foot = ((along[0], front - 0.5), (along[1], front - 0.5), (along[1], front + 2), (along[0], front + 2))
    site.scene.footprints.append([site.at(stop, side * across) for stop, across in foot])


def _enclose(site: Site, side: int, along: tuple[float, float], across: float) -> None:
    """A fence, a wall or a hedge along the pavement, in pieces short enough for painting by distance."""
    rng = site.rng
    kind = rng.pick(["planks", "planks", "rails", "rails", "panels", "masonry", "ivy", "hedge"])
    height = rng.between(1.3, 1.7) if kind == "rails" else rng.between(1.4, 2.2)
    style = sample_style(rng, site.variety, site.district)
    color = rng.tint(rng.pick({"planks": PLANKS, "panels": PANELS}.get(kind, METALS)), 0.25)
    leaf = rng.tint(rng.pick(LEAVES[:5]), 0.25)
    count = max(1, round((along[1] - along[0]) / 3.2))
    step = (along[1] - along[0]) / count
    for number in range(count):
        start, end = (site.at(along[0] + step * (number + post), side * across, CURB) for post in (0, 1))
        if kind == "hedge":
            faces = hedge(start, end, height, leaf, rng)
        else:
            faces = fence(start, end, kind, height, color, style, site.eye, rng)
        site.stand(site.place(along[0] + step * (number + 0.5), side * across, up=CURB), faces, 0.2, step)


def _plant(site: Site, along: float, across: float, height: float) -> None:
    rng = site.rng
    place = site.place(along, across, up=CURB)
    kind = rng.pick(["round", "round", "round", "poplar", "conifer"])
    # Conifers and poplars stay green.
    leaf = rng.pick(LEAVES if kind == "round" and rng.chance(0.35) else LEAVES[:5])
    site.stand(place, tree(place, site.eye, rng, site.variety, leaf, kind, height), 1, 1)


def _close(site: Site, along: float) -> None:
    """The street ends at a house across it."""
    rng = site.rng
    style = sample_style(rng, site.variety, site.district)
    place = site.place(along + 3, 0)
    plan = [place.at(x, CURB, z) for x, z in ((-32, 0), (32, 0), (32, 10), (-32, 10))]
    faces = building(plan, rng.whole(2, 6) * style.storey, style, site.eye, rng)
    site.add(faces, math.dist(plan[2], site.eye) + 10)


# On the pavement ----------------------------------------------------------------------------------------------------


def _kerbside(site: Site, side: int) -> None:
    """Lamps, trees, signs, traffic lights, bollards and railings along one curb."""
    rng, curb, eye = site.rng, side * (site.half + 0.45), site.eye
    metal = rng.tint(rng.pick(METALS), 0.2 * site.variety)
    if rng.chance(0.55 * site.clutter):
        height, period, along = rng.between(4.5, 7.0), rng.between(14, 24), site.visible(curb, 6, 10)
        glow = 6.0 * site.light.lamps
        for stop in _row(site, side, along, period, 45):
            place = site.place(stop, curb, up=CURB)
            site.stand(place, lamp(place, -side * 1.3, height, metal, glow, eye), 0.3, 0.3)
            if glow:
                site.scene.lamps.append(place.at(-side * 1.3, height, 0))
    if rng.chance(0.45 * site.clutter):
        height, leaf, kind = rng.between(4, 8), rng.pick(LEAVES), rng.pick(["round", "round", "poplar"])
        for stop in _row(site, side, rng.between(7, 12), rng.between(7, 12), 65):
            place = site.place(stop, side * (site.half + 0.8), up=CURB)
            site.stand(place, tree(place, eye, rng, site.variety, leaf, kind, height * rng.between(0.85, 1.15)), 1, 1)
    for _ in range(rng.pick([0, 0, 1, 1, 2]) if rng.chance(site.clutter) else 0):
        for stop in _row(site, side, site.visible(curb, 5, 12), math.inf, 99):
            place = site.place(stop, curb + side * rng.between(-0.1, 0.4), rng.between(-0.35, 0.35), CURB)
            site.stand(place, traffic_sign(place, metal, eye, rng), 0.25, 0.25)
    if side in site.crossing_sides and site.crossing and rng.chance(0.5 * site.clutter):
        place = site.place(site.crossing[0] - 1, curb, up=CURB)
        site.stand(place, traffic_light(place, metal, site.light.lamps, eye, rng), 0.25, 0.25)
    kind = rng.pick(["bollards", "railings", "mast", *["nothing"] * 4])
    first = rng.between(4, 12)
    if kind == "bollards":
        for stop in _row(site, side, first, 1.8, first + rng.between(6, 14)):
            place = site.place(stop, curb, up=CURB)
            site.stand(place, bollard(place, metal, eye), 0.3, 0.3)
    elif kind == "railings":
        style = sample_style(rng, site.variety, site.district)
        across = side * (site.half + 0.25)
        for stop in _row(site, side, first, 2.0, first + rng.between(6, 14), 1.5):
            start, end = site.at(stop - 1, across, CURB), site.at(stop + 1, across, CURB)
            place = site.place(stop, across, up=CURB)
            site.stand(place, fence(start, end, "rails", 1.05, metal, style, eye, rng), 0.2, 2)
    elif kind == "mast":
        for stop in _row(site, side, site.visible(curb, 8, 22), math.inf, 99):
            place = site.place(stop, curb, up=CURB)
            site.stand(place, [pole(place, rng.between(6, 9), 0.18, (0.36, 0.29, 0.22), eye)], 0.4, 0.4)


def _row(site: Site, side: int, first: float, period: float, last: float, margin: float = 0.5) -> list[float]:
    """Stops along the street, a period apart, without those where a side street joins."""
    stops = [first]
    while stops[-1] + period < last:
        stops.append(stops[-1] + period)
    return [stop for stop in stops if not site.on_crossing(stop, side, margin)]


# On the road --------------------------------------------------------------------------------------------------------


def _vehicle(site: Site, along: float, across: float, turn: float, kind: str) -> None:
    place = site.place(along, across, turn)
    lamps_on = site.light.lamps > 0 or site.light.rain
    faces = car(place, site.eye, site.rng, site.variety, kind, lamps_on)
    site.stand(place, faces, BODIES[kind].width, 2 * BODIES[kind].outline[-1][0])


def _traffic(site: Site, side: int) -> None:
    """Parked and driving cars on one side of the road."""
    rng = site.rng
    direction = 0.0 if side == site.drives else math.pi
    lane = side * site.half / 2
    if site.parking[side]:
        lane = side * max(1.0, (site.half - 2.1) / 2)
        along = rng.between(4.5, 11)
        while along < 60:
            if rng.chance(0.72 * site.clutter) and not site.on_crossing(along, side, 4):
                turn = direction + (math.pi if rng.chance(0.15) else 0) + rng.between(-0.03, 0.03)
                _vehicle(site, along, side * (site.half - 1.05), turn, rng.pick(SMALL_CARS))
            along += rng.between(5.6, 7.0)
    along = rng.between(9, 22)
    for _ in range(rng.pick([0, 1, 1, 2, 3]) if rng.chance(site.clutter) else 0):
        kind = rng.pick([*SMALL_CARS, "bus"])
        along += 4 if kind == "bus" else 0
        if along < site.end - 5:
            _vehicle(site, along, lane + rng.between(-0.25, 0.25), direction + rng.between(-0.04, 0.04), kind)
        along += rng.between(9, 20)


def _people(site: Site) -> None:
    """Pedestrians on the pavements and on the zebra crossing, bicyclists on the road."""
    rng = site.rng
    for _ in range(round(rng.pick([0, 1, 2, 2, 3, 5]) * site.clutter)):
        across = rng.side() * (site.half + rng.between(0.5, site.walk - 0.3))
        along = site.visible(across, 4, 9.5)
        turn = rng.pick([0.0, 0.0, math.pi, math.pi, math.pi / 2, -math.pi / 2]) + rng.between(-0.4, 0.4)
        for number in range(2 if rng.chance(0.25) else 1):
            _walker(site, along + 0.1 * number, across + 0.6 * number, turn, rng.chance(0.75))
    if site.zebra and rng.chance(0.5 * site.clutter):
        across = rng.between(-0.8, 0.8) * site.half
        _walker(site, site.zebra + 1.4, across, rng.side() * math.pi / 2, walking=True)
    for _ in range(rng.pick([0, 1, 1, 1]) if rng.chance(site.clutter) else 0):
        side = rng.side()
        across = side * (site.half - (2.6 if site.parking[side] else rng.between(0.6, 1.2)))
        turn = (0.0 if side == site.drives else math.pi) + rng.between(-0.35, 0.35)
        if rng.chance(0.2):
            turn += rng.side() * math.pi / 2
        place = site.place(site.visible(across, 4, 9), across, turn)
        site.stand(place, bicyclist(place, site.eye, rng, site.variety), 0.5, 1.4)


def _walker(site: Site, along: float, across: float, turn: float, walking: bool) -> None:
    place = site.place(along, across, turn, 0.0 if abs(across) < site.half else CURB)
    umbrella = site.light.rain and site.rng.chance(0.6)
    site.stand(place, pedestrian(place, site.eye, site.rng, site.variety, umbrella, walking), 0.6, 0.6)
