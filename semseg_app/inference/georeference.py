"""A photo's place on the ground, kept beside its mask: a world file and, where it has one, the EPSG code.

GDAL, QGIS and ArcGIS read `<mask>.pgw` (six numbers; https://en.wikipedia.org/wiki/World_file) and `<mask>.png.aux.xml`
(GDAL's Persistent Auxiliary Metadata). GeoTIFF tags: OGC 19-008r4, sections 7 and B.
"""

from pathlib import Path
from typing import NamedTuple

from semseg_app import tiff
from semseg_app.files import atomic_file

_GEO_TYPES = {"raster": 1025, "geographic": 2048, "projected": 3072}
"""GeoKeys: what a pixel is (2 = a point), and the EPSG codes of the coordinate system."""
_USER_DEFINED = 32767


class Place(NamedTuple):
    """Where an image lies."""

    world: tuple[float, float, float, float, float, float] | None
    """A, D, B, E, C, F of a world file: x = A * column + B * row + C, y = D * column + E * row + F, of pixel centers.
    None where the file has a coordinate system but no plain transform (ground control points)."""
    epsg: int | None
    """Code of the coordinate system; None where it has none."""


def place_of(image: Path) -> Place | None:
    """Where an image lies on the ground: by its GeoTIFF tags, else by the world file beside it. None if nowhere."""
    tags = _tags(image)
    if tags and (tags.keys() & {tiff.TIE_POINTS, tiff.TRANSFORM}):
        keys = _geo_keys(tags)
        epsg = keys.get(_GEO_TYPES["projected"], keys.get(_GEO_TYPES["geographic"]))
        plain = tiff.number(tags, tiff.ORIENTATION, 1) == 1
        world = _world(tags, centers=keys.get(_GEO_TYPES["raster"]) == 2) if plain else None
        return Place(world, None if epsg in (None, 0, _USER_DEFINED) else epsg)
    for beside in _world_files(image):
        if beside.is_file():
            try:
                a, d, b, e, c, f = (float(line) for line in beside.read_text(encoding="ascii").split())
            except (ValueError, OSError):
                return Place(None, None)
            return Place((a, d, b, e, c, f), None)
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


def _world_files(image: Path) -> list[Path]:
    """The names that a world file of this image may have."""
    suffix = image.suffix.lower().removeprefix(".")
    short = f".{suffix[0]}{suffix[-1]}w" if suffix else ".wld"
    return [image.with_suffix(end) for end in (short, f".{suffix}w", ".wld", short.upper())]
