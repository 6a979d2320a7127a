"""The reference distillers against golden vectors, plain loops and their invariances."""

import copy
import inspect
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor, distributed
from torch.nn import functional

from semseg_app.training.distill import relational_kl as relational
from semseg_app.training.distill.attention_transfer import AttentionTransferConfig, attention_transfer
from semseg_app.training.distill.cirkd import CIRKD, CIRKDConfig, cross_image_similarity
from semseg_app.training.distill.cwd import CWD, CWDConfig, cwd
from semseg_app.training.distill.fitnet import FitNet, FitNetConfig
from semseg_app.training.distill.ifvd import IFVDConfig, ifvd
from semseg_app.training.distill.kd import KDConfig, kd
from semseg_app.training.distill.maskd import (
    MasKD,
    MasKDConfig,
    dice_overlap,
    mask_distillation,
    receptive_masks,
    token_loss,
)
from semseg_app.training.distill.mgd import MGD, MGDConfig
from semseg_app.training.distill.skd import SKDConfig, pairwise_similarity

GOLDEN = Path(__file__).parents[2] / "golden"
LOSSES: dict[str, Callable[..., Tensor]] = {
    "kd_t1": kd,
    "kd_t4": kd,
    "cwd": cwd,
    "ifvd": ifvd,
    "skd_pairwise": pairwise_similarity,
    "attention_transfer": attention_transfer,
    "cirkd_minibatch": cross_image_similarity,
}
CONFIGS = (
    AttentionTransferConfig,
    CIRKDConfig,
    CWDConfig,
    FitNetConfig,
    IFVDConfig,
    KDConfig,
    MasKDConfig,
    MGDConfig,
    SKDConfig,
)


def golden(name: str) -> tuple[Tensor, Tensor, dict[str, Any], float, Tensor]:
    """student, teacher, other arguments, loss, gradient of a golden vector."""
    with np.load(GOLDEN / f"{name}.npz") as data:
        settings = {key: data[key].item() for key in ("temperature", "num_classes") if key in data}
        if "label" in data:
            settings["label"] = torch.from_numpy(data["label"])
        student, teacher, gradient = (torch.from_numpy(data[key]) for key in ("student", "teacher", "grad_student"))
        return student.requires_grad_(), teacher, settings, data["loss"].item(), gradient


@pytest.mark.parametrize("name", LOSSES)
def test_golden(name: str) -> None:
    loss = LOSSES[name]
    student, teacher, settings, expected, gradient = golden(name)
    ours = loss(student, teacher.requires_grad_(), **settings)
    ours.backward()
    assert ours.item() == pytest.approx(expected, rel=1e-4)
    torch.testing.assert_close(student.grad, gradient, rtol=0, atol=1e-4 * float(gradient.abs().max()))
    assert teacher.grad is None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert loss(student, teacher, **settings).item() == pytest.approx(expected, rel=1e-4)
        half = loss(student.bfloat16(), teacher.bfloat16(), **settings)
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(expected, rel=1e-2)
    last = loss(student.to(memory_format=torch.channels_last), teacher, **settings)
    assert last.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("name", ["kd_t4", "cwd", "ifvd", "skd_pairwise", "attention_transfer", "cirkd_minibatch"])
def test_compiles_whole(name: str, backend: str) -> None:
    torch.compiler.reset()
    student, teacher, settings, expected, gradient = golden(name)
    loss = torch.compile(LOSSES[name], backend=backend, fullgraph=True)(student, teacher, **settings)
    loss.backward()
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    torch.testing.assert_close(student.grad, gradient, rtol=0, atol=1e-4 * float(gradient.abs().max()))


@pytest.mark.parametrize("name", LOSSES)
def test_no_loss_where_the_student_is_the_teacher(name: str) -> None:
    _, teacher, settings, _, _ = golden(name)
    assert LOSSES[name](teacher, teacher, **settings).abs().item() < 1e-6


def test_kd_ignores_shifts_and_keeps_its_gradient_at_any_temperature() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 2, 7, 6, 5, dtype=torch.float64)
    shift = torch.randn(2, 1, 6, 5, dtype=torch.float64)
    assert kd(student + shift, teacher - 2 * shift, 2.0).item() == pytest.approx(kd(student, teacher, 2.0).item())
    # For large T the gradient tends to (z_s - z_t - means) / K: it neither vanishes nor grows.
    pixels = 2 * 6 * 5
    difference = student - teacher
    limit = (difference - difference.mean(1, keepdim=True)) / 7 / pixels
    student.requires_grad_()
    (gradient,) = torch.autograd.grad(kd(student, teacher, 1000.0), student)
    torch.testing.assert_close(gradient, limit, rtol=0.02, atol=1e-5)
    by_hand = math.log(2) * 0.5 + math.log(2 / 3) * 0.5  # KL((1/2, 1/2) || (1/4, 3/4))
    quarter = torch.tensor([0.0, math.log(3)]).view(1, 2, 1, 1)
    assert kd(quarter, torch.zeros(1, 2, 1, 1), 1.0).item() == pytest.approx(by_hand, rel=1e-6)


