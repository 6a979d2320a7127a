"""PC2Seg as a whole: what learns from what, what each step costs, and which pixels count."""

import pickle

import pytest
import torch
from support.patch_network import changed_where, patch_network, random_batch, recorded_passes
from torch import Tensor
from torch.nn import functional

from semseg_app.data.layouts import open_dataset
from semseg_app.models import ModelSpec, build
from semseg_app.training.data.streams import ImageDataset
from semseg_app.training.methods import pc2seg
from semseg_app.training.methods.pc2seg import PC2Seg, PC2SegConfig, pixel_contrast

VARIANTS = {"full": {}, "stopped": {"contrast_sg": True}, "consistency-only": {"contrast_weight": 0}}


@pytest.fixture(scope="module")
def labeled(tiny_dataset) -> ImageDataset:
    data = open_dataset(tiny_dataset)
    return ImageDataset(data, data.samples("train"), with_labels=True)


def small(labeled: ImageDataset, **config) -> PC2Seg:
    torch.manual_seed(0)
    return PC2Seg(PC2SegConfig(**config), patch_network(), labeled).train()


def real(labeled: ImageDataset, **config) -> PC2Seg:
    """With batch norms and real receptive fields."""
    torch.manual_seed(0)
    spec = ModelSpec(architecture="segformer", encoder="tu-test_efficientnet", num_classes=3, decoder_channels=16)
    return PC2Seg(PC2SegConfig(**config), build(spec), labeled).train()


