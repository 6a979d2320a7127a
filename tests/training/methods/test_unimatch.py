"""UniMatch's streams, seen from inside the network, and its loss recomputed from what they carried."""

import pytest
import torch
from support.crops import batch, full_logits_of, hard_label_loss, network, pasted, seen_by
from torch import Tensor
from torch.nn import functional

from semseg_app.data.layouts import open_dataset
from semseg_app.models import ModelSpec, build
from semseg_app.training.data.streams import ImageDataset
from semseg_app.training.methods.unimatch import UniMatch, UniMatchConfig

THRESHOLD = 0.6


@pytest.fixture(scope="module")
def dataset(tiny_dataset) -> ImageDataset:
    data = open_dataset(tiny_dataset)
    return ImageDataset(data, data.samples("train"), with_labels=True)


def test_losses_are_those_of_the_paper(dataset):
    net, crops = network(), batch(strong=2)
    crops.unlabeled.cut[1] = torch.zeros_like(crops.unlabeled.pad)  # the views differ in their masks too
    method = UniMatch(UniMatchConfig(threshold=THRESHOLD, mix_probability=1.0, dropout=0.0), net, dataset)
    passes = seen_by(net)
    losses = method(crops, 0)
    assert set(losses) == {"supervised", "strong", "feature"}
    seen = passes[1].chunk(2)

    with torch.no_grad():
        labeled = net.full_logits(crops.labeled.images)
        weak = net.full_logits(crops.unlabeled.weak)
        strong = [net.full_logits(images) for images in seen]
    supervised = functional.cross_entropy(labeled, crops.labeled.labels, ignore_index=255)
    torch.testing.assert_close(losses["supervised"], supervised / 2)
    confidence, labels = weak.softmax(1).max(1)
    pad = crops.unlabeled.pad
    assert 0.1 < (confidence >= THRESHOLD).float().mean() < 0.9
    # Without dropout the feature stream is the clean one.
    torch.testing.assert_close(losses["feature"], hard_label_loss(weak, labels, confidence, ~pad, THRESHOLD) / 4)
    streams, boxes = [], []
    for logits, images, own, cut in zip(strong, seen, crops.unlabeled.strong, crops.unlabeled.cut, strict=True):
        box, valid = pasted(images, own, own.flip(0)), ~(pad | cut)
        streams.append(
            hard_label_loss(
                logits,
                torch.where(box, labels.flip(0), labels),
                torch.where(box, confidence.flip(0), confidence),
                torch.where(box, valid.flip(0), valid),
                THRESHOLD,
            )
        )
        boxes.append(box)
    torch.testing.assert_close(losses["strong"], (streams[0] / 4 + streams[1] / 4) / 2)
    assert all(box.flatten(1).any(1).all() for box in boxes)
    assert not boxes[0].equal(boxes[1])


def test_one_encoder_pass_and_dropped_maps_beside_the_clean_ones(dataset):
    net = network()
    passes = seen_by(net)
    maps: list[list[Tensor]] = []
    net.decoder.register_forward_pre_hook(lambda module, inputs: maps.append(inputs[0]))
    UniMatch(UniMatchConfig(), net, dataset)(batch(strong=2), 0)
    assert [len(images) for images in passes] == [2 + 4, 2 * 4]
    assert [len(one[0]) for one in maps] == [2 + 4 + 4, 2 * 4]
    assert maps[0][0][6:].equal(maps[0][0][2:6])  # the image itself
    gone = []
    for joint in maps[0][1:]:
        whole, part = joint[2:6], joint[6:]
        zeroed = part.flatten(2).eq(0).all(2)
        torch.testing.assert_close(part, whole * torch.where(zeroed, 0.0, 2.0)[:, :, None, None])
        gone.append(zeroed.flatten())
    assert 0.4 < torch.cat(gone).float().mean() < 0.6


def test_gradients_stop_at_labels_and_at_padding(dataset):
    net, crops = network(), batch(strong=2)
    method = UniMatch(UniMatchConfig(threshold=0.0, mix_probability=0.0), net, dataset)
    joint: list[Tensor] = []
    net.classifier.register_forward_hook(lambda module, inputs, output: joint.append(output))
    made = full_logits_of(net)
    losses = method(crops, 0)
    full = {len(one): one for one in made if one.requires_grad}  # by images: 2 labeled, 8 strong, 4 dropped
    total = losses["strong"] + losses["feature"]
    small, strong, feature = torch.autograd.grad(total, [joint[0], full[8], full[4]])
    assert small[:6].eq(0).all()  # labeled images have no part in it, clean weak logits are the labels
    assert small[6:].ne(0).any()
    cut = torch.cat(crops.unlabeled.cut)
    assert strong.ne(0).any(1).equal(~(crops.unlabeled.pad.repeat(2, 1, 1) | cut))
    assert feature.ne(0).any(1).equal(~crops.unlabeled.pad)


def test_nothing_confident_is_exactly_zero(dataset):
    losses = UniMatch(UniMatchConfig(threshold=1.0), network(), dataset)(batch(strong=2), 0)
    assert losses["strong"] == 0
    assert losses["feature"] == 0
    assert losses["supervised"] > 0


def test_encoders_with_an_empty_map(dataset):
    net = build(ModelSpec(architecture="segformer", encoder="mit_b0", decoder_channels=16, num_classes=3)).eval()
    losses = UniMatch(UniMatchConfig(threshold=0.0), net, dataset)(batch(strong=2), 0)
    assert all(loss > 0 for loss in losses.values())
