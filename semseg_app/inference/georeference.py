"""A photo's place on the ground, kept beside its mask: a world file and, where it has one, the coordinate system.

GDAL, QGIS and ArcGIS read `<mask>.pgw` (six numbers; https://en.wikipedia.org/wiki/World_file) and `<mask>.png.aux.xml`
(GDAL's Persistent Auxiliary Metadata). GeoTIFF tags: OGC 19-008r4, sections 7 and B. A JPEG 2000 file carries them in a
box (GeoJP2): a TIFF of one pixel.
"""

import contextlib
import io
import math
import re
from pathlib import Path
from typing import BinaryIO, NamedTuple
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from semseg_app import photos, tiff
from semseg_app.errors import UserError
from semseg_app.files import atomic_file
from semseg_app.inference import strips

_GEO_TYPES = {"raster": 1025, "geographic": 2048, "projected": 3072}
"""GeoKeys: what a pixel is (2 = a point), and the EPSG codes of the coordinate system."""
_SYSTEM_KEYS = {1024, _GEO_TYPES["geographic"], _GEO_TYPES["projected"]}
"""Those that an image with a coordinate system has; 1024 is its kind."""
_USER_DEFINED = 32767
_NO_GEOREFERENCE = "the mask has no georeference"
_CANNOT_HOLD = f"its place on the ground is given in a form that a world file cannot hold; {_NO_GEOREFERENCE}"
_WKT = re.compile(r"\s*(PROJCS|GEOGCS|COMPD_CS|PROJCRS|GEOGCRS|GEODCRS|COMPOUNDCRS|BOUNDCRS)\s*\[")
"""How a coordinate system begins in well-known text."""
_JP2 = b"\0\0\0\x0cjP  \r\n\x87\n"
_GEOJP2 = bytes.fromhex("b14bf8bd083d4b43a5ae8cd7d5a6ce03")
"""The first 12 bytes of a JPEG 2000 file; the id of the box that holds a GeoTIFF."""
_MOST_GEOJP2 = 2**20

World = tuple[float, float, float, float, float, float]
"""A, D, B, E, C, F of a world file: x = A * column + B * row + C, y = D * column + E * row + F, of pixel centers."""


class Place(NamedTuple):
    """Where an image lies."""

    world: World | None
    """None where the file has a coordinate system but no plain transform (ground control points)."""
    system: str | None
    """The coordinate system, as "EPSG:32633" or in well-known text; None where it has none."""
    lost: str | None = None
    """What of it a mask does not get, and why; None = nothing."""


class _Sidecar(NamedTuple):
    """What GDAL's .aux.xml beside an image says."""

    world: World | None = None
    system: str | None = None
    control_points: bool = False


def place_of(image: Path) -> Place | None:
    """Where an image lies on the ground, as GDAL looks for it; None if nowhere.

    The transform is that of the .aux.xml beside it, else of its GeoTIFF tags, else of a world file; the coordinate
    system that of the .aux.xml, else of its tags, else of a .prj.
    """
    tags = _tags(image) or {}
    keys = _geo_keys(tags)
    try:
        sidecar = _sidecar(image)
    except ValueError as error:
        return Place(None, None, f"{error}; {_NO_GEOREFERENCE}")
    named = keys.get(_GEO_TYPES["projected"], keys.get(_GEO_TYPES["geographic"]))
    in_tags = None if named in (None, 0, _USER_DEFINED) else f"EPSG:{named}"
    system = sidecar.system or in_tags or _system_of_prj(image)
    world = sidecar.world
    if world is None and tags.keys() & {tiff.TIE_POINTS, tiff.TRANSFORM}:
        world = _world(tags, centers=keys.get(_GEO_TYPES["raster"]) == 2)
        if world is None:
            return Place(None, system, _CANNOT_HOLD)
    if world is None:
        beside = next((path for path in _world_files(image) if path.is_file()), None)
        if beside is None:
            return Place(None, system, _CANNOT_HOLD) if sidecar.control_points else None
        try:
            world = _read_world(beside)
        except ValueError as error:
            return Place(None, system, f"{error}; {_NO_GEOREFERENCE}")
    a, d, b, e, *_ = world
    if not all(map(math.isfinite, world)) or a * e == b * d:
        return Place(None, system, f"by its place on the ground, its pixels have no size; {_NO_GEOREFERENCE}")
    if _is_turned(image, tags):
        turned = "its place on the ground is that of the stored pixels, which its orientation (EXIF) turns"
        return Place(None, system, f"{turned}; {_NO_GEOREFERENCE}")
    return Place(world, system, None if system else _lost_system(image, tags))


