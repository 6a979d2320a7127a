from pathlib import Path

import pytest
from PIL import Image, TiffImagePlugin

from semseg_app.inference.georeference import Place, place_of, write_place


def geotiff(path: Path, tags: dict[int, tuple[float, ...]], keys: tuple[int, ...]) -> Path:
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, values in tags.items():
        directory[tag], directory.tagtype[tag] = values, 12  # doubles
    directory[34735], directory.tagtype[34735] = (1, 1, 0, len(keys) // 4, *keys), 3
    Image.new("RGB", (8, 6)).save(path, tiffinfo=directory)
    return path


SCALE, TIE, MATRIX = 33550, 33922, 34264
UTM = (3072, 0, 1, 32633)


def test_corners_of_geotiff_become_centers_of_a_world_file(tmp_path: Path) -> None:
    """Worked by hand: pixels of half a meter, the corner of pixel (2, 1) at 500000, 4100000."""
    path = geotiff(tmp_path / "a.tif", {SCALE: (0.5, 0.5, 0.0), TIE: (2.0, 1.0, 0.0, 500000.0, 4100000.0, 0.0)}, UTM)
    assert place_of(path) == Place((0.5, 0.0, 0.0, -0.5, 499999.25, 4100000.25), 32633)
    pixel_is_point = (1025, 0, 1, 2, *UTM)
    path = geotiff(
        tmp_path / "b.tif", {SCALE: (0.5, 0.5, 0.0), TIE: (0.0, 0.0, 0.0, 500000.0, 4100000.0, 0.0)}, pixel_is_point
    )
    assert place_of(path) == Place((0.5, 0.0, 0.0, -0.5, 500000.0, 4100000.0), 32633)


def test_a_rotated_transform_and_a_coordinate_system_without_code(tmp_path: Path) -> None:
    matrix = (0.0, 2.0, 0.0, 10.0, 2.0, 0.0, 0.0, 20.0, *(0.0,) * 8)
    path = geotiff(tmp_path / "a.tif", {MATRIX: matrix}, (3072, 0, 1, 32767))
    place = place_of(path)
    assert place is not None
    assert place[:2] == ((0.0, 2.0, 2.0, 0.0, 11.0, 21.0), None)
    assert place.lost == (
        "the coordinate system in its GeoTIFF keys has no EPSG code that is read here; the mask has none"
    )


@pytest.mark.parametrize("name", ["a.jgw", "a.jpgw", "a.wld"])
def test_a_world_file_beside_the_photo_is_kept(tmp_path: Path, name: str) -> None:
    Image.new("RGB", (8, 6)).save(tmp_path / "a.jpg")
    assert place_of(tmp_path / "a.jpg") is None
    (tmp_path / name).write_text("1\n0\n0\n-1\n100.5\n200.5\n")
    assert place_of(tmp_path / "a.jpg") == Place((1, 0, 0, -1, 100.5, 200.5), None)


def test_a_geotiff_beside_a_world_file_keeps_its_coordinate_system(tmp_path: Path) -> None:
    path = geotiff(tmp_path / "a.tif", {}, UTM)
    assert place_of(path) is None
    (tmp_path / "a.tfw").write_text("1\n0\n0\n-1\n100.5\n200.5\n")
    assert place_of(path) == Place((1, 0, 0, -1, 100.5, 200.5), 32633)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [("a.prj", "PROJCS[...]", True), ("a.jpg.aux.xml", "<SRS>x</SRS>", True), ("a.aux.xml", "<SRS>x</SRS>", False)],
)
def test_a_coordinate_system_beside_the_photo_is_not_lost_in_silence(
    tmp_path: Path, name: str, content: str, told: bool
) -> None:
    Image.new("RGB", (8, 6)).save(tmp_path / "a.jpg")
    (tmp_path / "a.jgw").write_text("1 0 0 -1 100.5 200.5")
    (tmp_path / name).write_text(content)
    place = place_of(tmp_path / "a.jpg")
    assert place is not None
    assert place.world == (1, 0, 0, -1, 100.5, 200.5)
    assert (place.lost is not None and f"the coordinate system in {name} has no EPSG code" in place.lost) == told


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("0,5\n0\n0\n-0,5\n1\n2\n", "a.jgw holds '0,5', which is not a number; write decimal points, not commas"),
        ("1 0 0 -1 nan 2", "a.jgw holds 'nan', which is not a number"),
        ("1 0 0 -1 1", "a.jgw holds 5 numbers, and a world file has 6"),
        (b"\xff\xfe1", "a.jgw is not readable as text"),
    ],
)
def test_what_is_wrong_with_a_world_file(tmp_path: Path, content: str | bytes, problem: str) -> None:
    Image.new("RGB", (8, 6)).save(tmp_path / "a.jpg")
    (tmp_path / "a.jgw").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert place_of(tmp_path / "a.jpg") == Place(None, None, f"{problem}; the mask has no georeference")


def test_what_a_world_file_cannot_hold_has_no_transform(tmp_path: Path) -> None:
    """Ground control points: several tie points without a scale."""
    path = geotiff(tmp_path / "a.tif", {TIE: tuple(map(float, range(24)))}, UTM)
    place = place_of(path)
    assert place is not None
    assert place[:2] == (None, 32633)
    assert place.lost is not None
    assert "in a form that a world file cannot hold; the mask has no georeference" in place.lost
    assert write_place(place, tmp_path / "mask.png") == []


def test_files_beside_the_mask(tmp_path: Path) -> None:
    mask = tmp_path / "a.jpg.png"
    written = write_place(Place((0.5, 0.0, 0.0, -0.5, 500000.25, 4099999.75), 32633), mask)
    assert [path.name for path in written] == ["a.jpg.pgw", "a.jpg.png.aux.xml"]
    assert written[0].read_text().split() == ["0.5", "0.0", "0.0", "-0.5", "500000.25", "4099999.75"]
    assert "<SRS>EPSG:32633</SRS>" in written[1].read_text()
