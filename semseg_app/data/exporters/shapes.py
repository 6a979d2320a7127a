"""What an annotation tool gets of a class map: one shape for each connected part, or one mask for each class."""

from dataclasses import dataclass

import numpy as np

from semseg_app.labels import IGNORE
from semseg_app.masks.polygons import Polygon, polygons
from semseg_app.masks.regions import regions
from semseg_app.masks.simplify import signed_area, simplified


@dataclass(frozen=True)
class Shape:
    """Pixels of one class. Either `outline` is there, or these pixels are best said as a mask."""

    class_index: int
    area: float
    """Pixels."""
    box: tuple[int, int, int, int]
    """left, top, width, height in pixels."""
    pixels: np.ndarray
    """bool `[height, width]`, in the box."""
    outline: Polygon | None
    """None: it was asked for masks."""
    score: float | None = None
    """Mean confidence of the prediction, 0 to 1; None: a person's mask."""

    @property
    def has_holes(self) -> bool:
        return self.outline is not None and bool(self.outline.holes)

    def in_picture(self, height: int, width: int) -> np.ndarray:
        """bool `[height, width]`: the pixels in the whole picture."""
        canvas = np.zeros((height, width), bool)
        left, top, columns, rows = self.box
        canvas[top : top + rows, left : left + columns] = self.pixels
        return canvas


def polygon_shapes(classes: np.ndarray, tolerance: float, confidence: np.ndarray | None = None) -> list[Shape]:
    """The connected parts of uint8 `[H, W]`, largest first, so that what is drawn later hides no smaller part.

    Args:
        classes: IGNORE gets no shape.
        tolerance: see `simplified`.
        confidence: uint8 `[H, W]`, 0 to 255, for the scores.
    """
    exact = polygons(classes)
    exact.pop(IGNORE, None)
    shapes = []
    for index, parts in simplified(classes, exact, tolerance).items():
        for part in parts:
            left, top = map(int, part.exterior.min(axis=0))
            right, bottom = map(int, part.exterior.max(axis=0))
            box = (left, top, right - left, bottom - top)
            area = abs(signed_area(part.exterior)) - sum(abs(signed_area(hole)) for hole in part.holes)
            pixels = fill([part.exterior, *part.holes], box)
            shapes.append(Shape(index, area, box, pixels, part, _score(confidence, box, pixels)))
    return sorted(shapes, key=lambda shape: -shape.area)


def mask_shapes(classes: np.ndarray, confidence: np.ndarray | None = None) -> list[Shape]:
    """One shape for each class of uint8 `[H, W]`, exact to the pixel; IGNORE gets none."""
    shapes = []
    for region in regions(classes):
        if region.class_index != IGNORE:
            box = (region.left, region.top, region.width, region.height)
            pixels = _cut(classes, box) == region.class_index
            shapes.append(Shape(region.class_index, region.area, box, pixels, None, _score(confidence, box, pixels)))
    return shapes


def fill(rings: list[np.ndarray], box: tuple[int, int, int, int]) -> np.ndarray:
    """Rings with whole-numbered corners `[N, 2]` -> bool `[height, width]`: pixels whose middle lies inside.

    Inside is where a line to the left crosses an odd number of edges, so rings within rings are holes.
    """
    left, top, width, height = box
    begin = np.concatenate(rings)
    end = np.concatenate([np.roll(ring, -1, axis=0) for ring in rings])
    steep = begin[:, 1] != end[:, 1]
    begin, end = begin[steep], end[steep]
    upper, lower = np.minimum(begin[:, 1], end[:, 1]), np.maximum(begin[:, 1], end[:, 1])
    edge = np.repeat(np.arange(len(begin)), lower - upper)
    first = np.cumsum(lower - upper) - (lower - upper)
    row = np.arange(len(edge)) - first[edge] + upper[edge]
    slope = (end[:, 0] - begin[:, 0]) / (end[:, 1] - begin[:, 1])
    crossing = begin[edge, 0] + (row + 0.5 - begin[edge, 1]) * slope[edge]
    column = np.ceil(crossing - 0.5).astype(np.int64) - left
    crossings = np.zeros((height, width + 1), np.int32)
    np.add.at(crossings, (row - top, column), 1)
    inside: np.ndarray = np.cumsum(crossings, axis=1)[:, :-1] % 2 == 1
    return inside


def with_bridges(outline: Polygon) -> np.ndarray:
    """One ring `[N, 2]` that says a polygon with holes: a bridge leads to each hole and back the same way.

    Each hole is entered at its leftmost corner, from the nearest corner of the ring so far; holes further to the left
    come first. By the even-odd rule the bridges cover nothing.
    """
    ring = outline.exterior
    for hole in sorted(outline.holes, key=lambda hole: int(hole[:, 0].min())):
        entry = int(hole[:, 0].argmin())
        leave = int(((ring - hole[entry]) ** 2).sum(axis=1).argmin())
        loop = np.roll(hole, -entry, axis=0)
        ring = np.concatenate([ring[: leave + 1], loop, loop[:1], ring[leave:]])
    return ring


def merge_specks(classes: np.ndarray, smallest: int) -> tuple[np.ndarray, int]:
    """Give connected parts of fewer than `smallest` pixels to the class that touches them most.

    Returns:
        uint8 `[H, W]`, and how many parts were merged. IGNORE is neither merged nor given to.
    """
    merged = classes.copy()
    count = 0
    specks = [
        (index, part.exterior)
        for index, parts in polygons(classes).items()
        if index != IGNORE
        for part in parts
        if abs(signed_area(part.exterior)) - sum(abs(signed_area(hole)) for hole in part.holes) < smallest
    ]
    for index, exterior in specks:
        x, y = exterior[
            np.lexsort(exterior.T)[0]
        ].tolist()  # the topmost corner, there the leftmost: its pixel is inside
        inside, touching = _connected(merged, y, x, index, smallest)
        known = [value for value in touching if value != IGNORE]
        if known and len(inside) < smallest:  # it may have grown by a speck that was merged before
            merged[tuple(np.array(inside).T)] = max(sorted(set(known)), key=known.count)
            count += 1
    return merged, count


def _connected(classes: np.ndarray, y: int, x: int, index: int, most: int) -> tuple[list[tuple[int, int]], list[int]]:
    """The pixels of the part around (y, x), and the classes on the other side of its border, one per pixel edge.

    The search ends at `most` pixels.
    """
    if classes[y, x] != index:
        return [], []
    height, width = classes.shape
    inside, touching, waiting = {(y, x)}, [], [(y, x)]
    while waiting and len(inside) < most:
        y, x = waiting.pop()
        for near in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            if 0 <= near[0] < height and 0 <= near[1] < width and near not in inside:
                if classes[near] == index:
                    inside.add(near)
                    waiting.append(near)
                else:
                    touching.append(int(classes[near]))
    return sorted(inside), touching


def _cut(values: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    left, top, width, height = box
    return values[top : top + height, left : left + width]


def _score(confidence: np.ndarray | None, box: tuple[int, int, int, int], pixels: np.ndarray) -> float | None:
    if confidence is None or not pixels.any():
        return None
    return round(float(_cut(confidence, box)[pixels].mean()) / 255, 4)
