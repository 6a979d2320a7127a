"""Masks beside what a model says: planted errors rank lowest, and the words name what was planted."""

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from semseg_app.data.selection.mask_comparison import (
    TEMPERATURE,
    best_shift,
    compare,
    label_quality,
    outline_distance,
)
from semseg_app.data.selection.mask_verdicts import Compared, verdicts
from semseg_app.labels import IGNORE

HEIGHT, WIDTH = 72, 96
CLASSES = ["road", "wall", "car", "tree"]


def scene(seed: int) -> np.ndarray:
    """uint8 `[HEIGHT, WIDTH]`: wall above road, two cars and two trees somewhere, the first rows ignored."""
    random = np.random.default_rng(seed)
    label = np.zeros((HEIGHT, WIDTH), np.uint8)
    label[: random.integers(25, 45)] = 1
    for class_index in (2, 3, 2, 3):
        top, left = random.integers(4, HEIGHT - 22), random.integers(0, WIDTH - 24)
        label[top : top + random.integers(10, 20), left : left + random.integers(12, 22)] = class_index
    label[:2] = IGNORE
    return label


def seen(label: np.ndarray, seed: int) -> np.ndarray:
    """float32 `[C, H, W]`: what a fair model says of a scene; smooth noise, so that it errs in patches."""
    random = np.random.default_rng(seed)
    truth = np.where(label == IGNORE, 1, label)
    logits = 4.0 * (np.arange(len(CLASSES))[:, None, None] == truth)
    for index in range(len(CLASSES)):
        coarse = Image.fromarray(random.normal(0, 1.6, (9, 12)).astype(np.float32))
        logits[index] += np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
    powers = np.exp(logits)
    return (powers / powers.sum(axis=0)).astype(np.float32)


def moved(label: np.ndarray, down: int, right: int) -> np.ndarray:
    result = np.full_like(label, IGNORE)
    height, width = label.shape
    result[max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)] = label[
        max(-down, 0) : height - max(down, 0), max(-right, 0) : width - max(right, 0)
    ]
    return result


def swapped(label: np.ndarray, one: int, other: int) -> np.ndarray:
    result = label.copy()
    result[label == one], result[label == other] = other, one
    return result


def without_car(label: np.ndarray) -> np.ndarray:
    return np.where(label == 2, 0, label).astype(np.uint8)


PLANTED: dict[int, tuple[Callable[[np.ndarray], np.ndarray], str, str]] = {
    3: (lambda label: moved(label, 0, 9), "mask-shifted", "moved 9 px to the left it would agree"),
    11: (lambda label: moved(label, -7, 5), "mask-shifted", "moved 5 px to the left and 7 px down it would agree"),
    20: (lambda label: moved(label, 8, -8), "mask-shifted", "moved 8 px to the right and 8 px up it would agree"),
    31: (lambda label: swapped(label, 0, 1), "mask-classes-swapped", "road and wall look swapped"),
    44: (lambda label: swapped(label, 2, 3), "mask-classes-swapped", "car and tree look swapped"),
    52: (without_car, "mask-object-missing", "the model sees car in x "),
}


@pytest.fixture(scope="module")
def compared() -> tuple[list[Compared], np.ndarray]:
    """60 masks, six of them planted, and the sum of their matrices."""
    masks, total = [], np.zeros((4, 4), np.int64)
    for index in range(60):
        truth = scene(index)
        label = PLANTED[index][0](truth) if index in PLANTED else truth
        comparison, matrix = compare(label, seen(truth, 100 + index))
        total += matrix
        masks.append(Compared(f"{index}.png", comparison, HEIGHT, WIDTH, 1.0))
    return masks, total


def test_planted_masks_rank_lowest(compared: tuple[list[Compared], np.ndarray]) -> None:
    scores = np.array([mask.comparison.score for mask in compared[0]])
    assert set(PLANTED) <= set(np.argsort(scores)[:10].tolist())


