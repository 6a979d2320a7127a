"""Boundary maps and losses by hand."""

import math

import torch

from semseg_app.data.layouts import open_dataset
from semseg_app.models import ModelSpec, build
from semseg_app.training.data.streams import ImageDataset, LabeledBatch
from semseg_app.training.losses.boundary import boundary_aware_cross_entropy, boundary_cross_entropy, boundary_map
from semseg_app.training.losses.labeled_loss import LabeledLoss, LabeledLossConfig

IGNORE = 255


def test_boundary_map_against_loops():
    torch.manual_seed(0)
    labels = torch.randint(3, (2, 4, 5)).repeat_interleave(4, 1).repeat_interleave(4, 2)
    labels[0, :7, :9] = IGNORE
    found = boundary_map(labels)
    for image in range(2):
        for row in range(16):
            for column in range(20):
                here = labels[image, row, column]
                window = labels[image, max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3]
                others = set(window.flatten().tolist()) - {IGNORE, int(here)}
                assert found[image, row, column] == (here != IGNORE and len(others) > 0)
    assert found.any()
    assert not found.all()


def test_boundaries_and_the_rest_weigh_the_same():
    """One row of 20 pixels, the classes meet in its middle: 4 of its 18 labeled pixels are boundary."""
    labels = torch.tensor([[IGNORE, IGNORE, *[0] * 9, *[1] * 9]]).unsqueeze(0)
    logits = torch.randn(1, 1, 1, 20, generator=torch.Generator().manual_seed(0), requires_grad=True)
    expected = 0.0
    for column in range(2, 20):
        probability = 1 / (1 + math.exp(-float(logits.detach()[0, 0, 0, column])))
        boundary = column in (9, 10, 11, 12)
        expected -= (14 / 18) * math.log(probability) if boundary else (4 / 18) * math.log(1 - probability)
    loss = boundary_cross_entropy(logits, labels)
    torch.testing.assert_close(loss.item(), expected / 18)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert (gradient[..., :2] == 0).all()


def test_classes_are_asked_where_a_boundary_is_seen():
    logits = torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(1), requires_grad=True)
    boundary = torch.full((2, 1, 2, 2), 1.3, requires_grad=True)  # probability 0.79
    labels = torch.tensor([[[0, 1], [2, IGNORE]], [[0, 1], [2, 1]]])
    assert boundary_aware_cross_entropy(logits, boundary, labels) == 0
    with torch.no_grad():
        boundary[0, 0, :, 1] = 1.5  # 0.82, one of them ignored
        boundary[1, 0, 0] = 9.0
    shares = logits.log_softmax(1)
    expected = -(shares[0, 1, 0, 1] + (shares[1, 0, 0, 0] + shares[1, 1, 0, 1]) / 2) / 2
    loss = boundary_aware_cross_entropy(logits, boundary, labels)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert boundary.grad is None


def test_a_batch_is_the_mean_of_its_images_and_nothing_labeled_is_nothing():
    random = torch.Generator().manual_seed(2)
    labels = torch.randint(2, (3, 8, 8), generator=random)
    labels[0, 2:] = IGNORE
    labels[2] = IGNORE
    boundary, logits = torch.randn(3, 1, 8, 8, generator=random) * 3, torch.randn(3, 2, 8, 8, generator=random)
    for loss in (
        lambda part: boundary_cross_entropy(boundary[part], labels[part]),
        lambda part: boundary_aware_cross_entropy(logits[part], boundary[part], labels[part]),
    ):
        alone = [loss(slice(image, image + 1)) for image in range(3)]
        assert alone[2] == 0
        torch.testing.assert_close(loss(slice(None)), torch.stack(alone).mean())


def test_a_pidnet_is_trained_with_all_its_losses(tiny_dataset):
    torch.manual_seed(0)
    data = open_dataset(tiny_dataset)
    network = build(ModelSpec(architecture="pidnet", encoder="pidnet_s", num_classes=3, decoder_channels=16)).train()
    images, labels = (
        torch.rand(2, 3, 48, 64),
        torch.randint(3, (2, 6, 8)).repeat_interleave(8, 1).repeat_interleave(8, 2),
    )
    features = network.features(images)
    batch = LabeledBatch(images, labels, labels == IGNORE, torch.tensor(float(labels.numel())))
    losses = LabeledLoss(LabeledLossConfig(), ImageDataset(data, data.samples("train"), with_labels=True))(
        network, features, batch
    )
    assert set(losses) == {"supervised", "auxiliary", "boundary", "boundary_aware"}
    boundary = network.upsample(features.boundary, 48, 64)
    torch.testing.assert_close(losses["boundary"], 20 * boundary_cross_entropy(boundary, labels))
    # As the authors mine: by the main classifier alone, among all its pixels and among those at boundaries.
    with torch.no_grad():
        features.boundary[:, :, :, :4] += 5  # the left half is seen as a boundary, the right is not
        features.boundary[:, :, :, 4:] -= 5
    boundary = network.upsample(features.boundary, 48, 64).detach()
    mined = LabeledLoss(
        LabeledLossConfig(ohem_threshold=0.3, ohem_min_kept=1, ohem_heads="main"),
        ImageDataset(data, data.samples("train"), with_labels=True),
    )(network, features, batch)
    torch.testing.assert_close(mined["auxiliary"], losses["auxiliary"])
    probability = network.upsample(features.logits, 48, 64).softmax(1).gather(1, labels.unsqueeze(1)).squeeze(1)
    hard, seen = probability <= 0.3, boundary.squeeze(1).sigmoid() > 0.8
    assert 0 < (hard & seen).sum() < hard.sum()
    torch.testing.assert_close(mined["supervised"], -probability[hard].log().mean())
    torch.testing.assert_close(mined["boundary_aware"], -probability[hard & seen].log().mean())
    torch.stack(list(losses.values())).sum().backward()
    assert not [name for name, one in network.named_parameters() if one.grad is None]
