"""Shapes -> class map, in one place for every format.

pycocotools turns polygons into pixels: of the rasterizers that were measured it gives back the most pixels of a mask
whose outlines were written as polygons (CamVid: 0.9993; supervision 0.984).
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from semseg_app.data.importers.annotated import Bitmap, Ellipse, Object, Overlap, Polygons, Runs, Shape, Size
from semseg_app.errors import UserError
from semseg_app.labels import IGNORE

GRID = 5
"""pycocotools rounds corners to fifths of a pixel."""
FARTHEST = 1_000_000
"""Largest coordinate of a corner. pycocotools walks along every edge in fifths of a pixel and overflows its 32 bits."""
MOST_CORNERS = 1_000_000
"""Most corners of one outline."""
ROUNDING = 0.02
"""Pixels; fractions of the photo's width with five decimals are this exact up to 4,000 pixels."""
FEWEST_DIAGONALS = 16
"""Diagonal edges of a photo's outlines before they count as traced; a few could be drawn by hand."""


class Malformed(ValueError):
    """A shape that cannot be drawn; the message says why. The caller adds file and place."""


class Patch:
    """The pixels of one shape: bool `[h, w]` at (left, top), inside the picture."""

    __slots__ = ("area", "left", "pixels", "top")

    def __init__(self, pixels: np.ndarray, left: int = 0, top: int = 0):
        self.pixels, self.left, self.top = pixels, left, top
        self.area = int(np.count_nonzero(pixels))


def rasterize(
    objects: Sequence[Object],
    size: Size,
    number: Callable[[str | None], int],
    background: int,
    overlap: Overlap,
    centers: bool = False,
) -> tuple[np.ndarray, list[int]]:
    """Draw objects over the background.

    Args:
        objects: in the order of the file.
        size: (width, height) of the picture.
        number: class name -> index or IGNORE.
        background: index or IGNORE of the pixels without an object.
        overlap: which object is seen where several overlap.
        centers: what corners mean where the format does not say: the middle of a pixel, or its edge.

    Returns:
        Class map uint8 `[H, W]`, and the pixels that each object covers, hidden ones included.

    Raises:
        UserError: an object that cannot be drawn; the message begins with its place.
    """
    width, height = size
    classes = np.full((height, width), background, np.uint8)
    patches = [_patch_or_error(it, size, centers) for it in objects]
    for index in _bottom_to_top(objects, patches, overlap):
        patch, value = patches[index], number(objects[index].name)
        rows, columns = patch.pixels.shape
        window = classes[patch.top : patch.top + rows, patch.left : patch.left + columns]
        window[patch.pixels] = value
    return classes, [patch.area for patch in patches]


def _bottom_to_top(objects: Sequence[Object], patches: Sequence[Patch], overlap: Overlap) -> list[int]:
    def height(index: int) -> tuple[bool, int]:
        level = {"last": 0, "z-order": objects[index].z, "largest-on-bottom": -patches[index].area}[overlap]
        return not objects[index].beneath, level

    return sorted(range(len(objects)), key=height)


def majority(maps: Sequence[np.ndarray]) -> np.ndarray:
    """Several annotators' uint8 `[H, W]` -> the class that most of them gave each pixel, IGNORE on a tie."""
    if len(maps) == 1:
        return maps[0]
    values = np.unique(np.concatenate([np.unique(classes) for classes in maps]))
    votes = np.stack([sum((classes == value).astype(np.uint8) for classes in maps) for value in values])
    most = votes.max(axis=0)
    winner: np.ndarray = values[votes.argmax(axis=0)]
    winner[(votes == most).sum(axis=0) > 1] = IGNORE
    return winner


def looks_traced(objects: Sequence[Object]) -> bool:
    """Whether the outlines of a photo were traced along pixels by OpenCV, so that a corner is the middle of a pixel.

    Then every corner is a whole number and every edge horizontal, vertical or diagonal, unlike those drawn by hand;
    outlines along the edges of pixels have no diagonals.
    """
    diagonals = 0
    for drawn in objects:
        if not isinstance(drawn.shape, Polygons) or drawn.shape.centers is not None:
            continue
        for ring in (*drawn.shape.parts, *drawn.shape.holes):
            if not np.isfinite(ring).all() or (np.abs(ring - np.rint(ring)) > ROUNDING).any():
                return False
            steps = np.abs(np.diff(np.rint(ring), axis=0, append=np.rint(ring[:1])))
            diagonal = steps[:, 0] == steps[:, 1]
            if (~diagonal & (steps != 0).all(axis=1)).any():
                return False
            diagonals += int((diagonal & (steps[:, 0] > 0)).sum())
    return diagonals >= FEWEST_DIAGONALS


