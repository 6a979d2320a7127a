"""Held-out photos of a fixed camera, of one slow video, and of a few scenes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from semseg_app.cli.main import app
from semseg_app.data.dataset import SegmentationData, open_folder
from semseg_app.data.held_out import draw_val
from semseg_app.data.near_duplicates import looks, near_duplicates
from semseg_app.errors import UserError


def dataset(root: Path, photos: list[np.ndarray]) -> SegmentationData:
    """Gray photos, all with the same mask of two classes."""
    for part in ("images", "labels"):
        (root / part / "train").mkdir(parents=True)
    for index, pixels in enumerate(photos):
        Image.fromarray(pixels.astype(np.uint8)).save(root / "images" / "train" / f"{index:02d}.png")
        mask = np.resize(np.array([0, 1], np.uint8), pixels.shape)
        Image.fromarray(mask).save(root / "labels" / "train" / f"{index:02d}.png")
    (root / "dataset.yaml").write_text("name: photos\nclasses: [belt, part]\n")
    return open_folder(root)


def belt(parts: int) -> list[np.ndarray]:
    """A still belt, and in each photo a part elsewhere."""
    photos = []
    for index in range(parts):
        pixels = np.full((16, 16), 100)
        pixels[index // 4 * 4 : index // 4 * 4 + 4, index % 4 * 4 : index % 4 * 4 + 4] += 30
        photos.append(pixels)
    return photos


def slow_video(frames: int, start: int = 0) -> list[np.ndarray]:
    """Each frame is a gray level lighter than the one before."""
    return [np.full((16, 16), start + frame) for frame in range(frames)]


def test_a_fixed_camera_is_judged_by_what_its_photos_have_in_common(tmp_path: Path) -> None:
    data = dataset(tmp_path, belt(12))
    assert len(set(near_duplicates(looks([sample.image for sample in data.samples("train")]).thumbnails))) == 1
    held = draw_val(data, "4")
    assert (len(held.val), len(held.training)) == (4, 8)
    # Two parts differ by 30 gray levels in 32 of 256 pixels, and a quarter of that is the limit.
    assert "only those within 0.9 of 255 gray levels stay together" in (held.warning or "")
    assert draw_val(open_folder(tmp_path), "4") == held


def test_a_part_photographed_twice_stays_on_one_side(tmp_path: Path) -> None:
    photos = belt(12)
    data = dataset(tmp_path, [*photos, *(pixels + 0.0 for pixels in photos)])  # 12 and 00 are alike, and so on
    held = draw_val(data, "4", seed=3)
    numbers = {int(sample.stem) for sample in held.val}
    assert len(numbers) == 4
    assert {(number + 12) % 24 for number in numbers} == numbers


def test_one_slow_video_is_parted_aloud(tmp_path: Path) -> None:
    data = dataset(tmp_path, slow_video(24))
    run = CliRunner().invoke(app, ["data", "split", str(tmp_path), "--val", "5"])
    assert run.exit_code == 0
    (warning,) = [line for line in run.stderr.splitlines() if line.startswith("warning: ")]
    assert "photos of val resemble training photos, and scores on them will be too high" in warning
    val, training = ({sample.stem for sample in open_folder(tmp_path).samples(name)} for name in ("val", "all-labeled"))
    assert (len(val), len(training), val & training) == (5, 19, set())
    assert [sample.stem for sample in draw_val(data, "5").val] == sorted(val)


def test_scenes_that_are_larger_than_the_set(tmp_path: Path) -> None:
    data = dataset(tmp_path, [pixels for scene in range(4) for pixels in slow_video(10, 60 * scene)])
    held = draw_val(data, "8")
    assert len(held.val) == 8
    assert (held.warning or "").endswith("; a set of 10 would keep them apart")
    whole = draw_val(data, "8", about=True)
    assert (len({int(sample.stem) // 10 for sample in whole.val}), len(whole.val), whole.warning) == (1, 10, None)


def test_copies_are_never_parted(tmp_path: Path) -> None:
    """Training refuses photos of equal bytes on both sides."""
    data = dataset(tmp_path, [np.full((16, 16), 100)] * 6)
    with pytest.raises(UserError, match=r"copies of a photo stay together .* 2 cannot be held out of 6; label more"):
        draw_val(data, "2")
