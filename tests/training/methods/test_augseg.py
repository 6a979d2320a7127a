"""AugSeg: true labels in mixed images, and its loss recomputed from the images that the student saw."""

import pytest
import torch
from support import crops as scene
from support.crops import HEIGHT, WIDTH, full_logits_of, network, seen_by
from torch import Tensor
from torch.nn import functional

from semseg_app.data.layouts import open_dataset
from semseg_app.training.data.streams import Batch, ImageDataset
from semseg_app.training.methods.augseg import AugSeg, AugSegConfig

THRESHOLD = 0.6


@pytest.fixture(scope="module")
def dataset(tiny_dataset) -> ImageDataset:
    data = open_dataset(tiny_dataset)
    return ImageDataset(data, data.samples("train"), with_labels=True)


def batch() -> Batch:
    """The first labeled crop is padded as well; nothing is cut out."""
    crops = scene.batch()
    pad = crops.labeled.pad.clone()
    pad[0, 25:] = True
    labels = crops.labeled.labels.masked_fill(pad, 255)
    known = (labels != 255).sum().float()
    return Batch(
        crops.labeled._replace(labels=labels, pad=pad, label_count=known),
        crops.unlabeled._replace(cut=[torch.zeros_like(crops.unlabeled.pad)]),
    )


def step(method: AugSeg, crops: Batch) -> tuple[dict[str, Tensor], Tensor]:
    """Losses, and the images of the student's one pass. The draws are the same every time."""
    passes = seen_by(method.network)
    torch.manual_seed(2)
    losses = method(crops, 0)
    assert len(passes) == 1
    return losses, passes[0]


def sources(mixed: Tensor, crops: Batch) -> tuple[Tensor, Tensor]:
    """For every pixel of the mixed images: index of the labeled crop it is from, or -1; likewise of the unlabeled."""

    def match(candidates: Tensor) -> Tensor:
        same = (mixed.unsqueeze(1) - candidates.unsqueeze(0)).abs().amax(2) < 1e-5  # [B, candidates, H, W]
        return torch.where(same.any(1), same.byte().argmax(1).long(), -1)

    return match(crops.labeled.images), match(crops.unlabeled.strong[0])


def at(maps: Tensor, index: Tensor) -> Tensor:
    """The value of `maps [N, H, W]` at each pixel's index `[B, H, W]`."""
    return maps.gather(0, index.clamp(min=0))


def test_loss_is_that_of_the_paper(dataset):
    net, crops = network(), batch()
    method = AugSeg(AugSegConfig(threshold=THRESHOLD), net, dataset)
    with torch.no_grad():
        method.teacher.network.classifier.bias += torch.tensor([0.2, 0.0, -0.2])  # not the student any more
    losses, seen = step(method, crops)
    assert set(losses) == {"supervised", "unsupervised"}
    torch.testing.assert_close(seen[:2], crops.labeled.images, atol=1e-5, rtol=0)
    torch.testing.assert_close(seen[6:], crops.unlabeled.weak, atol=1e-5, rtol=0)
    mixed = seen[2:6]
    labeled, unlabeled = sources(mixed, crops)
    true = labeled >= 0
    assert (true ^ (unlabeled >= 0)).all()
    assert true.any()  # a teacher as unsure as this one gets true labels
    partner = [set(row[row >= 0].tolist()) - {image} for image, row in enumerate(unlabeled)]
    assert all(len(others) <= 1 for others in partner)
    assert any(partner)

    with torch.no_grad():
        answer = net.full_logits(crops.labeled.images)
        teacher = method.teacher.network.full_logits(crops.unlabeled.weak)
        student = net.full_logits(mixed)
    supervised = functional.cross_entropy(answer, crops.labeled.labels, ignore_index=255)
    torch.testing.assert_close(losses["supervised"], supervised)
    confidence, labels = teacher.softmax(1).max(1)
    assert 0.1 < (confidence >= THRESHOLD).float().mean() < 0.9
    pseudo = labels.masked_fill((confidence < THRESHOLD) | crops.unlabeled.pad, 255)
    target = torch.where(true, at(crops.labeled.labels, labeled), at(pseudo, unlabeled))
    summed = functional.cross_entropy(student, target, ignore_index=255, reduction="sum")
    torch.testing.assert_close(losses["unsupervised"], summed / (4 * HEIGHT * WIDTH))


def test_true_labels_have_confidence_one(dataset):
    """At a threshold that no prediction reaches, only pixels of labeled crops teach, with their own labels."""
    net, crops = network(), batch()
    losses, seen = step(AugSeg(AugSegConfig(threshold=1.0), net, dataset), crops)
    labeled, _ = sources(seen[2:6], crops)
    target = torch.where(labeled >= 0, at(crops.labeled.labels, labeled), 255)
    summed = functional.cross_entropy(net.full_logits(seen[2:6]), target, ignore_index=255, reduction="sum")
    assert summed > 0
    torch.testing.assert_close(losses["unsupervised"], summed / target.numel())
    # Ignored stays ignored: without any true label, exactly nothing.
    unknown = crops.labeled._replace(labels=torch.full_like(crops.labeled.labels, 255))
    losses = AugSeg(AugSegConfig(threshold=1.0), net, dataset)(crops._replace(labeled=unknown), 0)
    assert losses["unsupervised"] == 0


def test_passes_gradients_and_padding(dataset):
    net, crops = network(), batch()
    method = AugSeg(AugSegConfig(threshold=0.0), net, dataset)
    taught = seen_by(method.teacher.network)
    made = full_logits_of(net)
    losses, seen = step(method, crops)
    assert [len(images) for images in taught] == [4]
    assert len(seen) == 2 + 4 + 4
    labeled, unlabeled = sources(seen[2:6], crops)
    outside = torch.where(labeled >= 0, at(crops.labeled.pad, labeled), at(crops.unlabeled.pad, unlabeled))
    ignored = (labeled >= 0) & at(crops.labeled.labels == 255, labeled)
    student = next(one for one in made if len(one) == 4 and one.requires_grad)
    (gradient,) = torch.autograd.grad(losses["unsupervised"], [student], retain_graph=True)
    assert gradient.ne(0).any(1).equal(~(outside | ignored))
    torch.stack(list(losses.values())).sum().backward()
    assert all(parameter.grad is None for parameter in method.teacher.parameters())
    assert all(parameter.grad is not None for parameter in net.parameters())  # what DDP asks for


def test_weak_images_move_the_batch_statistics_and_nothing_else(dataset):
    crops = batch()
    net = network()
    methods = [AugSeg(AugSegConfig(threshold=0.0, weak_in_batch=weak), net, dataset) for weak in (True, False)]
    losses, others = (step(method, crops)[0] for method in methods)
    for name, loss in losses.items():
        torch.testing.assert_close(loss, others[name])
    net.train()
    passes = seen_by(net)
    losses, others = (method(crops, 0) for method in methods)
    assert [len(images) for images in passes] == [2 + 4 + 4, 2 + 4]
    assert not torch.isclose(losses["supervised"], others["supervised"], rtol=1e-4)