def test_words_name_what_was_planted(compared: tuple[list[Compared], np.ndarray]) -> None:
    masks, total = compared
    notes = verdicts(masks, total, CLASSES)
    for index, (_, kind, words) in PLANTED.items():
        assert [(note.kind, note.file) for note in notes[index]][:1] == [(kind, f"{index}.png")]
        assert words in notes[index][0].message
    assert sum(bool(found) for index, found in enumerate(notes) if index not in PLANTED) <= 3


def test_what_the_model_never_knows_says_nothing_about_a_mask() -> None:
    """A model that takes every tree for a car: no mask is blamed for its trees."""
    masks, total = [], np.zeros((4, 4), np.int64)
    for index in range(10):
        comparison, matrix = compare(scene(index), seen(np.where(scene(index) == 3, 2, scene(index)), index))
        total += matrix
        masks.append(Compared(f"{index}.png", comparison, HEIGHT, WIDTH, 1.0))
    assert {note.kind for found in verdicts(masks, total, CLASSES) for note in found} <= {"mask-sloppy-outline"}


def test_a_sloppy_outline() -> None:
    """A car drawn 5 px too large on each side, among 11 that are right but for a pixel."""
    truth = np.zeros((HEIGHT, WIDTH), np.uint8)
    truth[:30] = 1
    truth[40:60, 30:70] = 2
    masks, total = [], np.zeros((4, 4), np.int64)
    for index in range(12):
        label = np.roll(truth, 1, axis=1)
        if index == 5:
            label[35:65, 25:75] = 2
        comparison, matrix = compare(label, seen(truth, index))
        total += matrix
        masks.append(Compared(f"{index}.png", comparison, HEIGHT, WIDTH, 2.0))
    found = [note for notes in verdicts(masks, total, CLASSES) for note in notes]
    assert [(note.kind, note.file) for note in found] == [("mask-sloppy-outline", "5.png")]
    assert "px from the model's on average" in found[0].message


def test_the_score_is_cleanlabs_over_labeled_pixels() -> None:
    label, probabilities = scene(0), seen(scene(1), 0)
    chances = np.array(
        [probabilities[label[y, x], y, x] for y in range(HEIGHT) for x in range(WIDTH) if label[y, x] != IGNORE],
        np.float64,
    )
    weights = np.exp((1 - chances) / TEMPERATURE)
    assert label_quality(label, probabilities) == pytest.approx((chances * weights).sum() / weights.sum())


def test_a_shift_is_that_of_a_search_over_all() -> None:
    for seed in range(3):
        predicted = np.where(scene(seed) == IGNORE, 1, scene(seed))
        label = moved(scene(seed), 5, -3)
        best = max(
            ((down, right) for down in range(-9, 10) for right in range(-9, 10)),
            key=lambda shift: _agreement(moved(label, *shift), predicted),
        )
        shift = best_shift(label, predicted)
        assert shift is not None
        assert (shift.down, shift.right) == best == (-5, 3)
        assert shift.after == 1 > shift.before
    assert best_shift(predicted, predicted) is None


def _agreement(label: np.ndarray, predicted: np.ndarray) -> float:
    return float((label == predicted)[label != IGNORE].mean())


def test_a_large_mask_is_searched_on_a_reduced_one_and_refined() -> None:
    predicted = np.kron(scene(4), np.ones((8, 8), np.uint8))
    predicted[predicted == IGNORE] = 1
    shift = best_shift(moved(predicted, 37, -53), predicted)
    assert shift is not None
    assert (shift.down, shift.right, shift.after) == (-37, 53, 1)


def test_outline_distance() -> None:
    label, predicted = np.zeros((2, 40, 60), np.uint8)
    assert np.isnan(outline_distance(label, predicted))
    label[:, 20:] = 1
    assert outline_distance(label, predicted) == 0.05
    predicted[:, 21:] = 1
    assert outline_distance(label, predicted) == 1 / 40
    label[:, 19] = IGNORE  # the border of an ignored region is no outline
    assert np.isnan(outline_distance(label, predicted))


def test_a_mask_without_a_labeled_pixel() -> None:
    comparison, matrix = compare(np.full((HEIGHT, WIDTH), IGNORE, np.uint8), seen(scene(0), 0))
    assert np.isnan(comparison.score)
    assert not matrix.any()
