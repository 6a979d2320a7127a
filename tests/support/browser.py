"""What browser tests share: Chromium's flags, sizes of the window, and what a page shows as it is painted."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP another.test 127.0.0.1",
    # A camera that films a green picture with a moving disc.
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]
PATIENCE = 30_000  # milliseconds, for a machine that trains on the side
SIZES = {"desktop": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 844}}
RED, GREEN, BLUE = (200, 30, 30), (30, 200, 30), (30, 30, 200)

on_a_desk = pytest.mark.parametrize("page", [("desktop", "light")], indirect=True, ids="-".join)
on_both = pytest.mark.parametrize("page", [("desktop", "light"), ("phone", "dark")], indirect=True, ids="-".join)


def painted(page, selector: str, places: list[tuple[float, float]]) -> np.ndarray:
    """RGB at some places (x, y, parts of the whole) of an element, as painted."""
    pixels = np.asarray(Image.open(io.BytesIO(page.locator(selector).screenshot())).convert("RGB"))
    height, width = pixels.shape[:2]
    return np.array([pixels[int(y * height), int(x * width)] for x, y in places], int)


def expect_colors(page, left, right, atol=4, selector="#result .layers") -> None:
    """RGB in the left and the right part, once the browser has painted it."""
    places = [(0.33, 0.6), (0.9, 0.6)]
    for _ in range(50):
        found = painted(page, selector, places)
        if np.abs(found - [left, right]).max() <= atol:
            return
        page.wait_for_timeout(100)
    np.testing.assert_allclose(found, [left, right], atol=atol)


def set_opacity(page, percent: int) -> None:
    opacity = page.locator("#opacity").get_by_role("spinbutton")
    opacity.fill(str(percent))
    opacity.press("Enter")


def upload(page, selector: str, *files: Path) -> None:
    page.locator(f"{selector} input[type=file]").first.set_input_files(files)
