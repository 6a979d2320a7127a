"""S4Former's operators against golden vectors, hand-computed numbers and a real ViT."""

import math
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from semseg_app.training.patch_operators import (
    all_class_consistency,
    attention_bias,
    draw_permutation,
    mix_tiles,
    negative_class_ranking,
    pasa_bias,
    patch_shuffle,
    product_attention_bias,
    restore_tokens,
    softened_cross_entropy,
    unconfidence,
)

GOLDEN = Path(__file__).parents[2] / "golden"


def permutations(batch: int, blocks: int) -> Tensor:
    return draw_permutation(batch, blocks, torch.Generator().manual_seed(5), probability=1.0)


def test_shuffle_moves_whole_blocks() -> None:
    images = torch.arange(2 * 3 * 4 * 6).view(2, 3, 4, 6)
    permutation = torch.tensor([[5, 3, 1, 0, 2, 4], [0, 1, 2, 3, 4, 5]])
    shuffled = patch_shuffle(images, permutation, block=2)
    for image in range(2):
        for block in range(6):
            row, column = divmod(block, 3)
            source_row, source_column = divmod(int(permutation[image, block]), 3)
            expected = images[image, :, 2 * source_row : 2 * source_row + 2, 2 * source_column : 2 * source_column + 2]
            assert shuffled[image, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].equal(expected)
    assert shuffled[1].equal(images[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
def test_inverse_is_exact_on_a_grid_that_is_not_square(dtype: torch.dtype) -> None:
    images = torch.randint(0, 255, (2, 3, 256, 384)).to(dtype)
    permutation = permutations(2, 6)
    shuffled = patch_shuffle(images, permutation, 128)
    assert not shuffled.equal(images)
    assert patch_shuffle(shuffled, permutation.argsort(1), 128).equal(images)
    pixels = shuffled.flatten(2).transpose(1, 2)
    restored = restore_tokens(pixels, permutation, (256, 384), 128)
    assert restored.equal(images.flatten(2).transpose(1, 2))


def test_restored_patch_embedding_equals_that_of_the_original() -> None:
    torch.manual_seed(0)
    embed = nn.Conv2d(3, 8, kernel_size=16, stride=16)
    images, permutation = torch.rand(2, 3, 256, 384), permutations(2, 6)
    original = embed(images).flatten(2).transpose(1, 2)
    tokens = embed(patch_shuffle(images, permutation, 128)).flatten(2).transpose(1, 2)
    torch.testing.assert_close(restore_tokens(tokens, permutation, (16, 24), 8), original, rtol=0, atol=1e-6)
    assert (tokens - original).abs().max() > 0.01
    tokens.requires_grad_(True)
    target = torch.randn_like(original)
    (gradient,) = torch.autograd.grad((restore_tokens(tokens, permutation, (16, 24), 8) * target).sum(), tokens)
    torch.testing.assert_close(restore_tokens(gradient, permutation, (16, 24), 8), target)


def test_sizes_that_blocks_do_not_fill_are_named() -> None:
    with pytest.raises(ValueError, match=r"256x380, which blocks of 128 do not fill; use 256x384"):
        patch_shuffle(torch.zeros(1, 3, 256, 380), torch.zeros(1, 6), 128)
    with pytest.raises(ValueError, match=r"token grid is 6x9, which blocks of 4 do not fill; use 8x8"):
        restore_tokens(torch.zeros(1, 54, 2), torch.zeros(1, 4), (6, 9), 4)
    with pytest.raises(ValueError, match="97 tokens do not fill a grid of 8x12"):
        restore_tokens(torch.zeros(1, 97, 2), torch.zeros(1, 6), (8, 12), 4)
    with pytest.raises(ValueError, match=r"2x3 blocks need \(2, 6\)"):
        patch_shuffle(torch.zeros(2, 3, 256, 384), torch.zeros(2, 4), 128)
    with pytest.raises(ValueError, match="60x64, which patches of 16 do not fill; use 64x64"):
        attention_bias(torch.ones(1, 60, 64), 16, 5.0)


def test_permutations_are_drawn_one_an_image() -> None:
    permutation = draw_permutation(400, 6, torch.Generator().manual_seed(0))
    assert permutation.sort(1).values.equal(torch.arange(6).expand(400, 6))
    untouched = permutation.eq(torch.arange(6)).all(1).float().mean()
    assert 0.4 < untouched < 0.6
    moved = permutation[~permutation.eq(torch.arange(6)).all(1)]
    assert len(moved.unique(dim=0)) > 100
    assert permutation.equal(draw_permutation(400, 6, torch.Generator().manual_seed(0)))
    assert draw_permutation(3, 6, torch.Generator(), 0.0).equal(torch.arange(6).expand(3, 6))


def test_attention_bias_matches_the_golden_vector() -> None:
    vector = np.load(GOLDEN / "pasa_bias.npz")
    confident, patch = torch.from_numpy(vector["confident"]), int(vector["patch_size"])
    torch.testing.assert_close(unconfidence(confident, patch), torch.from_numpy(vector["unconfidence"]))
    expected = torch.from_numpy(vector["bias"])
    for dtype in (torch.int64, torch.bool, torch.uint8, torch.float32, torch.bfloat16):
        bias = attention_bias(confident.to(dtype), patch, float(vector["weight"]))
        torch.testing.assert_close(bias, expected, rtol=1e-4, atol=1e-6)


def confident_map(unsure: list[float], columns: int) -> Tensor:
    """A 2x2-pixel patch for every entry of `unsure` (multiples of 1/4), in rows of `columns`."""
    patches = torch.stack([torch.arange(4) >= 4 * value for value in unsure]).view(-1, columns, 2, 2)
    return patches.permute(0, 2, 1, 3).reshape(1, -1, 2 * columns)


@pytest.mark.parametrize(
    ("unsure", "zeroed"),
    [
        ([0, 0, 0, 0.25, 0.5, 1], {0, 1, 2}),
        ([0, 0, 0, 0, 0.5, 1], {0, 1, 2}),  # ties: the lower index first, and never more than half
        ([1, 1, 1, 1, 1, 1], {0, 1, 2}),
        ([1, 0.5, 0.25, 0.5, 0.5, 0], {5, 2, 1}),
        ([1, 0.25, 0.5], {1}),  # an odd number: floor(N / 2)
        ([0.5], set()),
    ],
)
def test_the_less_confident_half_asks(unsure: list[float], zeroed: set[int]) -> None:
    count = len(unsure)
    bias = attention_bias(confident_map(unsure, 3 if count > 1 else 1), 2, 5.0)[0]
    assert {row for row in range(count) if bias[1 + row].eq(0).all()} == zeroed
    row = torch.tensor([0.0, *[5 * value for value in unsure]])
    for index in [0, *[1 + index for index in range(count) if index not in zeroed]]:
        assert bias[index].equal(row)


def test_probabilities_give_the_soft_form() -> None:
    torch.manual_seed(0)
    confidence = torch.rand(2, 6, 9)
    unsure = unconfidence(confidence, 3)
    assert unsure.shape == (2, 6)
    torch.testing.assert_close(unsure[1, 4], 1 - confidence[1, 3:6, 3:6].mean())
    bias = product_attention_bias(confidence, 3, 50.0)
    torch.testing.assert_close(bias[:, 1:, 1:], 50 * unsure.unsqueeze(2) * unsure.unsqueeze(1))
    assert bias[:, :, 0].eq(0).all()


def test_mixed_tiles_by_a_plain_loop_and_back() -> None:
    maps = torch.randn(3, 2, 4, 6)
    givers = draw_permutation(6, 3, torch.Generator().manual_seed(1), probability=1.0)
    mixed = mix_tiles(maps, givers, 2)
    for block in range(6):
        top, left = 2 * (block // 3), 2 * (block % 3)
        for image in range(3):
            expected = maps[givers[block, image], :, top : top + 2, left : left + 2]
            assert mixed[image, :, top : top + 2, left : left + 2].equal(expected)
    assert mix_tiles(mixed, givers.argsort(dim=1), 2).equal(maps)
    empty = torch.zeros(3, 0, 4, 6)  # a transformer's empty map
    assert mix_tiles(empty, givers, 2).shape == empty.shape
    with pytest.raises(ValueError, match="the maps are 4x6, which blocks of 4 do not fill"):
        mix_tiles(maps, givers, 4)


def test_the_supplements_forms_by_their_equations() -> None:
    confident = confident_map([0, 0, 0.25, 0.5, 0.75, 1], 3)
    confidence = [1 - value for value in (0, 0, 0.25, 0.5, 0.75, 1)]
    sure = [True, True, True, False, False, False]
    for form, asks in (("reverse1", sure), ("reverse2", [not one for one in sure])):
        bias = pasa_bias(form, confident, 2, 4.0)[0]
        for query, answers in enumerate(asks):
            expected = [0.0] + [4.0 * value if answers else 0.0 for value in confidence]
            assert bias[1 + query].tolist() == expected
    torch.manual_seed(0)
    drawn = pasa_bias("rand", confident.repeat(3, 1, 1), 2, 4.0)
    assert drawn[:, :, 0].eq(0).all()
    assert 0 < drawn[:, :, 1:].min() < 0.5
    assert 3.5 < drawn[:, :, 1:].max() < 4
    assert len(drawn[:, :, 1:].unique()) == 3 * 7 * 6
    assert pasa_bias("key", confident, 2, 4.0).equal(attention_bias(confident, 2, 4.0))
    assert pasa_bias("product", confident, 2, 4.0).equal(product_attention_bias(confident, 2, 4.0))


def test_soft_and_all_cr_by_hand() -> None:
    student, teacher = torch.tensor([2.0, 0.0, -2.0]), torch.tensor([0.0, 1.0, 0.0])
    maps = [logits.view(1, 3, 1, 1).expand(1, 3, 1, 2) for logits in (student, teacher)]
    labels = torch.tensor([[[0, 255]]])  # one of two pixels counts
    soft = -math.log(math.exp(1) / (math.exp(1) + 1 + math.exp(-1)))
    assert softened_cross_entropy(maps[0], labels).item() == pytest.approx(soft / 2, rel=1e-6)
    every = (student.softmax(0) - teacher.softmax(0)).square().sum()
    assert all_class_consistency(*maps, labels).item() == pytest.approx(every.item() / 2, rel=1e-6)
    assert softened_cross_entropy(maps[0], torch.full_like(labels, 255)) == 0


def test_a_sure_teacher_or_weight_zero_leaves_a_vit_as_it_is() -> None:
    torch.manual_seed(0)
    vit = timm.create_model(
        "vit_tiny_patch16_224", img_size=(32, 48), embed_dim=24, depth=2, num_heads=2, num_classes=0
    ).eval()
    images = torch.rand(2, 3, 32, 48)
    plain = vit.forward_features(images)
    confident = torch.rand(2, 32, 48) > 0.5

    def biased(confident: Tensor, weight: float) -> Tensor:
        return vit.forward_features(images, attn_mask=attention_bias(confident, 16, weight).unsqueeze(1))

    torch.testing.assert_close(biased(torch.ones_like(confident), 5.0), plain, rtol=0, atol=1e-6)
    torch.testing.assert_close(biased(confident, 0.0), plain, rtol=0, atol=1e-6)
    assert (biased(confident, 5.0) - plain).abs().max() > 1e-3
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(biased(torch.ones_like(confident), 5.0), plain, rtol=0, atol=0.1, check_dtype=False)
    # With every value equal to one, attention gives back its row sums.
    query, key = torch.randn(2, 2, 1, 7, 4).unbind(0)
    rows = nn.functional.scaled_dot_product_attention(
        query, key, torch.ones_like(key), attn_mask=attention_bias(confident, 16, 5.0).unsqueeze(1)
    )
    torch.testing.assert_close(rows, torch.ones_like(rows))


def test_ncr_matches_the_golden_vector() -> None:
    vector = np.load(GOLDEN / "ncr.npz")
    student = torch.from_numpy(vector["student"]).requires_grad_()
    teacher = torch.from_numpy(vector["teacher"]).requires_grad_()
    loss = negative_class_ranking(
        student, teacher, torch.from_numpy(vector["pseudo_label"]), int(vector["ignore_index"])
    )
    assert loss.item() == pytest.approx(float(vector["loss"]), rel=1e-4)
    gradient, teachers = torch.autograd.grad(loss, [student, teacher], allow_unused=True)
    expected = torch.from_numpy(vector["grad_student"])
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
    assert teachers is None


@pytest.mark.parametrize(
    ("student", "l2", "squared"),
    [
        ([9.0, 2, 1, 0], 0.0, 0.0),
        ([12.0, 5, 4, 3], 0.0, 0.0),
        ([-5.0, 2, 1, 0], 0.0, 0.0),
        ([9.0, 1, 0.5, 0], 0.195907, 0.038379),  # the same ranking, other margins: it is not a ranking loss
        ([9.0, 1, 2, 0], 0.594694, 0.353661),
    ],
)
def test_ncr_by_hand(student: list[float], l2: float, squared: float) -> None:
    logits = torch.tensor(student).view(1, 4, 1, 1)
    teacher = torch.tensor([9.0, 2, 1, 0]).view(1, 4, 1, 1)
    label = torch.zeros(1, 1, 1, dtype=torch.uint8)
    assert negative_class_ranking(logits, teacher, label).item() == pytest.approx(l2, abs=2e-6)
    assert negative_class_ranking(logits, teacher, label, distance="squared").item() == pytest.approx(squared, abs=2e-6)
    ours, theirs = logits[0, 1:, 0, 0].softmax(0), teacher[0, 1:, 0, 0].softmax(0)
    divergence = (theirs * (theirs / ours).log()).sum().item()
    assert negative_class_ranking(logits, teacher, label, distance="kl").item() == pytest.approx(divergence, abs=2e-6)


@pytest.mark.parametrize("distance", ["l2", "squared", "kl"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_ncr_matches_a_loop_over_pixels(distance: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    student = torch.randn(2, 5, 3, 4).to(dtype).requires_grad_()
    teacher = torch.randn(2, 5, 3, 4).to(dtype)
    label = torch.randint(0, 6, (2, 3, 4))
    label[label == 5] = -1
    expected = torch.zeros((), dtype=torch.float64)
    for image in range(2):
        for row in range(3):
            for column in range(4):
                if (own := int(label[image, row, column])) >= 0:
                    others = [index for index in range(5) if index != own]
                    ours = student[image, others, row, column].double().softmax(0)
                    theirs = teacher[image, others, row, column].double().softmax(0)
                    expected = (
                        expected
                        + {
                            "l2": (ours - theirs + 1e-6).norm(),
                            "squared": (ours - theirs).square().sum(),
                            "kl": (theirs * (theirs / ours).log()).sum(),
                        }[distance]
                    )
    loss = negative_class_ranking(student, teacher, label, ignore_index=-1, distance=distance)
    assert loss.item() == pytest.approx(expected.item() / 24, rel=1e-5)
    (gradient,), (wanted,) = torch.autograd.grad(loss, student), torch.autograd.grad(expected / 24, student)
    tolerance = 1e-7 if dtype == torch.float64 else 1e-2  # the gradient is rounded to the input's type
    torch.testing.assert_close(gradient, wanted, rtol=tolerance, atol=tolerance * float(wanted.abs().max()))


@pytest.mark.parametrize("distance", ["l2", "squared", "kl"])
def test_ncr_is_zero_and_finite_without_labels_and_for_few_classes(distance: str) -> None:
    for classes in (1, 2, 4):
        for value in (255, 0):
            student = torch.randn(1, classes, 3, 3).requires_grad_()
            label = torch.full((1, 3, 3), value)
            loss = negative_class_ranking(student, student.detach().clone(), label, distance=distance)
            (gradient,) = torch.autograd.grad(loss, student)
            assert loss.item() == pytest.approx(0, abs=2e-6)
            assert value != 255 or loss.item() == 0
            assert torch.isfinite(gradient).all()
