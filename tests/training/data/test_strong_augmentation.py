"""Strong views: types, ranges, determinism, and each operation's amount against an independent formula."""

import colorsys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torch import Generator, Tensor
from torchvision.transforms.v2 import functional

from semseg_app.training.data import strong_augmentation as strong_views
from semseg_app.training.data.strong_augmentation import (
    AUGSEG_OPERATIONS,
    MEAN_COLOR,
    add_brightness,
    augseg_view,
    color_jitter,
    cut_out,
    gaussian_blur,
    photometric_distortion,
    pseudoseg_view,
    unimatch_view,
)

VIEWS = [unimatch_view, pseudoseg_view, photometric_distortion, augseg_view]


def seeded(seed: int) -> Generator:
    return torch.Generator().manual_seed(seed)


def photo(height: int = 37, width: int = 53) -> Tensor:
    """Smooth colors and an edge, uint8 `[3, height, width]`."""
    row, column = torch.linspace(0, 1, height)[:, None], torch.linspace(0, 1, width)[None]
    planes = [(row + column) / 2, (row * 5 + column).sin() / 2 + 0.5, (column > 0.4).float().expand(height, width)]
    return torch.stack(planes).mul(255).byte()


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_view_keeps_type_and_size_and_follows_its_generator_only(view: Callable, dtype: torch.dtype) -> None:
    image = photo(110, 230) if dtype == torch.uint8 else photo(110, 230).float() / 255
    before, state = image.clone(), torch.get_rng_state()
    views = []
    for seed in range(12):
        strong, cut = view(image, seeded(seed))
        assert strong.dtype == dtype
        assert strong.shape == image.shape
        assert strong.is_contiguous()
        assert cut.shape == image.shape[1:]
        assert cut.dtype == torch.bool
        assert strong.min() >= 0
        assert strong.max() <= (255 if dtype == torch.uint8 else 1)
        again, same_cut = view(image, seeded(seed))
        assert again.equal(strong)
        assert same_cut.equal(cut)
        views.append(strong)
    assert image.equal(before)
    assert torch.get_rng_state().equal(state)
    assert len({one.numpy().tobytes() for one in views}) > 8


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_of_floats_is_that_of_bytes_within_rounding(view: Callable) -> None:
    image = photo()
    for seed in range(6):
        exact, rounded = view(image.float() / 255, seeded(seed))[0], view(image, seeded(seed))[0]
        assert (exact - rounded.float() / 255).abs().mean() < 0.03


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (16, 3)])
def test_tiny_images_pass(size: tuple[int, int]) -> None:
    for view in VIEWS:
        for seed in range(20):
            assert view(photo(*size), seeded(seed))[0].shape == (3, *size)


def fixed(monkeypatch: pytest.MonkeyPatch, *numbers: float) -> None:
    """Make the next draws of uniform numbers these."""
    queue = list(numbers)
    monkeypatch.setattr(strong_views, "_uniform", lambda count, random: [queue.pop(0) for _ in range(count)])


def test_unimatch_probabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    image = photo()
    fixed(monkeypatch, 0.8, 0.2, 0.5, 0.0)
    assert unimatch_view(image, seeded(0))[0].equal(image)
    fixed(monkeypatch, 0.8, 0.199, 0.5, 0.0)
    gray = unimatch_view(image, seeded(0))[0]
    assert gray[0].equal(gray[1])
    assert gray[0].equal(gray[2])
    fixed(monkeypatch, 0.8, 0.2, 0.499, 1.0)
    assert unimatch_view(image, seeded(0))[0].equal(gaussian_blur(image, 2.0))
    fixed(monkeypatch, 0.799, 0.2, 0.5, 0.0, 1.0, 0.5, 0.5, 0.5)
    brighter = unimatch_view(image.float() / 255, seeded(0))[0]
    torch.testing.assert_close(brighter, (image.float() / 255 * 1.5).clamp(max=1), rtol=0, atol=1e-5)