def losses_of(method: PC2Seg, batch) -> dict[str, Tensor]:
    """The draw of negatives is part of the step: the loop seeds it."""
    torch.manual_seed(7)
    return method(batch, 0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_loss_teaches_only_what_it_should_at_the_cost_it_says(labeled, variant):
    method, batch = real(labeled, **VARIANTS[variant]), random_batch()
    images = [batch.labeled.images, batch.unlabeled.weak, batch.unlabeled.strong[0]]
    for one in images:
        one.requires_grad_()
    passes = recorded_passes(method.network)
    losses = losses_of(method, batch)
    weak_learns = variant == "full"
    assert passes == [
        ("encoder", True, True),  # labeled
        ("decoder", True, True),
        ("encoder", True, weak_learns),  # weak
        ("decoder", True, False),
        ("encoder", True, True),  # strong
        ("decoder", True, True),
    ]

    def learned_from(name: str) -> list[bool]:
        found = torch.autograd.grad(losses[name], images, retain_graph=True, allow_unused=True)
        return [gradient is not None and bool(gradient.abs().sum() > 0) for gradient in found]

    assert learned_from("supervised") == [True, False, False]
    assert learned_from("consistency") == [False, False, True]
    if variant == "consistency-only":
        assert set(losses) == {"supervised", "consistency"}
        assert method.projection is None
        assert {name.split(".")[0] for name in method.state_dict()} == {"network"}
        return
    assert learned_from("contrast") == [False, weak_learns, True]
    decoder = list(method.network.decoder.parameters())
    touched = torch.autograd.grad(losses["contrast"], decoder, retain_graph=True, allow_unused=True)
    assert all(gradient is None for gradient in touched)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_weight_learns_under_autocast(labeled, variant):
    """Autocast keeps half-precision copies of weights between passes, and some passes are without gradient."""
    method = real(labeled, **VARIANTS[variant])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = losses_of(method, random_batch())
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    assert all(parameter.grad is not None for parameter in method.parameters())


@pytest.mark.parametrize("sampling", ["uniform", "cross-image", "debiased", "cross-image-debiased"])
def test_cut_and_padded_pixels_do_nothing_in_either_view(labeled, sampling):
    method, batch = small(labeled, sampling=sampling, negatives=5), random_batch()
    unlabeled = batch.unlabeled
    dead = unlabeled.pad | unlabeled.cut[0]
    weak, strong = unlabeled.weak.requires_grad_(), unlabeled.strong[0].requires_grad_()
    losses = losses_of(method, batch)
    for name, inputs in (("consistency", [strong]), ("contrast", [strong, weak])):
        for gradient in torch.autograd.grad(losses[name], inputs, retain_graph=True):
            assert gradient.abs().sum(dim=1)[dead].eq(0).all()
            assert gradient.abs().sum(dim=1)[~dead].gt(0).float().mean() > 0.8
    other = unlabeled._replace(weak=changed_where(weak.detach(), dead), strong=[changed_where(strong.detach(), dead)])
    changed = losses_of(method, batch._replace(unlabeled=other))
    assert changed["consistency"].equal(losses["consistency"])
    assert changed["contrast"].equal(losses["contrast"])
    # Nothing left: exactly zero.
    nothing = losses_of(method, batch._replace(unlabeled=unlabeled._replace(cut=[torch.ones_like(dead)])))
    assert nothing["consistency"] == 0
    assert nothing["contrast"] == 0


def test_losses_match_plain_loops(labeled):
    """With more negatives asked for than there are, every other valid pixel is one, so that nothing is drawn."""
    settings = {"sampling": "uniform", "negatives": 10_000, "temperature": 0.2, "projection_channels": 4}
    weights = {"contrast_weight": 0.5, "consistency_weight": 3.0, "unsupervised_weight": 2.0, "ramp_up": 9}
    method, batch = small(labeled, **settings, **weights), random_batch()
    losses = losses_of(method, batch)

    unlabeled = batch.unlabeled
    strong, weak = method.network.features(unlabeled.strong[0]), method.network.features(unlabeled.weak)
    dead = functional.pad(unlabeled.pad | unlabeled.cut[0], (0, 4), value=True)  # the network pads 52 to 56

    def valid_cells(stride: int) -> list[tuple[int, int, int]]:
        center = stride // 2
        return [tuple(cell) for cell in (~dead[:, center::stride, center::stride]).nonzero().tolist()]

    distances = []
    for image, row, column in valid_cells(4):
        ours, theirs = (one.logits[image, :, row, column].double().softmax(0) for one in (strong, weak))
        distances.append((ours - theirs).square().sum())
    expected = 0.2 * 3.0 * torch.stack(distances).mean()
    torch.testing.assert_close(losses["consistency"].double(), expected, rtol=1e-5, atol=0)

    cells = valid_cells(8)
    vectors = [method.projection(one.stages[-1]).double() for one in (strong, weak)]
    anchors, others = (
        [functional.normalize(one[image, :, row, column], dim=0) for image, row, column in cells] for one in vectors
    )
    terms = []
    for index, anchor in enumerate(anchors):
        scores = torch.stack([anchor @ other / 0.2 for other in others]).exp()
        terms.append(-(scores[index] / scores.sum()).log())
    expected = 0.2 * 0.5 * torch.stack(terms).mean()
    torch.testing.assert_close(losses["contrast"].double(), expected, rtol=1e-5, atol=0)
    assert method.monitor.take().sum() * 16 == (~unlabeled.pad).sum()


def test_training_calls_the_operator(labeled, monkeypatch):
    """`pixel_contrast` once a step; its mean over all anchors, cut and padded ones at 0, is the mean over the valid."""
    calls = []

    def counted(*arguments):
        calls.append((arguments, pixel_contrast(*arguments)))
        return calls[-1][1]

    monkeypatch.setattr(pc2seg, "pixel_contrast", counted)
    batch = random_batch()
    losses = losses_of(small(labeled, contrast_weight=0.5, negatives=5), batch)
    (((anchors, positives, candidates, negatives, temperature), value),) = calls
    valid = negatives.ge(0).any(dim=1)
    assert 0 < valid.sum() < len(valid)
    alone = pixel_contrast(anchors[valid], positives[valid], candidates, negatives[valid], temperature)
    torch.testing.assert_close(losses["contrast"], 0.5 * alone)
    torch.testing.assert_close(alone * (valid.sum() / len(valid)), value)


def test_the_strong_view_travels_to_workers_with_its_size(labeled):
    (view,) = pickle.loads(pickle.dumps(small(labeled, cutout_size=8).strong_views))
    _, cut = view(torch.zeros(3, 200, 200, dtype=torch.uint8), torch.Generator().manual_seed(0))
    assert cut.sum() == 64
