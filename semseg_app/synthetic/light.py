"""Light and weather of a synthetic street: sun, sky, air, lamps, wet ground."""

import math
from typing import NamedTuple

from semseg_app.synthetic.shapes import Color, Point, RandomSource, mix

KINDS = [*["overcast"] * 6, *["dusk"] * 5, *["night"] * 4, *["rain"] * 3, *["fog"] * 2]
"""The kinds of light other than plain day; one listed twice is twice as frequent."""


class Light(NamedTuple):
    """One moment of weather. Colors are linear light, not sRGB."""

    kind: str
    sun_direction: Point
    """Unit vector toward the sun."""
    sun: Color
    ambient: Color
    zenith: Color
    horizon: Color
    clouds: float
    """Fraction of the sky that clouds cover, 0 to 1."""
    haze: float
    """Extinction of the air, 1/m."""
    lamps: float = 0.0
    """Strength of street lamps, windows, headlights: 0 by day, 1 by night."""
    wet: float = 0.0
    """How much the ground mirrors, 0 to 1."""
    rain: bool = False


def sample_light(rng: RandomSource, variety: float) -> Light:
    """One moment; `variety` scales how often it is not a plain day."""
    kind = rng.pick(KINDS) if rng.chance(min(0.9, 0.55 * variety)) else "day"
    height = rng.between(0.12, 0.3) if kind in ("dusk", "night") else rng.between(0.3, 0.95)
    azimuth = rng.between(0, 2 * math.pi)
    along = math.sqrt(1 - height * height)
    sun = (math.sin(azimuth) * along, height, math.cos(azimuth) * along)
    tint, level, air = rng.between(-1, 1), rng.between(0, 1), rng.between(0, 1)
    if kind == "day":
        warm = (2.2, 2.05 - 0.1 * tint, 1.8 - 0.2 * tint)
        clouds = 0.05 + 0.65 * level
        return Light(kind, sun, warm, (0.36, 0.42, 0.54), (0.12, 0.30, 0.75), (0.65, 0.85, 1.1), clouds, 0.002)
    if kind == "dusk":
        glow = (1.0, 0.42 + 0.12 * tint, 0.16 + 0.1 * tint)
        ambient, zenith, clouds = (0.26, 0.27, 0.40), (0.16, 0.20, 0.42), 0.1 + 0.6 * level
        return Light(kind, sun, (1.3, 0.72, 0.32), ambient, zenith, glow, clouds, 0.002 + 0.006 * air, lamps=0.35)
    if kind == "night":
        town = 0.01 + 0.05 * level
        ambient, zenith, horizon = (0.035, 0.04, 0.065), (0.006, 0.009, 0.02), (town, town * 0.85, town * 0.9)
        wet = max(0.0, 0.7 - 2 * level)
        haze = 0.002 + 0.01 * air
        return Light(kind, sun, (0.01, 0.012, 0.02), ambient, zenith, horizon, rng.between(0.1, 0.8), haze, 1.0, wet)
    if kind == "overcast":
        sky = _gray(0.6 + 0.35 * level, 0.05 * tint)
        zenith, clouds = mix(sky, (0.3, 0.32, 0.36), 0.5), rng.between(0.6, 1)
        return Light(kind, sun, (0.12, 0.12, 0.11), (0.72, 0.74, 0.77), zenith, sky, clouds, 0.003 + 0.007 * air)
    if kind == "fog":
        sky = _gray(0.55 + 0.3 * level, 0.02)
        return Light(kind, sun, _gray(0.06), (0.62, 0.64, 0.66), sky, sky, 1.0, 0.012 + 0.023 * air, lamps=0.3)
    sky = _gray(0.35 + 0.25 * level, 0.06)
    zenith = mix(sky, (0.15, 0.17, 0.2), 0.5)
    haze, wet = 0.006 + 0.01 * air, rng.between(0.4, 0.8)
    return Light(kind, sun, _gray(0.04), (0.42, 0.45, 0.50), zenith, sky, 1.0, haze, lamps=0.35, wet=wet, rain=True)


def _gray(level: float, blue: float = 0.0) -> Color:
    """A gray with some blue in it."""
    return (level, level * (1 + blue / 3), level * (1 + blue))
