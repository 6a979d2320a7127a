"""Light and weather of a generated street: sun, sky, air, wet ground, and what the photo's camera does to them."""

from typing import NamedTuple

from semseg_app.data.streets.shapes import Colour, Dice, Point, mix

KINDS = (("overcast", 0.30), ("dusk", 0.28), ("night", 0.18), ("fog", 0.08), ("rain", 0.16))
"""The lights other than plain day, with their shares among themselves."""


class Light(NamedTuple):
    """One moment of weather. Colours are linear light, not sRGB."""

    kind: str
    sun_direction: Point
    """Unit vector towards the sun."""
    sun: Colour
    ambient: Colour
    zenith: Colour
    horizon: Colour
    clouds: float
    """Share of the sky that clouds cover, 0 to 1."""
    haze: float
    """Extinction of the air, 1/m."""
    lamps: float
    """Strength of street lamps, windows, headlights: 0 by day, 1 by night."""
    wet: float
    """How much the road mirrors, 0 to 1."""
    rain: bool


def sample_light(dice: Dice, variety: float) -> Light:
    """One moment; `variety` scales how often it is not a plain day."""
    kind = "day"
    if dice.chance(min(0.9, 0.55 * variety)):
        left = dice.between(0, 1)
        for kind, share in KINDS:
            left -= share
            if left < 0:
                break
    low_sun = kind in ("dusk", "night")
    height = dice.between(0.12, 0.3) if low_sun else dice.between(0.3, 0.95)
    x, z = dice.between(-1, 1), dice.between(-1, 1)
    flat = max(0.05, (x * x + z * z) ** 0.5)
    along = (1 - height * height) ** 0.5
    direction = (x / flat * along, height, z / flat * along)
    tint = dice.between(-1, 1)
    if kind == "day":
        sun: Colour = (2.2, 2.05 - 0.1 * tint, 1.8 - 0.2 * tint)
        zenith, horizon = (0.12, 0.30, 0.75), (0.65, 0.85, 1.1)
        light = Light(
            kind, direction, sun, (0.36, 0.42, 0.54), zenith, horizon, dice.between(0.05, 0.7), 0.002, 0, 0, False
        )
    elif kind == "overcast":
        grey = dice.between(0.6, 0.95)
        sky = (grey, grey * 1.01, grey * (1.04 + 0.05 * tint))
        light = Light(
            kind,
            direction,
            (0.12, 0.12, 0.11),
            (0.72, 0.74, 0.77),
            mix(sky, (0.3, 0.32, 0.36), 0.5),
            sky,
            dice.between(0.6, 1),
            dice.between(0.003, 0.01),
            0,
            0,
            False,
        )
    elif kind == "dusk":
        warm = (1.0, 0.42 + 0.12 * tint, 0.16 + 0.1 * tint)
        light = Light(
            kind,
            direction,
            (1.3, 0.72, 0.32),
            (0.26, 0.27, 0.40),
            (0.16, 0.20, 0.42),
            warm,
            dice.between(0.1, 0.7),
            dice.between(0.002, 0.008),
            0.35,
            0,
            False,
        )
    elif kind == "night":
        glow = dice.between(0.01, 0.06)
        light = Light(
            kind,
            direction,
            (0.01, 0.012, 0.02),
            (0.035, 0.04, 0.065),
            (0.006, 0.009, 0.02),
            (glow, glow * 0.85, glow * 0.9),
            dice.between(0.1, 0.8),
            dice.between(0.002, 0.012),
            1.0,
            0,
            False,
        )
        if dice.chance(0.35):
            light = light._replace(wet=dice.between(0.3, 0.7))
    elif kind == "fog":
        grey = dice.between(0.55, 0.85)
        fog = (grey, grey * 1.01, grey * 1.03)
        light = Light(
            kind,
            direction,
            (0.06, 0.06, 0.06),
            (0.62, 0.64, 0.66),
            fog,
            fog,
            1.0,
            dice.between(0.018, 0.05),
            0.3,
            0,
            False,
        )
    else:
        grey = dice.between(0.35, 0.6)
        sky = (grey, grey * 1.03, grey * 1.08)
        light = Light(
            kind,
            direction,
            (0.04, 0.04, 0.04),
            (0.42, 0.45, 0.50),
            mix(sky, (0.15, 0.17, 0.2), 0.5),
            sky,
            1.0,
            dice.between(0.008, 0.02),
            0.35,
            dice.between(0.4, 0.8),
            True,
        )
    return light
