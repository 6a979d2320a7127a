"""A model's predictions as pictures for an annotation tool: people correct instead of draw."""

from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np

from semseg_app.data.dataset import Sample, read_image
from semseg_app.data.exporters.dataset_pictures import file_name
from semseg_app.data.exporters.picture import Picture
from semseg_app.inference.engines.base import Engine
from semseg_app.inference.files import make_predictor
from semseg_app.inference.tiling import TILE


def predicted_pictures(engine: Engine, samples: Iterable[tuple[str, Sample]], tile: int = TILE) -> Iterator[Picture]:
    """Segment (split, sample), in order; photos longer than `tile` pixels in tiles. A batch is in memory at a time.

    UserError for a photo that cannot be read.
    """
    waiting: deque[tuple[str, Sample]] = deque()

    def images() -> Iterator[np.ndarray]:
        for pair in samples:
            waiting.append(pair)
            yield read_image(pair[1].image)

    for classes, confidence in make_predictor(engine, tile).predict_many(images()):
        split, sample = waiting.popleft()
        height, width = classes.shape
        yield Picture(split, file_name(sample), sample.image, width, height, classes, confidence)
