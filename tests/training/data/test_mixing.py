"""CutMix, ClassMix and what is pasted with them."""

import math

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from semseg_app.training.data.mixing import (
    MixBatch,
    adaptive_cutmix,
    beta_boxes,
    certainty,
    class_mix,
    french_boxes,
    half_boxes,
    next_partners,
    partners,
    paste,
    unimatch_boxes,
)


def seeded(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def tagged(batch: int, height: int = 12, width: int = 20, first: int = 0, logits: bool = True) -> MixBatch:
    """Every field of image i says i (or a bit of it), so that a pixel tells where it came from."""
    tag = first + torch.arange(batch).view(-1, 1, 1)
    plane = tag.expand(batch, height, width)
    return MixBatch(
        images=plane.unsqueeze(1).expand(-1, 3, -1, -1).float(),
        labels=plane.clone(),
        confidence=plane.float() / 100,
        pad=plane % 2 == 1,
        cut=plane // 2 % 2 == 1,
        teacher_logits=plane.unsqueeze(1).expand(-1, 5, -1, -1).half() if logits else None,
    )


def assert_consistent(mixed: MixBatch) -> Tensor:
    """Every field of every pixel comes from one image; returns which."""
    source = mixed.labels
    assert mixed.images.equal(source.unsqueeze(1).expand_as(mixed.images).float())
    assert mixed.confidence.equal(source.float() / 100)
    assert mixed.pad.equal(source % 2 == 1)
    assert mixed.cut.equal(source // 2 % 2 == 1)
    if mixed.teacher_logits is not None:
        assert mixed.teacher_logits.equal(source.unsqueeze(1).expand_as(mixed.teacher_logits).half())
    return source


def boxes_of(mask: Tensor) -> list[tuple[int, int, int, int]]:
    """(top, left, height, width) of each mask, which must be a filled rectangle."""
    found = []
    for one in mask:
        if not one.any():
            found.append((0, 0, 0, 0))
            continue
        (top, left), (bottom, right) = one.nonzero().amin(0).tolist(), one.nonzero().amax(0).tolist()
        assert one[top : bottom + 1, left : right + 1].all()
        assert one.sum() == (bottom + 1 - top) * (right + 1 - left)
        found.append((top, left, bottom + 1 - top, right + 1 - left))
    return found


def test_everything_of_a_pixel_takes_the_same_partner() -> None:
    batch = tagged(6)
    before = MixBatch(*(one.clone() for one in batch))
    mask = unimatch_boxes(6, 12, 20, seeded(), probability=1.0)
    mixed = paste(batch, partners(batch), mask)
    own = torch.arange(6).view(-1, 1, 1)
    assert assert_consistent(mixed).equal(torch.where(mask, 5 - own, own))
    assert all(one.equal(two) for one, two in zip(batch, before, strict=True))
    assert mixed.valid.equal(~mixed.pad & ~mixed.cut)
    following = paste(batch, next_partners(batch), mask)
    assert assert_consistent(following).equal(torch.where(mask, (own + 1) % 6, own))


def test_an_empty_box_changes_nothing() -> None:
    batch = tagged(3)
    mixed = paste(batch, partners(batch), torch.zeros(3, 12, 20, dtype=torch.bool))
    assert all(one.equal(two) for one, two in zip(batch, mixed, strict=True))


def test_teacher_logits_on_a_coarser_grid_take_the_mask_at_their_centers() -> None:
    batch = tagged(2, 8, 8)._replace(teacher_logits=torch.arange(2.0).view(2, 1, 1, 1).expand(2, 4, 2, 2))
    mask = torch.zeros(2, 8, 8, dtype=torch.bool)
    mask[0, 2:, :4] = True
    mixed = paste(batch, partners(batch), mask).teacher_logits
    assert mixed[0, 0].tolist() == [[1, 0], [1, 0]]
    assert mixed[1].eq(1).all()
    with pytest.raises(ValueError, match="only one of the two batches has teacher logits"):
        paste(batch, partners(batch)._replace(teacher_logits=None), mask)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (33, 90), (7, 5)])
def test_unimatch_boxes_keep_area_aspect_and_place(height: int, width: int) -> None:
    found = boxes_of(unimatch_boxes(300, height, width, seeded(), probability=1.0))
    assert len(found) == 300
    if height < 10:  # a box may have less than a pixel
        return
    assert all(box[2] > 0 and box[3] > 0 for box in found)
    areas = torch.tensor([box[2] * box[3] / (height * width) for box in found])
    assert areas.max() <= 0.4
    assert areas.min() >= 0.02 * 0.5  # sides are rounded down
    assert areas.max() > 0.36
    assert areas.min() < 0.04
    aspects = [box[2] / box[3] for box in found if box[2] > 8 and box[3] > 8]
    assert 0.25 < min(aspects) < 0.6
    assert 1.7 < max(aspects) < 3.9