def test_cwd_ignores_a_constant_per_channel() -> None:
    torch.manual_seed(0)
    student, teacher, shift = torch.randn(2, 5, 6, 7), torch.randn(2, 5, 6, 7), torch.randn(2, 5, 1, 1)
    assert cwd(student + shift, teacher - shift, 4.0).item() == pytest.approx(
        cwd(student, teacher, 4.0).item(), rel=1e-5
    )


def test_cosine_losses_ignore_scale() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 5, 6, 7), torch.randn(2, 9, 6, 7)
    scale = torch.rand(2, 1, 6, 7) + 0.1
    base = pairwise_similarity(student, teacher, pool_size=1)
    assert pairwise_similarity(student * scale, teacher, pool_size=1).item() == pytest.approx(base.item(), rel=1e-4)
    labels = torch.randint(0, 4, (2, 12, 14))
    base = ifvd(student, teacher, labels, 4)
    assert ifvd(3 * student, 0.2 * teacher, labels, 4).item() == pytest.approx(base.item(), rel=1e-4)


def test_skd_pools_incomplete_cells_too() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(1, 3, 5, 4), torch.randn(1, 6, 5, 4)
    expected = 0.0
    cells = [(slice(row, row + 2), slice(column, column + 2)) for row in (0, 2, 4) for column in (0, 2)]
    for one in cells:
        for other in cells:
            cosines = [
                functional.cosine_similarity(*(feature[0][:, *cell].amax((1, 2)) for cell in (one, other)), dim=0)
                for feature in (student, teacher)
            ]
            expected += (cosines[0] - cosines[1]).item() ** 2 / 36
    assert pairwise_similarity(student, teacher).item() == pytest.approx(expected, rel=1e-5)


def test_attention_transfer_by_hand() -> None:
    student = torch.tensor([[3.0, 0.0], [0.0, 0.0]]).view(1, 1, 2, 2)  # attention (1, 0, 0, 0)
    teacher = torch.tensor([1.0, 1, 1, 1]).view(1, 1, 2, 2).expand(1, 6, 2, 2)  # (1/2, 1/2, 1/2, 1/2)
    assert attention_transfer(student, teacher).item() == pytest.approx(0.25)


def test_ifvd_equals_a_loop() -> None:
    torch.manual_seed(0)
    student = torch.randn(2, 4, 6, 8, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(2, 5, 6, 8, dtype=torch.float64)
    labels = torch.randint(0, 3, (2, 6, 8)).repeat_interleave(4, 1).repeat_interleave(4, 2)
    labels[labels == 2] = 4  # classes 2 and 3 are absent
    labels[0, :8] = 255
    labels[1, :, :4] = -1
    small = labels[:, ::4, ::4]
    total, counted = torch.zeros((), dtype=torch.float64), 0
    for image in range(2):
        for row in range(6):
            for column in range(8):
                name = small[image, row, column]
                if name in (255, -1):
                    continue
                counted += 1
                cosines = [
                    functional.cosine_similarity(
                        feature[image, :, row, column], feature[image, :, small[image] == name].mean(1), dim=0
                    )
                    for feature in (student, teacher)
                ]
                total = total + (cosines[0] - cosines[1]).square()
    for flag, denominator in ((True, 96), (False, counted)):
        expected = total / denominator
        loss = ifvd(student, teacher, labels, 5, count_ignored=flag)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
        gradients = [torch.autograd.grad(value, student, retain_graph=True)[0] for value in (loss, expected)]
        torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-9)
    nothing = ifvd(student, teacher, torch.full_like(labels, 255), 5, count_ignored=False)
    assert nothing.item() == 0
    assert torch.autograd.grad(nothing, student)[0].abs().max() == 0


