"""One photo with its classes, and what people do with it: save, look, take outlines."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from semseg_app.errors import UserError
from semseg_app.files import atomic_file
from semseg_app.inference.georeference import place_of, write_place
from semseg_app.labels import LabelSpace
from semseg_app.masks import indexed_png
from semseg_app.masks.polygons import Polygon, polygons
from semseg_app.masks.simplify import simplified
from semseg_app.plots.overlays import class_shares, overlay


@dataclass(frozen=True, eq=False, repr=False)
class Segmentation:
    """What a model says of one photo. `classes, confidence = segmentation` works, too.

    Examples:
        >>> import semseg_app
        >>> result = semseg_app.load("runs/street/best").predict("photo.jpg")
        >>> result.classes.shape, result.labels.classes[result.classes[0, 0]]
        ((64, 80), 'road')
        >>> result.save("mask.png")
        >>> result.overlay(opacity=0.4).save("overlay.jpg")
    """

    image: np.ndarray
    """The photo: uint8 RGB `[H, W, 3]`, upright."""
    classes: np.ndarray
    """uint8 `[H, W]`, class index; `labels.classes` has the names."""
    confidence: np.ndarray
    """uint8 `[H, W]`, the probability of the pixel's class times 255."""
    labels: LabelSpace
    """Classes and palette of the model."""
    source: Path | None = None
    """The file of the photo, where it came from a file."""

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter((self.classes, self.confidence))

    @property
    def shares(self) -> dict[str, float]:
        """The classes that occur -> fraction of the pixels that each covers, the largest first."""
        shares = class_shares(self.classes, len(self.labels.classes)).tolist()
        found = [(name, share) for name, share in zip(self.labels.classes, shares, strict=True) if share]
        return dict(sorted(found, key=lambda pair: -pair[1]))

    def save(self, path: str | Path) -> None:
        """Write the classes as an 8-bit indexed PNG: the value of a pixel is its class, viewers show the palette.

        The mask of a photo that has a place on the ground keeps it in files beside it; those of an earlier mask go.

        Raises:
            UserError: `path` does not end in .png. Other formats change class numbers or lose the palette.
        """
        target = Path(path)
        if target.suffix.lower() != ".png":
            raise UserError(f"{target}: a mask is saved as .png; for a picture use .overlay().save(...)")
        with atomic_file(target) as part:
            part.write_bytes(indexed_png(self.classes, self.labels.palette))
        write_place(place_of(self.source) if self.source else None, target)

    def overlay(self, opacity: float = 0.5) -> Image.Image:
        """The photo under the class colors, as a PIL image; `opacity` 0 is the photo alone, 1 the colors alone."""
        return Image.fromarray(overlay(self.image, self.classes, self.labels.palette, opacity))

    def polygons(self, simplify: float = 0.0) -> dict[str, list[Polygon]]:
        """The outlines of each class that occurs: class name -> polygons with holes, corners (x, y) in pixels.

        Args:
            simplify: leave out corners where the new outline passes them within so many pixels; neighbors keep one
                border, without gaps. 0 = exact: filling the polygons gives the mask back.

        Raises:
            UserError: the outlines have more than a million corners.

        Examples:
            >>> import semseg_app
            >>> result = semseg_app.load("runs/street/best").predict("photo.jpg")
            >>> result.polygons(simplify=1)["car"][0].exterior.tolist()
            [[80, 32], [80, 64], [40, 64], [40, 32]]
        """
        outlines = simplified(self.classes, polygons(self.classes), simplify)
        named: dict[str, list[Polygon]] = {}
        for index, parts in outlines.items():
            named.setdefault(self.labels.classes[index], []).extend(parts)
        return named

    def __repr__(self) -> str:
        height, width = self.classes.shape
        shares = [f"{name} {share:.1%}".replace("%", " %") for name, share in self.shares.items()]
        shown = ", ".join(shares[:5]) + (f" and {len(shares) - 5} more" if len(shares) > 5 else "")
        source = f"{self.source}, " if self.source else ""
        certain = float(self.confidence.mean()) / 255
        return f"Segmentation({source}{width}x{height}: {shown}; mean confidence {certain:.2f})"
