"""The whole of S4Former: its streams recomputed from what the network saw, its switches, and what it refuses."""

import warnings

import pytest
import torch
from pydantic import ValidationError
from support.patch_network import patch_network
from torch.nn import functional

from semseg_app.data.layouts import open_dataset
from semseg_app.errors import UserError
from semseg_app.models import ModelSpec, SegmentationNetwork, build
from semseg_app.training.data.streams import Batch, ImageDataset, LabeledBatch, UnlabeledBatch
from semseg_app.training.methods import s4former
from semseg_app.training.methods.fixmatch import FixMatch, FixMatchConfig
from semseg_app.training.methods.s4former import S4Former, S4FormerConfig, negative_class_ranking
from semseg_app.training.patch_operators import all_class_consistency, softened_cross_entropy
from semseg_app.training.recipe import Recipe

THRESHOLD = 0.4
SIDE = 64
PLAIN = {"threshold": THRESHOLD, "shuffle_block": 16, "mix_probability": 0.0, "reduction": "valid"}


@pytest.fixture(scope="module")
def dataset(tiny_dataset) -> ImageDataset:
    data = open_dataset(tiny_dataset)
    return ImageDataset(data, data.samples("train"), with_labels=True)


def transformer() -> SegmentationNetwork:
    """In eval mode, so that a stream can be run again on its own, and with confidences on both sides of 0.4."""
    torch.manual_seed(0)
    net = build(ModelSpec(architecture="setr", encoder="tu-test_vit", decoder_channels=16, num_classes=3)).eval()
    with torch.no_grad():
        net.classifier.weight *= 4
    return net


def crops(views: int = 1) -> Batch:
    torch.manual_seed(1)
    images = torch.rand(2 + views, 2, 3, SIDE, SIDE)
    labels = torch.randint(0, 3, (2, SIDE, SIDE))
    nowhere = torch.zeros(2, SIDE, SIDE, dtype=torch.bool)
    pad = nowhere.clone()
    pad[1, :, 48:] = True
    return Batch(
        LabeledBatch(images[0], labels, nowhere, torch.tensor(float(labels.numel()))),
        UnlabeledBatch(images[1], list(images[2:]), pad, [nowhere] * views),
    )


def expected_streams(net: SegmentationNetwork, batch: Batch):
    """Without mixing and shuffling: hard labels of the weak view, learned on the strong one."""
    with torch.no_grad():
        weak, strong = net.full_logits(batch.unlabeled.weak), net.full_logits(batch.unlabeled.strong[0])
    confidence, labels = weak.softmax(1).max(1)
    valid = ~batch.unlabeled.pad
    learned = labels.masked_fill((confidence < THRESHOLD) | ~valid, 255)
    assert 0.1 < (learned == 255).float().mean() < 0.9

    def cross_entropy(logits):
        return functional.cross_entropy(logits, learned, ignore_index=255, reduction="sum") / valid.sum()

    return weak, strong, confidence, learned, cross_entropy


def test_base_streams_and_their_weights(dataset):
    net, batch = transformer(), crops()
    weak, strong, confidence, learned, cross_entropy = expected_streams(net, batch)
    config = S4FormerConfig(**PLAIN, shuffle=False, pasa=False, ncr=False)
    alone = S4Former(config, net, dataset)(batch, 0)
    torch.testing.assert_close(alone["mixed"], cross_entropy(strong))
    assert set(alone) == {"supervised", "mixed"}

    every = S4Former(S4FormerConfig(**PLAIN, shuffle=False, ncr_on_pasa=True), net, dataset)(batch, 0)
    torch.testing.assert_close(every["mixed"], cross_entropy(strong) / 2)
    # PASA by hand: unsure share of each patch, the rows of the less sure half.
    unsure = functional.avg_pool2d((confidence < THRESHOLD).float().unsqueeze(1), 16).flatten(1)
    bias = torch.zeros(2, 17, 17)
    for image in range(2):
        asks = sorted(range(16), key=lambda patch: (float(unsure[image, patch]), patch))[8:]
        for row in [-1, *asks]:
            bias[image, 1 + row, 1:] = 5.0 * unsure[image]
    with torch.no_grad():
        led = net.upsample(net.head(net.encode(batch.unlabeled.strong[0], bias)), SIDE, SIDE)
    assert not torch.allclose(led, strong, atol=1e-3)
    torch.testing.assert_close(every["pasa"], cross_entropy(led) / 2)
    ranking = [negative_class_ranking(logits, weak, learned) for logits in (strong, led)]
    torch.testing.assert_close(every["ncr"], (ranking[0] + ranking[1]) / 2)