def test_jitter_covers_its_range_in_every_order() -> None:
    gray = torch.full((3, 2, 2), 0.5)
    factors = (
        torch.tensor([color_jitter(gray, seeded(seed), 0.5, 0, 0, 0)[0, 0, 0].item() for seed in range(300)]) / 0.5
    )
    assert 0.5 <= factors.min() < 0.55
    assert 1.45 < factors.max() <= 1.5
    shifts = [
        color_jitter(gray, seeded(seed), 0.5, 0, 0, 0, additive=True)[0, 0, 0].item() - 0.5 for seed in range(300)
    ]
    assert -0.5 <= min(shifts) < -0.45
    assert 0.45 < max(shifts) <= 0.5
    # Additive brightness and contrast do not commute: both orders turn up for one pair of amounts.
    image = photo().float() / 255
    results = set()
    for seed in range(30):
        random = seeded(seed)
        random_amounts = torch.rand(4, generator=random, dtype=torch.float64) * 2 - 1
        order = torch.randperm(4, generator=random).tolist()
        expected = image
        for operation in order:
            if operation == 0:
                expected = (expected + 0.5 * random_amounts[0].item()).clamp(0, 1)
            elif operation == 1:
                expected = functional.adjust_contrast(expected, 1 + 0.5 * random_amounts[1].item())
        ours = color_jitter(image, seeded(seed), 0.5, 0.5, 0, 0, additive=True)
        torch.testing.assert_close(ours, expected, rtol=0, atol=2e-5)
        results.add(order.index(0) < order.index(1))
    assert results == {True, False}


def test_additive_brightness_clips() -> None:
    image = torch.tensor([0, 100, 250], dtype=torch.uint8).view(3, 1, 1)
    assert add_brightness(image, 0.2).flatten().tolist() == [51, 151, 255]
    assert add_brightness(image, -0.5).flatten().tolist() == [0, 0, 122]
    assert add_brightness(image.float() / 255, 1.0).eq(1).all()


def test_mmseg_distortion_amounts(monkeypatch: pytest.MonkeyPatch) -> None:
    image = photo().float() / 255
    off = 0.5
    fixed(monkeypatch, off, off, off, off, 0.9, 1.0, 1.0, 1.0, 1.0)
    assert photometric_distortion(image, seeded(0))[0].equal(image)
    fixed(monkeypatch, 0.0, off, off, off, 0.9, 1.0, 1.0, 1.0, 1.0)
    torch.testing.assert_close(photometric_distortion(image, seeded(0))[0], (image + 32 / 255).clamp(max=1))
    fixed(monkeypatch, 0.0, 0.0, off, off, 0.9, 0.0, 0.0, 1.0, 1.0)  # contrast right after brightness
    torch.testing.assert_close(photometric_distortion(image, seeded(0))[0], (image - 32 / 255).clamp(min=0) * 0.5)
    fixed(monkeypatch, off, 0.0, 0.0, off, 0.1, 0.0, 1.0, 0.0, 1.0)  # contrast 1.5 after saturation 0.5
    gray = (image * torch.tensor([0.2989, 0.587, 0.114]).view(3, 1, 1)).sum(0)
    expected = ((image + gray) / 2 * 1.5).clamp(max=1)
    torch.testing.assert_close(photometric_distortion(image, seeded(0))[0], expected)
    fixed(monkeypatch, off, off, off, 0.0, 0.9, 1.0, 1.0, 1.0, 1.0)
    turned = photometric_distortion(image, seeded(0))[0]
    hue, saturation, value = colorsys.rgb_to_hsv(*image[:, 9, 11].tolist())
    assert turned[:, 9, 11].tolist() == pytest.approx(colorsys.hsv_to_rgb((hue + 0.1) % 1, saturation, value), abs=1e-5)


