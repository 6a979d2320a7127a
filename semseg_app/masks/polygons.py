"""The outlines of a mask as polygons with holes, exact to the pixel.

Vertices lie on the corners of pixels: pixel (row y, column x) is the square from (x, y) to (x + 1, y + 1). So filling
the polygons gives the mask back, and neighbors share their border. Pixels that touch only at a corner are two
polygons. Every ring is simple and every polygon valid (https://www.ogc.org/standards/sfa): rings meet in points.

Only corners are visited: points where the four pixels around are not two equal rows or columns. They are found once
for all classes. In a row of them those where the outline of one class turns come in pairs, and each pair is one
straight piece; likewise in a column. So two sorts link all corners to rings, and no step visits pixels one by one.
"""

from typing import NamedTuple

import numpy as np

from semseg_app.errors import UserError

MAX_CORNERS = 1_000_000
"""Limit over all classes. A map of noise has as many corners as pixels, and its polygons would fill gigabytes."""
STRIP_ROWS = 256
"""Rows that are searched for corners at once; it bounds the memory."""


class Polygon(NamedTuple):
    """One connected part of a mask. Rings are int64 `[N, 2]` of (x, y); the first vertex is not repeated at the end."""

    exterior: np.ndarray
    """Clockwise on the screen: the signed area (half the sum of x_i y_j - x_j y_i) is positive."""
    holes: list[np.ndarray]
    """Counterclockwise on the screen."""


class _Corners(NamedTuple):
    """Where outlines turn; a pixel corner at which two diagonal pixels meet is two entries."""

    x: np.ndarray
    y: np.ndarray
    right: np.ndarray
    """bool: its horizontal piece goes to the right, else to the left."""
    down: np.ndarray
    """bool: its vertical piece goes down, else up."""
    leaves_sideways: np.ndarray
    """bool: the ring, with the mask on its right on the screen, continues along the horizontal piece."""


def polygons(classes: np.ndarray) -> dict[int, list[Polygon]]:
    """uint8 `[H, W]` -> the polygons of each class that occurs, from the top down.

    UserError when the outlines have more than MAX_CORNERS corners.
    """
    y, x, around = _turning_points(classes)
    return {int(index): _class_polygons(_corners(y, x, around == index)) for index in np.unique(around[around >= 0])}


def _class_polygons(corners: _Corners) -> list[Polygon]:
    """The polygons that have these corners."""
    below = _partners(np.lexsort((corners.down, corners.y, corners.x)))
    beside = _partners(np.lexsort((corners.right, corners.x, corners.y)))
    following = np.where(corners.leaves_sideways, beside, below)
    ring = _cycles(following)
    # A ring that passes a point twice is not valid: swapping the two continuations there makes two rings of it.
    pinched = _same_point(corners)
    pinched = pinched[ring[pinched] == ring[pinched + 1]]
    following[pinched], following[pinched + 1] = following[pinched + 1], following[pinched]
    if len(pinched):
        ring = _cycles(following)

    order = np.lexsort((_position(following, ring), ring))
    x, y = corners.x[order], corners.y[order]
    starts = np.flatnonzero(np.diff(ring[order], prepend=-1))
    after = np.arange(1, len(order) + 1)
    after[np.append(starts[1:], len(order)) - 1] = starts
    areas = np.add.reduceat(x * y[after] - x[after] * y, starts)
    rings = np.split(np.stack([x, y], axis=1), starts[1:])

    exteriors = np.flatnonzero(areas > 0)
    by_exterior = {int(number): Polygon(rings[number], []) for number in exteriors}
    if len(exteriors) < len(rings):
        number = np.searchsorted(ring[order][starts], ring)  # number of each corner's ring
        for hole, owner in enumerate(_owners(corners, number, below, areas > 0)):
            if areas[hole] < 0:
                by_exterior[owner].holes.append(rings[hole])
    return list(by_exterior.values())


