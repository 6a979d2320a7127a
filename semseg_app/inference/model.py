"""A loaded model in Python: photos in, segmentations out."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar, overload

import numpy as np
from PIL import Image

from semseg_app.data.dataset import read_image
from semseg_app.errors import UserError, memory_advice
from semseg_app.inference.engines.base import Engine
from semseg_app.inference.files import make_predictor
from semseg_app.inference.segmentation import Segmentation
from semseg_app.inference.strips import is_large
from semseg_app.labels import LabelSpace
from semseg_app.photos import UnsupportedPixels, to_rgb

Photo = str | Path | Image.Image | np.ndarray
"""The name of a file, a PIL image, or uint8 RGB `[H, W, 3]`."""
PhotoItem = TypeVar("PhotoItem", bound=Photo)


class Model:
    """A model that `semseg_app.load` loaded. It takes one call at a time.

    Args:
        engine: what segments.
        tile: longest side of what runs at once, in pixels; None = whole photos.
    """

    def __init__(self, engine: Engine, tile: int | None = 1024):
        self._predictor = make_predictor(engine, tile or 0)

    @property
    def engine(self) -> Engine:
        """What runs: its kind, device and precision are those that really run."""
        return self._predictor.engine

    @property
    def labels(self) -> LabelSpace:
        """Classes and palette."""
        return self.engine.labels

    @overload
    def predict(self, photo: Photo) -> Segmentation: ...
    @overload
    def predict(self, photo: list[PhotoItem] | tuple[PhotoItem, ...]) -> list[Segmentation]: ...

    def predict(self, photo: Photo | list[PhotoItem] | tuple[PhotoItem, ...]) -> Segmentation | list[Segmentation]:
        """Segment one photo of any size, or a list of photos.

        Args:
            photo: the name of a file, a PIL image, an array (uint8 RGB `[H, W, 3]`), or a list of them. Files and PIL
                images are turned upright as their EXIF orientation says.

        Returns:
            One segmentation, or a list in the order of the photos.

        Raises:
            UserError: a file cannot be read, or holds no 8-bit photo, or memory runs out.
            ValueError: an array of another type or shape.

        Examples:
            >>> import semseg_app
            >>> model = semseg_app.load("runs/street/best")
            >>> model.predict("photo.jpg")
            Segmentation(photo.jpg, 80x64: road 75.0 %, car 25.0 %; mean confidence 0.89)
            >>> from PIL import Image
            >>> len(model.predict([Image.open("photo.jpg"), "photo.jpg"]))
            2
        """
        if isinstance(photo, list | tuple):
            return list(self.predict_many(photo))
        (segmentation,) = self.predict_many([photo])
        return segmentation

    def predict_many(self, photos: Iterable[Photo]) -> Iterator[Segmentation]:
        """Segment photos one after the other, in order; no more than a batch of them is in memory.

        Examples:
            >>> import semseg_app
            >>> from pathlib import Path
            >>> model = semseg_app.load("runs/street/best")
            >>> for result in model.predict_many(Path("photos").glob("*.jpg")):
            ...     result.save(f"{result.source.stem}.png")
        """
        if isinstance(photos, str | Path | Image.Image) or (isinstance(photos, np.ndarray) and photos.ndim == 3):
            raise TypeError("predict_many takes several photos, such as a list; for a single one, use predict")
        waiting: list[tuple[Path | None, np.ndarray]] = []  # read, and not yet answered

        def images() -> Iterator[np.ndarray]:
            for photo in photos:
                waiting.append(_read(photo))
                yield waiting[-1][1]

        tile = self._predictor.tile
        with memory_advice("segmenting", f"lower tile (now {tile})" if tile else "use tiles, such as tile=512"):
            for prediction in self._predictor.predict_many(images()):
                source, image = waiting.pop(0)
                yield Segmentation(image, prediction.classes, prediction.confidence, self.labels, source)

    def __repr__(self) -> str:
        names = self.labels.classes
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        engine = self.engine
        return f"{type(self).__name__}({engine.name!r}: {shown}; {engine.kind} {engine.precision} on {engine.device})"


def _read(photo: Photo) -> tuple[Path | None, np.ndarray]:
    """The file of a photo where it has one, and uint8 RGB `[H, W, 3]`."""
    if isinstance(photo, str | Path):
        path = Path(photo)
        if path.is_dir():
            raise UserError(f"{path}: a folder; give the list of its photos, or run `semseg predict`")
        if is_large(path):
            raise UserError(f"{path}: too large to hold in memory; `semseg predict` segments it by strips")
        return path, read_image(path)
    if isinstance(photo, Image.Image):
        try:
            return None, np.asarray(to_rgb(photo))
        except UnsupportedPixels as error:
            raise UserError(f"the PIL image: {error}") from None
    if not isinstance(photo, np.ndarray):
        raise TypeError(f"a photo is the name of a file, a PIL image or an array; got {type(photo).__name__}")
    if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[-1] != 3 or not photo.size:
        raise ValueError(f"a photo is uint8 RGB [H, W, 3]; got {photo.dtype} {list(photo.shape)}")
    return None, photo.copy()  # readers of videos write the next frame over it
