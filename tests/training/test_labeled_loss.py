"""The supervised loss by hand."""

import pytest
import torch
from torch.nn import functional

from semseg_app.data.layouts import open_dataset
from semseg_app.models import ModelSpec, build
from semseg_app.training.data import LabeledBatch, Pool
from semseg_app.training.labeled_loss import LabeledLoss, LabeledLossConfig, class_weights


@pytest.fixture(scope="module")
def pool(tiny_dataset) -> Pool:
    data = open_dataset(tiny_dataset)
    return Pool(data, data.samples("train"), with_labels=True)


def test_sum_over_labeled_pixels_by_the_count_of_the_step(pool):
    torch.manual_seed(0)
    network = build(
        ModelSpec(architecture="segformer", encoder="tu-test_efficientnet", num_classes=3), auxiliary=(-1,)
    ).eval()
    images, labels = torch.rand(2, 3, 48, 64), torch.randint(3, (2, 48, 64))
    labels[:, :20] = 255
    count = (labels != 255).sum().float()
    batch = LabeledBatch(images, labels, labels == 255, count)
    features = network.features(images)
    loss_of = LabeledLoss(LabeledLossConfig(dice_weight=2.0), pool)
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


def test_class_weights_average_to_one_over_pixels(pool):
    counts = torch.stack([torch.bincount(pool[i][1].flatten().long(), minlength=256)[:3] for i in range(12)]).sum(0)
    share = counts / counts.sum()
    weights = class_weights(pool, 1.0)
    torch.testing.assert_close(weights * share, torch.full((3,), 1 / 3))
    root = class_weights(pool, 0.5)
    torch.testing.assert_close((root * share).sum(), torch.tensor(1.0))
    torch.testing.assert_close(root[1] / root[0], (share[0] / share[1]).sqrt())
    assert class_weights(pool, 0.0) is None
