"""Multi- and cross-scale contrast against golden vectors, hand-computed cases and plain loops."""

import inspect
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional

from semseg_app.errors import UserError
from semseg_app.models import Features, ModelSpec, SegmentationNetwork, build
from semseg_app.training.losses import contrast
from semseg_app.training.losses import info_nce as chunked
from semseg_app.training.losses.class_sampling import Anchors, resize_labels, sample_anchors, sample_pixels
from semseg_app.training.losses.contrast import (
    ContrastAddOn,
    ContrastConfig,
    cross_scale_contrast,
    intra_scale_contrast,
)

GOLDEN = Path(__file__).parents[2] / "golden"


def golden(name: str) -> dict[str, Tensor]:
    with np.load(GOLDEN / f"contrast_{name}.npz") as data:
        return {key: torch.from_numpy(data[key]) for key in data}


def test_golden_intra_scale() -> None:
    data = golden("intra_scale")
    features = data["features"].requires_grad_()
    loss = intra_scale_contrast(features, data["labels"], temperature=data["temperature"].item())
    loss.backward()
    assert loss.item() == pytest.approx(data["loss"].item(), rel=1e-4)
    wanted = data["grad_features"]
    torch.testing.assert_close(features.grad, wanted, rtol=0, atol=1e-4 * float(wanted.abs().max()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = intra_scale_contrast(features.bfloat16(), data["labels"], temperature=data["temperature"].item())
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(loss.item(), rel=1e-2)


def test_golden_cross_scale() -> None:
    data = golden("cross_scale")
    names = ("features_a", "labels_a", "features_b", "labels_b")
    anchors, labels, candidates, others = (data[name] for name in names)
    anchors.requires_grad_()
    temperature = data["temperature"].item()
    loss = cross_scale_contrast(anchors, labels, candidates, others, temperature=temperature)
    loss.backward()
    assert loss.item() == pytest.approx(data["loss"].item(), rel=1e-4)
    wanted = data["grad_features_a"]
    torch.testing.assert_close(anchors.grad, wanted, rtol=0, atol=1e-4 * float(wanted.abs().max()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = cross_scale_contrast(anchors.bfloat16(), labels, candidates.bfloat16(), others, temperature)
    assert half.item() == pytest.approx(loss.item(), rel=1e-2)
    back = cross_scale_contrast(candidates, others, anchors, labels, temperature)
    assert back.item() != pytest.approx(loss.item(), rel=1e-3)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_losses_compile_whole(backend: str) -> None:
    torch.compiler.reset()
    data = golden("intra_scale")
    features = data["features"].requires_grad_()
    call = torch.compile(intra_scale_contrast, backend=backend, fullgraph=True)
    loss = call(features, data["labels"], data["temperature"].item())
    loss.backward()
    assert loss.item() == pytest.approx(data["loss"].item(), rel=1e-4)
    wanted = data["grad_features"]
    torch.testing.assert_close(features.grad, wanted, rtol=0, atol=1e-4 * float(wanted.abs().max()))


def test_by_hand() -> None:
    axes = torch.eye(2).view(2, 2, 1).expand(2, 2, 2)  # two classes, each two equal vectors, orthogonal classes
    apart = intra_scale_contrast(axes, torch.tensor([0, 1]), 0.1)
    assert apart.item() == pytest.approx(math.log(1 + 2 * math.exp(-10)), rel=1e-4)
    assert apart.item() == pytest.approx(9.0796e-5, rel=1e-4)
    one_point = torch.ones(2, 2, 2)
    assert intra_scale_contrast(one_point, torch.tensor([0, 1]), 0.1).item() == pytest.approx(math.log(3), rel=1e-5)
    # SupCon, with every other anchor in the denominator, would give ln 5 here.
    assert intra_scale_contrast(torch.ones(2, 2, 3), torch.tensor([0, 1]), 0.1).item() == pytest.approx(math.log(4))


def loop(anchors: Tensor, names: list[int], candidates: Tensor, others: list[int], tau: float, same: bool) -> Tensor:
    """The definition, anchor by anchor, on flat `[n, C]` vectors."""
    anchors, candidates = functional.normalize(anchors, dim=1), functional.normalize(candidates, dim=1)
    total = anchors.new_zeros(())
    for index, (anchor, name) in enumerate(zip(anchors, names, strict=True)):
        scores = (candidates @ anchor / tau).exp()
        negatives = sum((scores[j] for j, other in enumerate(others) if other != name), anchors.new_zeros(()))
        positives = [scores[j] for j, other in enumerate(others) if other == name and not (same and j == index)]
        terms = [-(score / (score + negatives)).log() for score in positives]
        if terms:
            total = total + torch.stack(terms).mean()
    return total / len(names)


def flat(features: Tensor) -> Tensor:
    return features.transpose(1, 2).reshape(-1, features.shape[1])


@pytest.mark.parametrize("pairs", [1 << 22, 50, 1])
def test_equals_loops(pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked, "PAIRS_PER_CHUNK", pairs)
    torch.manual_seed(0)
    first = torch.randn(5, 6, 3, dtype=torch.float64, requires_grad=True)
    second = torch.randn(4, 6, 2, dtype=torch.float64, requires_grad=True)
    labels, others = [2, 0, 2, 7, 1], [7, 2, 2, 5]  # 0 and 1 have no positive in the other scale
    names = [label for label in labels for _ in range(3)]
    other_names = [label for label in others for _ in range(2)]

    intra = intra_scale_contrast(first, torch.tensor(labels), 0.1)
    expected = loop(flat(first), names, flat(first), names, 0.1, same=True)
    assert intra.item() == pytest.approx(expected.item(), rel=1e-12)
    gradients = [torch.autograd.grad(value, first)[0] for value in (intra, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)

    cross = cross_scale_contrast(first, torch.tensor(labels), second, torch.tensor(others), 0.2)
    expected = loop(flat(first), names, flat(second), other_names, 0.2, same=False)
    assert cross.item() == pytest.approx(expected.item(), rel=1e-12)
    gradients = [torch.autograd.grad(value, [first, second]) for value in (cross, expected)]
    for ours, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-10, atol=1e-12)


def test_symmetries() -> None:
    torch.manual_seed(0)
    features = torch.randn(6, 5, 4, dtype=torch.float64)
    labels = torch.tensor([0, 1, 1, 2, 0, 2])
    base = intra_scale_contrast(features, labels, 0.1).item()
    rotation, _ = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64))
    scale = torch.rand(6, 1, 4, dtype=torch.float64) + 0.1
    order = torch.randperm(6)
    assert intra_scale_contrast(scale * features, labels, 0.1).item() == pytest.approx(base)
    assert intra_scale_contrast(torch.einsum("ij,tjk->tik", rotation, features), labels, 0.1).item() == pytest.approx(
        base
    )
    assert intra_scale_contrast(features[order][..., [2, 0, 3, 1]], labels[order], 0.1).item() == pytest.approx(base)
    assert intra_scale_contrast(features, 10 - labels, 0.1).item() == pytest.approx(base)  # names are names only


def test_empty_places_count_nowhere() -> None:
    torch.manual_seed(0)
    features, labels = torch.randn(4, 5, 3), torch.tensor([0, 1, 1, 2])
    padded = torch.cat([torch.randn(2, 5, 3), features, torch.randn(1, 5, 3)]).requires_grad_()
    places = torch.tensor([-1, -1, 0, 1, 1, 2, -1])
    loss = intra_scale_contrast(padded, places, 0.1)
    loss.backward()
    assert loss.item() == pytest.approx(intra_scale_contrast(features, labels, 0.1).item(), rel=1e-6)
    assert padded.grad[[0, 1, 6]].abs().max() == 0
    assert padded.grad[2:6].abs().sum(1).min() > 0
    cross = cross_scale_contrast(padded, places, padded.flip(0), places.flip(0), 0.1)
    assert cross.item() == pytest.approx(cross_scale_contrast(features, labels, features, labels, 0.1).item(), rel=1e-6)


@pytest.mark.parametrize("labels", [[3, 3, 3], [-1, -1, -1], [0, 1, 2]])
def test_without_negatives_positives_or_anchors(labels: list[int]) -> None:
    torch.manual_seed(0)
    features = torch.randn(3, 5, 1, requires_grad=True)
    loss = intra_scale_contrast(features, torch.tensor(labels), 0.1)
    loss.backward()
    assert loss.item() == 0
    assert features.grad.abs().max() == 0
    missing = cross_scale_contrast(features, torch.tensor(labels), features, torch.full((3,), -1), 0.1)
    assert missing.item() == 0
    assert missing.requires_grad


def test_small_temperatures_do_not_overflow() -> None:
    torch.manual_seed(0)
    features = torch.randn(4, 8, 3, requires_grad=True)
    loss = intra_scale_contrast(features, torch.tensor([0, 0, 1, 1]), 0.001)
    loss.backward()
    assert loss.isfinite()
    assert features.grad.isfinite().all()
    double = intra_scale_contrast(features.detach().double(), torch.tensor([0, 0, 1, 1]), 0.001)
    assert loss.item() == pytest.approx(double.item(), rel=1e-4)


def pairs_of(anchors: Anchors) -> dict[tuple[int, int], list[int]]:
    """(image, class) -> sampled pixels."""
    found: dict[tuple[int, int], list[int]] = {}
    for image, pixel, label in zip(*(part.tolist() for part in anchors), strict=True):
        if label >= 0:
            found.setdefault((image, label), []).append(pixel)
    return found


def test_sampling() -> None:
    torch.manual_seed(0)
    labels = torch.full((3, 20, 20), 255)
    labels[0, :10] = 0
    labels[0, 10, :5] = 253  # exactly five pixels: in, at the far end of the classes
    labels[0, 11, :4] = 1  # four: out
    labels[1, :, :10] = 0
    labels[1, :7, 10:] = -1
    found = pairs_of(sample_anchors(labels, 254, budget=1000))
    assert set(found) == {(0, 0), (0, 253), (1, 0)}  # image 2 is ignored as a whole
    flat_labels = labels.flatten(1)
    for (image, name), pixels in found.items():
        assert len(set(pixels)) == len(pixels) == 5  # K is the smallest count, without replacement
        assert {int(flat_labels[image, pixel]) for pixel in pixels} == {name}
    capped = pairs_of(sample_anchors(labels, 254, budget=1000, min_pixels=6, max_views=40))
    assert {pair: len(pixels) for pair, pixels in capped.items()} == {(0, 0): 40, (1, 0): 40}
    budgeted = pairs_of(sample_anchors(labels, 254, budget=101, min_pixels=6))
    assert {pair: len(pixels) for pair, pixels in budgeted.items()} == {(0, 0): 50, (1, 0): 50}
    floored = pairs_of(sample_anchors(labels, 254, budget=1000, min_views=30))
    assert {pair: len(pixels) for pair, pixels in floored.items()} == {(0, 0): 30, (0, 253): 5, (1, 0): 30}
    crowded = pairs_of(sample_anchors(labels, 254, budget=2))
    assert len(crowded) == 2
    assert all(len(pixels) == 1 for pixels in crowded.values())
    nothing = sample_anchors(torch.full((2, 8, 8), 255), 5, budget=50)
    assert (nothing.label == -1).all()
    # The places depend on sizes and budget alone, so a compiled graph is never made anew.
    assert {len(part) for part in nothing} == {50}
    assert {len(part) for part in sample_anchors(labels, 254, budget=5000)} == {1200}


def test_sampling_is_uniform() -> None:
    torch.manual_seed(0)
    labels = torch.tensor([0] * 10 + [1] * 5 + [2] * 5).view(1, 4, 5)
    counts = torch.zeros(20)
    for _ in range(400):
        drawn = sample_anchors(labels, 3, budget=100)
        counts += torch.bincount(drawn.pixel[drawn.label >= 0], minlength=20)
    assert torch.equal(counts[10:], torch.full((10,), 400.0))  # K is 5: all of the small classes
    deviation = math.sqrt(400 * 0.5 * 0.5)
    assert (counts[:10] - 200).abs().max() < 4 * deviation


def test_labels_go_straight_to_the_size_of_the_map() -> None:
    labels = torch.arange(360).view(1, 360, 1).expand(1, 360, 360)
    small = resize_labels(labels, 23, 23)
    assert small.shape == (1, 23, 23)
    assert small[0, :, 0].tolist() == [int(row * 360 / 23) for row in range(23)]
    assert torch.equal(resize_labels(labels, 90, 90), labels[:, ::4, ::4])


def network(
    widths: list[int], architecture: str = "upernet", encoder: str = "resnet18", stride: int = 32
) -> SegmentationNetwork:
    """What the add-on asks of a network: spec, stride, widths of its stages. 3 classes."""
    spec = ModelSpec(architecture=architecture, encoder=encoder, num_classes=3)
    return SegmentationNetwork(spec, nn.Identity(), nn.Identity(), 8, stride, widths)


def features(stages: list[Tensor], pyramid: list[Tensor] | None = None) -> Features:
    return Features(stages, stages[0], stages[0], [], None, pyramid or [])


def add_on(**settings: object) -> tuple[ContrastAddOn, list[Tensor], Tensor]:
    torch.manual_seed(0)
    config = ContrastConfig(dimension=16, anchors_per_image=100, **settings)
    module = ContrastAddOn(config, network([2, 4, 6, 8, 10]))
    maps = [
        torch.randn(2, width, 24 >> scale, 32 >> scale, requires_grad=True) for scale, width in enumerate((4, 6, 8, 10))
    ]
    labels = torch.randint(0, 4, (2, 6, 8)).repeat_interleave(16, 1).repeat_interleave(16, 2)
    labels[labels == 3] = 255
    return module, maps, labels


def total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


def test_add_on_combines_the_scales() -> None:
    module, maps, labels = add_on(min_pixels=2)
    torch.manual_seed(1)
    terms = module(features(maps), labels)
    torch.manual_seed(1)  # the same draws again, term by term
    vectors, names = [], []
    with torch.no_grad():
        for head, feature in zip(module.heads, maps, strict=True):
            small = resize_labels(labels, *feature.shape[2:])
            anchors = sample_anchors(small, 3, 200, min_pixels=2)
            projected = head(feature).flatten(2)
            vectors.append(projected[anchors.image, :, anchors.pixel].double().unsqueeze(2))
            names.append(anchors.label)
        intra = sum(
            weight * intra_scale_contrast(vector, name, 0.1)
            for weight, vector, name in zip((1, 0.7, 0.4, 0.1), vectors, names, strict=True)
        )
        cross = sum(cross_scale_contrast(vectors[0], names[0], vectors[deep], names[deep], 0.1) for deep in (3, 2))
    assert terms["scale_contrast"].item() == pytest.approx(0.1 * intra.item(), rel=1e-4)
    assert terms["cross_scale_contrast"].item() == pytest.approx(0.1 * cross.item(), rel=1e-4)
    total(terms).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in module.parameters())
    assert all(feature.grad.abs().sum() > 0 for feature in maps)


def test_training_calls_the_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    """One call of the public function for each scale and each pair, and their values are what the loss adds up."""
    values: dict[str, list[Tensor]] = {"intra_scale_contrast": [], "cross_scale_contrast": []}
    for name, calls in values.items():
        operator = getattr(contrast, name)

        def counted(*arguments: object, operator=operator, calls=calls) -> Tensor:
            calls.append(operator(*arguments))
            return calls[-1]

        monkeypatch.setattr(contrast, name, counted)
    module, maps, labels = add_on()
    terms = module(features(maps), labels)
    intra, cross = values.values()
    assert (len(intra), len(cross)) == (4, 2)
    weighted = sum(weight * value for weight, value in zip((1, 0.7, 0.4, 0.1), intra, strict=True))
    assert terms["scale_contrast"].item() == pytest.approx(0.1 * weighted.item())
    assert terms["cross_scale_contrast"].item() == pytest.approx(0.1 * sum(cross).item())


def test_gradient_reaches_sampled_pixels_only() -> None:
    module, maps, labels = add_on(cross_weight=0)
    module.eval()  # batch statistics tie all pixels together
    total(module(features(maps), labels)).backward()
    for feature in maps:
        ignored = resize_labels(labels, *feature.shape[2:]) == 255
        touched = feature.grad.abs().sum(1) > 0
        assert not touched[ignored].any()
        assert touched.sum() <= 200
    assert (maps[0].grad.abs().sum(1) > 0).sum() < maps[0][:, 0].numel() / 2


def test_detached_candidates_and_weights() -> None:
    module, maps, labels = add_on(weight=0, detach_candidates=True)
    terms = module(features(maps), labels)
    assert terms["scale_contrast"] == 0
    total(terms).backward()
    assert maps[0].grad.abs().sum() > 0
    assert maps[3].grad.abs().sum() == 0
    # Every head takes part, as several processes need it.
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_attachment() -> None:
    resnet, hrnet = [64, 64, 128, 256, 512], [64, 18, 36, 72, 144]
    for architecture, encoder, widths, stages in (
        ("upernet", "resnet18", resnet, (-4, -3, -2, -1)),
        ("segformer", "mit_b0", [32, 64, 160, 256], (-4, -3, -2, -1)),
        ("hrnet", "tu-hrnet_w18", hrnet, (-4, -3, -2, -1)),
        ("ocr", "tu-hrnet_w18", hrnet, (-4, -3, -2, -1)),
        ("ocr", "resnet18", resnet, (-4, -1)),
        ("deeplabv3", "resnet18", resnet, (-4, -2, -1)),
        ("pspnet", "resnet18", resnet, (-4, -2, -1)),
    ):
        module = ContrastAddOn(ContrastConfig(dimension=8), network(widths, architecture, encoder))
        assert module.stages == stages
        assert [head[0].in_channels for head in module.heads] == [widths[stage] for stage in stages]
    config = ContrastConfig(dimension=8)
    assert ContrastAddOn(config, network(resnet, "deeplabv3")).cross_pairs == [(0, 2), (0, 1)]
    assert ContrastAddOn(config, network(resnet, "ocr")).cross_pairs == [(0, 1)]
    with pytest.raises(UserError, match=r"contrast.scale_weights: 2 weights for 3 scales; write one for each"):
        ContrastAddOn(ContrastConfig(scale_weights=(1.0, 0.5)), network(resnet, "deeplabv3"))
    with pytest.raises(UserError, match=r"contrast.attach: deeplabv3 has no fpn; use encoder"):
        ContrastAddOn(ContrastConfig(attach="fpn"), network(resnet, "deeplabv3"))
    with pytest.raises(UserError, match=r"contrast.stages: resnet18 has stages -5 to 4, not 5; name others"):
        ContrastAddOn(ContrastConfig(stages=(1, 5)), network(resnet))
    with pytest.raises(ValidationError, match="Extra inputs"):
        ContrastConfig(tau=0.1)


def test_feature_pyramid() -> None:
    torch.manual_seed(0)
    upernet = build(ModelSpec(architecture="upernet", encoder="resnet18", num_classes=3, decoder_channels=16))
    module = ContrastAddOn(ContrastConfig(attach="fpn", dimension=8, min_pixels=1), upernet)
    assert [head[0].in_channels for head in module.heads] == [16] * 4
    labels = torch.randint(0, 3, (2, 64, 96))
    first, _ = upernet.features(torch.rand(4, 3, 64, 96)).split(2)
    total(module(first, labels)).backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
    assert upernet.decoder.fpn_conv_blocks[0][0].weight.grad.abs().sum() > 0
    assert upernet.decoder.fusion_block[0].weight.grad is None


def test_labels_of_an_image_that_the_network_pads() -> None:
    """A 24x40 image under 32x64 pixels of maps: cell (y, x) of stride 4 is pixel (4y, 4x), the border is nothing."""
    torch.manual_seed(0)
    module = ContrastAddOn(ContrastConfig(stages=(0,), dimension=8, min_pixels=1), network([4])).eval()
    feature = torch.randn(1, 4, 8, 16, requires_grad=True)
    labels = torch.zeros(1, 24, 40, dtype=torch.long)
    labels[:, :, 20:] = 1
    module(features([feature]), labels)["scale_contrast"].backward()
    touched = feature.grad[0].abs().sum(0) > 0
    assert touched[:6, :10].all()  # 30 cells of each class, all drawn
    assert touched.sum() == 60


@pytest.mark.parametrize("ignored", ["image", "batch", "deepest"])
def test_nothing_to_sample(ignored: str) -> None:
    module, maps, labels = add_on()
    if ignored == "image":
        labels[0] = 255
    elif ignored == "batch":
        labels[:] = 255
    else:  # at most three cells of a class at the deepest scale
        labels[:] = 255
        labels[:, ::32, :32] = 0
        labels[:, 1:4, :32] = 1
    terms = module(features(maps), labels)
    total(terms).backward()
    assert set(terms) == {"scale_contrast", "cross_scale_contrast"}
    assert all(value.isfinite() for value in terms.values())
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in module.parameters())
    if ignored == "batch":
        assert total(terms).item() == 0


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_add_on_compiles_whole(backend: str) -> None:
    torch.compiler.reset()
    module, maps, labels = add_on()
    module.eval()  # batch norm's running statistics would differ in the second call
    compiled = torch.compile(module, backend=backend, fullgraph=True)
    results = []
    for call in (module, compiled):
        torch.manual_seed(1)
        loss = total(call(features(maps), labels))
        results.append((loss, *torch.autograd.grad(loss, [*maps, *module.parameters()])))
    for plain, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-6)


