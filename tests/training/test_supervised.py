"""The supervised loss by hand."""

import torch
from torch.nn import functional

from semseg_app.data.layouts import open_dataset
from semseg_app.models import ModelSpec, build
from semseg_app.training.data import LabeledBatch, Pool
from semseg_app.training.methods.supervised import class_weights, supervised_losses


def test_sum_over_labeled_pixels_by_the_count_of_the_step():
    torch.manual_seed(0)
    network = build(
        ModelSpec(architecture="segformer", encoder="tu-test_efficientnet", num_classes=3), auxiliary=(-1,)
    ).eval()
    images, labels = torch.rand(2, 3, 48, 64), torch.randint(3, (2, 48, 64))
    labels[:, :20] = 255
    count = (labels != 255).sum().float()
    batch = LabeledBatch(images, labels, labels == 255, count)
    losses = supervised_losses(network, batch, auxiliary_weight=0.4)
    expected = functional.cross_entropy(network.full_logits(images), labels, ignore_index=255)
    torch.testing.assert_close(losses["supervised"], expected)
    features = network.features(images)
    second = functional.cross_entropy(network.upsample(features.auxiliary[0], 48, 64), labels, ignore_index=255)
    torch.testing.assert_close(losses["auxiliary"], 0.4 * second)
    # Twice the count, as when another rank holds as many pixels: half the loss.
    half = supervised_losses(network, batch._replace(label_count=2 * count), auxiliary_weight=0.4)
    torch.testing.assert_close(half["supervised"], expected / 2)
    # Nothing labeled: zero, attached to the graph, no NaN.
    empty = batch._replace(labels=torch.full_like(labels, 255), label_count=torch.tensor(0.0))
    loss = supervised_losses(network, empty, auxiliary_weight=0.4)["supervised"]
    assert loss == 0
    assert loss.requires_grad


def test_class_weights_average_to_one_over_pixels(tiny_dataset):
    data = open_dataset(tiny_dataset)
    pool = Pool(data, data.samples("train"), with_labels=True)
    counts = torch.stack([torch.bincount(pool[i][1].flatten().long(), minlength=256)[:3] for i in range(12)]).sum(0)
    share = counts / counts.sum()
    weights = class_weights(pool, 1.0)
    torch.testing.assert_close(weights * share, torch.full((3,), 1 / 3))
    root = class_weights(pool, 0.5)
    torch.testing.assert_close((root * share).sum(), torch.tensor(1.0))
    torch.testing.assert_close(root[1] / root[0], (share[0] / share[1]).sqrt())
    assert class_weights(pool, 0.0) is None