def test_unimatch_proposals_follow_the_rejection_loop() -> None:
    """The mean box against the plain loop: draw the shape and the place until it fits."""
    random, sides = seeded(1), []
    for _ in range(3000):
        area = (0.02 + 0.38 * torch.rand((), generator=random).item()) * 50 * 80
        while True:
            ratio, top, left = torch.rand(3, generator=random).tolist()
            ratio = 0.3 + (1 / 0.3 - 0.3) * ratio
            tall, wide = int(math.sqrt(area * ratio)), int(math.sqrt(area / ratio))
            top, left = int(top * 50), int(left * 80)
            if top + tall <= 50 and left + wide <= 80:
                break
        sides.append([top, left, tall, wide])
    expected = torch.tensor(sides).float().mean(0)
    found = torch.tensor(boxes_of(unimatch_boxes(3000, 50, 80, seeded(2), probability=1.0))).float().mean(0)
    torch.testing.assert_close(found, expected, rtol=0.06, atol=0.5)


def test_unimatch_tosses_a_coin_for_each_image_and_s4former_for_the_batch() -> None:
    mixed = unimatch_boxes(400, 16, 16, seeded()).flatten(1).any(1)
    assert 0.4 < mixed.float().mean() < 0.6
    batches = torch.stack([half_boxes(4, 16, 16, seeded(seed)).flatten(1).any(1) for seed in range(200)])
    assert batches.all(1).eq(batches.any(1)).all()
    assert 0.4 < batches.any(1).float().mean() < 0.6
    assert not unimatch_boxes(50, 16, 16, seeded(), probability=0.0).any()
    assert not half_boxes(50, 16, 16, seeded(), probability=0.0).any()


