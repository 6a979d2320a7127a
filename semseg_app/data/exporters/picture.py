"""One photo on its way into an annotation tool."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np


@dataclass(frozen=True)
class Picture:
    """A photo and what is known of its pixels."""

    split: str
    name: str
    """File name with suffix; sub-folders are part of it."""
    photo: Path
    width: int
    """Pixels, as a viewer shows the photo (EXIF orientation applied); height likewise."""
    height: int
    classes: np.ndarray | None
    """uint8 `[height, width]`, class index or IGNORE; None: nothing is known."""
    confidence: np.ndarray | None = None
    """uint8 `[height, width]`, 0 to 255, of a prediction; None: a person's mask."""

    @property
    def below(self) -> PurePosixPath:
        """split/name."""
        return PurePosixPath(self.split) / self.name
