"""The supervised loss by hand."""

import math

import pytest
import torch
from torch.nn import functional

from semseg_app.data.layouts import open_dataset
from semseg_app.errors import UserError
from semseg_app.models import ModelSpec, build
from semseg_app.training.data.streams import ImageDataset, LabeledBatch
from semseg_app.training.losses.labeled_loss import LabeledLoss, LabeledLossConfig, class_weights, hard_cross_entropy


@pytest.fixture(scope="module")
def dataset(tiny_dataset) -> ImageDataset:
    data = open_dataset(tiny_dataset)
    return ImageDataset(data, data.samples("train"), with_labels=True)


def test_sum_over_labeled_pixels_by_the_count_of_the_step(dataset):
    torch.manual_seed(0)
    network = build(
        ModelSpec(architecture="segformer", encoder="tu-test_efficientnet", num_classes=3), auxiliary=(-1,)
    ).eval()
    images, labels = torch.rand(2, 3, 48, 64), torch.randint(3, (2, 48, 64))
    labels[:, :20] = 255
    count = (labels != 255).sum().float()
    batch = LabeledBatch(images, labels, labels == 255, count)
    features = network.features(images)
    loss_of = LabeledLoss(LabeledLossConfig(dice_weight=2.0), dataset)
    losses = loss_of(network, features, batch)
    expected = functional.cross_entropy(network.full_logits(images), labels, ignore_index=255)
    torch.testing.assert_close(losses["supervised"], expected)
    second = functional.cross_entropy(network.upsample(features.auxiliary[0], 48, 64), labels, ignore_index=255)
    torch.testing.assert_close(losses["auxiliary"], 0.4 * second)
    # Twice the count, as when another rank holds as many pixels: half the loss.
    half = loss_of(network, features, batch._replace(label_count=2 * count))
    torch.testing.assert_close(half["supervised"], expected / 2)
    # Nothing labeled: zero, attached to the graph, no NaN.
    empty = batch._replace(labels=torch.full_like(labels, 255), label_count=torch.tensor(0.0))
    nothing = loss_of(network, features, empty)
    assert all(loss == 0 and loss.requires_grad for loss in nothing.values())
    # Dice by its formula, over the batch, 1 - 2 |p y| / (|p| + |y|), mean over classes.
    known = (labels != 255).unsqueeze(1)
    shares = network.full_logits(images).softmax(1) * known
    truth = functional.one_hot(labels * known[:, 0], 3).permute(0, 3, 1, 2) * known
    overlap, total = (shares * truth).sum((0, 2, 3)), (shares + truth).sum((0, 2, 3))
    torch.testing.assert_close(losses["dice"], 2 * (1 - 2 * overlap / total).mean())


def test_class_weights_average_to_one_over_pixels(dataset):
    counts = torch.stack([torch.bincount(dataset[i][1].flatten().long(), minlength=256)[:3] for i in range(12)]).sum(0)
    share = counts / counts.sum()
    weights = class_weights(dataset, 1.0)
    torch.testing.assert_close(weights * share, torch.full((3,), 1 / 3))
    root = class_weights(dataset, 0.5)
    torch.testing.assert_close((root * share).sum(), torch.tensor(1.0))
    torch.testing.assert_close(root[1] / root[0], (share[0] / share[1]).sqrt())
    assert class_weights(dataset, 0.0) is None


def hard_pixels_one_by_one(logits, labels, weights, threshold, min_kept) -> float:
    """As published: sort the probabilities of the true classes, lift the threshold to the min_kept-th, average."""
    entries = []
    for image, label in zip(logits, labels, strict=True):
        for row, column in (label != 255).nonzero().tolist():
            true = int(label[row, column])
            probability = image[:, row, column].softmax(0)[true].item()
            entries.append((probability, -math.log(probability) * float(weights[true])))
    if len(entries) >= min_kept:
        threshold = max(threshold, sorted(probability for probability, _ in entries)[min_kept - 1])
        entries = [entry for entry in entries if entry[0] <= threshold]
    return sum(loss for _, loss in entries) / len(entries)


@pytest.mark.parametrize(("threshold", "min_kept"), [(0.2, 1), (0.2, 150), (0.7, 150), (0.2, 301), (0.2, 10_000)])
def test_hard_pixels_as_published(threshold, min_kept):
    torch.manual_seed(0)
    logits = torch.randn(2, 4, 15, 12, dtype=torch.float64)
    labels = torch.randint(4, (2, 15, 12))
    labels.view(-1)[:60] = 255  # 300 of 360 are labeled
    weights = torch.tensor([0.5, 1.0, 2.0, 3.0], dtype=torch.float64)
    for chosen in (weights, None):
        found = hard_cross_entropy(logits, labels, chosen, threshold, min_kept)
        by_hand = hard_pixels_one_by_one(
            logits, labels, torch.ones(4) if chosen is None else chosen, threshold, min_kept
        )
        assert found.item() == pytest.approx(by_hand, rel=1e-9)


