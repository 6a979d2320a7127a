"""Files through a predictor into a folder: reading, running and writing go on at the same time, and in order."""

import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.color_engine import ColorEngine

from semseg_app.errors import UserError
from semseg_app.inference import files
from semseg_app.inference.predictor import Predictor
from semseg_app.inference.results import ResultFolder

PATIENCE_S = 20


@pytest.fixture
def photos(tmp_path: Path) -> list[tuple[Path, str]]:
    """Three photos in red, green and blue, and their names."""
    named = []
    for channel, name in enumerate("abc"):
        pixels = np.zeros((8, 9 + channel, 3), np.uint8)
        pixels[..., channel] = 255
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        named.append((tmp_path / f"{name}.png", name))
    return named


def test_the_next_photo_is_read_and_the_last_result_written_while_one_runs(
    photos: list[tuple[Path, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second_read, second_runs = threading.Event(), threading.Event()

    def read(path: Path) -> np.ndarray:
        if path == photos[1][0]:
            second_read.set()
        return np.asarray(Image.open(path))

    class Patient(ColorEngine):
        def infer(self, images):
            assert second_read.wait(PATIENCE_S), "the second photo was not read while the first one ran"
            if images[0, 0, 0, 1]:
                second_runs.set()
            return super().infer(images)

    class Results(ResultFolder):
        def add(self, *arguments) -> None:
            assert second_runs.wait(PATIENCE_S), "the first result was to be written before the second photo ran"
            super().add(*arguments)

    monkeypatch.setattr(files, "read_image", read)
    results = Results(tmp_path / "out", ColorEngine.labels, overlays=False)
    files.segment_files(photos, Predictor(Patient()), results, failed=lambda path, error: pytest.fail(str(error)))
    assert [row["file"] for row in results.rows] == [str(path) for path, _ in photos]
    for channel, row in enumerate(results.rows):
        np.testing.assert_array_equal(np.asarray(Image.open(row["mask"])), np.full((8, 9 + channel), channel))


def test_an_error_of_writing_ends_the_work(photos: list[tuple[Path, str]], tmp_path: Path) -> None:
    class Full(ResultFolder):
        def add(self, *arguments) -> None:
            raise UserError("the disk is full")

    taken: list[Path] = []
    with pytest.raises(UserError, match="the disk is full"):
        files.segment_files(
            photos, Predictor(ColorEngine()), Full(tmp_path, ColorEngine.labels, overlays=False), print, taken.append
        )
    assert len(taken) <= 2
