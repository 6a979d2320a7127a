from pathlib import Path

import pytest

from semseg_app.errors import UserError
from semseg_app.inference.inputs import find_images, result_names


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in (
        "a.jpg",
        "notes.txt",
        "b/a.PNG",
        "b/c/d.webp",
        "b/.hidden.jpg",
        "out/masks/a.png",
        "out/overlays/a.jpg",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def found(photos: Path, *inputs: str) -> list[str]:
    images = find_images([str(photos / one) for one in inputs], leave_out=photos / "out")
    return [image.relative_to(photos).as_posix() for image in images]


def test_files_folders_and_globs(photos: Path) -> None:
    assert found(photos, "") == ["a.jpg", "b/a.PNG", "b/c/d.webp"]
    assert found(photos, "b", "a.jpg", "b/a.PNG") == ["b/a.PNG", "b/c/d.webp", "a.jpg"]
    assert found(photos, "*.jpg") == ["a.jpg"]
    assert found(photos, "**/*") == ["a.jpg", "b/a.PNG", "b/c/d.webp"]
    assert found(photos, "b/**") == ["b/a.PNG", "b/c/d.webp"]
    assert found(photos, "notes.txt") == ["notes.txt"]  # named outright
    assert found(photos, "out/masks/a.png") == ["out/masks/a.png"]
    (photos / "x[1].jpg").touch()
    assert found(photos, "x[1].jpg") == ["x[1].jpg"]


def test_links_into_a_store_keep_their_names(photos: Path) -> None:
    """As DVC, git-annex and the cache of the Hub make them; equal photos are one file there."""
    (photos / "store").mkdir()
    (photos / "store" / "0123abcd").touch()
    for name in ("one.jpg", "two.jpg"):
        (photos / "b" / "c" / name).symlink_to(photos / "store" / "0123abcd")
    images = find_images([str(photos / "b" / "c"), str(photos / "b" / ".." / "b" / "c" / "one.jpg")], photos / "out")
    assert result_names(images) == ["d", "one", "two"]


def test_a_relative_glob(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos)
    assert find_images(["b/**/*.webp"], Path("out")) == [Path("b/c/d.webp")]


def test_only_results_are_left_out_of_the_folder_that_they_go_into(photos: Path) -> None:
    for name in ("out/b.jpg", "out/trip/masks/c.png", "masks/d.png"):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        (photos / name).touch()
    assert found(photos, "out") == ["out/b.jpg", "out/trip/masks/c.png"]
    assert found(photos, "out/**/*") == ["out/b.jpg", "out/trip/masks/c.png"]
    here = find_images([str(photos)], leave_out=photos)
    assert photos / "a.jpg" in here
    assert photos / "masks" / "d.png" not in here


def test_formats_that_may_not_be_readable_are_found_too(photos: Path) -> None:
    for name in ("b/e.HEIC", "b/f.gif"):
        (photos / name).touch()
    assert found(photos, "b") == found(photos, "b/**/*") == ["b/a.PNG", "b/c/d.webp", "b/e.HEIC", "b/f.gif"]


def test_the_raw_file_beside_a_photo_is_the_same_photo(photos: Path) -> None:
    for name in ("b/a.DNG", "b/a.heic", "b/c/a.NEF"):
        (photos / name).touch()
    assert found(photos, "b") == found(photos, "b/**/*") == ["b/a.PNG", "b/c/a.NEF", "b/c/d.webp"]
    assert found(photos, "b/a.DNG") == ["b/a.DNG"]


def test_an_input_without_images_is_an_error(photos: Path) -> None:
    (photos / "none").mkdir()
    for name, what in (
        ("missing.jpg", "no such image"),
        ("*.bmp", "no such image"),
        ("none", r"no images in it or below it \(\.jpg"),
        ("out", "no images in it but the results of an earlier run; name a folder of photos"),
    ):
        with pytest.raises(UserError, match=what):
            found(photos, name)


def test_names_never_meet() -> None:
    def names(*paths: str) -> list[str]:
        return result_names([Path("/photos") / path for path in paths])

    assert names("x/a.jpg", "y/b.jpg") == ["a", "b"]
    assert names("x/a.jpg", "y/a.jpg", "y/b.jpg") == ["x/a", "y/a", "b"]
    assert names("a.jpg", "a.png", "b/c.jpg") == ["a.jpg", "a.png", "c"]
    assert names("a.jpg", "a.png", "x/a.jpg.png") == ["a.jpg", "a.png", "x/a.jpg"]
    assert names() == []
    # Windows and macOS write these into one file; the second pair differs in how its umlaut is encoded.
    assert names("x/A.jpg", "y/a.jpg") == ["x/A", "y/a"]
    assert names("x/\u00fc.jpg", "y/u\u0308.jpg") == ["x/\u00fc", "y/u\u0308"]
    assert names("A.jpg", "a.jpg", "b.jpg") == ["A.jpg", "a.jpg", "b"]