def nodata_of(image: Path) -> int | None:
    """The value of pixels without data in an 8-bit GeoTIFF, as GDAL's tag names it; None where it names none."""
    text = bytes(int(code) for code in (_tags(image) or {}).get(tiff.NODATA, ())).rstrip(b"\0 ")
    try:
        value = float(text)
    except ValueError:
        return None
    return int(value) if value in range(256) else None


def write_place(place: Place | None, mask: Path) -> list[Path]:
    """Write `place` beside a mask of the image's size, in place of what an earlier mask had; -> the files written."""
    world_file, system_file = mask.with_suffix(".pgw"), mask.with_name(f"{mask.name}.aux.xml")
    written = []
    if place is not None and place.world is not None:
        written.append(world_file)
        with atomic_file(world_file) as part:
            part.write_text("".join(f"{value!r}\n" for value in place.world), encoding="ascii")
        if place.system is not None:
            written.append(system_file)
            with atomic_file(system_file) as part:
                part.write_text(f"<PAMDataset>\n  <SRS>{escape(place.system)}</SRS>\n</PAMDataset>\n", encoding="utf-8")
    for path in (world_file, system_file):
        if path not in written:
            path.unlink(missing_ok=True)
    return written


def _tags(image: Path) -> tiff.Tags | None:
    """The tags of a TIFF, or of the GeoTIFF in a JPEG 2000 file."""
    try:
        with image.open("rb") as file:
            start = file.read(len(_JP2))
            if tiff.is_tiff(start):
                return tiff.read_tags(file)
            box = _geojp2(file) if start == _JP2 else b""
            return tiff.read_tags(io.BytesIO(box)) if box else None
    except (OSError, tiff.TiffError):  # whoever reads its pixels says what is wrong
        return None


def _geojp2(file: BinaryIO) -> bytes:
    """The GeoTIFF in a JPEG 2000 file; empty where it has none."""
    start, end = 0, file.seek(0, io.SEEK_END)
    while start < end:
        file.seek(start)
        header = file.read(32)
        length, kind, content = int.from_bytes(header[:4], "big"), header[4:8], 8
        if length == 1:  # the length follows in 8 bytes
            length, content = int.from_bytes(header[8:16], "big"), 16
        if kind == b"uuid" and header[content : content + 16] == _GEOJP2:
            file.seek(start + content + 16)
            return file.read(_MOST_GEOJP2)
        if length < content:  # the last one, or damaged
            break
        start += length
    return b""


def _sidecar(image: Path) -> _Sidecar:
    """The transform and the coordinate system in `<image>.aux.xml`. ValueError says what is wrong with it."""
    path = image.with_name(f"{image.name}.aux.xml")
    try:
        root = ElementTree.fromstring(path.read_bytes(), ElementTree.XMLParser(target=_WithoutDoctype()))
    except (PermissionError, ElementTree.ParseError, ValueError, LookupError):  # the latter two: encodings
        raise ValueError(f"{path.name} is not readable as XML") from None
    except OSError:  # the photo has no such file
        return _Sidecar()
    points = root.find("GCPList") is not None
    system = (root.findtext("SRS") or "").strip() or None
    transform = root.findtext("GeoTransform")
    if transform is None:
        return _Sidecar(None, system, points)
    c, a, b, f, d, e = _six([word.strip() for word in transform.split(",")], path, "its GeoTransform")
    return _Sidecar(_centered(a, b, c, d, e, f), system, points)


