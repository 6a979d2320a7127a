"""PC2Seg's operators against hand-computed numbers and plain loops."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from semseg_app.training.losses.negative_sampling import negative_weights, sample_negatives
from semseg_app.training.methods.pc2seg import label_consistency, pixel_contrast

EVERY_STRATEGY = ["uniform", "cross-image", "debiased", "cross-image-debiased"]


def test_contrast_by_hand() -> None:
    anchors = torch.tensor([[1.0, 0], [0, 1]], dtype=torch.float64)
    positives = torch.tensor([[0.8, 0.6], [0, 1]], dtype=torch.float64)
    index = torch.tensor([[1], [0]])
    for row, expected in enumerate((0.18390074, 0.37110067)):
        term = pixel_contrast(anchors[[row]], positives[[row]], positives, index[[row]], 0.5)
        assert term.item() == pytest.approx(expected, abs=1e-8)
    # Lengths do not count: everything is normalized first.
    loss = pixel_contrast(3 * anchors, 7 * positives, 0.1 * positives, index, 0.5)
    assert loss.item() == pytest.approx(0.27750070, abs=1e-8)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_contrast_matches_a_loop(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    anchors, positives = torch.randn(2, 7, 5).to(dtype).unbind(0)
    candidates = torch.randn(11, 5).to(dtype).requires_grad_()
    anchors, positives = anchors.clone().requires_grad_(), positives.clone().requires_grad_()
    index = torch.randint(0, 11, (7, 4), dtype=torch.int32)  # repeats allowed
    index[2, 1:] = -1
    index[3] = -1
    expected = torch.zeros((), dtype=torch.float64)
    for anchor in range(7):
        query = functional.normalize(anchors[anchor].double(), dim=0)
        others = [candidates[int(one)] for one in index[anchor] if one >= 0]
        keys = [functional.normalize(key.double(), dim=0) for key in (positives[anchor], *others)]
        scores = torch.stack([torch.exp(query @ key / 0.07) for key in keys])
        expected = expected - torch.log(scores[0] / scores.sum()) / 7
    loss = pixel_contrast(anchors, positives, candidates, index, 0.07)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    inputs = [anchors, positives, candidates]
    tolerance = 1e-4 if dtype in (torch.float32, torch.float64) else 1e-2
    for ours, wanted in zip(torch.autograd.grad(loss, inputs), torch.autograd.grad(expected, inputs), strict=True):
        torch.testing.assert_close(ours, wanted, rtol=tolerance, atol=tolerance * float(wanted.abs().max()))


def test_contrast_keeps_full_precision_under_autocast() -> None:
    torch.manual_seed(0)
    anchors, positives, candidates = torch.randn(3, 9, 16).unbind(0)
    index = torch.randint(0, 9, (9, 3))
    plain = pixel_contrast(anchors, positives, candidates, index, 0.07)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert pixel_contrast(anchors, positives, candidates, index, 0.07).equal(plain)


def test_contrast_without_anchors_or_negatives_is_zero() -> None:
    empty = torch.zeros(0, 4, requires_grad=True)
    loss = pixel_contrast(empty, empty, torch.randn(3, 4), torch.zeros(0, 2, dtype=torch.int64), 0.1)
    loss.backward()
    assert loss.item() == 0
    some = torch.randn(3, 4)
    assert pixel_contrast(some, some, some, torch.zeros(3, 0, dtype=torch.int64), 0.1).item() == 0


def test_weights_of_the_four_strategies() -> None:
    classes, image = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9]]), torch.tensor([0, 0, 1])
    debiased = negative_weights("debiased", classes, image)
    assert debiased[0].tolist() == pytest.approx([0.18, 0.26, 0.82])
    across = torch.tensor([[0.0, 0, 1], [0, 0, 1], [1, 1, 0]])
    assert negative_weights("uniform", classes, image).equal(torch.ones(3, 3))
    assert negative_weights("cross-image", classes, image).equal(across)
    torch.testing.assert_close(negative_weights("cross-image-debiased", classes, image), debiased * across)
    sure = torch.eye(2)[[0, 0, 1]].to(torch.bfloat16)
    assert negative_weights("debiased", sure, image).tolist() == [[0, 0, 1], [0, 0, 1], [1, 1, 0]]


def sampled(strategy: str, valid: Tensor, count: int, images: int = 3, grid: int = 120) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    classes, image = torch.randn(images * grid, 4).mul(2).softmax(1), torch.arange(images).repeat_interleave(grid)
    weights = negative_weights(strategy, classes, image)
    return sample_negatives(weights, valid, count, torch.Generator().manual_seed(3)), image


@pytest.mark.parametrize("strategy", EVERY_STRATEGY)
def test_negatives_are_distinct_valid_and_never_the_anchor(strategy: str) -> None:
    valid = torch.rand(360, generator=torch.Generator().manual_seed(1)) < 0.9
    index, image = sampled(strategy, valid, 200)
    assert index.shape == (360, 200)
    assert all(len(row.unique()) == 200 for row in index)
    assert not index.eq(torch.arange(360).unsqueeze(1)).any()
    assert valid[index].all()
    own = image[index].eq(image.unsqueeze(1))
    assert own.any() if strategy in ("uniform", "debiased") else not own.any()
    assert index.equal(sampled(strategy, valid, 200)[0])


def test_a_row_without_enough_wanted_negatives_falls_back_to_uniform() -> None:
    valid = torch.ones(20, dtype=torch.bool)
    index, image = sampled("cross-image", valid, 15, images=2, grid=10)  # only 10 are in the other image
    assert index.min() >= 0
    assert image[index].eq(image.unsqueeze(1)).any(1).all()
    valid[5:] = False
    index, _ = sampled("uniform", valid, 15, images=2, grid=10)
    assert index.ge(0).sum(1).tolist() == [4] * 5 + [5] * 15
    assert index.max() < 5
    assert sampled("uniform", valid, 200, images=2, grid=10)[0].shape == (20, 20)


def test_drawing_follows_the_weights() -> None:
    # Two draws of three candidates in each of 2000 rows: sampling without replacement by the chain rule.
    weights = torch.zeros(2000, 2000)
    weights[:, 1:4] = torch.tensor([1.0, 2.0, 5.0])
    index = sample_negatives(weights, torch.ones(2000, dtype=torch.bool), 2, torch.Generator().manual_seed(0))[4:]
    assert index.unique().tolist() == [1, 2, 3]
    without_first = index.ne(1).all(1).float().mean().item()
    assert without_first == pytest.approx(2 / 8 * 5 / 6 + 5 / 8 * 2 / 3, abs=0.03)  # drawn 2 then 3, or 3 then 2


def test_sampling_on_the_real_size_stays_within_its_memory() -> None:
    # 4356 pixels of 81 classes: [N, N, C] would be 6 GB; this passes in the time and memory of a few [N, N].
    pixels = 4 * 33 * 33
    classes, image = torch.rand(pixels, 81).softmax(1), torch.arange(4).repeat_interleave(33 * 33)
    weights = negative_weights("cross-image-debiased", classes, image)
    index = sample_negatives(weights, torch.ones(pixels, dtype=torch.bool), 200, torch.Generator().manual_seed(0))
    assert index.shape == (pixels, 200)
    assert image[index].ne(image.unsqueeze(1)).all()


def test_label_consistency() -> None:
    torch.manual_seed(0)
    strong, weak = torch.randn(2, 2, 4, 3, 5).requires_grad_().unbind(0)
    valid = torch.rand(2, 3, 5) < 0.7
    loss = label_consistency(strong, weak, valid)
    expected = (strong.softmax(1) - weak.softmax(1)).pow(2).sum(1)[valid].mean()
    torch.testing.assert_close(loss, expected)
    gradient, weak_gradient = torch.autograd.grad(loss, [strong, weak], allow_unused=True)
    assert weak_gradient is None
    assert gradient.abs().sum(1)[~valid].eq(0).all()
    assert gradient.abs().sum(1)[valid].gt(0).all()
    nothing = label_consistency(strong, weak, torch.zeros_like(valid))
    assert nothing.item() == 0
    assert label_consistency(strong, strong, valid).item() == 0
    opposite = torch.tensor([[40.0, -40]]).view(1, 2, 1, 1).half()
    assert math.isclose(label_consistency(opposite, -opposite, torch.ones(1, 1, 1).bool()).item(), 2, rel_tol=1e-6)
