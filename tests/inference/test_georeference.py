from pathlib import Path

import pytest
from PIL import Image, TiffImagePlugin

from semseg_app.inference.georeference import Place, nodata_of, place_of, write_place


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
    assert place_of(path) == Place((0.5, 0.0, 0.0, -0.5, 499999.25, 4100000.25), "EPSG:32633")
    pixel_is_point = (1025, 0, 1, 2, *UTM)
    path = geotiff(
        tmp_path / "b.tif", {SCALE: (0.5, 0.5, 0.0), TIE: (0.0, 0.0, 0.0, 500000.0, 4100000.0, 0.0)}, pixel_is_point
    )
    assert place_of(path) == Place((0.5, 0.0, 0.0, -0.5, 500000.0, 4100000.0), "EPSG:32633")


def test_a_rotated_transform_and_a_coordinate_system_without_code(tmp_path: Path) -> None:
    matrix = (0.0, 2.0, 0.0, 10.0, 2.0, 0.0, 0.0, 20.0, *(0.0,) * 8)
    path = geotiff(tmp_path / "a.tif", {MATRIX: matrix}, (3072, 0, 1, 32767))
    place = place_of(path)
    assert place is not None
    assert place[:2] == ((0.0, 2.0, 2.0, 0.0, 11.0, 21.0), None)
    assert place.lost == (
        "the coordinate system in its GeoTIFF keys has a form that is not read here; the mask has none"
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
    assert place_of(path) == Place((1, 0, 0, -1, 100.5, 200.5), "EPSG:32633")


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [("a.prj", "Projection UTM", True), ("a.jpg.aux.xml", "<SRS>x</SRS>", True), ("a.aux.xml", "<SRS>x</SRS>", False)],
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
    lost = f"the coordinate system in {name} has a form that is not read here; the mask has none" if told else None
    assert place.lost == lost


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("0,5\n0\n0\n-0,5\n1\n2\n", "a.jgw holds '0,5', which is not a number; write decimal points, not commas"),
        ("1 0 0 -1 nan 2", "a.jgw holds 'nan', which is not a number"),
        ("1 0 0 -1 1", "a.jgw holds 5 numbers, and a world file has 6"),
        (b"\xff\xfe1", "a.jgw is not readable as text"),
        ("1 2 2 4 100.5 200.5", "by its place on the ground, its pixels have no size"),
    ],
)
def test_what_is_wrong_with_a_world_file(tmp_path: Path, content: str | bytes, problem: str) -> None:
    Image.new("RGB", (8, 6)).save(tmp_path / "a.jpg")
    (tmp_path / "a.jgw").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert place_of(tmp_path / "a.jpg") == Place(None, None, f"{problem}; the mask has no georeference")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("<GeoTransform>1, 2, 3</GeoTransform>", "a.tif.aux.xml holds 3 numbers, and its GeoTransform has 6"),
        ("<GeoTransform>1, 1, 0, 2, 0, x</GeoTransform>", "a.tif.aux.xml holds 'x', which is not a number"),
        ("<GeoTransform>nan,1,0,2,0,-1</GeoTransform>", "a.tif.aux.xml holds 'nan', which is not a number"),
        ("<GeoTransform>0,0,0,0,0,0</GeoTransform>", "by its place on the ground, its pixels have no size"),
        ("<SRS>", "a.tif.aux.xml is not readable as XML"),
        ("<!DOCTYPE PAMDataset><PAMDataset></PAMDataset>", "a.tif.aux.xml is not readable as XML"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_what_is_wrong_with_what_lies_beside(tmp_path: Path, content: str, problem: str, encoding: str) -> None:
    path = geotiff(tmp_path / "a.tif", {SCALE: (0.5, 0.5, 0.0), TIE: (0.0, 0.0, 0.0, 5e5, 4e6, 0.0)}, (1024, 0, 1, 1))
    beside = tmp_path / "a.tif.aux.xml"
    beside.write_text(content if "DOCTYPE" in content else f"<PAMDataset>{content}</PAMDataset>", encoding=encoding)
    assert place_of(path) == Place(None, None, f"{problem}; the mask has no georeference")


def test_what_lies_beside_a_geotiff_replaces_what_stands_in_it(tmp_path: Path) -> None:
    """As GDAL 3.10 answers, transform and coordinate system each."""
    path = geotiff(tmp_path / "a.tif", {SCALE: (0.5, 0.5, 0.0), TIE: (0.0, 0.0, 0.0, 5e5, 4e6, 0.0)}, UTM)
    inside, beside = (0.5, 0, 0, -0.5, 500000.25, 3999999.75), (1, 0, 0, -1, 100.5, 199.5)
    system, transform = "<SRS>EPSG:25832</SRS>", "<GeoTransform>100, 1, 0, 200, 0, -1</GeoTransform>"
    for content, place in (
        (system + transform, Place(beside, "EPSG:25832")),
        (system, Place(inside, "EPSG:25832")),
        (transform, Place(beside, "EPSG:32633")),
        ("<GCPList><GCP/></GCPList>", Place(inside, "EPSG:32633")),
    ):
        (tmp_path / "a.tif.aux.xml").write_text(f"<PAMDataset>{content}</PAMDataset>")
        assert place_of(path) == place


def test_what_a_world_file_cannot_hold_has_no_transform(tmp_path: Path) -> None:
    """Ground control points: several tie points without a scale."""
    path = geotiff(tmp_path / "a.tif", {TIE: tuple(map(float, range(24)))}, UTM)
    place = place_of(path)
    assert place is not None
    assert place[:2] == (None, "EPSG:32633")
    assert place.lost is not None
    assert "in a form that a world file cannot hold; the mask has no georeference" in place.lost
    assert write_place(place, tmp_path / "mask.png") == []


def test_files_beside_the_mask(tmp_path: Path) -> None:
    mask = tmp_path / "a.jpg.png"
    written = write_place(Place((0.5, 0.0, 0.0, -0.5, 500000.25, 4099999.75), "EPSG:32633"), mask)
    assert [path.name for path in written] == ["a.jpg.pgw", "a.jpg.png.aux.xml"]
    assert written[0].read_text().split() == ["0.5", "0.0", "0.0", "-0.5", "500000.25", "4099999.75"]
    assert "<SRS>EPSG:32633</SRS>" in written[1].read_text()


def test_what_gdal_writes_beside_pictures(tmp_path: Path) -> None:
    """Its transform is one of pixel corners; worked by hand for pixels of half a meter."""
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    beside = tmp_path / "a.png.aux.xml"
    system = 'PROJCS["WGS 84 / UTM zone 33N",AUTHORITY["EPSG","32633"]]'
    transform = "<GeoTransform>  5.0e+05,  5.0e-01,  0.0,  4.1e+06,  0.0, -5.0e-01</GeoTransform>"
    beside.write_text(f"<PAMDataset><SRS>{system}</SRS>{transform}</PAMDataset>")
    place = place_of(tmp_path / "a.png")
    assert place == Place((0.5, 0.0, 0.0, -0.5, 500000.25, 4099999.75), system)
    write_place(place, tmp_path / "mask.png")
    Image.new("RGB", (8, 6)).save(tmp_path / "mask.png")
    assert place_of(tmp_path / "mask.png") == place
    beside.write_text("<PAMDataset><GCPList><GCP/></GCPList></PAMDataset>")
    place = place_of(tmp_path / "a.png")
    assert place is not None
    assert place.world is None
    assert place.lost is not None
    assert "in a form that a world file cannot hold" in place.lost


def test_a_prj_in_well_known_text_is_kept(tmp_path: Path) -> None:
    Image.new("RGB", (8, 6)).save(tmp_path / "a.jpg")
    (tmp_path / "a.jgw").write_text("1 0 0 -1 100.5 200.5")
    (tmp_path / "a.prj").write_text('PROJCS["Farm & field",GEOGCS["GCS"]]\n')
    assert place_of(tmp_path / "a.jpg") == Place(
        (1, 0, 0, -1, 100.5, 200.5), 'PROJCS["Farm & field",GEOGCS["GCS"]]', None
    )


def test_the_geotiff_in_a_jpeg_2000_file(tmp_path: Path) -> None:
    tags = {SCALE: (0.5, 0.5, 0.0), TIE: (0.0, 0.0, 0.0, 500000.0, 4100000.0, 0.0)}
    box = bytes.fromhex("b14bf8bd083d4b43a5ae8cd7d5a6ce03") + geotiff(tmp_path / "a.tif", tags, UTM).read_bytes()
    path = tmp_path / "a.jp2"
    Image.new("RGB", (8, 6)).save(path)
    content = path.read_bytes()
    assert place_of(path) is None
    pixels = content.index(b"jp2c") - 4
    uuid = (8 + len(box)).to_bytes(4, "big") + b"uuid" + box
    path.write_bytes(content[:pixels] + uuid + content[pixels:])
    assert Image.open(path).convert("RGB").size == (8, 6)
    assert place_of(path) == Place((0.5, 0.0, 0.0, -0.5, 500000.25, 4099999.75), "EPSG:32633")
    for length in (1, 7, 2**31):  # damaged: the end of the search, not a search without end
        path.write_bytes(content[:pixels] + length.to_bytes(4, "big") + b"free" + content[pixels + 8 :])
        assert place_of(path) is None


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.avif", "a.tif", "large.jpg", "large.png"])
def test_the_place_of_a_photo_that_exif_turns_is_not_given_to_its_upright_mask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    photo = tmp_path / name
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (8, 6)).save(photo, exif=turned)
    photo.with_suffix(".wld").write_text("1 0 0 -1 100.5 200.5")
    if photo.stem == "large":  # Pillow opens nothing above twice this, and the strips turn it all the same
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    place = place_of(photo)
    assert place is not None
    assert place.world is None
    assert place.lost is not None
    assert "which its orientation (EXIF) turns; the mask has no georeference" in place.lost
    Image.new("RGB", (8, 6)).save(photo)
    assert place_of(photo) == Place((1, 0, 0, -1, 100.5, 200.5), None)


@pytest.mark.parametrize(("text", "value"), [("0", 0), ("255.0 ", 255), ("-9999", None), ("nan", None), ("0.5", None)])
def test_the_value_of_pixels_without_data(tmp_path: Path, text: str, value: int | None) -> None:
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    directory[42113], directory.tagtype[42113] = text, 2
    Image.new("RGB", (8, 6)).save(tmp_path / "a.tif", tiffinfo=directory)
    assert nodata_of(tmp_path / "a.tif") == value
    Image.new("RGB", (8, 6)).save(tmp_path / "b.tif")
    assert nodata_of(tmp_path / "b.tif") is None
