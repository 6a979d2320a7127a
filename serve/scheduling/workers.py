"""What all requests of a server share: threads that decode, encode and tile, and the memory for decoded images."""

import threading
from concurrent.futures import ThreadPoolExecutor

from semseg_app.machine import cores

PIXELS_IN_MEMORY = 64_000_000
"""Pixels of all requests that are decoded at any moment, at BYTES_PER_PIXEL. The others wait in encoded form."""
BYTES_PER_PIXEL = 8
"""Memory of a decoded image and its answer. Some decoders take more while they work: see `decoding.decode`."""
IMAGES_IN_MEMORY = 16
"""Images that are decoded at any moment. No call of an engine takes more than half of them, so it is kept busy."""


class MemoryBudget:
    """Bounds how many pixels and images are decoded at any moment, over all requests. Thread-safe."""

    def __init__(self, pixels: int, images: int):
        self.pixels = pixels
        self._images = images
        self._pixels_used = 0
        self._images_used = 0
        self._changed = threading.Condition()

    def reserve(self, pixels: int, wait: bool) -> None:
        """Count one more image of `pixels`. With `wait`, block until it fits; an image above the budget goes alone."""
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: self._fits(pixels))
            self._pixels_used += pixels
            self._images_used += 1

    def release(self, pixels: int) -> None:
        """Undo one `reserve`."""
        with self._changed:
            self._pixels_used -= pixels
            self._images_used -= 1
            self._changed.notify_all()

    def _fits(self, pixels: int) -> bool:
        if not self._pixels_used:
            return True
        return self._images_used < self._images and self._pixels_used + pixels <= self.pixels


class Workers:
    """The thread pools of a server and its memory budget.

    Args:
        max_pixels: largest image, width x height.
        images: images that are decoded at any moment.
    """

    def __init__(self, max_pixels: int, images: int = IMAGES_IN_MEMORY):
        self.max_pixels = max_pixels
        self.memory = MemoryBudget(max(PIXELS_IN_MEMORY, max_pixels), images)
        # Two pools: decoders may wait for memory that only a request which still has to encode gives back.
        self.decoders = ThreadPoolExecutor(cores(), "semseg-decode")
        self.encoders = ThreadPoolExecutor(cores(), "semseg-encode")
        self.tilers = ThreadPoolExecutor(4, "semseg-tiles")
        """These threads do little but wait; the number bounds how many large images are in work at once."""

    def close(self) -> None:
        """End the threads."""
        for threads in (self.decoders, self.encoders, self.tilers):
            threads.shutdown(cancel_futures=True)