def _patch_or_error(drawn: Object, size: Size, centers: bool) -> Patch:
    try:
        return patch_of(drawn.shape, size, centers)
    except Malformed as error:
        raise UserError(f"{drawn.place}: {error}") from None


def patch_of(shape: Shape, size: Size, centers: bool = False) -> Patch:
    """The pixels that a shape covers. Malformed where it cannot be drawn."""
    match shape:
        case Polygons():
            return _polygons(shape, size, centers if shape.centers is None else shape.centers)
        case Runs():
            return Patch(decode_runs(shape, size))
        case Bitmap():
            return _cropped(shape.pixels, shape.left, shape.top, size)
        case Ellipse():
            return _ellipse(shape, size)


def _polygons(shape: Polygons, size: Size, centers: bool) -> Patch:
    for ring in (*shape.parts, *shape.holes):
        if len(ring) > MOST_CORNERS:
            raise Malformed(f"an outline of {len(ring):,} corners; at most {MOST_CORNERS:,} are read")
        if not (np.abs(ring) <= FARTHEST).all():  # NaN compares false
            raise Malformed(f"a coordinate is not a number or beyond {FARTHEST:,} pixels")
    if centers:
        return _traced(shape, size)
    parts = [np.floor(GRID * part + 0.5) for part in shape.parts if len(part) >= 3]
    if not parts:
        return Patch(np.zeros((0, 0), bool))
    low = np.min([part.min(axis=0) for part in parts], axis=0) // GRID
    high = np.max([part.max(axis=0) for part in parts], axis=0) // GRID + 1
    inside = (low >= 0).all() and (high <= size).all()
    # Drawing in the smallest window instead of the whole picture saves most of the time. It differs in one pixel of
    # a million, where an edge passes through the middle of a sample.
    left, top = (int(low[0]), int(low[1])) if inside else (0, 0)
    width, height = (int(high[0]) - left, int(high[1]) - top) if inside else size
    holes = [np.floor(GRID * hole + 0.5) for hole in shape.holes if len(hole) >= 3]
    pixels = _filled(parts, left, top, width, height)
    if holes:
        pixels &= ~_filled(holes, left, top, width, height)
    return Patch(pixels, left, top)


def _filled(parts: Sequence[np.ndarray], left: int, top: int, width: int, height: int) -> np.ndarray:
    """Rings on the grid -> bool `[height, width]`."""
    masks = coco_masks()
    rings = [((part - (GRID * left, GRID * top)) / GRID).ravel().tolist() for part in parts]
    runs = masks.frPyObjects(rings, height, width)
    counts = (runs[0] if len(runs) == 1 else masks.merge(runs))["counts"]
    return _unpacked(_numbers(counts), width, height)


def _traced(shape: Polygons, size: Size) -> Patch:
    """Rings whose corners are pixels, with the outline itself, as OpenCV fills them."""
    rings = [np.rint(ring).astype(np.int64) for ring in shape.parts if len(ring)]
    if not rings:
        return Patch(np.zeros((0, 0), bool))
    low = np.maximum(np.min([ring.min(axis=0) for ring in rings], axis=0), 0)
    high = np.minimum(np.max([ring.max(axis=0) for ring in rings], axis=0) + 1, size)
    if (high <= low).any():
        return Patch(np.zeros((0, 0), bool))
    canvas = Image.new("1", (int(high[0] - low[0]), int(high[1] - low[1])))
    draw = ImageDraw.Draw(canvas)
    holes = [np.rint(ring).astype(np.int64) for ring in shape.holes if len(ring)]
    for ring, inside in (*((ring, 1) for ring in rings), *((ring, 0) for ring in holes)):
        corners = [(x, y) for x, y in (ring - low).tolist()]
        if len(corners) == 1:
            draw.point(corners, fill=1)
        else:  # the outline of a hole belongs to the object
            draw.polygon(corners, fill=inside, outline=1)
    return Patch(np.asarray(canvas), int(low[0]), int(low[1]))


