"""What the camera does between the light and the file: exposure, color, blur, noise, rain on the way, compression."""

import io
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from semseg_app.synthetic.shapes import Color, RandomSource


class Lens(NamedTuple):
    """What the camera does between the light and the file."""

    exposure: float
    white_balance: Color
    contrast: float
    saturation: float
    vignette: float
    blur: float
    """Standard deviation in thousandths of the photo's height."""
    noise: float
    """Standard deviation in gray levels of 255."""
    jpeg: int
    """Quality of a first compression; 0: none."""


def sample_lens(rng: RandomSource, variety: float, dark: bool) -> Lens:
    warm, green = rng.between(-0.16, 0.16) * variety, rng.between(-0.05, 0.05) * variety
    return Lens(
        exposure=2.0 ** (rng.between(-0.8, 0.7) * variety),
        white_balance=(1 + warm, 1 + green, 1 - warm),
        contrast=1 + rng.between(-0.25, 0.3) * variety,
        saturation=max(0.1, 1 + rng.between(-0.6, 0.25) * variety),
        vignette=rng.between(0, 0.35),
        blur=rng.between(1.5, 4.0) if rng.chance(0.3) else 0.0,
        noise=rng.between(1.0, 5.0) + (rng.between(2, 7) if dark else 0),
        jpeg=rng.whole(35, 85) if rng.chance(0.4) else 0,
    )


def develop(light: NDArray[np.float32], lens: Lens, rain: bool, seed: np.random.SeedSequence) -> NDArray[np.uint8]:
    """Linear light float32 [3, H, W] -> the photo, sRGB uint8 [H, W, 3]. `seed` is for the grain and the rain drops."""
    height, width = light.shape[1:]
    light = light + _bloom(light)
    # Automatic exposure, not a perfect one: dark scenes stay somewhat dark.
    gain = lens.exposure * (0.30 / (float(light.mean()) + 1e-4)) ** 0.85
    rows = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    columns = np.linspace(-1, 1, width, dtype=np.float32)
    light *= gain * (1 - lens.vignette * (rows * rows + columns * columns) / 2)
    light *= np.array(lens.white_balance, np.float32)[:, None, None]
    # Film's curve as fitted by Narkowicz (2016), then a gamma of 2.2 as a table.
    film = light * (2.51 * light + 0.03) / (light * (2.43 * light + 0.59) + 0.14)
    value = _GAMMA.take((np.minimum(film, 1) * 4095).astype(np.int32))
    value += (lens.contrast - 1) * 0.16 * np.sin((value - 0.5) * np.float32(2 * math.pi))
    luma = 0.299 * value[0] + 0.587 * value[1] + 0.114 * value[2]
    value = luma + lens.saturation * (value - luma)
    photo = _to_image(value * 255)
    random = np.random.Generator(np.random.PCG64(seed))
    if rain:
        photo = _rain(photo, random)
    if lens.blur:
        photo = photo.filter(ImageFilter.GaussianBlur(lens.blur * height / 1000))
    grain = random.standard_normal((height, width, 3), np.float32)
    grain *= lens.noise
    grain += np.asarray(photo)
    photo = Image.fromarray(np.clip(grain, 0, 255).astype(np.uint8))
    if lens.jpeg:
        buffer = io.BytesIO()
        photo.save(buffer, "JPEG", quality=lens.jpeg)
        photo = Image.open(buffer)
    return np.array(photo)


def _to_image(planes: NDArray[np.float32]) -> Image.Image:
    """[3, H, W] in 0 to 255 -> RGB."""
    return Image.fromarray(np.ascontiguousarray(np.clip(planes, 0, 255).astype(np.uint8).transpose(1, 2, 0)))


_GAMMA = (np.arange(4096) / 4095.0).astype(np.float32) ** np.float32(1 / 2.2)


def _bloom(light: NDArray[np.float32]) -> NDArray[np.float32]:
    """Halos around what is far brighter than the rest."""
    height = light.shape[1]
    limit = 6 * float(light.mean()) + 0.02
    halo = _to_image((light - limit) * (255 / (8 * limit)))
    halo = halo.filter(ImageFilter.GaussianBlur(0.018 * height))
    return np.asarray(halo).transpose(2, 0, 1) * np.float32(8 * limit / 255)


def _rain(photo: Image.Image, random: np.random.Generator) -> Image.Image:
    width, height = photo.size
    streaks = Image.new("L", photo.size, 0)
    draw = ImageDraw.Draw(streaks)
    lean = random.random() * 0.4 - 0.2
    for x, y, length, strength in random.random((140, 4)).tolist():
        drop = (0.03 + 0.07 * length) * height
        start = (x * width, y * height)
        end = (start[0] + lean * drop, start[1] + drop)
        draw.line([start, end], fill=int(20 + 60 * strength), width=max(1, round(height / 250)))
    return Image.composite(Image.new("RGB", photo.size, (205, 210, 215)), photo, streaks)
