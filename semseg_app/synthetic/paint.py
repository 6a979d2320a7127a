"""Shading: from face numbers to linear light, all sub-pixels of a material at once.

Textures are functions of meters on the face (texture.py). Light: the sun, with shadows on the ground, the sky, street
lamps and headlights at night, haze, and mirror images on wet ground. Color arrays are planar, [3, pixels]: NumPy is
several times slower when its innermost axis has three entries.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from semseg_app.synthetic import texture
from semseg_app.synthetic.shapes import ASPHALT, FOLIAGE, GLASS, GLOW, MARKING, PAVING, PLANKS, PUDDLE, WALL
from semseg_app.synthetic.site import Scene
from semseg_app.synthetic.texture import Array, Index

FAR = 450.0
"""Depth (meters) from which on everything is haze alike."""
GROUND = (ASPHALT, MARKING, PAVING, PUDDLE)


class Tables(NamedTuple):
    """What shading knows of each face; entry 0 is the sky."""

    material: NDArray[np.int8]
    matrix: Array
    """[9, F]: rows of the 3 x 3 matrix from (x, y, 1) on the image plane at unit distance to (u, v, 1) / depth."""
    params: Array
    """[8, F]"""
    incoming: Array
    """[3, F]: light on the face. Ground: 1, since shadows differ from pixel to pixel."""
    color: Array
    """[3, F]: color times incoming light, with what shines or mirrors."""
    trim: Array
    """[3, F]: second color times incoming light."""


def face_tables(scene: Scene, camera: NDArray[np.float64], corners: NDArray[np.float64]) -> Tables:
    """Planes, textures and light of all faces. `camera` [3, 3] turns world into camera directions; `corners` [F, 3, 3]:
    the first three points of each face."""
    faces, light = scene.faces, scene.light
    count = len(faces)
    material = np.array([face.material for face in faces], np.int8)
    ground = np.isin(material, GROUND)
    origin = corners[:, 0].copy()
    along = _unit(corners[:, 1] - origin)
    normal = _unit(np.cross(along, corners[:, 2] - origin))
    across = np.cross(normal, along)
    # All ground shares one texture plane, so that its texture runs on from face to face.
    origin[ground, 0], origin[ground, 2] = 0, 0
    along[ground], across[ground], normal[ground] = (1, 0, 0), (0, 0, 1), (0, 1, 0)
    # A point u, v of the face lies at q = u a + v b + c in camera coordinates, and on the image plane at p = q / q_z;
    # the inverse of [a b c] turns p into (u, v, 1) / q_z.
    a, b, c = along @ camera.T, across @ camera.T, (origin - scene.eye) @ camera.T
    rows = np.stack([np.cross(b, c), np.cross(c, a), np.cross(a, b)], axis=1)
    determinant = np.sum(a * rows[:, 0], axis=1)
    rows /= np.where(np.abs(determinant) < 1e-9, 1e-9, determinant)[:, None, None]

    normal *= np.where(np.sum(normal * (origin - scene.eye), axis=1) > 0, -1, 1)[:, None]
    given = [number for number, face in enumerate(faces) if face.normal is not None]
    normal[given] = _unit(np.array([faces[number].normal for number in given], np.float64).reshape(-1, 3))
    facing = normal @ np.array(light.sun_direction)
    # Light passes through leaves: the crown's dark side is less dark than a wall's.
    facing = np.where(material == FOLIAGE, (facing + 0.5) / 1.5, facing)
    up = normal[:, 1:2]
    sun, ambient = np.array(light.sun), np.array(light.ambient)
    bounce = 0.22 * (ambient + sun * light.sun_direction[1])
    incoming = ambient * (0.62 + 0.38 * up) + bounce * (0.5 - 0.5 * up) + sun * np.maximum(facing, 0)[:, None]
    incoming[ground] = 1

    params = np.zeros((count, 8))
    for row, face in zip(params, faces, strict=True):
        row[: len(face.params)] = face.params
    base = np.array([face.color for face in faces]) ** 2.2
    color = base * incoming
    color[material == GLASS] += 0.12 * np.array(light.horizon) + 0.10 * np.array(light.zenith)
    glow = material == GLOW
    color[glow] += base[glow] * params[glow, :1]
    trim = np.array([face.trim for face in faces]) ** 2.2 * incoming

    def planar(values: NDArray[np.float64]) -> Array:
        return np.concatenate([np.zeros((1, values.shape[1])), values]).T.astype(np.float32, order="C")

    return Tables(
        np.concatenate([[-2], material]).astype(np.int8),
        *(planar(values) for values in (rows.reshape(-1, 9), params, incoming, color, trim)),
    )


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    length: NDArray[np.float64] = np.sqrt(np.square(vectors).sum(axis=1, keepdims=True))
    return vectors / np.fmax(length, 1e-9)


def paint(
    scene: Scene,
    camera: NDArray[np.float64],
    corners: NDArray[np.float64],
    numbers: NDArray[np.int32],
    sunlit: Array,
    open_sky: Array,
) -> Array:
    """Linear light, float32 [3, 2H, 2W].

    Args:
        camera: [3, 3], world to camera directions.
        corners: [F, 3, 3], the first three points of each face.
        numbers: face number + 1 of each sub-pixel, 0 where the sky is, int32 [2H, 2W].
        sunlit, open_sky: fraction of sun and sky light that reaches the ground there, [H, W].
    """
    photo = _Photo(scene, camera, face_tables(scene, camera, corners), numbers)
    photo.faces(sunlit, open_sky)
    photo.sky()
    photo.wetness()
    return photo.out.reshape(3, *numbers.shape)


class _Photo:
    """The sub-pixels of a photo under way."""

    def __init__(self, scene: Scene, camera: NDArray[np.float64], tables: Tables, numbers: NDArray[np.int32]):
        self.scene, self.camera = scene, camera.astype(np.float32)
        self.height, self.width = numbers.shape
        self.numbers = numbers.reshape(-1).astype(np.intp)
        self.pixel = 1 / (scene.focal * self.height)
        """Width in meters of a sub-pixel at a depth of one meter."""
        x = ((np.arange(self.width) + 0.5 - self.width / 2) * self.pixel).astype(np.float32)
        y = ((self.height / 2 - np.arange(self.height) - 0.5) * self.pixel).astype(np.float32)
        self.x, self.y = np.tile(x, self.height), np.repeat(y, self.width)
        self.tables = tables
        self.material = self.tables.material.take(self.numbers)
        self.out = self.tables.color.take(self.numbers, axis=1)
        a, b, c = (row.take(self.numbers) for row in self.tables.matrix[6:])
        self.depth = 1 / np.clip(a * self.x + b * self.y + c, 1 / FAR, 2.5)

    def faces(self, sunlit: Array, open_sky: Array) -> None:
        """Everything but the sky."""
        tables, light = self.tables, self.scene.light
        index = {kind: np.flatnonzero(self.material == kind) for kind in (*GROUND, WALL, FOLIAGE, PLANKS)}
        self.ground = np.concatenate([index[kind] for kind in GROUND])
        self.puddles = index[PUDDLE]
        gain = np.ones(len(self.numbers), np.float32)
        for kind, pattern in texture.PATTERNS.items():
            here = index[kind]
            if not here.size:
                continue
            u, v, size = self.on_ground(here) if kind in GROUND else self.on_face(here)
            params = tables.params[: pattern.params].take(self.numbers[here], axis=1)
            gain[here] = pattern.gain(u, v, size, params)
            if kind == MARKING:
                here = here[texture.wear(u, v, size, params[2])]
                self.out[:, here] = tables.trim.take(self.numbers[here], axis=1)
            elif kind == WALL:
                front = here, texture.front(u, v, params)
        self.out *= gain
        windows = self.front(*front, gain) if index[WALL].size else []
        self.daylight(sunlit.reshape(-1), open_sky.reshape(-1))
        if light.lamps > 0.5:
            self.lamplight()
        for shining, glow in windows:
            self.put(shining, self.out.take(shining, axis=1) + glow)
        clear = np.exp(self.depth * np.float32(-light.haze))
        for channel, air in zip(self.out, light.horizon, strict=True):
            channel -= np.float32(air)
            channel *= clear
            channel += np.float32(air)

    def put(self, index: Index, colors: Array) -> None:
        for channel, values in zip(self.out, colors, strict=True):
            channel[index] = values

    def on_face(self, index: Index) -> tuple[Array, Array, Array]:
        """Texture coordinates u and v of sub-pixels and the size of each on its face, meters [N]."""
        x, y, depth = self.x[index], self.y[index], self.depth[index]
        m = self.tables.matrix[:6].take(self.numbers[index], axis=1)
        return (m[0] * x + m[1] * y + m[2]) * depth, (m[3] * x + m[4] * y + m[5]) * depth, self.pixel * depth

    def on_ground(self, index: Index) -> tuple[Array, Array, Array]:
        """The same on the ground, where u is the world's x and v its z."""
        x, y, depth = self.x[index], self.y[index], self.depth[index]
        right, up, forward = self.camera
        eye = self.scene.eye
        u = np.float32(eye[0]) + (right[0] * x + up[0] * y + forward[0]) * depth
        v = np.float32(eye[2]) + (right[2] * x + up[2] * y + forward[2]) * depth
        # The mean of a pixel's width and its length on the ground, which the low view draws out.
        return u, v, self.pixel * depth * np.sqrt(depth / np.float32(eye[1]))

    def front(self, index: Index, parts: texture.Front, gain: Array) -> list[tuple[Index, Array]]:
        """Windows, doors, name boards and cornices of walls. -> what shines at night: (sub-pixels, light [3, N])"""
        tables, light = self.tables, self.scene.light
        numbers = self.numbers[index]
        self.put(
            index[parts.trim], tables.trim.take(numbers[parts.trim], axis=1) * np.minimum(gain[index[parts.trim]], 1.1)
        )
        self.put(index[parts.board], parts.board_color * tables.incoming.take(numbers[parts.board], axis=1))
        incoming = tables.incoming.take(numbers[parts.pane], axis=1)
        sky = np.array(light.horizon, np.float32) * 0.4 + np.array(light.zenith, np.float32) * 0.6
        glass = incoming * np.float32(0.035) + sky[:, None] * (0.08 + 0.30 * parts.second * parts.rise)
        curtained = (parts.second > 0.72) & (parts.rise > 0.25)
        glass = np.where(curtained, incoming * (0.2 + 0.35 * parts.draw), glass)
        shades = np.array([[4.0], [7.0], [11.0]], np.float32)
        wood = np.array([[0.14], [0.10], [0.08]], np.float32) + 0.16 * ((parts.draw * shades) % 1)
        glass = np.where(parts.door, incoming * wood, glass) * (1 - 0.5 * (parts.rise > 0.9))
        self.put(index[parts.pane], glass)
        lit = np.flatnonzero((parts.draw < 0.02 + 0.40 * light.lamps) & ~parts.door)
        warm = np.array([[1.0], [0.72], [0.40]], np.float32) * np.float32(0.18 + 0.35 * light.lamps)
        return [(index[parts.pane[lit]], warm * (0.4 + 0.6 * parts.second[lit]))]

    def daylight(self, sunlit: Array, open_sky: Array) -> None:
        """Light the ground: its color so far is that of its material."""
        light = self.scene.light
        row, column = np.divmod(self.ground, self.width)
        at = row // 2 * (self.width // 2) + column // 2
        sky = open_sky[at] * np.float32(0.65) + np.float32(0.35)
        sun = sunlit[at] * sky * np.float32(light.sun_direction[1])
        for channel, ambient, direct in zip(self.out, light.ambient, light.sun, strict=True):
            channel[self.ground] *= sky * np.float32(ambient) + sun * np.float32(direct)

    def lamplight(self) -> None:
        """Street lamps and our own headlights, as a gain on the little light of the night."""
        depth = self.depth
        x, y = self.x * depth, self.y * depth
        beam = (
            np.square(depth / 16) + np.square(x / (0.35 * depth + 0.5)) + np.square((y + 0.12 * depth) / (0.25 * depth))
        )
        gain = 6 * np.exp(-beam)
        lamps = np.array(self.scene.lamps, np.float32).reshape(-1, 3) - np.array(self.scene.eye, np.float32)
        nearest = np.argsort(np.square(lamps).sum(axis=1))[:6]
        for lamp in lamps[nearest] @ self.camera.T:
            gain += 220 / (14 + np.square(x - lamp[0]) + np.square(y - lamp[1]) + np.square(depth - lamp[2]))
        gain *= self.material != GLOW
        for channel, warm in zip(self.out, (1.0, 0.80, 0.52), strict=True):
            channel *= 1 + gain * np.float32(warm)

    def sky(self) -> None:
        light = self.scene.light
        index = np.flatnonzero(self.numbers == 0)
        x, y = self.x[index], self.y[index]
        length = np.sqrt(1 + x * x + y * y)
        ray = np.stack([row[0] * x + row[1] * y + row[2] for row in self.camera.T]) / length
        sun_x, sun_y, sun_z = (np.float32(value) for value in light.sun_direction)
        toward = np.clip(ray[0] * sun_x + ray[1] * sun_y + ray[2] * sun_z, 0, 1)
        glare = 0.3 * toward**8 + (3.0 - 2.4 * light.clouds) * toward**400
        up = np.clip(ray[1], 0, 1)
        rise = np.sqrt(np.clip(up * 1.3, 0, 1))
        far = 1 / (up + 0.10)
        u, v = ray[0] * far, ray[2] * far
        cover = 0.7 * texture.noise(u, v + sun_x * 40, 9.0) + 0.45 * texture.noise(u, v, 31.0)
        thick = np.clip((cover + light.clouds * 3.0 - 1.9) * 0.7, 0, 1) * np.clip(up * 9, 0.15, 1) * 0.9
        bright = 0.8 + 0.15 * cover
        for channel, zenith, horizon, ambient, sun in zip(
            self.out, light.zenith, light.horizon, light.ambient, light.sun, strict=True
        ):
            clear = horizon + (zenith - horizon) * rise + sun * glare
            cloud = horizon * 0.35 + (ambient * 0.75 + sun * 0.35) * bright
            channel[index] = np.maximum(clear + (cloud - clear) * thick, 0)

    def wetness(self) -> None:
        """Wet ground shows what stands beyond it, smeared upright; puddles show it clearly."""
        for index, strength in ((self.ground, 0.55 * self.scene.light.wet), (self.puddles, 0.7)):
            if not index.size or not strength:
                continue
            x, y = self.x[index], self.y[index]
            up = self.camera[:, 1]
            rise = up[0] * x + up[1] * y + up[2]
            seen = np.zeros((3, len(index)), np.float32)
            for step in (0.25, 0.5, 0.8):
                # A step of 1 is the mirror image of things infinitely far away, smaller ones that of nearer things.
                fall = (1 + step) * rise
                deep = np.maximum(1 - fall * up[2], 0.2) * self.pixel
                column = np.clip((x - fall * up[0]) / deep + self.width / 2, 0, self.width - 1).astype(np.intp)
                row = np.clip(self.height / 2 - (y - fall * up[1]) / deep, 0, self.height - 1).astype(np.intp)
                seen += self.out.take(row * self.width + column, axis=1) / 3
            grazing = np.clip(1 + rise * 1.2, 0, 1)
            fraction = strength * (0.25 + 0.75 * grazing * grazing)
            here = self.out.take(index, axis=1)
            self.put(index, here + (seen - here) * fraction)