def naive_cross_image(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    own, others = (functional.normalize(feature, dim=1).flatten(2) for feature in (student, teacher))
    total = student.new_zeros(())
    for first in range(len(own)):
        for second in range(len(own)):
            target = (others[first].T @ others[second] / temperature).softmax(1)
            given = (own[first].T @ own[second] / temperature).log_softmax(1)
            total = total + functional.kl_div(given, target, reduction="batchmean") / len(own) ** 2
    return total


@pytest.mark.parametrize("pairs", [1 << 22, 7 * 3 * 20, 1])
def test_cross_image_similarity_equals_a_loop(pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relational, "PAIRS_PER_CHUNK", pairs)
    torch.manual_seed(0)
    student = torch.randn(3, 6, 4, 5, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(3, 9, 4, 5, dtype=torch.float64)
    loss, expected = cross_image_similarity(student, teacher, 0.1), naive_cross_image(student, teacher, 0.1)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    gradients = [torch.autograd.grad(value, student)[0] for value in (loss, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-13)
    rotation, _ = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))
    rotated = torch.einsum("ij,bjhw->bihw", rotation, student)
    assert cross_image_similarity(rotated, teacher, 0.1).item() == pytest.approx(loss.item(), rel=1e-10)


def queue_module(**changes: Any) -> CIRKD:
    """Three classes; queues so short that everything in them is drawn."""
    settings = {"pixel_queue": 8, "region_queue": 4, "pixel_samples": 100, "region_samples": 100, "pixels_per_image": 3}
    return CIRKD(CIRKDConfig(**settings | changes), student_channels=5, teacher_channels=3, num_classes=3)


def one_hot_features(labels: Tensor) -> Tensor:
    """A teacher whose pixels point along the axis of their class; ignored ones point the other way."""
    axes = torch.cat([torch.eye(3), -torch.ones(1, 3)])
    return axes[labels.clamp(max=3)].permute(0, 3, 1, 2)


def test_queues_are_rings_of_the_right_class() -> None:
    torch.manual_seed(0)
    module = queue_module()
    labels = torch.full((2, 4, 6), 255)
    labels[0, 0] = 0  # six pixels, of which three enter
    labels[0, 1, :2] = 1  # two pixels
    labels[1, 0, 0] = 1  # one pixel
    pixels = one_hot_features(labels).flatten(2).mT.contiguous()
    before = module.pixel_queue.clone()
    module.enqueue(pixels, labels)
    assert module.pixel_pointer.tolist() == [3, 3, 0]
    assert module.region_pointer.tolist() == [1, 2, 0]
    assert torch.equal(module.pixel_queue[2, :8], before[2, :8])  # class 2 is nowhere
    for name in (0, 1):
        axis = torch.eye(3)[name]
        assert torch.equal(module.pixel_queue[name, :3], axis.expand(3, 3))
        assert torch.equal(module.pixel_queue[name, 3:8], before[name, 3:8])
        assert torch.equal(module.region_queue[name, 0], axis)
    for _ in range(2):
        module.enqueue(pixels, labels)
    assert module.pixel_pointer.tolist() == [1, 1, 0]  # nine in a ring of eight
    assert module.region_pointer.tolist() == [3, 2, 0]  # six in a ring of four
    for name in (0, 1):
        assert torch.equal(module.pixel_queue[name, :8], torch.eye(3)[name].expand(8, 3))
    assert not (module.pixel_queue[:, :8] == functional.normalize(-torch.ones(3), dim=0)).all(2).any()
    # Images enter in order, so the newest overwrite the oldest.
    ordered = queue_module(pixels_per_image=1)
    for angle in (0.1, 0.2, 0.3, 0.4, 0.5):
        vector = torch.tensor([math.cos(angle), math.sin(angle), 0.0])
        ordered.enqueue(vector.view(1, 1, 3), torch.zeros(1, 1, 1, dtype=torch.long))
    assert ordered.region_queue[0, :4, 1].tolist() == pytest.approx([math.sin(x) for x in (0.5, 0.2, 0.3, 0.4)])


def test_queue_terms_equal_whole_matrices() -> None:
    torch.manual_seed(0)
    module = queue_module(weight=0, pixel_weight=2.0, region_weight=3.0)
    student, teacher = torch.randn(2, 5, 4, 6, requires_grad=True), torch.randn(2, 3, 4, 6, requires_grad=True)
    labels = torch.randint(0, 4, (2, 8, 12))
    labels[labels == 3] = 255
    terms = module({"decoder": (student, teacher)}, labels)
    valid = (labels[:, ::2, ::2] != 255).flatten()
    own, others = (
        functional.normalize(feature, dim=1).permute(0, 2, 3, 1).reshape(48, 3)[valid]
        for feature in (module.project(student), teacher)
    )
    for name, weight, queue in (("pixel", 2, module.pixel_queue[:, :8]), ("region", 3, module.region_queue[:, :4])):
        keys = queue.reshape(-1, 3).T / 0.1
        expected = functional.kl_div((own @ keys).log_softmax(1), (others @ keys).softmax(1), reduction="batchmean")
        assert terms[f"cirkd_{name}s"].item() == pytest.approx(weight * expected.item(), rel=1e-4)
    torch.stack(list(terms.values())).sum().backward()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None
    # Only the first images are labeled: the others are neither queued nor compared with the queues.
    alone = copy.deepcopy(module)
    torch.manual_seed(1)
    terms = module({"decoder": (student, teacher)}, labels[:1])
    torch.manual_seed(1)
    expected = alone({"decoder": (student[:1], teacher[:1])}, labels[:1])
    assert terms == expected
    assert torch.equal(module.pixel_queue, alone.pixel_queue)
    ignored = module({"decoder": (student, teacher)}, torch.full_like(labels, 255))
    assert [value.item() for value in ignored.values()] == [0, 0]
    assert all(value.requires_grad for value in ignored.values())
    without = queue_module(pixel_weight=0, region_weight=0)
    assert set(without({"decoder": (student, teacher)}, labels)) == {"cirkd_images"}
    assert not without.state_dict()


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_queues_compile_whole(backend: str) -> None:
    torch.compiler.reset()
    torch.manual_seed(0)
    module = queue_module()
    student, teacher, labels = torch.randn(2, 5, 4, 4), torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 4, 4))
    compiled = torch.compile(module, backend=backend, fullgraph=True)
    torch.stack(list(compiled({"decoder": (student, teacher)}, labels).values())).sum().backward()
    assert module.region_pointer.tolist() == [2, 2, 2]
    assert module.project[0].weight.grad.abs().sum() > 0


