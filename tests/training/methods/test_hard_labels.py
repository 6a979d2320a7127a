"""Which pseudo labels count, and how much: thresholds per class, class weights, labels without dropout."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from semseg_app.models import ModelSpec, build
from semseg_app.training.losses.pseudo_label import pseudo_label_loss, sure_pixels
from semseg_app.training.methods.hard_labels import without_dropout


@pytest.mark.parametrize("share", [0.2, 0.5, 1.0])
def test_the_surest_pixels_of_each_class_by_a_plain_loop(share: float) -> None:
    torch.manual_seed(0)
    labels = torch.randint(0, 4, (2, 9, 11))
    labels[labels == 3] = 255
    labels[0, 0, 0] = 3  # one pixel of a class: it is the surest of them
    confidence, valid = torch.rand(2, 9, 11), torch.rand(2, 9, 11) < 0.8
    valid[0, 0, 0] = True
    sure = sure_pixels(labels, confidence, valid, threshold=0.99, surest_share=share)
    for kind in (0, 1, 2, 3):
        own = valid & (labels == kind)
        expected = math.ceil(round(share * int(own.sum()), 6))
        chosen = sure & (labels == kind)
        assert int(chosen.sum()) == expected
        if expected < int(own.sum()):
            assert confidence[chosen].min() > confidence[own & ~chosen].max()
    assert not (sure & ((labels == 255) | ~valid)).any()


def test_without_a_share_the_threshold_counts() -> None:
    labels, valid = torch.tensor([[[0, 1, 255, 1]]]), torch.tensor([[[True, True, True, False]]])
    confidence = torch.tensor([[[0.8, 0.79, 0.9, 0.9]]])
    assert sure_pixels(labels, confidence, valid, 0.8).tolist() == [[[True, False, False, False]]]


def test_class_weights_move_the_loss_between_classes_and_do_not_raise_it() -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, 3, 6, 8, requires_grad=True)
    labels, confidence = torch.randint(0, 3, (1, 6, 8)), torch.rand(1, 6, 8)
    valid, weights = torch.ones(1, 6, 8, dtype=torch.bool), torch.tensor([0.2, 1.0, 5.0])
    counted = confidence >= 0.4
    every = functional.cross_entropy(logits, labels, reduction="none")
    own = weights[labels][counted]
    expected = (own * every[counted]).sum() / own.sum() * counted.sum() / labels.numel()
    torch.testing.assert_close(
        pseudo_label_loss(logits, labels, confidence, valid, 0.4, class_weights=weights), expected
    )
    # A rare class that takes over the predictions weighs no more than all pixels together: no feedback.
    taken_over = torch.full_like(labels, 2)
    loss = pseudo_label_loss(logits, taken_over, confidence, valid, 0.4, class_weights=weights)
    torch.testing.assert_close(loss, pseudo_label_loss(logits, taken_over, confidence, valid, 0.4))
    # Classes without a labeled pixel have weight 0, and nothing else may be predicted.
    nothing = pseudo_label_loss(logits, taken_over, confidence, valid, 0.4, class_weights=torch.tensor([1.0, 1.0, 0.0]))
    assert nothing == 0
    (gradient,) = torch.autograd.grad(nothing, logits)
    assert gradient.eq(0).all()


def test_labels_are_written_without_the_decoders_dropout() -> None:
    spec = ModelSpec(
        architecture="deeplabv3plus-separable", encoder="tu-test_resnet", decoder_channels=16, num_classes=3
    )
    torch.manual_seed(0)
    network = build(spec).train()
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = 0.0
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad(), without_dropout(network):
        assert network(images).equal(network(images))
    with torch.no_grad():
        assert not network(images).equal(network(images))
    frozen = network.eval()
    with without_dropout(frozen):
        pass
    assert not any(module.training for module in frozen.modules())
