"""Textures as functions of meters (u, v) on a face, built on one tile of fractal noise and its averaged copies.

`size` is what a sub-pixel covers there: a pattern finer than that fades out instead of flickering (MIP maps), so a
texture looks the same at every size of the photo. Arrays without a shape in their description are float32 [N].
"""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from semseg_app.synthetic.shapes import ASPHALT, FOLIAGE, MARKING, PAVING, PLANKS, WALL

Array = NDArray[np.float32]
Index = NDArray[np.intp]
Flags = NDArray[np.bool_]
TILE = 256
"""Side of the noise tile, in texels."""
LEVELS = 7
BRICK = (0.42, 0.14)
"""Width and height of a brick, meters: larger than life, to be seen in small photos."""


@lru_cache(maxsize=1)
def _tile() -> Array:
    """[LEVELS * TILE * TILE]: value noise of eight octaves, mean 0, deviation 1, periodic; level n averages blocks of
    2^n texels."""
    random = np.random.Generator(np.random.PCG64(20))
    tile = np.zeros((TILE, TILE))
    for octave in range(1, 9):
        cells = 2**octave
        grid = random.random((cells, cells)) - 0.5
        position = np.arange(TILE) * cells / TILE
        before = position.astype(int)
        fraction = position - before
        fraction = fraction * fraction * (3 - 2 * fraction)
        after = (before + 1) % cells
        rows = grid[before] * (1 - fraction)[:, None] + grid[after] * fraction[:, None]
        tile += (rows[:, before] * (1 - fraction) + rows[:, after] * fraction) * 0.8**octave
    tile = (tile - tile.mean()) / tile.std()
    levels = []
    for level in range(LEVELS):
        block = 2**level
        small = tile.reshape(TILE // block, block, TILE // block, block).mean(axis=(1, 3))
        levels.append(small.repeat(block, 0).repeat(block, 1))
    return np.stack(levels).astype(np.float32).reshape(-1)


def noise(u: Array, v: Array, texels: float, size: Array | None = None) -> Array:
    """Noise of deviation 1 with `texels` texels per meter."""
    column = np.floor(u * np.float32(texels)).astype(np.int32) & (TILE - 1)
    row = np.floor(v * np.float32(texels)).astype(np.int32) & (TILE - 1)
    at = row * TILE + column
    if size is not None:
        at += np.clip(np.frexp(size * np.float32(texels))[1], 0, LEVELS - 1).astype(np.int32) * (TILE * TILE)
    sample: Array = _tile().take(at)
    return sample


def lottery(first: Array, second: Array, seed: Array) -> Array:
    """A hash of whole numbers to [0, 1): what makes one window, board or slab differ from the next."""
    mixed = first.astype(np.int32) * np.int32(374761393) + second.astype(np.int32) * np.int32(668265263)
    mixed += (seed * np.float32(65521)).astype(np.int32)
    mixed = (mixed ^ (mixed >> 13)) * np.int32(1274126177)
    drawn: Array = ((mixed ^ (mixed >> 16)) & 0xFFFF).astype(np.float32) / np.float32(65536)
    return drawn


def _fade(period: Array | float, size: Array) -> Array:
    """1 where a pattern of this period is well seen, 0 where it is finer than the pixels."""
    fraction: Array = np.clip(period / (2.5 * size) - 0.45, 0, 1)
    return fraction


def _at_least(floor: float, gain: Array) -> Array:
    bounded: Array = np.maximum(gain, np.float32(floor))
    return bounded


def asphalt(u: Array, v: Array, size: Array, params: Array) -> Array:
    """Params: grain, cracks, (wear of markings)."""
    gain = 1 + (0.08 * noise(u, v, 70.0, size) + 0.08 * noise(u, v, 11.0, size)) * params[0]
    crack = np.abs(noise(u + 31, v + 7, 20.0, size) - 0.4) < 0.04
    gain *= 1 - 0.3 * params[1] * crack
    return _at_least(0.3, gain)


def wear(u: Array, v: Array, size: Array, amount: Array) -> Flags:
    """Where paint is worn off the road."""
    bare: Flags = noise(u + 3, v, 40.0, size) < amount * 3.0 - 2.2
    return bare


def paving(u: Array, v: Array, size: Array, params: Array) -> Array:
    """Params: kind (0 seamless, 1 slabs, 2 bond), slab size, depth of the joints, difference between slabs."""
    kind, slab = params[0], params[1]
    bond = kind == 2
    row = v / slab
    line = np.floor(row)
    place = u / (slab * (1 + bond)) + 0.5 * (line % 2) * bond
    column = np.floor(place)
    joint = 0.035 / slab
    fade = _fade(slab, size) * (kind > 0)
    gain = 1 + 0.07 * noise(u, v, 50.0, size) + 0.08 * noise(u, v, 8.0, size)
    gain *= 1 - fade * (0.35 * params[2] * ((place - column < joint) | (row - line < joint)))
    gain *= 1 + fade * 0.3 * params[3] * (lottery(column, line, slab) - 0.5)
    return _at_least(0.3, gain)


def foliage(u: Array, v: Array, size: Array, params: Array) -> Array:
    """Params: contrast, seed."""
    leaves = noise(u + params[1], v + params[1] * 3, 200.0, size)
    clumps = noise(u + params[1] * 2, v, 50.0, size)
    gain: Array = np.exp(np.clip(params[0] * (0.7 * leaves + 0.6 * clumps), -1.7, 1.1))
    return gain


def planks(u: Array, v: Array, size: Array, params: Array) -> Array:
    """Params: period of upright boards, of lying ones (tiles of a roof), seed."""
    upright = params[0] > 0
    period = np.maximum(params[0], params[1])
    position = np.where(upright, u, v) / period
    board = np.floor(position)
    fade = _fade(period, size)
    gain = 1 + fade * (0.35 * (lottery(board, board, params[2]) - 0.5) - 0.45 * (position - board < 0.1))
    grain = noise(np.where(upright, u * 4, u), np.where(upright, v, v * 4), 12.0, size * 2)
    gain += 0.10 * grain + 0.06 * noise(u, v, 9.0, size)
    return _at_least(0.25, gain)


def wall(u: Array, v: Array, size: Array, params: Array) -> Array:
    """Plaster, brick or boards, without the windows. Params: see `front`."""
    seed, pattern = params[5], params[6]
    gain = 1 + 0.06 * noise(u, v, 40.0, size) + 0.09 * noise(u + 50 * seed, v * np.float32(0.35), 9.0, size)
    gain -= 0.2 * np.exp(-1.5 * np.maximum(v, 0))
    row = v / np.float32(BRICK[1])
    line = np.floor(row)
    place = u / np.float32(BRICK[0]) + 0.5 * (line % 2)
    column = np.floor(place)
    mortar = (row - line < 0.16) | (place - column < 0.06)
    gain += _fade(BRICK[1], size) * (pattern == 1) * (0.45 * (lottery(column, line, seed) - 0.5) + 0.25 * mortar)
    board = v / np.float32(0.22)
    gain -= _fade(0.22, size) * (pattern == 2) * (0.3 * (board - np.floor(board) < 0.16))
    return _at_least(0.2, gain)


class Pattern(NamedTuple):
    """How a material varies over a face."""

    gain: Callable[[Array, Array, Array, Array], Array]
    """(u, v, size [N], params [P, N]) -> factor on the face's color [N]."""
    params: int
    """How many of a face's params it reads."""


PATTERNS = {
    ASPHALT: Pattern(asphalt, 2),
    MARKING: Pattern(asphalt, 3),
    PAVING: Pattern(paving, 4),
    FOLIAGE: Pattern(foliage, 2),
    PLANKS: Pattern(planks, 3),
    WALL: Pattern(wall, 8),
}


class Front(NamedTuple):
    """Parts of walls: positions in the arrays given, and what painting them needs."""

    trim: Index
    board: Index
    board_color: Array
    """[3, boards]"""
    pane: Index
    door: Flags
    """[panes]: a door instead of glass."""
    rise: Array
    """[panes]: 0 at the sill, 1 at the lintel."""
    draw: Array
    second: Array
    """[panes]: two lots of the window that a pane belongs to."""


def front(u: Array, v: Array, params: Array) -> Front:
    """One window per bay and storey; the ground floor has doors, or a shop with a name board.

    Params: storey, bay (meters), window's fraction of bay and of storey (0: none), shop, seed, pattern (0 plain,
    1 brick, 2 boards), height of the wall.
    """
    storey, bay, fraction_u, fraction_v, shop, seed, _, height = params
    level, slot = np.floor(v / storey), np.floor(u / bay)
    in_v, aside = v / storey - level, np.abs(u / bay - slot - np.float32(0.5))
    has_windows = fraction_v > 0
    draw = lottery(slot, level, seed)
    ground_floor = level == 0
    is_shop = ground_floor & (shop > 0)
    is_door = ground_floor & ~is_shop & (draw < 0.22)
    half = np.where(is_shop, np.float32(0.44), np.where(is_door, 0.5 / bay, fraction_u / 2))
    sill = np.where(fraction_v < 0.7, np.float32(0.33), np.float32(0.05))
    low = np.where(is_shop, np.float32(0.12), np.where(is_door, np.float32(0), sill))
    high = np.where(is_shop | is_door, np.float32(0.70), sill + fraction_v)
    there = has_windows & (v > 0) & ((level + 1) * storey <= height + np.float32(0.2))
    frame = 0.10 / storey
    framed = there & (aside < half + 0.10 / bay) & (in_v > low - frame) & (in_v < high + frame)
    pane = framed & (aside < half) & (in_v > low) & (in_v < high) & ((aside > 0.02) | is_door)
    cornice = (np.abs(v - height + np.float32(0.15)) < 0.15) | (
        (in_v < 0.05) & (level > 0) & (seed > 0.5) & has_windows
    )
    board = np.flatnonzero(is_shop & there & (in_v > 0.76) & (in_v < 0.93))
    hue = draw[board] * np.float32(6.283) + np.array([[0], [2.1], [4.2]], np.float32)
    paint = np.square(0.32 + 0.28 * np.cos(hue)) * 1.4
    letters = (noise(u[board], v[board] * np.float32(0.6), 16.0) > 0.7) & (np.abs(in_v[board] - 0.845) < 0.05)
    panes = np.flatnonzero(pane)
    return Front(
        trim=np.flatnonzero((framed | cornice) & ~pane),
        board=board,
        board_color=np.where(letters, np.float32(0.75), paint.astype(np.float32)),
        pane=panes,
        door=is_door[panes],
        rise=(in_v[panes] - low[panes]) / np.maximum(high[panes] - low[panes], np.float32(0.05)),
        draw=draw[panes],
        second=lottery(slot[panes] + 57, level[panes] + 13, seed[panes]),
    )
