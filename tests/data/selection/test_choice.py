"""Which photos a strategy chooses: against naive loops and blobs whose right answer can be seen."""

import sys

import numpy as np
import pytest

from semseg_app.data.near_duplicates import NEAR_DUPLICATE, SAVED_TWICE, near_duplicate_limit
from semseg_app.data.selection.distinct import distinct
from semseg_app.data.selection.strategies import STRATEGIES, Pool, choose, unit_features
from semseg_app.data.selection.uncertainty import disagreement, entropy, margin, photo_uncertainty
from semseg_app.errors import UserError

CENTERS = np.eye(4, 8, dtype=np.float32) * 10


@pytest.fixture
def blobs() -> Pool:
    """Four groups of ten photos far apart, all thumbnails different; a labeled photo lies in the first group."""
    random = np.random.default_rng(0)
    features = np.concatenate([center + random.normal(0, 0.3, (10, 8)) for center in CENTERS])
    features = np.concatenate([features, CENTERS[:1] + random.normal(0, 0.3, (1, 8))]).astype(np.float32)
    rows = np.arange(len(features))
    thumbnails = random.integers(0, 256, (len(rows), 256), np.uint8)
    return Pool(rows[:40], rows[40:], thumbnails, random.random(len(rows), np.float32), features)


def test_thinning_is_that_of_a_naive_loop() -> None:
    random = np.random.default_rng(1)
    scenes = random.integers(20, 236, (40, 256))
    # Frames of 40 scenes, some of which differ by about as much as the limit.
    noise = random.uniform(0, 16, (400, 1)) * random.uniform(-1, 1, (400, 256))
    thumbnails = np.clip(np.repeat(scenes, 10, axis=0) + noise, 0, 255).astype(np.uint8)
    order, fixed = np.split(random.permutation(400), [380])
    taken = fixed.tolist()
    for index in order.tolist():
        differences = np.abs(thumbnails[taken].astype(int) - thumbnails[index]).mean(axis=1)
        if (differences >= NEAR_DUPLICATE).all():
            taken.append(index)
    kept = distinct(thumbnails, order, fixed, NEAR_DUPLICATE).tolist()
    assert kept == taken[20:]
    assert 50 < len(kept) < 350


def test_the_limit_follows_what_the_photos_have_in_common() -> None:
    random = np.random.default_rng(2)
    streets = random.integers(0, 256, (50, 256)).astype(np.uint8)
    assert near_duplicate_limit(streets) == NEAR_DUPLICATE
    fixed_camera = (100 + random.integers(0, 13, (50, 256))).astype(np.uint8)
    # Two independent numbers of 0 to 12 differ by (13² - 1) / (3 * 13) on average.
    assert near_duplicate_limit(fixed_camera) == pytest.approx(0.25 * 168 / 39, rel=0.05)
    assert near_duplicate_limit(np.repeat(streets[:1], 9, axis=0)) == SAVED_TWICE


def test_uncertainty_of_a_pixel() -> None:
    certain, even, two = [1, 0, 0, 0], [0.25] * 4, [0.5, 0.5, 0, 0]
    probabilities = np.array([certain, even, two], np.float32).T.reshape(4, 1, 3)
    assert entropy(probabilities) == pytest.approx(np.array([[0, 1, 0.5]]), abs=1e-6)
    assert margin(probabilities) == pytest.approx(np.array([[0, 1, 1]]), abs=1e-6)
    mirrored = np.array([certain, certain, certain], np.float32).T.reshape(4, 1, 3)
    assert disagreement(probabilities, mirrored) == pytest.approx(np.array([[0, 0.75, 0.5]]), abs=1e-6)
    one_class = np.ones((1, 2, 2), np.float32)
    assert not entropy(one_class).any()
    assert not margin(one_class).any()


def test_an_unknown_object_counts_more_than_many_outlines() -> None:
    outlines = np.zeros((96, 128), np.float32)
    outlines[:, ::8] = 0.9
    unknown = np.zeros((96, 128), np.float32)
    unknown[40:64, 60:84] = 0.9
    assert outlines.mean() > 2 * unknown.mean()
    assert photo_uncertainty(unknown) > 2 * photo_uncertainty(outlines)
    assert photo_uncertainty(np.full((3, 500), 0.4, np.float32)) == pytest.approx(0.4)


def test_the_most_unsure_photo_of_each_group_without_a_label(blobs: Pool) -> None:
    chosen, _ = choose(blobs, "cluster-uncertainty", 3)
    best = [10 * group + int(blobs.uncertainty[10 * group : 10 * group + 10].argmax()) for group in (1, 2, 3)]
    assert sorted(chosen.tolist()) == best
    weight = [blobs.uncertainty[10 * group : 10 * group + 10].sum() for group in (1, 2, 3)]
    assert chosen.tolist() == [best[index] for index in np.argsort(weight)[::-1]]


def test_most_unsure_first(blobs: Pool) -> None:
    for strategy in ("entropy", "margin", "disagreement"):
        assert choose(blobs, strategy, 5)[0].tolist() == np.argsort(-blobs.uncertainty[:40])[:5].tolist()


@pytest.mark.parametrize("strategy", ["typiclust", "probcover", "coreset"])
def test_coverage_reaches_each_group_without_a_label(blobs: Pool, strategy: str) -> None:
    chosen, _ = choose(blobs, strategy, 3)
    assert {int(index) // 10 for index in chosen} == {1, 2, 3}


def test_coreset_is_farthest_first(blobs: Pool) -> None:
    features = unit_features(blobs.features)
    taken = blobs.labeled.tolist()
    for _ in range(6):
        distances = np.linalg.norm(features[:40, None] - features[taken], axis=2).min(axis=1)
        taken.append(int(distances.argmax()))
    assert choose(blobs, "coreset", 6)[0].tolist() == taken[1:]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_no_two_near_duplicates_and_the_same_again(blobs: Pool, strategy: str) -> None:
    thumbnails = blobs.thumbnails.copy()
    thumbnails[1:40:2] = thumbnails[0:40:2]  # every photo has a twin
    thumbnails[40] = thumbnails[20]  # and one pair a labeled one
    pool = Pool(blobs.candidates, blobs.labeled, thumbnails, blobs.uncertainty, blobs.features)
    chosen, near = choose(pool, strategy, 12, seed=3)
    assert len({index // 2 for index in chosen.tolist()}) == 12
    assert not {20, 21} & set(chosen.tolist())
    assert near == 21
    assert choose(pool, strategy, 12, seed=3)[0].tolist() == chosen.tolist()
    with pytest.raises(UserError, match="ask for at most 19"):
        choose(pool, strategy, 20)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_without_labels_and_without_differences(blobs: Pool, strategy: str) -> None:
    """The first round has no labeled photo, and features may coincide: the choice is full all the same."""
    same = Pool(blobs.candidates, blobs.labeled[:0], blobs.thumbnails, blobs.uncertainty, np.ones_like(blobs.features))
    assert len(set(choose(same, strategy, 9)[0].tolist())) == 9


def test_a_missing_package_is_named_with_its_extra(blobs: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skactiveml.pool", None)
    with pytest.raises(UserError, match=r"--strategy coreset needs the extra `labels` .*'semseg-app\[labels\]'"):
        choose(blobs, "coreset", 1)
    assert len(choose(blobs, "entropy", 1)[0]) == 1
