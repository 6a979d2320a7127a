import numpy as np
import pytest


def scenes() -> dict[str, np.ndarray]:
    """Class maps that are awkward in different ways."""
    random = np.random.default_rng(0)
    rings = np.zeros((40, 50), np.uint8)
    for inset in range(0, 20, 2):
        rings[inset : 40 - inset, inset : 50 - inset] = inset // 2 % 3
    blocks = np.kron(random.integers(0, 5, (9, 12)), np.ones((7, 11))).astype(np.uint8)
    unknown = blocks.copy()
    unknown[random.random(blocks.shape) < 0.02] = 255
    checkers = (np.indices((9, 14)).sum(axis=0) % 2).astype(np.uint8)
    return {
        "noise": random.integers(0, 3, (37, 53), np.uint8),
        "fine noise": (random.random((60, 41)) < 0.5).astype(np.uint8),
        "sparse": (random.random((64, 64)) < 0.1).astype(np.uint8) * 7,
        "rings": rings,
        "blocks": unknown,
        "checkers": checkers,
        "one pixel": np.array([[4]], np.uint8),
        "one column": np.array([[1], [1], [0], [1]], np.uint8),
        "full": np.full((5, 300), 2, np.uint8),
    }


@pytest.fixture(params=list(scenes()))
def scene(request: pytest.FixtureRequest) -> np.ndarray:
    """uint8 [H, W]."""
    return scenes()[request.param]
