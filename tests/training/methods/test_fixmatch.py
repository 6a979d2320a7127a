"""FixMatch as a whole: passes, labels, mixing and loss, recomputed from what the network saw."""

import pytest
import torch
from support.crops import batch, full_logits_of, hard_label_loss, network, pasted, seen_by
from torch.nn import functional

from semseg_app.data.layouts import open_dataset
from semseg_app.training.data.streams import ImageDataset
from semseg_app.training.methods.fixmatch import FixMatch, FixMatchConfig

THRESHOLD = 0.6


@pytest.fixture(scope="module")
def dataset(tiny_dataset) -> ImageDataset:
    data = open_dataset(tiny_dataset)
    return ImageDataset(data, data.samples("train"), with_labels=True)


def test_labels_travel_with_the_pixels_of_the_mixed_image(dataset):
    net, crops = network(), batch()
    method = FixMatch(FixMatchConfig(threshold=THRESHOLD, mix_probability=1.0), net, dataset)
    passes = seen_by(net)
    losses = method(crops, 0)
    assert [len(images) for images in passes] == [2 + 4, 4]  # labels come from the pass that the labeled images share
    assert set(losses) == {"supervised", "unsupervised"}

    with torch.no_grad():
        weak = net.full_logits(crops.unlabeled.weak)
        labeled = net.full_logits(crops.labeled.images)
        strong = net.full_logits(passes[1])
    confidence, labels = weak.softmax(1).max(1)
    assert 0.1 < (confidence >= THRESHOLD).float().mean() < 0.9
    own = crops.unlabeled.strong[0]
    box = pasted(passes[1], own, own.flip(0))
    assert box.flatten(1).any(1).all()
    valid = ~(crops.unlabeled.pad | crops.unlabeled.cut[0])
    expected = hard_label_loss(
        strong,
        torch.where(box, labels.flip(0), labels),
        torch.where(box, confidence.flip(0), confidence),
        torch.where(box, valid.flip(0), valid),
        THRESHOLD,
    )
    torch.testing.assert_close(losses["unsupervised"], expected / 2)
    supervised = functional.cross_entropy(labeled, crops.labeled.labels, ignore_index=255)
    torch.testing.assert_close(losses["supervised"], supervised / 2)


def test_only_valid_pixels_of_the_strong_view_have_a_gradient(dataset):
    net, crops = network(), batch()
    method = FixMatch(FixMatchConfig(threshold=0.0, mix="none"), net, dataset)
    logits = full_logits_of(net)
    weak: list[torch.Tensor] = []
    net.classifier.register_forward_hook(lambda module, inputs, output: weak.append(output))
    losses = method(crops, 0)
    strong = [one for one in logits if one.requires_grad][-1]
    on_weak, on_strong = torch.autograd.grad(losses["unsupervised"], [weak[0], strong], allow_unused=True)
    assert on_weak is None  # the pass that made the labels
    assert on_strong.ne(0).any(1).equal(~(crops.unlabeled.pad | crops.unlabeled.cut[0]))


def test_nothing_confident_is_exactly_zero_and_the_weight_ramps_up(dataset):
    nothing = FixMatch(FixMatchConfig(threshold=1.0), network(), dataset)(batch(), 0)
    assert nothing["unsupervised"] == 0
    assert nothing["supervised"] > 0
    weights = {"unsupervised_weight": 3.0, "ramp_up": 2}
    method = FixMatch(FixMatchConfig(threshold=0.0, mix="none", **weights), network(), dataset)
    first, third = method(batch(), 0)["unsupervised"], method(batch(), 2)["unsupervised"]
    torch.testing.assert_close(third, 3 * first)
    torch.testing.assert_close(third, method(batch(), 500)["unsupervised"])