class _WithoutDoctype(ElementTree.TreeBuilder):
    """Takes no file that declares entities, by which a few bytes fill the memory."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError


def _system_of_prj(image: Path) -> str | None:
    """Well-known text in the .prj beside an image."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        text = image.with_suffix(".prj").read_text(encoding="utf-8-sig").strip()
        return text if _WKT.match(text) else None
    return None


def _is_turned(image: Path, tags: tiff.Tags) -> bool:
    """Whether the mask is upright and the stored pixels are not."""
    if tags:
        return tiff.number(tags, tiff.ORIENTATION, 1) != 1
    with contextlib.suppress(UserError):
        if strips.is_large(image):  # Pillow may not open it
            return strips.is_turned(image)
    with contextlib.suppress(*photos.DECODING_ERRORS), photos.open_photo(image) as opened:
        return photos.orientation(opened) != 1
    return False


def _geo_keys(tags: tiff.Tags) -> dict[int, int]:
    """The GeoKeys whose value stands in the directory itself."""
    values = [int(value) for value in tags.get(tiff.GEO_KEYS, ())]
    entries = (values[start : start + 4] for start in range(4, len(values) - 3, 4))
    return {key: value for key, location, _, value in entries if location == 0}


def _world(tags: tiff.Tags, centers: bool) -> World | None:
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
    return (a, d, b, e, c, f) if centers else _centered(a, b, c, d, e, f)


def _centered(a: float, b: float, c: float, d: float, e: float, f: float) -> World:
    """A world file's numbers by a transform of pixel corners: x = a * column + b * row + c, y = d, e, f alike."""
    return a, d, b, e, c + (a + b) / 2, f + (d + e) / 2


def _read_world(path: Path) -> World:
    """The numbers of a world file. ValueError says what is wrong with it."""
    try:
        words = path.read_text(encoding="utf-8-sig").split()
    except (OSError, UnicodeDecodeError):
        raise ValueError(f"{path.name} is not readable as text") from None
    a, d, b, e, c, f = _six(words, path, "a world file")
    return a, d, b, e, c, f


def _six(words: list[str], path: Path, what: str) -> list[float]:
    """The six numbers of `what` in a file. ValueError says what is wrong with them."""
    for word in words:
        try:
            sound = math.isfinite(float(word))
        except ValueError:
            sound = False
        if not sound:
            fix = "; write decimal points, not commas" if "," in word else ""
            raise ValueError(f"{path.name} holds {word!r}, which is not a number{fix}")
    if len(words) != 6:
        raise ValueError(f"{path.name} holds {len(words)} numbers, and {what} has 6")
    return [float(word) for word in words]


def _lost_system(image: Path, tags: tiff.Tags) -> str | None:
    """Of an image whose coordinate system is not read here: where it stands. None where it has none at all."""
    aux = image.with_name(f"{image.name}.aux.xml")
    places = {
        "its GeoTIFF keys": bool(_geo_keys(tags).keys() & _SYSTEM_KEYS),
        image.with_suffix(".prj").name: image.with_suffix(".prj").is_file(),
        aux.name: aux.is_file() and b"<SRS" in aux.read_bytes(),
    }
    place = next((name for name, there in places.items() if there), None)
    return place and f"the coordinate system in {place} has a form that is not read here; the mask has none"


def _world_files(image: Path) -> list[Path]:
    """The names that a world file of this image may have."""
    suffix = image.suffix.lower().removeprefix(".")
    short = f".{suffix[0]}{suffix[-1]}w" if suffix else ".wld"
    return [image.with_suffix(end) for end in (short, f".{suffix}w", ".wld", short.upper())]
