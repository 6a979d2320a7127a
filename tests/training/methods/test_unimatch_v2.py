"""UniMatch V2: complementary channels, and its loss recomputed from the images that the student saw."""

import pytest
import torch
from support.crops import batch, full_logits_of, hard_label_loss, network, pasted, seen_by
from torch.nn import functional

from semseg_app.data.layouts import open_dataset
from semseg_app.models import ModelSpec, build
from semseg_app.training.data.streams import ImageDataset
from semseg_app.training.methods.unimatch_v2 import UniMatchV2, UniMatchV2Config, complementary_dropout

THRESHOLD = 0.6


@pytest.fixture(scope="module")
def dataset(tiny_dataset) -> ImageDataset:
    data = open_dataset(tiny_dataset)
    return ImageDataset(data, data.samples("train"), with_labels=True)


def test_the_two_views_share_the_channels_between_them():
    torch.manual_seed(3)
    maps = [torch.rand(20, channels, 4, 5) + 1 for channels in (3, 200, 200, 0, 500)]
    dropped = complementary_dropout(maps, intact=0.5)
    assert dropped[0] is maps[0]
    factors = [(after / before).round(decimals=4) for before, after in zip(maps, dropped, strict=True)]
    whole = []
    for factor in (factors[1], factors[2], factors[4]):
        assert factor.eq(factor[:, :, :1, :1]).all()  # whole channels
        first, second = factor[:, :, 0, 0].chunk(2)
        assert (first + second).eq(2).all()
        untouched = first.eq(1).all(1)
        assert untouched.sum() == 5
        assert set(first[~untouched].unique().tolist()) == {0.0, 2.0}
        assert 0.45 < first[~untouched].eq(0).float().mean() < 0.55
        assert len({tuple(row) for row in first[~untouched].tolist()}) == 5  # each image has a mask of its own
        whole.append(untouched)
    assert whole[0].equal(whole[2])
    assert factors[1].equal(factors[2])  # equal width, as in a ViT: the same channels
    assert not complementary_dropout(maps, intact=0.5)[1].equal(dropped[1])
    assert complementary_dropout(maps, intact=1.0)[1].equal(maps[1])
    assert complementary_dropout([one.bfloat16() for one in maps], intact=0.5)[1].dtype == torch.bfloat16


def test_losses_are_those_of_the_paper(dataset):
    net, crops = network(), batch(strong=2)
    method = UniMatchV2(UniMatchV2Config(threshold=THRESHOLD, mix_probability=1.0, intact=1.0), net, dataset)
    with torch.no_grad():
        method.teacher.network.classifier.bias += torch.tensor([0.3, 0.0, -0.3])  # not the student any more
    passes = seen_by(net)
    losses = method(crops, 0)
    assert set(losses) == {"supervised", "strong"}
    seen = passes[1].chunk(2)

    with torch.no_grad():
        labeled = net.full_logits(crops.labeled.images)
        teacher = method.teacher.network.full_logits(crops.unlabeled.weak)
        strong = [net.full_logits(images) for images in seen]
    supervised = functional.cross_entropy(labeled, crops.labeled.labels, ignore_index=255)
    torch.testing.assert_close(losses["supervised"], supervised / 2)
    confidence, labels = teacher.softmax(1).max(1)
    assert 0.1 < (confidence >= THRESHOLD).float().mean() < 0.9
    streams, boxes = [], []
    for logits, images, own, cut in zip(strong, seen, crops.unlabeled.strong, crops.unlabeled.cut, strict=True):
        box, valid = pasted(images, own, own.flip(0)), ~(crops.unlabeled.pad | cut)
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
    torch.testing.assert_close(losses["strong"], (streams[0] + streams[1]) / 2 / 2)
    assert all(box.flatten(1).any(1).all() for box in boxes)
    assert not boxes[0].equal(boxes[1])


def test_passes_gradients_and_masks(dataset):
    spec = ModelSpec(architecture="segformer", encoder="tu-test_efficientnet", decoder_channels=16, num_classes=3)
    net, crops = build(spec, auxiliary=(-1,)), batch(strong=2)
    method = UniMatchV2(UniMatchV2Config(threshold=0.0, mix_probability=0.0), net, dataset).train()
    modules = {
        "teacher": method.teacher.network.encoder,
        "encoder": net.encoder,
        "classifier": net.classifier,
        "auxiliary": net.auxiliary[0],
    }
    passes: dict[str, list[int]] = {name: [] for name in modules}
    for name, module in modules.items():
        module.register_forward_pre_hook(lambda module, inputs, name=name: passes[name].append(len(inputs[0])))
    made = full_logits_of(net)
    losses = method(crops, 0)
    assert passes == {"teacher": [4], "encoder": [2, 8], "classifier": [2, 8], "auxiliary": [2]}
    strong = next(one for one in made if len(one) == 8)
    (gradient,) = torch.autograd.grad(losses["strong"], [strong], retain_graph=True)
    outside = crops.unlabeled.pad.repeat(2, 1, 1) | torch.cat(crops.unlabeled.cut)
    assert gradient.ne(0).any(1).equal(~outside)
    torch.stack(list(losses.values())).sum().backward()
    assert all(parameter.grad is None for parameter in method.teacher.parameters())
    assert all(parameter.grad is not None for parameter in net.parameters())  # what DDP asks for


def test_nothing_confident_is_exactly_zero(dataset):
    losses = UniMatchV2(UniMatchV2Config(threshold=1.0), network(), dataset)(batch(strong=2), 0)
    assert losses["strong"] == 0
    assert losses["supervised"] > 0


def test_teacher_follows_at_its_own_pace(dataset):
    assert UniMatchV2Config.model_validate({"ema": {"warm_up": False}}).ema.momentum == 0.996
    net = network()
    method = UniMatchV2(UniMatchV2Config(), net, dataset)
    assert next(iter(method.networks())) == "teacher"
    assert not method.train().teacher.network.training
    before = method.teacher.network.classifier.weight.clone()
    with torch.no_grad():
        net.classifier.weight += 1
    method.after_step(100_000)
    torch.testing.assert_close(method.teacher.network.classifier.weight, before + 0.004, rtol=0, atol=1e-5)
    method.after_step(0)
    assert method.teacher.network.classifier.weight.equal(net.classifier.weight)
