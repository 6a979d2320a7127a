"""What every annotation format is read into: class names, and shapes or pixels for each photo."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from semseg_app.labels import Color

Size = tuple[int, int]
"""(width, height) in pixels."""

Overlap = Literal["z-order", "largest-on-bottom", "last"]
"""Which of two overlapping objects is seen: the one with the higher z-order, the smaller one, or the later one."""

Vertices = Literal["auto", "edges", "centers"]
"""What a whole number means as a corner: the edge between two pixels, or the middle of one; auto judges each photo."""

BACKGROUND = "background"
"""The class of pixels that no object covers, where the export does not name one."""

MOST_DIFFERENT = 8
"""Names that a message lists before it counts the rest."""


@dataclass(frozen=True)
class Polygons:
    """Outlines in pixels: pixel (row y, column x) is the square from (x, y) to (x + 1, y + 1)."""

    parts: Sequence[np.ndarray]
    """float64 `[N, 2]` of (x, y), each with three or more corners; the object is all of them together."""
    holes: Sequence[np.ndarray] = ()
    centers: bool | None = None
    """Whether corners name pixels (column, row) and the outline itself belongs to the object, as OpenCV traces; None:
    the format does not say."""


@dataclass(frozen=True)
class Runs:
    """Run lengths over the whole picture, down the columns, zeros first, as COCO has them."""

    counts: str | list[int]
    """COCO's compressed text, or the numbers."""
    size: Size


@dataclass(frozen=True)
class Bitmap:
    """Pixels of a rectangle of the picture."""

    pixels: np.ndarray
    """bool `[h, w]`."""
    left: int = 0
    top: int = 0


@dataclass(frozen=True)
class Ellipse:
    """An ellipse, or a circle."""

    center: tuple[float, float]
    radii: tuple[float, float]
    degrees: float = 0.0
    """Clockwise on the screen."""


Shape = Polygons | Runs | Bitmap | Ellipse


@dataclass(frozen=True)
class Object:
    """One annotated object."""

    name: str | None
    """Its class; None: nothing is known of these pixels, so they are ignored."""
    shape: Shape
    place: str
    """Where it stands in the annotation file, for messages."""
    z: int = 0
    beneath: bool = False
    """It lies under all others: a crowd region must not hide the objects that are outlined in it."""


@dataclass(frozen=True)
class PixelMap:
    """A mask that the tool drew itself."""

    values: np.ndarray
    """int64 or uint8 `[H, W]`."""
    names: Mapping[int, str | None]
    """Value -> class; None: ignored."""


@dataclass(frozen=True)
class Drawing:
    """What the annotation of one photo says."""

    versions: Sequence[Sequence[Object]] = ()
    """The objects in the order of the file, once per annotator."""
    pixels: PixelMap | None = None
    """Instead of `versions`."""
    size: Size | None = None
    """Size of the picture that was annotated; None: the photo as a viewer shows it."""
    no_area: Counter[str] = field(default_factory=Counter)
    """Kinds of annotation that cover no pixels (points, lines), how many of each."""

    def unless_empty(self) -> "Drawing | None":
        """None where nothing was annotated: for tools that list every photo, annotated or not."""
        return self if self.pixels or self.no_area or any(self.versions) else None


@dataclass(frozen=True)
class Item:
    """One photo of an export."""

    name: str
    """As the export calls it, with folders and suffix."""
    photo: Path | bytes | None
    """The file, or its content where the export holds the photo; None: the photo is not there."""
    read: Callable[[Size], Drawing | None]
    """Size of the photo as a viewer shows it -> its annotation; None: it was not annotated."""
    source: str
    """The annotation file, and the place in it, for messages."""
    split: str | None = None
    listed: bool = True
    """Whether the export names it; other photos beside those that it names can only be unlabeled."""


@dataclass(frozen=True)
class ReadOptions:
    """How an export is read."""

    annotator: str | None = None
    """Whose annotations count, where several people annotated one photo; None: the majority of them."""
    attribute: str | None = None
    """The attribute of a region that is its class, where regions have several."""
    classes: Sequence[str] = ()
    """Names of the mask values 0, 1, ... where the export names none."""


@dataclass(frozen=True)
class Export:
    """Everything that an annotation tool wrote."""

    title: str
    """Tool and format, for people."""
    classes: Sequence[str]
    """In the order of the export, each once."""
    items: Sequence[Item]
    overlap: Overlap
    """What the tool itself does where objects overlap."""
    has_z: bool = False
    """Whether the format has a z-order."""
    background: str | None = BACKGROUND
    """The class of pixels without an object; None: they are ignored."""
    colors: Mapping[str, Color] = field(default_factory=dict)
    notes: Sequence[str] = ()
    """What a person should know of how it was read, a sentence each."""


def drawing_of(found: Iterable[Object | str], size: Size) -> Drawing:
    """The annotation of one photo by one annotator.

    Args:
        found: what a format's reader finds, in the order of the file: an object, or the kind of one without an area.
        size: of the picture that was annotated.
    """
    objects: list[Object] = []
    no_area: Counter[str] = Counter()
    for item in found:
        if isinstance(item, Object):
            objects.append(item)
        else:
            no_area[item] += 1
    return Drawing([objects], size=size, no_area=no_area)


def unique(names: Sequence[str]) -> list[str]:
    """The names, each once, in order."""
    return list(dict.fromkeys(names))


def some(names: Sequence[str]) -> str:
    """ "a, b, c and 4 more"."""
    more = len(names) - MOST_DIFFERENT
    return ", ".join(names[:MOST_DIFFERENT]) + (f" and {more:,} more" if more > 0 else "")
