"""Strategies: from facts on every photo to the few that are labeled next.

Before any strategy chooses, near-duplicates are thinned out (`distinct`), so no two photos of a choice nearly repeat
each other or a labeled photo. `cluster-uncertainty`, the default, follows TypiClust (Hacohen et al., ICML 2022) in
looking for regions of the feature space without a label, and takes from each the photo of which the model is most
unsure: at a low budget uncertainty alone picks outliers and repeats itself, coverage alone ignores what the model has
learned. TypiClust, ProbCover and CoreSet themselves are scikit-activeml's.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from semseg_app.data.near_duplicates import near_duplicate_limit
from semseg_app.data.selection.distinct import distinct
from semseg_app.data.selection.extra import labels_extra
from semseg_app.errors import UserError

MOST_LABELED = 500
"""Labeled photos that the clusterings see, drawn at random from more. TypiClust's paper caps its clusters there too."""
MOST_CANDIDATES = 20_000
"""scikit-activeml keeps a float64 per candidate and chosen photo: 160 MB at 1,000 chosen photos."""
MOST_FOR_PROBCOVER = 4_000
"""ProbCover compares all pairs: 130 MB of distances and 3 times 16 MB of flags at this number."""

RESTARTS = 3
"""Of k-means, whose result depends on where it starts."""

Measure = Literal["entropy", "margin", "disagreement"]


@dataclass(frozen=True)
class Pool:
    """Facts on all photos; candidates and labeled ones are rows of the same arrays."""

    candidates: np.ndarray
    """int `[M]`."""
    labeled: np.ndarray
    """int `[L]`."""
    thumbnails: np.ndarray
    """uint8 `[N, 256]`."""
    uncertainty: np.ndarray
    """float32 `[N]`; zeros where the strategy asks for none."""
    features: np.ndarray
    """float32 `[N, D]`; `[N, 0]` where the strategy asks for none."""


class Strategy(NamedTuple):
    """How photos are chosen, and which facts that takes."""

    choose: Callable[[Pool, np.ndarray, int, int], np.ndarray]
    """(pool, distinct candidates in the order of preference, count, seed) -> at most count of them."""
    measure: Measure | None
    features: bool


def choose(pool: Pool, strategy: str, count: int, seed: int = 0) -> tuple[np.ndarray, int]:
    """Rows of `count` photos to label next, the first one first, and how many candidates were near-duplicates.

    The same for the same pool and seed. UserError where fewer photos differ from each other and from the labeled ones.
    """
    row = STRATEGIES[strategy]
    order = np.random.default_rng(seed).permutation(pool.candidates)
    if row.measure:
        order = order[np.argsort(-pool.uncertainty[order], kind="stable")]
    kept = distinct(pool.thumbnails, order, pool.labeled, near_duplicate_limit(pool.thumbnails))
    if len(kept) < count:
        raise UserError(
            f"--count {count}: of {len(order):,} photos only {len(kept):,} are no near-duplicates of each other or of "
            f"a labeled photo; ask for at most {len(kept):,}"
        )
    chosen = list(dict.fromkeys(row.choose(pool, kept, count, seed).tolist()))
    # A clustering finds fewer groups than it was asked for where features coincide: the preferred ones fill up.
    chosen += [index for index in kept.tolist() if index not in set(chosen)][: count - len(chosen)]
    return np.array(chosen, int), len(order) - len(kept)


def _first(pool: Pool, kept: np.ndarray, count: int, seed: int) -> np.ndarray:
    return kept[:count]


def _cluster_uncertainty(pool: Pool, kept: np.ndarray, count: int, seed: int) -> np.ndarray:
    """The most unsure photo of each cluster without a labeled photo, clusters of the largest summed uncertainty first.

    The sum is size times mean: a cluster of one odd photo does not come before a kind of photo that is everywhere.
    """
    with labels_extra("--strategy cluster-uncertainty"):
        from sklearn.cluster import KMeans

    labeled = _at_most(pool.labeled, MOST_LABELED, seed)
    rows = np.concatenate([labeled, kept])
    clusters = min(len(labeled) + count, len(rows))
    with _quiet_and_reproducible():
        groups = KMeans(clusters, n_init=RESTARTS, random_state=seed).fit_predict(unit_features(pool.features[rows]))
    covered = np.unique(groups[: len(labeled)])
    groups = groups[len(labeled) :]
    weight = np.bincount(groups, pool.uncertainty[kept].astype(np.float64), minlength=clusters)
    free = [group for group in np.argsort(-weight, kind="stable") if group not in covered and (groups == group).any()]
    # kept is sorted by uncertainty: the first of a group is its most unsure photo.
    return kept[[int(np.argmax(groups == group)) for group in free[:count]]]