def test_hard_pixels_at_the_edges(dataset):
    torch.manual_seed(0)
    logits, labels = torch.randn(1, 3, 6, 6, requires_grad=True), torch.randint(3, (1, 6, 6))
    nothing = hard_cross_entropy(logits, torch.full_like(labels, 255), None, 0.7, 4)
    (gradient,) = torch.autograd.grad(nothing, logits)
    assert nothing == 0
    assert gradient.eq(0).all()
    with torch.no_grad():
        broken = logits.clone()
        broken[0, 0, 2, 2] = torch.nan
    assert hard_cross_entropy(broken, labels, None, 0.7, 4).isnan()
    # Through the config, auxiliary heads included.
    torch.manual_seed(0)
    spec = ModelSpec(architecture="segformer", encoder="tu-test_efficientnet", num_classes=3)
    network = build(spec, auxiliary=(-1,)).eval()
    labels = torch.randint(3, (2, 48, 64))
    batch = LabeledBatch(torch.rand(2, 3, 48, 64), labels, labels == 255, torch.tensor(6144.0))
    features = network.features(batch.images)
    losses = LabeledLoss(LabeledLossConfig(ohem_threshold=0.1, ohem_min_kept=50), dataset)(network, features, batch)
    hardest = functional.cross_entropy(network.full_logits(batch.images), labels, reduction="none").flatten().topk(50)
    torch.testing.assert_close(losses["supervised"], hardest.values.mean())
    second = network.upsample(features.auxiliary[0], 48, 64)
    torch.testing.assert_close(losses["auxiliary"], 0.4 * hard_cross_entropy(second, labels, None, 0.1, 50))


def test_the_sum_can_be_divided_by_all_pixels(dataset):
    """mmsegmentation's mean counts ignored pixels too: with half of them ignored the loss is halved."""
    torch.manual_seed(0)
    network = build(ModelSpec(architecture="segformer", encoder="tu-test_efficientnet", num_classes=3), auxiliary=(-1,))
    labels = torch.randint(3, (2, 48, 64))
    labels[:, :, :32] = 255
    batch = LabeledBatch(torch.rand(2, 3, 48, 64), labels, labels == 255, torch.tensor(3072.0))
    features = network.features(batch.images)
    losses = [
        LabeledLoss(LabeledLossConfig(labeled_reduction=over), dataset)(network, features, batch)
        for over in ("labeled", "all")
    ]
    for name in ("supervised", "auxiliary"):
        torch.testing.assert_close(losses[1][name], losses[0][name] / 2)


def test_contrast_is_added_by_every_method_that_gives_its_network(dataset):
    torch.manual_seed(0)
    network = build(ModelSpec(architecture="segformer", encoder="tu-test_efficientnet", num_classes=3))
    labels = torch.randint(3, (2, 6, 8)).repeat_interleave(8, 1).repeat_interleave(8, 2)
    batch = LabeledBatch(torch.rand(2, 3, 48, 64), labels, labels == 255, torch.tensor(float(labels.numel())))
    config = LabeledLossConfig(contrast={"dimension": 8, "min_pixels": 1, "stages": (-4, -3)})
    loss_of = LabeledLoss(config, dataset, network)
    losses = loss_of(network, network.features(batch.images), batch)
    assert losses.keys() == {"supervised", "scale_contrast", "cross_scale_contrast"}
    assert losses["scale_contrast"] > 0
    assert losses["cross_scale_contrast"] > 0
    torch.stack(list(losses.values())).sum().backward()
    heads = list(loss_of.parameters())
    assert len(heads) == 2 * 5
    assert all(parameter.grad.abs().sum() > 0 for parameter in heads if parameter.ndim > 1)
    with pytest.raises(UserError, match=r"method.contrast: this method has no maps to contrast; leave contrast out"):
        LabeledLoss(config, dataset)


def test_given_class_weights_keep_their_ratios_and_weigh_one_pixel_by_one_on_average(dataset):
    counts = dataset.class_counts()
    weights = class_weights(dataset, 0.0, (0.5, 1.0, 4.0))
    torch.testing.assert_close(weights / weights[1], torch.tensor([0.5, 1.0, 4.0]))
    torch.testing.assert_close((weights * counts).sum() / counts.sum(), torch.tensor(1.0))
    with pytest.raises(UserError, match=r"method.class_weights: 2 weights, but .* has 3 classes; write one for each"):
        class_weights(dataset, 0.0, (1.0, 2.0))
    with pytest.raises(ValueError, match="both weigh the classes; leave one out"):
        LabeledLossConfig(class_balance=0.5, class_weights=(1, 2, 3))
    with pytest.raises(ValueError, match="class_weights are positive numbers"):
        LabeledLossConfig(class_weights=(1, 0, 3))