@pytest.fixture
def lone_process() -> Iterator[None]:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("lone_process")
def test_queues_gather_over_processes() -> None:
    module = queue_module()
    labels = torch.zeros(2, 2, 3, dtype=torch.long)
    module.enqueue(one_hot_features(labels).flatten(2).mT.contiguous(), labels)
    assert module.pixel_pointer.tolist() == [6, 0, 0]
    assert torch.equal(module.pixel_queue[0, :6], torch.eye(3)[0].expand(6, 3))


def test_aligned_distillers() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 4, 6, 6, requires_grad=True), torch.randn(2, 6, 6, 6, requires_grad=True)
    logits, targets = torch.randn(2, 5, 6, 6, requires_grad=True), torch.randn(2, 5, 6, 6)
    fitnet = FitNet(FitNetConfig(weight=7), 4, 6)
    expected = 7 * functional.mse_loss(fitnet.align(student), teacher)
    channel_wise = CWD(CWDConfig(logit_weight=2, feature_weight=5), 4, 6)
    masked = MGD(MGDConfig(weight=3, drop_ratio=0, logit_weight=2), 4, 6)
    pairs = {"decoder": (student, teacher), -1: (student, teacher), "logits": (logits, targets)}
    modules = {"fitnet": fitnet, "cwd": channel_wise, "mgd": masked}
    results = {name: module(pairs, torch.zeros(0, 6, 6)) for name, module in modules.items()}
    assert results["fitnet"]["fitnet"].item() == pytest.approx(expected.item())
    assert results["cwd"]["cwd_logits"].item() == pytest.approx(2 * cwd(logits, targets, 4.0).item())
    assert results["cwd"]["cwd_features"].item() == pytest.approx(
        5 * cwd(channel_wise.align(student), teacher, 4).item()
    )
    assert results["mgd"]["mgd_logits"].item() == results["cwd"]["cwd_logits"].item()
    generated = masked.generation.generator(masked.generation.align(student))
    assert results["mgd"]["mgd_features"].item() == pytest.approx(3 * functional.mse_loss(generated, teacher).item())
    for module, terms in zip(modules.values(), results.values(), strict=True):
        torch.stack(list(terms.values())).sum().backward()
        assert all(parameter.grad.abs().sum() > 0 for parameter in module.parameters())
    assert teacher.grad is None
    assert len(list(CWD(CWDConfig(), 6, 6).parameters())) == 0
    published = MGDConfig(feature_loss="sum", weight=2e-5)  # the mean form's weight is the same at 512x512
    assert published.weight * 2048 * 64 * 64 == pytest.approx(MGDConfig().weight, rel=0.01)


def test_mask_distillation_equals_a_loop() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 4, 5, requires_grad=True), torch.randn(2, 3, 4, 5)
    masks = receptive_masks(torch.randn(4, 3) / 100, 5 * teacher)
    assert 0 < masks.min() < masks.max() < 1
    expected = 0.0
    for image in range(2):
        for mask in masks[image].detach():
            for name in range(3):
                difference = (mask * student[image, name] - mask * teacher[image, name]).square().sum()
                expected += 0.5 * (difference / mask.sum()).item() / (2 * 4 * 3)
    loss = mask_distillation(student, teacher, masks)
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    loss.backward()
    assert student.grad.abs().sum() > 0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert mask_distillation(student, teacher, masks).item() == pytest.approx(expected, rel=1e-2)