def _turning_points(classes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where any outline turns, row by row: y `[N]`, x `[N]`, and the four pixels around, int16 `[N, 4]`.

    Those are northwest, northeast, southwest, southeast; -1 is outside.
    """
    height = len(classes)
    strips: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    count = 0
    for top in range(0, height + 1, STRIP_ROWS):
        rows = classes[max(0, top - 1) : top + STRIP_ROWS]
        outside = (int(top == 0), int(top + STRIP_ROWS > height))
        strip = np.pad(rows.astype(np.int16), (outside, (1, 1)), constant_values=-1)
        beside = strip[:, 1:] == strip[:, :-1]
        below = strip[1:] == strip[:-1]
        straight = (beside[1:] & beside[:-1]) | (below[:, 1:] & below[:, :-1])
        y, x = np.nonzero(~straight)
        corners = [strip[y, x], strip[y, x + 1], strip[y + 1, x], strip[y + 1, x + 1]]
        strips.append((y + top, x, np.stack(corners, axis=1)))
        count += len(x)
        if count > MAX_CORNERS:
            raise UserError(
                f"the outlines have more than {MAX_CORNERS} corners: ask for run lengths or a PNG instead of polygons"
            )
    ys, xs, around = (np.concatenate(parts) for parts in zip(*strips, strict=True))
    return ys, xs, around


def _corners(y: np.ndarray, x: np.ndarray, inside: np.ndarray) -> _Corners:
    """The corners of one class among the turning points; the two entries of a shared point are neighbors.

    inside: bool `[N, 4]`, which of the pixels around are of that class.
    """
    around = inside @ np.array([1, 2, 4, 8], np.uint8)
    turns = np.array([0, 1, 1, 0, 1, 0, 2, 1, 1, 2, 0, 1, 0, 1, 1, 0])[around]  # entries at that point
    code = np.repeat(around, turns)
    x, y = np.repeat(x, turns), np.repeat(y, turns)
    count = turns[turns > 0]
    northwest, northeast, southwest, southeast = ((code >> bit & 1).astype(bool) for bit in range(4))
    right = northeast != southeast
    down = southwest != southeast
    sideways = np.where(right, southeast, northwest)
    second = np.flatnonzero(np.diff(np.repeat(np.arange(len(count)), count), prepend=-1) == 0)
    first = second - 1
    falling = code[first] == 0b1001  # northwest and southeast; else northeast and southwest
    # Around its northwestern or southwestern pixel, then around the one east of it.
    right[first], right[second] = False, True
    down[first], down[second] = ~falling, falling
    sideways[first] = sideways[second] = falling
    return _Corners(x.astype(np.int64), y.astype(np.int64), right, down, sideways)


def _partners(order: np.ndarray) -> np.ndarray:
    """An order in which entries 0 and 1, 2 and 3, ... are pairs -> the partner of each entry."""
    partners = np.empty_like(order)
    partners[order[::2]] = order[1::2]
    partners[order[1::2]] = order[::2]
    return partners


def _same_point(corners: _Corners) -> np.ndarray:
    """Indices of the first of every two entries that share a point."""
    same: np.ndarray = np.flatnonzero((np.diff(corners.x) == 0) & (np.diff(corners.y) == 0))
    return same


def _cycles(following: np.ndarray) -> np.ndarray:
    """A permutation -> each entry's cycle, named by its smallest entry. The reach doubles with every round."""
    name = np.arange(len(following))
    ahead = following
    while True:
        smaller = np.minimum(name, name[ahead])
        if np.array_equal(smaller, name):
            return name
        name, ahead = smaller, ahead[ahead]


def _position(following: np.ndarray, cycle: np.ndarray) -> np.ndarray:
    """A number that grows along each cycle, from its smallest entry on."""
    begin = cycle == np.arange(len(cycle))
    ahead = np.where(begin, cycle, following)
    left = (~begin).astype(np.int64)  # steps to the beginning
    while not begin[ahead].all():
        left += left[ahead]
        ahead = ahead[ahead]
    return np.where(begin, -len(cycle), -left)


def _owners(corners: _Corners, ring: np.ndarray, below: np.ndarray, exterior: np.ndarray) -> list[int]:
    """The exterior ring around each ring: an exterior's own number, a hole's polygon.

    West of a hole's westernmost wall lies its polygon. The next wall in that row belongs to the polygon's exterior, or
    to another hole of it that lies further west.
    """
    tops = np.flatnonzero(corners.down)
    heights = corners.y[below[tops]] - corners.y[tops]
    row = np.repeat(corners.y[tops], heights) + _count_up(heights)
    wide = int(corners.x.max()) + 1
    position = row * wide + np.repeat(corners.x[tops], heights)
    order = np.argsort(position)
    walls, wall_ring = position[order], np.repeat(ring[tops], heights)[order]

    westernmost = tops[np.lexsort((corners.x[tops], ring[tops]))]
    westernmost = westernmost[np.flatnonzero(np.diff(ring[westernmost], prepend=-1))]
    at = np.searchsorted(walls, corners.y[westernmost] * wide + corners.x[westernmost])
    owner = np.where(exterior, np.arange(len(exterior)), wall_ring[at - 1])
    while not exterior[owner].all():
        owner = owner[owner]
    result: list[int] = owner.tolist()
    return result


def _count_up(lengths: np.ndarray) -> np.ndarray:
    """[2, 3] -> [0, 1, 0, 1, 2]."""
    ends = np.cumsum(lengths)
    steps: np.ndarray = np.arange(ends[-1]) - np.repeat(ends - lengths, lengths)
    return steps