def test_fixmatch_host_without_its_parts_is_fixmatch(dataset):
    net, batch = transformer(), crops()
    off = {"pasa": False, "shuffle": False, "ncr": False}
    keys = {"threshold": THRESHOLD, "mix_probability": 1.0, "reduction": "valid"}
    torch.manual_seed(3)  # the boxes
    expected = FixMatch(FixMatchConfig(**keys), net, dataset)(batch, 0)
    torch.manual_seed(3)
    losses = S4Former(S4FormerConfig(**keys, **off, host="fixmatch"), net, dataset)(batch, 0)
    assert set(losses) == {"supervised", "mixed"}
    torch.testing.assert_close(losses["supervised"], expected["supervised"])
    torch.testing.assert_close(losses["mixed"], expected["unsupervised"])
    method = S4Former(S4FormerConfig(**keys, **off, host="fixmatch"), net, dataset)
    assert set(method.networks()) == {"student"}
    assert len(method.strong_views) == 1


def test_unimatch_host_has_two_streams_and_biases_the_first_strong_view(dataset):
    net, batch = transformer(), crops(views=2)
    weak, strong, _, learned, cross_entropy = expected_streams(net, batch)
    method = S4Former(S4FormerConfig(**PLAIN, host="unimatch", shuffle=False, pasa_weight=0.0), net, dataset)
    losses = method(batch, 0)
    with torch.no_grad():
        second = net.full_logits(batch.unlabeled.strong[1])
    torch.testing.assert_close(losses["mixed"], (cross_entropy(strong) + cross_entropy(second)) / 4)
    torch.testing.assert_close(losses["pasa"], cross_entropy(strong) / 2)  # a bias of 0 changes nothing
    ranking = [negative_class_ranking(logits, weak, learned) for logits in (strong, second)]
    torch.testing.assert_close(losses["ncr"], (ranking[0] + ranking[1]) / 4)
    assert list(method.networks()) == ["student"]


@pytest.mark.parametrize(("key", "losses"), [("soft", softened_cross_entropy), ("all", all_class_consistency)])
def test_the_supplements_losses_take_the_place_of_ncr(dataset, key, losses):
    net, batch = transformer(), crops()
    weak, strong, _, learned, _ = expected_streams(net, batch)
    method = S4Former(S4FormerConfig(**PLAIN, shuffle=False, pasa=False, ncr_distance=key), net, dataset)
    arguments = (strong, learned) if key == "soft" else (strong, weak, learned)
    torch.testing.assert_close(method(batch, 0)["ncr"], losses(*arguments))


def test_views_can_be_cut_out_and_mixed_by_class(dataset):
    config = S4FormerConfig(**PLAIN | {"mix_probability": 1.0}, mix="class", cutout_size=16, shuffle=False, pasa=False)
    method = S4Former(config, transformer(), dataset)
    image = torch.randint(0, 256, (3, 48, 64), dtype=torch.uint8)
    _, cut = method.strong_views[0](image, torch.Generator().manual_seed(3))
    assert 0 < int(cut.sum()) <= 16 * 16
    torch.manual_seed(0)
    assert all(loss.isfinite() for loss in method(crops(), 0).values())
    with pytest.raises(ValidationError, match=r"method\.mix: the host augseg mixes in its own way"):
        Recipe.model_validate(
            {"name": "x", "data": {"root": "x"}, "view": {"crop": [256, 256]},
             "method": {"name": "s4former", "host": "augseg", "mix": "class"}}
        )  # fmt: skip


def test_the_momentum_alone_keeps_s4formers_constant_average(dataset):
    config = S4FormerConfig.model_validate({"ema": {"momentum": 0.99}})
    assert (config.ema.momentum, config.ema.warm_up) == (0.99, False)
    assert config.ema.decay(0) == 0.99


