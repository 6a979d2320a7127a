"""A photo's place on the ground, kept beside its mask: a world file and, where it has one, the EPSG code.

GDAL, QGIS and ArcGIS read `<mask>.pgw` (six numbers; https://en.wikipedia.org/wiki/World_file) and `<mask>.png.aux.xml`
(GDAL's Persistent Auxiliary Metadata). GeoTIFF tags: OGC 19-008r4, sections 7 and B.
"""

import math
from pathlib import Path
from typing import NamedTuple

from semseg_app import tiff
from semseg_app.files import atomic_file

_GEO_TYPES = {"raster": 1025, "geographic": 2048, "projected": 3072}
"""GeoKeys: what a pixel is (2 = a point), and the EPSG codes of the coordinate system."""
_SYSTEM_KEYS = {1024, _GEO_TYPES["geographic"], _GEO_TYPES["projected"]}
"""Those that an image with a coordinate system has; 1024 is its kind."""
_USER_DEFINED = 32767
_NO_GEOREFERENCE = "the mask has no georeference"


class Place(NamedTuple):
    """Where an image lies."""

    world: tuple[float, float, float, float, float, float] | None
    """A, D, B, E, C, F of a world file: x = A * column + B * row + C, y = D * column + E * row + F, of pixel centers.
    None where the file has a coordinate system but no plain transform (ground control points)."""
    epsg: int | None
    """Code of the coordinate system; None where it has none."""
    lost: str | None = None
    """What of it a mask does not get, and why; None = nothing."""


def place_of(image: Path) -> Place | None:
    """Where an image lies on the ground: by its GeoTIFF tags, else by the world file beside it. None if nowhere."""
    tags = _tags(image) or {}
    keys = _geo_keys(tags)
    named = keys.get(_GEO_TYPES["projected"], keys.get(_GEO_TYPES["geographic"]))
    epsg = None if named in (None, 0, _USER_DEFINED) else named
    if tags.keys() & {tiff.TIE_POINTS, tiff.TRANSFORM}:
        plain = tiff.number(tags, tiff.ORIENTATION, 1) == 1
        world = _world(tags, centers=keys.get(_GEO_TYPES["raster"]) == 2) if plain else None
        if world is None:
            given = "its place on the ground is given in a form that a world file cannot hold"
            return Place(None, epsg, f"{given}; {_NO_GEOREFERENCE}")
        return Place(world, epsg, None if epsg else _lost_system(image, tags))
    for beside in _world_files(image):
        if beside.is_file():
            try:
                return Place(_read_world(beside), epsg, None if epsg else _lost_system(image, tags))
            except ValueError as error:
                return Place(None, epsg, f"{beside.name} {error}; {_NO_GEOREFERENCE}")
    return None


def write_place(place: Place, mask: Path) -> list[Path]:
    """Write `place` beside a mask of the image's size; -> the files written."""
    if place.world is None:
        return []
    written = [mask.with_suffix(".pgw")]
    with atomic_file(written[0]) as part:
        part.write_text("".join(f"{value!r}\n" for value in place.world), encoding="ascii")
    if place.epsg is not None:
        written.append(mask.with_name(f"{mask.name}.aux.xml"))
        with atomic_file(written[1]) as part:
            part.write_text(f"<PAMDataset>\n  <SRS>EPSG:{place.epsg}</SRS>\n</PAMDataset>\n", encoding="ascii")
    return written


def _tags(image: Path) -> tiff.Tags | None:
    try:
        with image.open("rb") as file:
            return tiff.read_tags(file) if tiff.is_tiff(file.read(4)) else None
    except (OSError, tiff.TiffError):  # whoever reads its pixels says what is wrong
        return None


def _geo_keys(tags: tiff.Tags) -> dict[int, int]:
    """The GeoKeys whose value stands in the directory itself."""
    values = [int(value) for value in tags.get(tiff.GEO_KEYS, ())]
    entries = (values[start : start + 4] for start in range(4, len(values) - 3, 4))
    return {key: value for key, location, _, value in entries if location == 0}


def _world(tags: tiff.Tags, centers: bool) -> tuple[float, float, float, float, float, float] | None:
    """A world file's numbers by the tags. `centers`: they speak of pixel centers, not of pixel corners."""
    matrix, scale, ties = (tags.get(tag, ()) for tag in (tiff.TRANSFORM, tiff.PIXEL_SCALE, tiff.TIE_POINTS))
    if len(matrix) == 16:
        a, b, c, d, e, f = matrix[0], matrix[1], matrix[3], matrix[4], matrix[5], matrix[7]
    elif len(ties) == 6 and len(scale) >= 2:
        column, row, _, x, y, _ = ties
        a, b, d, e = scale[0], 0.0, 0.0, -scale[1]
        c, f = x - column * a, y - row * e
    else:
        return None
    if not centers:
        c, f = c + (a + b) / 2, f + (d + e) / 2
    return a, d, b, e, c, f


def _read_world(path: Path) -> tuple[float, float, float, float, float, float]:
    """The numbers of a world file. ValueError says what is wrong with it."""
    try:
        words = path.read_text(encoding="utf-8-sig").split()
    except (OSError, UnicodeDecodeError):
        raise ValueError("is not readable as text") from None
    for word in words:
        try:
            sound = math.isfinite(float(word))
        except ValueError:
            sound = False
        if not sound:
            fix = "; write decimal points, not commas" if "," in word else ""
            raise ValueError(f"holds {word!r}, which is not a number{fix}")
    if len(words) != 6:
        raise ValueError(f"holds {len(words)} numbers, and a world file has 6")
    a, d, b, e, c, f = map(float, words)
    return a, d, b, e, c, f


def _lost_system(image: Path, tags: tiff.Tags) -> str | None:
    """Of an image whose coordinate system has no EPSG code here: where it stands. None where it has none at all."""
    aux = image.with_name(f"{image.name}.aux.xml")
    places = {
        "its GeoTIFF keys": bool(_geo_keys(tags).keys() & _SYSTEM_KEYS),
        image.with_suffix(".prj").name: image.with_suffix(".prj").is_file(),
        aux.name: aux.is_file() and b"<SRS" in aux.read_bytes(),
    }
    place = next((name for name, there in places.items() if there), None)
    return place and f"the coordinate system in {place} has no EPSG code that is read here; the mask has none"


def _world_files(image: Path) -> list[Path]:
    """The names that a world file of this image may have."""
    suffix = image.suffix.lower().removeprefix(".")
    short = f".{suffix[0]}{suffix[-1]}w" if suffix else ".wld"
    return [image.with_suffix(end) for end in (short, f".{suffix}w", ".wld", short.upper())]