def _typiclust(pool: Pool, kept: np.ndarray, count: int, seed: int) -> np.ndarray:
    with labels_extra("--strategy typiclust"):
        from skactiveml.pool import TypiClust

    return _by_scikit_activeml(TypiClust(random_state=seed), pool, kept, count, seed, MOST_CANDIDATES, MOST_LABELED)


def _coreset(pool: Pool, kept: np.ndarray, count: int, seed: int) -> np.ndarray:
    with labels_extra("--strategy coreset"):
        from skactiveml.pool import CoreSet

    return _by_scikit_activeml(CoreSet(random_state=seed), pool, kept, count, seed, MOST_CANDIDATES, MOST_CANDIDATES)


def _probcover(pool: Pool, kept: np.ndarray, count: int, seed: int) -> np.ndarray:
    with labels_extra("--strategy probcover"):
        from skactiveml.pool import ProbCover

    # The radius is the largest at which 95 % of the balls lie within one cluster; unit vectors are at most 2 apart.
    clusters = max(min(len(pool.labeled), MOST_LABELED) + count, 2)
    query = ProbCover(n_classes=clusters, deltas=np.arange(0.05, 2, 0.05), random_state=seed)
    return _by_scikit_activeml(query, pool, kept, count, seed, MOST_FOR_PROBCOVER, MOST_LABELED)


def _by_scikit_activeml(
    query: Any, pool: Pool, kept: np.ndarray, count: int, seed: int, most: int, most_labeled: int
) -> np.ndarray:
    labeled = _at_most(pool.labeled, most_labeled, seed)
    candidates = _at_most(kept, max(most, count), seed)
    rows = np.concatenate([labeled, candidates])
    known = np.concatenate([np.zeros(len(labeled)), np.full(len(candidates), np.nan)])
    with _quiet_and_reproducible():
        chosen = query.query(unit_features(pool.features[rows]), known, batch_size=count)
    result: np.ndarray = rows[np.asarray(chosen, int)]
    return result


def _at_most(rows: np.ndarray, most: int, seed: int) -> np.ndarray:
    """At most so many of the rows, drawn at random (density is kept), in their order."""
    if len(rows) <= most:
        return rows
    drawn: np.ndarray = rows[np.sort(np.random.default_rng(seed).permutation(len(rows))[:most])]
    return drawn


def unit_features(features: np.ndarray) -> np.ndarray:
    """float32 `[N, D]` -> the same around their mean, each of length 1, as TypiClust and ProbCover expect them.

    Pooled maps behind a ReLU all point the same way; without the mean the directions tell the photos apart.
    """
    centered = features - features.mean(axis=0)
    units: np.ndarray = centered / np.maximum(np.linalg.norm(centered, axis=1, keepdims=True), np.float32(1e-12))
    return units


@contextmanager
def _quiet_and_reproducible() -> Iterator[None]:
    """scikit-learn adds up in the order in which its threads finish: one thread gives the same list every time."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1), warnings.catch_warnings():
        # ProbCover then takes the smallest radius, KMeans fewer clusters; `choose` fills up what is missing.
        warnings.filterwarnings("ignore", message="The maximum purity was|Number of distinct clusters")
        yield


STRATEGIES: dict[str, Strategy] = {
    "cluster-uncertainty": Strategy(_cluster_uncertainty, "entropy", True),
    "random": Strategy(_first, None, False),
    "entropy": Strategy(_first, "entropy", False),
    "margin": Strategy(_first, "margin", False),
    "disagreement": Strategy(_first, "disagreement", False),
    "typiclust": Strategy(_typiclust, None, True),
    "probcover": Strategy(_probcover, None, True),
    "coreset": Strategy(_coreset, None, True),
}
"""Name for --strategy -> the strategy."""
DEFAULT = "cluster-uncertainty"