def test_memory() -> None:
    def status(field: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

    features, labels = torch.randn(60, 16, 100, requires_grad=True), torch.arange(60) % 20
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget earlier peaks
    intra_scale_contrast(features, labels, 0.1).backward()
    assert status("VmHWM") - before < 100 << 20  # one 6000 x 6000 matrix is 137 MiB, and the plain loss holds eight


def test_contract_names() -> None:
    assert list(inspect.signature(intra_scale_contrast).parameters) == ["features", "labels", "temperature"]
    names = ["features_a", "labels_a", "features_b", "labels_b", "temperature"]
    assert list(inspect.signature(cross_scale_contrast).parameters) == names


def test_without_balance_a_class_gets_anchors_in_proportion_to_its_pixels():
    torch.manual_seed(0)
    labels = torch.zeros(2, 40, 50, dtype=torch.long)
    labels[0, :4] = 1  # a tenth of the first image
    labels[1, :, :25] = 255
    anchors = sample_pixels(labels, 2, budget=1000)
    assert len(set(zip(anchors.image.tolist(), anchors.pixel.tolist(), strict=True))) == 1000, "none is drawn twice"
    assert anchors.label.equal(labels.flatten(1)[anchors.image, anchors.pixel])
    assert (anchors.label == 1).float().mean().item() == pytest.approx(200 / 3000, abs=0.03)
    everything = sample_pixels(labels, 2, budget=10**6)
    assert (everything.label >= 0).sum() == 3000, "all labeled pixels where they fit, and no ignored one"
    assert len(everything.label) == 4000


def test_proportional_sampling_contrasts_every_pixel_as_the_loop_does():
    torch.manual_seed(0)
    labels = torch.randint(0, 3, (1, 6, 6))
    features = torch.randn(1, 5, 6, 6)
    anchors = sample_pixels(labels, 3, budget=36)
    vectors = features[anchors.image, :, anchors.pixel // 6, anchors.pixel % 6].unsqueeze(2)
    expected = intra_scale_contrast(features.flatten(2)[0].t().unsqueeze(2), labels.flatten(), 0.1)
    torch.testing.assert_close(intra_scale_contrast(vectors, anchors.label, 0.1), expected)