@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 101), (5, 3), (1, 1)])
def test_half_boxes_cover_half(height: int, width: int) -> None:
    found = boxes_of(half_boxes(200, height, width, seeded(), probability=1.0))
    if width > 10:
        assert all(width // 2 + 1 <= box[3] < width for box in found)
        assert {box[3] for box in found} >= {width // 2 + 1, width - 1}
        assert all(abs(box[2] * box[3] - height * width / 2) <= box[3] / 2 for box in found)
        assert len(set(found)) > 150


def test_french_boxes_cover_half_with_log_uniform_aspect() -> None:
    found = boxes_of(french_boxes(500, 200, 300, seeded()))
    shares = torch.tensor([[box[2] / 200, box[3] / 300] for box in found])
    assert (shares.prod(1) - 0.5).abs().max() < 0.01
    logs = shares[:, 0].log() / math.log(0.5)
    assert logs.mean().item() == pytest.approx(0.5, abs=0.05)
    assert logs.std().item() == pytest.approx(1 / math.sqrt(12), abs=0.03)
    assert all(top + tall <= 200 and left + wide <= 300 for top, left, tall, wide in found)


def official_boxes(first: int, second: int, side: int, draws: int) -> tuple[float, float]:
    """Mean area and how often the center pixel is covered, of boxes drawn as AugSeg's `rand_bbox` draws them."""
    random = np.random.default_rng(0)
    half = (side * np.sqrt(1 - random.beta(first, second, draws))).astype(int) // 2
    center = random.integers(side // 8, side, (2, draws))
    low, high = (center - half).clip(0, side), (center + half).clip(0, side)
    covered = (low <= side // 2) & (side // 2 < high)
    return float((high - low).prod(0).mean() / side**2), float(covered.all(0).mean())


@pytest.mark.parametrize(("first", "second", "area", "center"), [(4, 4, 0.352, 0.59), (8, 2, 0.160, None)])
def test_beta_boxes_are_augsegs(first: int, second: int, area: float, center: float | None) -> None:
    """Against the loop of the authors' code at the same size, and figures measured with that code at a larger one."""
    side, draws, random = 96, 4000, seeded(1)
    covers = torch.stack([beta_boxes(1, side, side, first, second, random)[0] for _ in range(draws)]).float().mean(0)
    expected, middle = official_boxes(first, second, side, 400_000)
    assert covers.mean().item() == pytest.approx(expected, rel=0.02)
    assert covers[side // 2, side // 2].item() == pytest.approx(middle, rel=0.03)
    assert covers.mean().item() == pytest.approx(area, rel=0.02)
    if center is not None:
        assert covers[side // 2, side // 2].item() == pytest.approx(center, rel=0.05)


def test_beta_boxes_of_a_batch_share_their_lambda_and_not_their_place() -> None:
    found = boxes_of(beta_boxes(40, 90, 60, 4, 4, seeded(4)))
    inside = [box for box in found if box[0] > 0 and box[1] > 0 and box[0] + box[2] < 90 and box[1] + box[3] < 60]
    assert len(inside) > 3
    assert len({box[2:] for box in inside}) == 1
    assert len(set(found)) > 30


def test_class_mix_pastes_half_of_the_classes() -> None:
    labels = torch.randint(0, 7, (40, 9, 9), generator=seeded(4))
    labels[labels == 5] = 255
    labels[0] = 3
    labels[1] = 255
    for dtype in (torch.int64, torch.uint8):
        mask = class_mix(labels.to(dtype), 7, seeded())
        for one, label in zip(mask, labels, strict=True):
            present = set(label.unique().tolist()) - {255}
            pasted = set(label[one].unique().tolist())
            kept = set(label[~one].unique().tolist()) - {255}
            assert not pasted & kept
            assert pasted | kept == present
            assert len(pasted) == len(present) // 2
            assert not one[label == 255].any()
    choices = {tuple(labels[9][class_mix(labels, 7, seeded(seed))[9]].unique().tolist()) for seed in range(40)}
    assert len(choices) > 10


def test_certainty_is_one_for_sure_and_zero_for_even() -> None:
    even, sure = torch.zeros(1, 4, 2, 3), torch.zeros(1, 4, 2, 3)
    sure[:, 2] = 200
    assert certainty(torch.cat([even, sure]).bfloat16()).tolist() == pytest.approx([0, 1], abs=1e-6)
    half = torch.tensor([0.5, 0.5, 0, 0]).add(1e-30).log().view(1, 4, 1, 1)
    assert certainty(half).item() == pytest.approx((1 - 0.5) * 0.5, abs=1e-6)


def test_adaptive_cutmix_helps_unsure_images_with_labeled_boxes() -> None:
    unlabeled, labeled = tagged(64, logits=False), tagged(3, first=80, logits=False)
    own = torch.arange(64).view(-1, 1, 1)
    sure = assert_consistent(adaptive_cutmix(unlabeled, labeled, torch.ones(64), seeded()))
    assert (sure < 80).all(), "the sure get no true labels"
    foreign = sure != own
    givers = [set(row[mask].tolist()) for row, mask in zip(sure, foreign, strict=True)]
    assert all(len(giver) <= 1 for giver in givers), "every image has one partner"
    partners_seen = [giver.pop() for giver in givers if giver]
    assert len(partners_seen) == len(set(partners_seen)) > 50, "the partners are a permutation"
    assert partners_seen != list(range(63, -1, -1))[: len(partners_seen)]
    unsure = assert_consistent(adaptive_cutmix(unlabeled, labeled, torch.zeros(64), seeded()))
    assert set(unsure[unsure >= 80].unique().tolist()) == {80, 81, 82}
    # A labeled box comes with the partner's box, from the copy that the partner's own score has made.
    scores = torch.zeros(64)
    scores[:32] = 1.0
    some = assert_consistent(adaptive_cutmix(unlabeled, labeled, scores, seeded()))
    helped = some.ge(80).flatten(1).any(1)
    strangers = some.masked_fill((some == own) | (some >= 80), -1).flatten(1).amax(1)
    assert helped.any()
    assert (strangers[helped & (strangers >= 0)] >= 32).all()


def test_labeled_pixels_are_as_many_as_in_augsegs_code() -> None:
    """At the score 0.2 its formulas give 4.96 % of the student's pixels in crops of 64 (320,000 images, to 0.025).

    Sides are cut to even numbers of pixels, so that larger crops get more: 5.21 % of 128, 5.32 % of 256, 5.41 % of 513.
    """
    random, side = seeded(0), 64
    covers = [
        torch.stack([beta_boxes(1, side, side, *shape, random)[0] for _ in range(4000)]).float().mean(0)
        for shape in ((8, 2), (4, 4))
    ]
    assert 100 * 0.8 * (covers[0] * covers[1]).mean().item() == pytest.approx(4.96, rel=0.02)
    unlabeled, labeled = tagged(8, 64, 64, logits=False), tagged(8, 64, 64, first=80, logits=False)
    steps = [adaptive_cutmix(unlabeled, labeled, torch.full((8,), 0.2), random).labels.ge(80) for _ in range(500)]
    assert 100 * torch.stack(steps).float().mean().item() == pytest.approx(4.96, rel=0.1)


@pytest.mark.parametrize("form", [unimatch_boxes, half_boxes, french_boxes])
def test_masks_follow_their_generator_only(form) -> None:
    state = torch.get_rng_state()
    assert form(8, 30, 40, seeded(7)).equal(form(8, 30, 40, seeded(7)))
    assert form(8, 30, 40, seeded(7)).shape == (8, 30, 40)
    assert torch.get_rng_state().equal(state)