def test_dice_counts_different_masks_only() -> None:
    apart = torch.eye(4).view(1, 4, 2, 2)
    assert dice_overlap(apart).item() == 0
    assert dice_overlap(apart[:, :1].expand(1, 4, 2, 2)).item() == pytest.approx(1)
    first, second = torch.tensor([1.0, 1, 0, 0]), torch.tensor([0.5, 0, 0, 0])
    pair = torch.stack([first, second]).view(1, 2, 2, 2)
    assert dice_overlap(pair).item() == pytest.approx(2 * 0.5 / (2 + 0.25))


def test_tokens_learn_first_and_then_the_student_follows() -> None:
    """Stage one against torch's SGD on the same loss, each step in two parts; stage two has no tokens to learn."""
    torch.manual_seed(0)
    labels = torch.randint(0, 3, (2, 8, 8))
    teacher = functional.one_hot(labels[:, ::2, ::2], 3).permute(0, 3, 1, 2).float() + 0.3 * torch.randn(2, 3, 4, 4)
    labels[0, 0] = 255
    student = torch.randn(2, 3, 4, 4, requires_grad=True)
    config = MasKDConfig(tokens=4, token_steps=20, weight=2)
    module = MasKD(config, num_classes=3)
    tokens = module.tokens.clone().requires_grad_()
    optimizer = torch.optim.SGD([tokens], lr=0.1, momentum=0.9, weight_decay=1e-3)
    losses = []
    for step in range(20):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 20) ** 0.9
        optimizer.zero_grad()
        for part in (slice(0, 1), slice(1, 2)):
            # The second image of each part is unlabeled: the tokens do not see it.
            pairs = {"logits": (student, torch.cat([teacher[part], torch.randn(1, 3, 4, 4)]))}
            terms = module(pairs, labels[part])
            assert set(terms) == {"maskd_tokens"}
            assert not terms["maskd_tokens"].requires_grad
            (token_loss(tokens, teacher[part], labels[part]) / 2).backward()
            losses.append(terms["maskd_tokens"].item())
        optimizer.step()
        module.after_step()
        torch.testing.assert_close(module.tokens, tokens.detach())
    assert sum(losses[-2:]) < sum(losses[:2])

    resumed = MasKD(config, num_classes=3)
    resumed.load_state_dict(module.state_dict())
    for one in (module, resumed):
        loss = one({"logits": (student, teacher)}, labels)["maskd"]
        one.after_step()
        assert loss.item() == 2 * mask_distillation(student, teacher, receptive_masks(tokens, teacher)).item()
        assert torch.equal(one.tokens, module.tokens)
    loss.backward()
    assert student.grad.abs().sum() > 0
    assert not list(module.parameters())


def test_token_loss_by_hand() -> None:
    torch.manual_seed(0)
    tokens, logits, labels = torch.randn(4, 3), torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 8, 8))
    labels[0, 0] = 255
    masks = receptive_masks(tokens, logits)
    weighted = functional.interpolate((logits.unsqueeze(1) * masks.unsqueeze(2)).sum(1), (8, 8), mode="bilinear")
    expected = functional.cross_entropy(weighted, labels, ignore_index=255) + dice_overlap(masks)
    assert token_loss(tokens, logits, labels).item() == pytest.approx(expected.item(), rel=1e-5)
    assert token_loss(tokens, logits, torch.full_like(labels, 255)).isfinite()


@pytest.mark.parametrize("config", CONFIGS)
def test_configurations_refuse_unknown_keys(config: type[BaseModel]) -> None:
    assert config() == config.model_validate(config().model_dump())
    with pytest.raises(ValidationError, match="Extra inputs"):
        config.model_validate({"wieght": 1})


def test_contract_names() -> None:
    names = {loss.__name__: list(inspect.signature(loss).parameters) for loss in LOSSES.values()}
    assert names["kd"] == names["cwd"] == ["student_logits", "teacher_logits", "temperature"]
    assert names["ifvd"][:4] == ["student", "teacher", "label", "num_classes"]
    assert names["pairwise_similarity"] == ["student", "teacher", "pool_size"]
    assert names["cross_image_similarity"] == ["student", "teacher", "temperature"]
    assert names["attention_transfer"] == ["student", "teacher"]
