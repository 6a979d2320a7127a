"""PseudoSeg's operators against golden vectors, hand-computed numbers and autograd."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from semseg_app.models import ModelSpec, SegmentationNetwork, build
from semseg_app.training.losses.pseudo_label import (
    mask_on_grid,
    masked_mean,
    pseudo_label_loss,
    resize_mask,
    soft_label_loss,
)
from semseg_app.training.methods.pseudoseg import calibrated_fusion
from semseg_app.training.methods.self_attention_cam import (
    ImageClassifier,
    SelfAttentionCam,
    classes_present,
    grad_cam,
    hypercolumn,
)

GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.mark.parametrize("name", ["pseudoseg_fusion_g3", "pseudoseg_fusion_g5"])
def test_fusion_matches_the_golden_vector(name: str) -> None:
    vector = np.load(GOLDEN / f"{name}.npz")
    decoder = torch.from_numpy(vector["decoder_logits"]).requires_grad_()
    sgc = torch.from_numpy(vector["sgc_logits"])
    label = calibrated_fusion(decoder, sgc, float(vector["gamma"]), float(vector["temperature"]))
    torch.testing.assert_close(label, torch.from_numpy(vector["pseudo_label"]), rtol=1e-4, atol=1e-7)
    assert not label.requires_grad


def test_fusion_by_hand() -> None:
    decoder = torch.tensor([4.0, 1, -2]).view(1, 3, 1, 1)
    sgc = torch.tensor([0.5, 1, 0]).view(1, 3, 1, 1)
    label = calibrated_fusion(decoder, sgc, gamma=0.5, temperature=0.5)
    assert label.flatten().tolist() == pytest.approx([0.745312, 0.206074, 0.048614], abs=1e-6)
    # Temperature 1 leaves the mixture of the two softmaxes at the common root mean square of 1.92570334.
    mixture = ((decoder / 1.92570334).softmax(1) + (sgc / 1.92570334).softmax(1)) / 2
    torch.testing.assert_close(calibrated_fusion(decoder, sgc, 0.5, 1.0), mixture)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_fusion_is_a_distribution_that_ignores_the_common_scale(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    decoder, sgc = torch.randn(2, 2, 7, 5, 3, dtype=torch.float64).mul(300).to(dtype)  # squares overflow in half
    label = calibrated_fusion(decoder, sgc, gamma=0.3, temperature=0.05)
    assert label.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(label.sum(1), torch.ones_like(label[:, 0]))
    scaled = calibrated_fusion(decoder / 8, sgc / 8, gamma=0.3, temperature=0.05)
    torch.testing.assert_close(label, scaled, rtol=1e-3, atol=1e-4)
    assert torch.isfinite(calibrated_fusion(decoder * 0, sgc * 0, 1.0, 0.5)).all()


def test_fusion_refuses_what_it_cannot_fuse() -> None:
    with pytest.raises(ValueError, match="resize the SGC logits"):
        calibrated_fusion(torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 2, 2), 0.5, 0.5)
    with pytest.raises(ValueError, match="must be above 0"):
        calibrated_fusion(torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, 2), 0.5, 0.0)


def test_one_pass_grad_cam_equals_autograd() -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 16, 5, 7, requires_grad=True)
    classifier = ImageClassifier(16, 4)
    present = torch.tensor([[True, True, False, True], [True, False, True, True]])
    scores = classifier(features)
    expected = torch.zeros(2, 4, 5, 7)
    for image in range(2):
        for label in range(4):
            gradient = torch.autograd.grad(scores[image, label], features, retain_graph=True)[0][image]
            cam = (gradient.mean(dim=(1, 2), keepdim=True) * features[image]).sum(0).relu().detach()
            expected[image, label] = cam / cam.max().clamp(min=1e-5) * present[image, label]
    cams = grad_cam(features, classifier.linear.weight, present)
    torch.testing.assert_close(cams, expected)
    assert not cams.requires_grad
    assert cams[~present].eq(0).all()
    assert cams[present].amax(dim=(1, 2)).eq(1).all()


def test_grad_cam_of_a_class_that_no_pixel_supports_is_zero_not_nan() -> None:
    cams = grad_cam(torch.ones(1, 2, 3, 3), -torch.ones(1, 2), torch.ones(1, 1, dtype=torch.bool))
    assert cams.eq(0).all()
    faint = grad_cam(torch.full((1, 1, 2, 2), 2e-5), torch.ones(1, 1), torch.ones(1, 1, dtype=torch.bool))
    assert faint.flatten().tolist() == pytest.approx([0.5] * 4)  # gradient 1/4 of it, divided by the floor of 1e-5


def test_classes_present_leaves_out_background_and_ignore() -> None:
    labels = torch.tensor([[[0, 2], [255, 2]], [[3, 3], [3, 1]], [[255, 255], [255, 255]]])
    assert classes_present(labels, 4, background=0).int().tolist() == [[0, 1, 0], [1, 0, 1], [0, 0, 0]]
    assert classes_present(labels.byte(), 4, background=None).int().tolist() == [[1, 0, 1, 0], [0, 1, 0, 1], [0] * 4]
    assert classes_present(labels, 4, background=3).int().tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0]]


@pytest.mark.parametrize("background", [0, 2, None])
def test_sgc_scores_match_a_plain_attention(background: int | None) -> None:
    torch.manual_seed(0)
    columns, pad = torch.randn(2, 6, 3, 4), torch.zeros(2, 3, 4, dtype=torch.bool)
    pad[1, :, 2:] = True
    cam = torch.rand(2, 3 if background is not None else 4, 3, 4)
    sgc = SelfAttentionCam(6, 4, background, key_channels=5)
    scores = sgc.scores(columns, cam, pad)
    for image in range(2):
        query = torch.einsum("kd,dp->pk", sgc.query.weight.flatten(1), columns[image].flatten(1))
        key = torch.einsum("kd,dp->pk", sgc.key.weight.flatten(1), columns[image].flatten(1))
        attention = (query @ key.t() / 5**0.5 - 1e9 * pad[image].flatten()).softmax(1)
        foreground = cam[image].flatten(1) @ attention.t() + cam[image].flatten(1)
        expected = list(foreground)
        if background is not None:
            expected.insert(background, 2 - foreground.amax(0))
        torch.testing.assert_close(scores[image].flatten(1), torch.stack(expected), rtol=1e-4, atol=1e-5)
    assert sgc(columns, cam, pad).shape == (2, 4, 3, 4)
    assert torch.isfinite(sgc(columns, cam, torch.ones_like(pad))).all()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(sgc.scores(columns, cam, pad), scores, rtol=0.02, atol=0.02)


def test_sgc_loss_reaches_only_the_attention() -> None:
    torch.manual_seed(0)
    backbone = nn.ModuleList([nn.Conv2d(3, 4, 3, stride=2), nn.Conv2d(4, 6, 3, stride=2, padding=1)])
    classifier, sgc = ImageClassifier(6, 2), SelfAttentionCam(10, 3, key_channels=8)
    shallow = backbone[0](torch.randn(2, 3, 17, 21))
    deep = backbone[1](shallow)
    labels = torch.randint(0, 3, (2, 17, 21))
    cam = grad_cam(deep, classifier.linear.weight, classes_present(labels, 3, 0))
    columns = hypercolumn([shallow, deep])
    assert columns.shape == (2, 10, *deep.shape[2:])
    logits = functional.interpolate(sgc(columns, cam), size=(17, 21), mode="bilinear", align_corners=False)
    functional.cross_entropy(logits, labels).backward()
    assert all(parameter.grad is None for parameter in [*backbone.parameters(), *classifier.parameters()])
    assert all(parameter.grad.abs().sum() > 0 for parameter in sgc.parameters() if parameter.requires_grad)


def test_unsupervised_loss_has_no_gradient_into_its_target() -> None:
    torch.manual_seed(0)
    strong, decoder, sgc = torch.randn(3, 2, 4, 5, 3).requires_grad_().unbind(0)
    target = calibrated_fusion(decoder, sgc, 0.5, 0.5)
    gradient = torch.autograd.grad(
        soft_label_loss(strong, target, torch.ones(2, 5, 3, dtype=torch.bool)),
        [strong, decoder, sgc],
        allow_unused=True,
    )
    assert gradient[0].abs().sum() > 0
    assert gradient[1] is None
    assert gradient[2] is None
    differentiable = decoder.softmax(1)
    loss = soft_label_loss(strong, differentiable, torch.ones(2, 5, 3, dtype=torch.bool))
    assert torch.autograd.grad(loss, decoder, allow_unused=True)[0] is None


@pytest.mark.parametrize("soft", [True, False])
def test_cut_pad_and_ignored_pixels_do_nothing(soft: bool) -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 4, 6, 5, requires_grad=True)
    labels, confidence = torch.randint(0, 4, (2, 6, 5)), torch.rand(2, 6, 5)
    pad, cut, ignored = torch.rand(3, 2, 6, 5).lt(0.2).unbind(0)
    valid = ~pad & ~cut
    dead = ~valid if soft else ~valid | ignored | (confidence < 0.4)
    target = torch.randn(2, 4, 6, 5).softmax(1)

    def loss(labels: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if soft:
            return soft_label_loss(logits, target, valid)
        return pseudo_label_loss(logits, labels.masked_fill(ignored, 255), confidence, valid, threshold=0.4)

    value = loss(labels, target)
    (gradient,) = torch.autograd.grad(value, logits)
    assert gradient.abs().sum(1)[dead].eq(0).all()
    assert gradient.abs().sum(1)[~dead].gt(0).all()
    other = loss(torch.where(dead, (labels + 1) % 4, labels), torch.where(dead.unsqueeze(1), target.flip(1), target))
    assert value == other
    # Against plain sums: the denominator is the valid pixels, whether confident or not.
    entropy = -logits.log_softmax(1).gather(1, labels.unsqueeze(1)).squeeze(1)
    soft_entropy = -(target * logits.log_softmax(1)).sum(1)
    expected = (soft_entropy if soft else entropy)[~dead].sum() / valid.sum()
    torch.testing.assert_close(value, expected)


def test_no_confident_or_no_valid_pixel_gives_exactly_zero() -> None:
    logits = torch.randn(1, 3, 4, 4).to(torch.bfloat16).requires_grad_()
    labels, confidence = torch.zeros(1, 4, 4, dtype=torch.uint8), torch.full((1, 4, 4), 0.3)
    everywhere = torch.ones(1, 4, 4, dtype=torch.bool)
    for reduction in ("valid", "all"):
        for valid, threshold in ((everywhere, 0.95), (~everywhere, 0.0)):
            loss = pseudo_label_loss(logits, labels, confidence, valid, threshold, reduction)
            (gradient,) = torch.autograd.grad(loss, logits)
            assert loss.item() == 0.0
            assert gradient.eq(0).all()


def test_reduction_over_all_pixels() -> None:
    valid = torch.tensor([[[True, True, False, False]]])
    counted = torch.tensor([[[True, False, True, False]]])
    values = torch.tensor([[[3.0, 5, 7, 9]]])
    assert masked_mean(values, counted, valid, "valid").item() == 1.5
    assert masked_mean(values, counted, valid, "all").item() == 0.75


def test_resized_mask_samples_pixel_centers() -> None:
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[:, 2:, :4] = True
    assert resize_mask(mask, 2, 2).int().tolist() == [[[1, 0], [1, 0]]]
    assert resize_mask(mask, 8, 8) is mask


@pytest.fixture(scope="module")
def networks() -> tuple[SegmentationNetwork, SegmentationNetwork]:
    """One that pads images to its stride of 8, and one that aligns corners and pads nothing."""
    spec = ModelSpec(architecture="deeplabv3plus-plain", encoder="tu-resnet10t", num_classes=3, output_stride=8)
    with torch.device("meta"):
        return build(spec), build(spec.model_copy(update={"align_corners": True}))


def test_mask_on_a_grid_covers_what_the_network_pads(networks) -> None:
    mask = torch.zeros(1, 9, 14, dtype=torch.bool)  # padded to 16 x 16
    mask[:, :, :4] = True
    expected = [[1, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]]
    expected[0][3] = expected[1][3] = 1  # center at column 14
    assert mask_on_grid(mask, networks[0], 4, 4).int().tolist() == [expected]
    assert mask_on_grid(mask, networks[1], 9, 14).equal(mask)


def test_mask_on_a_grid_with_aligned_corners_is_read_at_the_cells_own_pixels(networks) -> None:
    mask = torch.rand(2, 17, 33) > 0.5
    assert mask_on_grid(mask, networks[1], 3, 5).equal(mask[:, ::8, ::8])
