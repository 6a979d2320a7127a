"""Af-DCD against published numbers, hand-computed cases and plain loops."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from semseg_app.errors import UserError
from semseg_app.training.distill import patch_contrast
from semseg_app.training.distill.af_dcd import AfDCD, AfDCDConfig, omni_contrast
from semseg_app.training.distill.masked_generator import MaskedGeneration, feature_loss, random_mask
from semseg_app.training.distill.presets import PRESETS, Preset
from semseg_app.training.methods.distillation import DistillationConfig

GOLDEN = Path(__file__).parents[2] / "golden"
NO_LABELS = torch.zeros(0, 8, 8)
EVERY_DISTANCE = ["l1", "l2", "sq_l2"]
EVERY_RULE = ["other_group", "all"]


def golden(name: str) -> tuple[Tensor, Tensor, dict[str, float], float, Tensor]:
    """student, teacher, settings, loss, gradient of a golden vector."""
    with np.load(GOLDEN / f"omni_contrast_{name}.npz") as data:
        settings = {key: data[key].item() for key in ("temperature", "channel_groups", "patch_size", "pool_size")}
        student, teacher, gradient = (torch.from_numpy(data[key]) for key in ("student", "teacher", "grad_student"))
        return student.requires_grad_(), teacher, settings, data["loss"].item(), gradient


@pytest.mark.parametrize("name", ["pooled", "unpooled", "patch2", "groups2"])
def test_golden(name: str) -> None:
    student, teacher, settings, loss, gradient = golden(name)
    ours = omni_contrast(student, teacher, **settings)
    ours.backward()
    assert ours.item() == pytest.approx(loss, rel=1e-4)
    torch.testing.assert_close(student.grad, gradient, rtol=0, atol=1e-4 * float(gradient.abs().max()))
    # Under autocast the features come in bfloat16 and the loss stays in float32.
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = omni_contrast(student.bfloat16(), teacher.bfloat16(), **settings)
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(loss, rel=1e-2)
    # Memory format is a matter of speed only.
    last = omni_contrast(student.to(memory_format=torch.channels_last), teacher, **settings)
    assert last.item() == pytest.approx(loss, rel=1e-4)


def naive(student: Tensor, teacher: Tensor, tau: float, groups: int, patch: int, rule: str, distance: str) -> Tensor:
    """One loop for every index of the definition."""
    batch, channels, height, width = student.shape
    size = channels // groups
    total = student.new_zeros(())

    def item(feature: Tensor, image: int, row: int, column: int, group: int) -> Tensor:
        return feature[image, group * size : (group + 1) * size, row, column]

    def measure(difference: Tensor) -> Tensor:
        if distance == "l1":
            return difference.abs().sum()
        square = difference.square().sum()
        return square if distance == "sq_l2" else square.sqrt()

    for image in range(batch):
        for row in range(height):
            for column in range(width):
                top, left = row - row % patch, column - column % patch
                for group in range(groups):
                    scores, positive = [], None
                    for other_row in range(top, top + patch):
                        for other_column in range(left, left + patch):
                            for other in range(groups):
                                own = (other_row, other_column, other) == (row, column, group)
                                if not own and rule == "other_group" and other == group:
                                    continue
                                difference = item(student, image, row, column, group) - item(
                                    teacher, image, other_row, other_column, other
                                )
                                scores.append(-measure(difference) / tau)
                                positive = scores[-1] if own else positive
                    total = total + torch.stack(scores).logsumexp(0) - positive
    return total / (batch * height * width)


@pytest.mark.parametrize("distance", EVERY_DISTANCE)
@pytest.mark.parametrize("rule", EVERY_RULE)
def test_equals_plain_loops(rule: str, distance: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    student = torch.randn(2, 8, 4, 4, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(2, 8, 4, 4, dtype=torch.float64)
    expected = naive(student, teacher, 0.7, 4, 2, rule, distance)
    (wanted,) = torch.autograd.grad(expected, student)
    for pairs in (1 << 20, 3 * 16**2, 16**2, 5 * 16, 1):  # all patches, some, one; some rows of one, one row
        monkeypatch.setattr(patch_contrast, "PAIRS_PER_CHUNK", pairs)
        loss = omni_contrast(student, teacher, 0.7, 4, 2, 0, rule, distance)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-13)
        (gradient,) = torch.autograd.grad(loss, student)
        torch.testing.assert_close(gradient, wanted, rtol=1e-11, atol=1e-13)


def test_by_hand() -> None:
    student, teacher = torch.tensor([0.0, 0]).view(1, 2, 1, 1), torch.tensor([0.0, 1]).view(1, 2, 1, 1)
    loss = omni_contrast(student, teacher, 1.0, 2, 1, 0)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-1)) + math.log(1 + math.e))
    assert loss.item() == pytest.approx(1.626523, abs=1e-6)


@pytest.mark.parametrize("distance", EVERY_DISTANCE)
@pytest.mark.parametrize(("rule", "expected"), [("other_group", 87.7568), ("all", 88.7228)])
def test_equal_features(rule: str, expected: float, distance: str) -> None:
    student = torch.full((1, 32, 8, 8), 37.3).requires_grad_()
    loss = omni_contrast(student, torch.full((1, 32, 8, 8), 37.3), 0.07, 16, 4, 0, rule, distance)
    loss.backward()
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("distance", EVERY_DISTANCE)
def test_symmetries(distance: str) -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 2, 16, 8, 8, dtype=torch.float64)

    def loss(change: Callable[[Tensor], Tensor]) -> float:
        return omni_contrast(change(student), change(teacher), 0.07, 4, 4, 0, distance=distance).item()

    def swap_columns(feature: Tensor) -> Tensor:  # a pixel column of one patch against one of its neighbor
        return feature[..., [4, 1, 2, 3, 0, 5, 6, 7]]

    base = loss(lambda feature: feature)
    assert loss(lambda feature: feature.flip(0)) == pytest.approx(base, rel=1e-12)  # images
    assert loss(lambda feature: feature.roll(4, 3).roll(4, 2)) == pytest.approx(base, rel=1e-12)  # whole patches
    inside = torch.cat([4 * group + torch.tensor([2, 0, 3, 1]) for group in range(4)])
    assert loss(lambda feature: feature[:, inside]) == pytest.approx(base, rel=1e-12)  # channels within every group
    assert loss(swap_columns) != pytest.approx(base, rel=1e-6)
    assert loss(lambda feature: feature.roll(1, 1)) != pytest.approx(base, rel=1e-6)  # channels across groups
    assert loss(lambda feature: feature.tile(1, 1, 2, 2)) == pytest.approx(base, rel=1e-12)  # a mean over pixels


def test_spatial_and_channel_contrast() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 1, 6, 4, 4, dtype=torch.float64)
    spatial = omni_contrast(student, teacher, 0.5, 1, 4, 0, negatives="all")
    pixels, others = student.flatten(2)[0].T, teacher.flatten(2)[0].T
    scores = -torch.cdist(pixels, others, p=1) / 0.5
    assert spatial.item() == pytest.approx((scores.logsumexp(1) - scores.diagonal()).mean().item(), rel=1e-12)
    channel = omni_contrast(student, teacher, 0.5, 3, 1, 0)
    groups, others = student.flatten(2)[0].T.reshape(16, 3, 2), teacher.flatten(2)[0].T.reshape(16, 3, 2)
    scores = -torch.cdist(groups, others, p=1) / 0.5
    wanted = (scores.logsumexp(2) - scores.diagonal(dim1=1, dim2=2)).sum(1).mean()
    assert channel.item() == pytest.approx(wanted.item(), rel=1e-12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"channel_groups": 1}, 'use negatives="all"'),
        ({"channel_groups": 1, "patch_size": 1, "negatives": "all"}, "no negative"),
        ({"channel_groups": 5}, "does not divide 16 channels; use 4"),
        ({"negatives": "some"}, "neither"),
        ({"distance": "cosine"}, "none of"),
        ({"pool_size": 8}, "8x8 is smaller than pool_size \\* patch_size = 32"),
    ],
)
def test_errors(settings: dict[str, object], message: str) -> None:
    feature = torch.zeros(1, 16, 8, 8)
    with pytest.raises(ValueError, match=message):
        omni_contrast(feature, feature, 0.07, **{"channel_groups": 4, "patch_size": 4, "pool_size": 0} | settings)
    with pytest.raises(ValueError, match="differ; align them"):
        omni_contrast(feature, feature[:, :8], 0.07, 4, 4, 0)


def test_crops_with_a_warning() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 1, 8, 45, 47)
    with pytest.warns(UserWarning, match="45x47 feature map to 44x44.* nearest good map is 44x48.* crop of 352x384"):
        loss = omni_contrast(student, teacher, 0.07, 4, 4, 0)
    cropped = omni_contrast(student[..., :44, :44], teacher[..., :44, :44], 0.07, 4, 4, 0)
    assert loss.item() == cropped.item()


def test_optimizing_the_student_finds_the_positives() -> None:
    torch.manual_seed(0)
    teacher = torch.randn(1, 8, 4, 4)
    student = torch.randn(1, 8, 4, 4, requires_grad=True)
    optimizer = torch.optim.Adam([student], lr=0.05)
    losses = []
    for _ in range(150):
        loss = omni_contrast(student, teacher, 0.5, 4, 4, 0, negatives="all")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[50] < losses[0]
    items = [feature.detach()[0].flatten(1).T.reshape(64, 2) for feature in (student, teacher)]
    assert torch.equal(torch.cdist(*items, p=1.0).argmin(1), torch.arange(64))


def test_memory_stays_far_below_the_pair_matrix() -> None:
    def status(field: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

    student, teacher = torch.randn(4, 32, 16, 16, requires_grad=True), torch.randn(4, 32, 16, 16)
    pairs = 4 * 4 * 16 * 16 * 16**2 * 16**2  # bytes of float32, for every pixel, pair of groups, pixel of the patch
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget earlier peaks
    omni_contrast(student, teacher, 0.07, 16, 16, 0).backward()
    assert pairs == 256 << 20
    assert status("VmHWM") - before < 100 << 20  # not even one copy; the published code holds three to four


def test_mask() -> None:
    torch.manual_seed(0)
    feature = torch.ones(4, 3, 64, 64)
    mask = random_mask(feature, 0.75)
    assert mask.shape == (4, 1, 64, 64)
    assert sorted(mask.unique().tolist()) == [0, 1]
    assert abs(mask.mean().item() - 0.25) < 3 * math.sqrt(0.75 * 0.25 / mask.numel())
    first, second = torch.randn(2, 2, 3, 8, 8)
    everything = MaskedGeneration(3, 6, drop_ratio=0.0)
    assert torch.equal(everything(first), everything.generator(everything.align(first)))
    nothing = MaskedGeneration(3, 6, drop_ratio=1.0)
    assert torch.equal(nothing(first), nothing(second))
    same = MaskedGeneration(6, 6, drop_ratio=0.5, generator="enhanced")
    assert isinstance(same.align, nn.Identity)
    assert same(torch.randn(2, 6, 8, 8)).shape == (2, 6, 8, 8)
    with torch.no_grad():  # the two outputs of the enhanced generator are averaged
        aligned = torch.randn(1, 6, 8, 8)
        one = same.generator.blocks[0](aligned)
        two = same.generator.blocks[1](one)
        outputs = same.generator.adapters[0](one), same.generator.adapters[1](two)
        torch.testing.assert_close(same.generator(aligned), (outputs[0] + outputs[1]) / 2)


def test_feature_loss_forms() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 2, 3, 4, 5)
    total = ((student - teacher) ** 2).sum().item() / 2
    assert feature_loss(student, teacher, "sum").item() == pytest.approx(total)
    assert feature_loss(student, teacher, "mean").item() * 3 * 4 * 5 == pytest.approx(total)
    tall = [feature.tile(1, 1, 2, 1) for feature in (student, teacher)]
    assert feature_loss(*tall, "sum").item() == pytest.approx(2 * total)
    assert feature_loss(*tall, "mean").item() == pytest.approx(total / 60)


def test_module_trains_the_student_and_leaves_the_teacher() -> None:
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()).eval()
    student = nn.Conv2d(3, 6, 3, padding=1)
    config = AfDCDConfig(channel_groups=4, pool_size=0, clip_norm=1e-3)
    distiller = AfDCD(config, student_channels=6, teacher_channels=16)
    modules = nn.ModuleList([student, distiller])
    optimizer = torch.optim.SGD(modules.parameters(), lr=0.01)
    kept = {name: value.clone() for name, value in teacher.state_dict().items()}
    totals = []
    images = torch.randn(2, 3, 8, 8)
    for _ in range(10):
        feature, target = student(images), teacher(images)  # the teacher is not even in no_grad
        terms = distiller({-1: (feature, target)}, NO_LABELS)
        assert set(terms) == {"af_dcd_features", "af_dcd_contrast"}
        total = torch.stack(list(terms.values())).sum()
        optimizer.zero_grad()
        total.backward()
        before = student.weight.grad.clone()
        distiller.clip_gradients()
        norm = math.sqrt(sum(parameter.grad.square().sum().item() for parameter in distiller.parameters()))
        assert norm == pytest.approx(1e-3, rel=1e-3)
        assert torch.equal(before, student.weight.grad)  # only the auxiliary modules are clipped
        assert all(parameter.grad.abs().sum() > 0 for parameter in modules.parameters())
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < totals[0]
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(torch.equal(value, kept[name]) for name, value in teacher.state_dict().items())
    assert all(name.startswith("generation.") for name in distiller.state_dict())  # nothing of either network


def test_weights_select_and_scale_the_terms() -> None:
    torch.manual_seed(0)
    pairs = {2: tuple(torch.randn(2, 1, 16, 16, 16))}
    terms = {}
    for factor in (1, 2):
        config = AfDCDConfig(feature_weight=3 * factor, contrast_weight=0.1 * factor, drop_ratio=0, features=2)
        torch.manual_seed(1)
        terms[factor] = AfDCD(config, 16, 16)(pairs, NO_LABELS)
    for name, value in terms[1].items():
        assert terms[2][name].item() == pytest.approx(2 * value.item(), rel=1e-5)
    assert set(AfDCD(AfDCDConfig(feature_weight=0, features=2), 16, 16)(pairs, NO_LABELS)) == {"af_dcd_contrast"}
    with pytest.raises(ValidationError, match="both 0; leave af_dcd out"):
        AfDCDConfig(feature_weight=0, contrast_weight=0)


def started_from(preset: Preset, **written: object) -> DistillationConfig:
    return DistillationConfig(teacher=Path("teacher"), preset=preset, **written)


def test_presets() -> None:
    assert set(PRESETS) == set(get_args(Preset))
    # One mean weight stands for the scripts' sums at 512x1024 and 360x360, stride 8 and 2048 channels.
    for name, cells in (("cityscapes", 64 * 128), ("camvid", 45 * 45)):
        parity = started_from(f"af-dcd-parity-{name}").af_dcd
        assert parity.feature_loss == "sum"
        assert parity.feature_weight * 2048 * cells == pytest.approx(AfDCDConfig().feature_weight, rel=0.03)
    assert started_from("af-dcd-parity-ade20k").kd.weight == 0.5
    assert started_from("af-dcd-parity-ade20k").af_dcd.contrast_weight == 4e-2
    assert started_from("af-dcd-recommended").af_dcd == AfDCDConfig()
    assert started_from("af-dcd-recommended-camvid").af_dcd.pool_size == 0
    # What is written counts more; what was dumped comes back.
    changed = started_from("af-dcd-parity-camvid", af_dcd={"contrast_weight": 1}, kd=None)
    assert (changed.af_dcd.contrast_weight, changed.af_dcd.feature_weight, changed.kd) == (1, 8e-6, None)
    assert DistillationConfig.model_validate(changed.model_dump(mode="json")) == changed
    assert started_from("af-dcd-recommended", af_dcd=None).af_dcd is None
    with pytest.raises(ValidationError, match="af-dcd-recommended-camvid"):
        started_from("af-dcd-parity-kitti")


def test_configuration() -> None:
    with pytest.raises(ValidationError, match='use negatives="all"'):
        AfDCDConfig(channel_groups=1)
    with pytest.raises(ValidationError, match="Extra inputs"):
        AfDCDConfig(tau=0.1)
    with pytest.raises(UserError, match="does not divide the teacher's 24 channels; use 12"):
        AfDCD(AfDCDConfig(), 8, 24)
    small = {-1: tuple(torch.zeros(2, 1, 16, 12, 20))}
    with pytest.raises(UserError, match=r"12x20, smaller than pool_size x patch_size = 4 x 4; set pool_size 0"):
        AfDCD(AfDCDConfig(), 16, 16)(small, NO_LABELS)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiles_whole(backend: str) -> None:
    torch.manual_seed(0)
    torch.compiler.reset()
    distiller = AfDCD(AfDCDConfig(), student_channels=8, teacher_channels=32)
    student, teacher = torch.randn(2, 8, 16, 32, requires_grad=True), torch.randn(2, 32, 16, 32)
    results = []
    for call in (distiller, torch.compile(distiller, backend=backend, fullgraph=True)):
        torch.manual_seed(1)
        total = torch.stack(list(call({-1: (student, teacher)}, NO_LABELS).values())).sum()
        results.append((total, *torch.autograd.grad(total, [student, *distiller.parameters()])))
    for plain, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, plain, rtol=1e-4, atol=1e-5)