def test_blur_matches_the_gaussian_of_another_library() -> None:
    impulse = torch.zeros(3, 31, 31, dtype=torch.uint8)
    impulse[:, 15, 15] = 255
    impulse[:, 15, 16] = 255
    for sigma in (0.1, 0.7, 2.0):
        ours = gaussian_blur(impulse.float() / 255, sigma)[0]
        offset = torch.arange(-15, 16).double()
        line = torch.exp(-(offset**2) / (2 * sigma**2))
        line = line / line.sum()
        expected = torch.outer(line, line + line.roll(1)).float()
        torch.testing.assert_close(ours, expected, rtol=0, atol=2e-3)
    edge = photo(40, 60)
    pillow = Image.fromarray(edge.permute(1, 2, 0).numpy()).filter(ImageFilter.GaussianBlur(2))
    difference = np.abs(gaussian_blur(edge, 2.0).permute(1, 2, 0).numpy().astype(int) - np.asarray(pillow).astype(int))
    assert difference[6:-6, 6:-6].max() <= 4  # Pillow approximates by box filters


def test_cutout_is_one_square_of_the_mean_color_clipped_at_the_border(monkeypatch: pytest.MonkeyPatch) -> None:
    image = photo(40, 60)
    fixed(monkeypatch, 0.5, 0.5)
    out, cut = cut_out(image, seeded(0), 10)
    assert cut.nonzero().amin(0).tolist() == [15, 25]
    assert cut.nonzero().amax(0).tolist() == [24, 34]
    assert cut.sum() == 100
    assert out[:, cut].unique(dim=1).flatten().tolist() == [124, 116, 104]
    assert out[:, ~cut].equal(image[:, ~cut])
    fixed(monkeypatch, 0.0, 0.9999)
    floats, cut = cut_out(image.float() / 255, seeded(0), 10)
    assert cut.nonzero().amax(0).tolist() == [4, 59]
    assert cut.sum() == 5 * 6
    torch.testing.assert_close(floats[:, 0, 59], torch.tensor(MEAN_COLOR))
    fixed(monkeypatch, 0.5, 0.5)
    assert cut_out(image, seeded(0), 500)[1].all()


def test_pseudoseg_cuts_up_to_a_hundred_pixels() -> None:
    cuts = [pseudoseg_view(photo(160, 200), seeded(seed))[1] for seed in range(30)]
    assert max(int(cut.sum()) for cut in cuts) == 100 * 100
    assert min(int(cut.sum()) for cut in cuts) < 100 * 100
    assert pseudoseg_view(photo(160, 200), seeded(0), cutout_size=20)[1].sum() <= 400


def test_augseg_takes_one_to_three_of_its_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    image = photo()
    names = ["identity", "autocontrast", "equalize", "blur", "contrast", "brightness", "color", "sharpness"]
    names += ["posterise", "solarise", "hue"]
    assert len(AUGSEG_OPERATIONS) == len(names)

    def choose(name: str) -> float:
        return (names.index(name) + 0.5) / len(names)

    fixed(monkeypatch, 0.32, choose("brightness"), choose("brightness"), choose("hue"), 0.5, 0.5, 0.9)
    assert augseg_view(image, seeded(0))[0].equal(functional.adjust_brightness(image, 0.5))
    fixed(monkeypatch, 0.34, choose("brightness"), choose("brightness"), choose("hue"), 0.5, 0.5, 0.9)
    twice = functional.adjust_brightness(functional.adjust_brightness(image, 0.5), 0.5)
    assert augseg_view(image, seeded(0))[0].equal(twice)
    fixed(monkeypatch, 0.99, choose("identity"), choose("posterise"), choose("solarise"), 0.5, 0.0, 0.5)
    posterised = image & 0b11110000
    expected = torch.where(posterised >= 127.5, 255 - posterised, posterised)
    assert augseg_view(image, seeded(0))[0].equal(expected)


@pytest.mark.parametrize("level", [0.0, 0.5, 0.999999])
@pytest.mark.parametrize("index", range(11))
def test_every_augseg_operation_works_at_every_level(index: int, level: float) -> None:
    for image in (photo(), photo().float() / 255, torch.zeros(3, 5, 7), torch.full((3, 5, 7), 255, dtype=torch.uint8)):
        changed = AUGSEG_OPERATIONS[index](image, level)
        assert changed.shape == image.shape
        assert changed.dtype == image.dtype
        assert changed.float().isfinite().all()
