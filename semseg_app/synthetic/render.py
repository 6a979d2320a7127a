"""From a Scene to linear light and a label: painter's algorithm at double size, then all sub-pixels shaded at once.

Each face is drawn twice: its number into one buffer (for the photo) and its class into another (for the label). The
photo is shaded from the numbers ("deferred shading", paint.py) and averages the sub-pixels; the label takes the class
at the exact center of each pixel, so classes never mix.
"""

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from semseg_app.synthetic.paint import paint
from semseg_app.synthetic.shapes import SKY, UNSEEN, Point
from semseg_app.synthetic.site import Scene

NEAR = 0.4
"""Nothing closer than this (meters) is drawn."""
Polygon = Sequence[Point]
Matrix = NDArray[np.float64]


class Polygons(NamedTuple):
    """Many polygons as one array."""

    points: Matrix
    """[N, 3], one polygon after the other."""
    starts: NDArray[np.intp]
    """Where each begins."""
    counts: list[int]
    """How many points each has."""


def render_scene(scene: Scene, height: int, width: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """-> linear light float32 [3, H, W] and label uint8 [H, W]."""
    camera = camera_matrix(scene)
    numbers = Image.new("I", (2 * width, 2 * height), 0)
    classes = Image.new("L", (2 * width, 2 * height), SKY)
    draw_number, draw_class = ImageDraw.Draw(numbers).polygon, ImageDraw.Draw(classes).polygon
    faces = _flatten([face.points for face in scene.faces])
    # Counted in sub-pixels, the photo's samples lie at n + 1/2 and the label's, the centers of its pixels, at 2 n + 1;
    # Pillow samples polygons at whole numbers.
    outlines = _project(scene, camera, faces, 2 * height, 2 * width, (0.5, 1.0))
    for number, (face, outline) in enumerate(zip(scene.faces, outlines, strict=True), 1):
        if outline:
            if face.material != UNSEEN:
                draw_number(outline[0], fill=number)
            if face.label != UNSEEN:
                draw_class(outline[1], fill=face.label)
    x, y, z = scene.light.sun_direction
    throw = np.array([[1, -x / y, 0], [0, 0, 0], [0, -z / y, 1]])
    shadows = _flatten(scene.casters, throw)
    sunlit = _reaching(_project(scene, camera, shadows, height, width, (0.5,)), height, width, 0.004)
    open_sky = _reaching(
        _project(scene, camera, _flatten(scene.footprints), height, width, (0.5,)), height, width, 0.012
    )
    corners = faces.points[faces.starts[:, None] + np.arange(3)]
    light = paint(scene, camera, corners, np.asarray(numbers), sunlit, open_sky)
    average = light[:, ::2, ::2] + light[:, 1::2, ::2] + light[:, ::2, 1::2] + light[:, 1::2, 1::2]
    return (average / 4).astype(np.float32), np.ascontiguousarray(np.asarray(classes)[::2, ::2])


def camera_matrix(scene: Scene) -> Matrix:
    """[3, 3]: world directions to camera directions (right, up, forward)."""
    cos, sin = np.cos(scene.pitch), np.sin(scene.pitch)
    forward = np.array([np.sin(scene.yaw) * cos, sin, np.cos(scene.yaw) * cos])
    right = np.array([np.cos(scene.yaw), 0.0, -np.sin(scene.yaw)])
    up = np.cross(forward, right)
    cos, sin = np.cos(scene.roll), np.sin(scene.roll)
    return np.stack([cos * right + sin * up, cos * up - sin * right, forward])


def _flatten(polygons: Sequence[Polygon], move: Matrix | None = None) -> Polygons:
    """Polygons as one array, every point multiplied by `move` [3, 3]."""
    counts = [len(polygon) for polygon in polygons]
    numbers = chain.from_iterable(chain.from_iterable(polygons))
    points = np.fromiter(numbers, np.float64, 3 * sum(counts)).reshape(-1, 3)
    return Polygons(points if move is None else points @ move.T, np.cumsum([0, *counts])[:-1], counts)


def _project(
    scene: Scene, camera: Matrix, polygons: Polygons, height: int, width: int, centers: Sequence[float]
) -> list[list[list[int]] | None]:
    """Outlines [x0, y0, x1, y1, ...] of polygons on a buffer of the given size, one for each offset in `centers`; None
    for a polygon outside it."""
    if not polygons.counts:
        return []
    starts, counts = polygons.starts, polygons.counts
    points = (polygons.points - np.array(scene.eye)) @ camera.T
    focal = scene.focal * height

    def on_screen(points: Matrix) -> Matrix:
        return points[:, :2] * (focal / np.maximum(points[:, 2:], NEAR)) * (1, -1) + (width / 2, height / 2)

    screen = on_screen(points)
    nearest, farthest = np.minimum.reduceat(points[:, 2], starts), np.maximum.reduceat(points[:, 2], starts)
    low, high = np.minimum.reduceat(screen, starts), np.maximum.reduceat(screen, starts)
    beside = (high < 0).any(axis=1) | (low[:, 0] > width) | (low[:, 1] > height)
    close = nearest < NEAR
    unseen = (farthest < NEAR) | (beside & ~close)
    rounded = [np.rint(screen - center).astype(np.int64).reshape(-1).tolist() for center in centers]
    outlines: list[list[list[int]] | None] = []
    for start, count, skip, cut in zip(starts.tolist(), counts, unseen.tolist(), close.tolist(), strict=True):
        if skip:
            outlines.append(None)
        elif cut:
            part = on_screen(_clip_near(points[start : start + count]))
            outlines.append([np.rint(part - center).astype(np.int64).reshape(-1).tolist() for center in centers])
        else:
            outlines.append([flat[2 * start : 2 * (start + count)] for flat in rounded])
    return outlines


def _clip_near(points: Matrix) -> Matrix:
    """The part of a polygon [N, 3] (camera coordinates) beyond the near plane (Sutherland and Hodgman, 1974)."""
    kept = []
    for here, after in zip(points, np.roll(points, -1, axis=0), strict=True):
        if here[2] >= NEAR:
            kept.append(here)
        if (here[2] >= NEAR) != (after[2] >= NEAR):
            kept.append(here + (after - here) * ((NEAR - here[2]) / (after[2] - here[2])))
    return np.array(kept)


def _reaching(
    outlines: Sequence[list[list[int]] | None], height: int, width: int, softness: float
) -> NDArray[np.float32]:
    """The fraction of light that passes the polygons to the ground, float32 [H, W]; edges `softness` heights wide."""
    mask = Image.new("L", (width, height), 255)
    draw = ImageDraw.Draw(mask).polygon
    for outline in outlines:
        if outline:
            draw(outline[0], fill=0)
    soft = mask.filter(ImageFilter.GaussianBlur(softness * height))
    return np.asarray(soft, np.float32) / np.float32(255)
