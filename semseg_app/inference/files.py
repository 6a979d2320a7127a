"""Image files through a predictor into a folder of results: what `semseg predict` does, on this machine or on many."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from semseg_app.data.dataset import read_image
from semseg_app.data.parallel import ordered_map
from semseg_app.errors import UserError, memory_advice
from semseg_app.inference.engines.base import Engine
from semseg_app.inference.predictor import Predictor
from semseg_app.inference.results import ResultFolder
from semseg_app.inference.strips import is_large

BATCH_ON_GPU = 4
LARGEST_OVERLAP = 128


def make_predictor(engine: Engine, tile: int) -> Predictor:
    """The predictor of `--tile`: the longest side that the engine gets at once, in pixels; 0 = all of an image."""
    return Predictor(
        engine,
        tile or None,
        overlap=min(LARGEST_OVERLAP, tile // 4),
        batch_size=1 if engine.device == "cpu" else BATCH_ON_GPU,
    )


def segment_files(
    files: Iterable[tuple[Path, str]],
    predictor: Predictor,
    results: ResultFolder,
    failed: Callable[[Path, UserError], None],
    taken: Callable[[Path], None] = lambda path: None,
    rows: Callable[[Path, float], None] = lambda path, share: None,
) -> None:
    """Segment images, those too large for memory by strips after the others. Images that cannot be read are left out.

    While the engine runs, one thread reads the next image and another one writes the last result. So two images more
    than the engine's batch are in memory.

    Args:
        files: each with the name of its results.
        predictor: where it has tiles, large images go by strips.
        results: gets them.
        failed: called with each image that could not be read, and why.
        taken: called with each image when its turn comes.
        rows: called with a large image and the fraction of it that is done, 0 to 1.

    Raises:
        UserError: when memory runs out; the line says what to lower.
    """
    smaller = f"lower --tile (now {predictor.tile})" if predictor.tile else "use tiles, such as --tile 512"
    waiting: deque[tuple[Path, str, np.ndarray]] = deque()  # read, and not yet answered
    large: list[tuple[Path, str]] = []

    def look(file: tuple[Path, str]) -> tuple[Path, str, np.ndarray | UserError | None]:
        """None in place of the image where it is to be read by strips."""
        path, name = file
        if predictor.tile and is_large(path):
            return path, name, None
        try:
            return path, name, read_image(path)
        except UserError as error:
            return path, name, error

    def readable() -> Iterator[np.ndarray]:
        for path, name, image in ordered_map(look, files, workers=1, ahead=1):
            if image is None:
                large.append((path, name))
                continue
            taken(path)
            if isinstance(image, UserError):
                failed(path, image)
                continue
            waiting.append((path, name, image))
            yield image

    with memory_advice("segmenting", smaller), ThreadPoolExecutor(1, "semseg-write") as writer:
        writing: Future[None] | None = None
        for classes, confidence in _answers(predictor, readable(), results.confidence):
            if writing is not None:
                writing.result()
            writing = writer.submit(results.add, *waiting.popleft(), classes, confidence)
        if writing is not None:
            writing.result()
    for path, name in large:
        try:
            with memory_advice(str(path), smaller):
                results.add_large(path, name, predictor, partial(rows, path))
        except UserError as error:
            failed(path, error)
        taken(path)


def _answers(
    predictor: Predictor, images: Iterator[np.ndarray], confidence: bool
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Class map and, where it is asked for, confidence uint8 `[H, W]` of each image."""
    if confidence:
        yield from predictor.predict_many(images)
    else:
        for classes in predictor.class_maps(images):
            yield classes, None