def test_training_calls_the_operators(dataset, monkeypatch):
    calls = dict.fromkeys(("patch_shuffle", "restore_tokens", "pasa_bias", "negative_class_ranking"), 0)
    for name in calls:
        operator = getattr(s4former, name)

        def counted(*arguments, name=name, operator=operator):
            calls[name] += 1
            return operator(*arguments)

        monkeypatch.setattr(s4former, name, counted)
    net, batch = transformer(), crops()
    S4Former(S4FormerConfig(**PLAIN), net, dataset)(batch, 0)
    stages = sum(1 for stage in net.encode(batch.labeled.images) if stage.shape[1])
    assert calls == {"patch_shuffle": 1, "restore_tokens": stages, "pasa_bias": 1, "negative_class_ranking": 1}


@pytest.mark.parametrize(("shuffle", "mix_unmix"), [(True, False), (False, True), (True, True)])
def test_shuffled_images_come_back_to_their_places(dataset, shuffle, mix_unmix):
    """Where every 8 x 8 pixels are a world of their own, shuffling changes nothing but the encoder's view."""
    net = patch_network()
    torch.manual_seed(2)
    images = torch.rand(2, 3, 48, 64)
    config = S4FormerConfig(
        shuffle_block=16, shuffle_probability=1.0, pasa=False, ncr=False, shuffle=shuffle, mix_unmix=mix_unmix
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "method.shuffle on the CNN")
        method = S4Former(config, net, dataset)
    seen = []
    net.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        torch.testing.assert_close(method._shuffled_logits(images), net.full_logits(images))
    assert not torch.equal(seen[0], seen[1])
    both = [batch.transpose(0, 1).flatten(1).sort(1).values for batch in seen]
    assert torch.equal(*both), "no pixel is lost"
    alone = [batch.flatten(2).sort(2).values for batch in seen]
    assert torch.equal(*alone) == (not mix_unmix), "and none leaves its image where images are not mixed"


def test_true_labels_of_augseg_are_learned_but_not_ranked(dataset):
    net, batch = transformer(), crops()
    method = S4Former(S4FormerConfig(host="augseg", threshold=1.0, shuffle=False, pasa=False), net, dataset)
    for seed in range(20):  # until a labeled box was pasted
        torch.manual_seed(seed)
        losses = {name: float(loss.detach()) for name, loss in method(batch, 0).items()}
        assert losses["ncr"] == 0.0
        if losses["mixed"] > 0:
            return
    pytest.fail("no labeled pixel was ever pasted")


def test_pad_teaches_nothing(dataset):
    batch = crops()
    method = S4Former(S4FormerConfig(**PLAIN, shuffle=False, pasa=False), transformer(), dataset)
    logits = []
    upsample = method.network.upsample

    def keep(*arguments):
        full = upsample(*arguments)
        if full.requires_grad:
            full.retain_grad()
            logits.append(full)
        return full

    method.network.upsample = keep
    losses = method(batch, 0)
    (losses["mixed"] + losses["ncr"]).backward()
    gradient = logits[-1].grad
    assert gradient.abs().sum() > 0
    assert float(gradient.abs().sum(1)[batch.unlabeled.pad].max()) == 0.0


def test_networks_that_do_not_fit(dataset):
    cnn = build(ModelSpec(architecture="segformer", encoder="tu-test_efficientnet", decoder_channels=16, num_classes=3))
    with pytest.raises(
        UserError, match=r"method\.pasa: tu-test_efficientnet has no self-attention to bias; set method\.pasa"
    ):
        S4Former(S4FormerConfig(), cnn, dataset)
    with pytest.warns(UserWarning, match=r"method\.shuffle and method\.ncr on the CNN .* NCR with -3\.8"):
        S4Former(S4FormerConfig(pasa=False), cnn, dataset)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        S4Former(S4FormerConfig(pasa=False, shuffle=False, ncr=False), cnn, dataset)
    with pytest.raises(UserError, match="shuffle_block: 100 is no multiple of the network's stride 16; use 96"):
        S4Former(S4FormerConfig(shuffle_block=100), transformer(), dataset)
    with pytest.raises(
        ValueError, match=r"view\.crop \[320, 320\] is not filled by shuffle_block 128; use \[256, 256\]"
    ):
        Recipe.model_validate({"name": "x", "data": {"root": "x"}, "method": {"name": "s4former"}})