def decode_runs(shape: Runs, size: Size) -> np.ndarray:
    """bool `[H, W]`. Malformed where the runs do not cover the picture."""
    if shape.size != size:
        raise Malformed(f"run lengths of {shape.size[0]}x{shape.size[1]} on a picture of {size[0]}x{size[1]}")
    text = shape.counts
    counts = _numbers(text.encode("latin-1", "replace")) if isinstance(text, str) else _integers(text)
    if (counts < 0).any() or counts.sum() != size[0] * size[1]:
        raise Malformed(f"run lengths cover {counts.sum():,} pixels of {size[0] * size[1]:,}")
    return _unpacked(counts, *size)


def _unpacked(counts: np.ndarray, width: int, height: int) -> np.ndarray:
    """Run lengths down the columns, zeros first -> bool `[height, width]`."""
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape(width, height).T


def _integers(counts: list[int]) -> np.ndarray:
    try:
        return np.asarray(counts, dtype=np.int64).ravel()
    except (TypeError, ValueError, OverflowError):
        raise Malformed("run lengths must be whole numbers") from None


def _numbers(text: bytes) -> np.ndarray:
    """COCO's compressed run lengths: 5 bits per character, from the fourth number on the difference to two before.

    Not read by pycocotools: its decoder (2.0.11) returns arbitrary memory where the runs cover too few pixels, and
    warns under NumPy 2.
    """
    codes = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    if not codes.size:
        return np.zeros(0, np.int64)
    if codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise Malformed("compressed run lengths hold a character that does not belong there")
    ends = np.flatnonzero(codes < 32)
    starts = np.concatenate(([0], ends[:-1] + 1))
    if (ends - starts).max() > 6:
        raise Malformed("compressed run lengths hold a number that is too large")
    digit = np.arange(codes.size) - np.repeat(starts, ends - starts + 1)
    numbers = np.add.reduceat((codes & 31) << 5 * digit, starts)
    numbers -= np.where(codes[ends] & 16, np.int64(1) << 5 * (ends - starts + 1), 0)
    for odd in (1, 2):  # x[i] += x[i - 2] from i = 3 on: two running sums
        numbers[odd::2] = np.cumsum(numbers[odd::2])
    return numbers


def _cropped(pixels: np.ndarray, left: int, top: int, size: Size) -> Patch:
    width, height = size
    rows, columns = pixels.shape
    inside = pixels[max(0, -top) : max(0, height - top), max(0, -left) : max(0, width - left)]
    if not inside.size or left >= width or top >= height or left + columns <= 0 or top + rows <= 0:
        return Patch(np.zeros((0, 0), bool))
    return Patch(inside, max(0, left), max(0, top))


def _ellipse(shape: Ellipse, size: Size) -> Patch:
    """Pixels whose middle lies in it."""
    numbers = (*shape.center, *shape.radii, shape.degrees)
    if not all(abs(value) <= FARTHEST for value in numbers):
        raise Malformed(f"a coordinate is not a number or beyond {FARTHEST:,} pixels")
    (x, y), (a, b) = shape.center, shape.radii
    if a <= 0 or b <= 0:
        return Patch(np.zeros((0, 0), bool))
    reach = int(np.ceil(max(a, b))) + 1
    left, top = max(0, int(x) - reach), max(0, int(y) - reach)
    columns = np.arange(left, max(left, min(size[0], int(x) + reach + 1))) + 0.5 - x
    rows = np.arange(top, max(top, min(size[1], int(y) + reach + 1)))[:, None] + 0.5 - y
    turn = np.deg2rad(shape.degrees)
    along = columns * np.cos(turn) + rows * np.sin(turn)
    across = rows * np.cos(turn) - columns * np.sin(turn)
    return Patch((along / a) ** 2 + (across / b) ** 2 <= 1, left, top)


def coco_masks() -> Any:
    """`pycocotools.mask`. UserError where the extra is missing."""
    try:
        from pycocotools import mask
    except ImportError:
        raise UserError("drawing polygons needs the extra `labels`: pip install 'semseg-app[labels]'") from None
    return mask
