"""What pseudo labels are made of, against the method's own step; their calibration, against a hand-made case."""

import numpy as np
import pytest
import torch
from support.patch_network import patch_network, random_batch
from torch.nn import functional

from semseg_app.data.layouts import open_dataset
from semseg_app.errors import UserError
from semseg_app.training.data.streams import ImageDataset, UnlabeledBatch
from semseg_app.training.methods import METHODS
from semseg_app.training.methods.pseudoseg import PseudoSeg, PseudoSegConfig
from semseg_app.training.methods.self_attention_cam import cam_probabilities
from semseg_app.training.plots.pseudo_labels import LabeledCrops, labeled_crops, part_numbers, reliability
from semseg_app.training.run.trained import load_trained


def ignore(line: str) -> None:
    raise AssertionError(line)


@pytest.fixture(scope="module")
def labeled(tiny_dataset) -> ImageDataset:
    data = open_dataset(tiny_dataset)
    return ImageDataset(data, data.samples("train"), with_labels=True)


def test_the_fused_label_is_what_a_step_learns_from(labeled, monkeypatch) -> None:
    """The target that the loss gets, in a step in eval mode, equals the last part."""
    from semseg_app.training.methods import pseudoseg

    torch.manual_seed(0)
    method = PseudoSeg(PseudoSegConfig(background="ground"), patch_network(), labeled).eval()
    batch = random_batch()
    targets = []

    def loss(logits, target, valid):
        targets.append(target)
        return logits.sum() * 0

    monkeypatch.setattr(pseudoseg, "soft_label_loss", loss)
    method(batch, 0)
    parts = method.pseudo_label_parts(batch.unlabeled)
    assert list(parts) == ["decoder", "CAM", "SGC", "fused"]
    torch.testing.assert_close(parts["fused"], targets[0])
    torch.testing.assert_close(parts["decoder"], method.network(batch.unlabeled.weak).softmax(dim=1))
    for values in parts.values():
        torch.testing.assert_close(values.sum(dim=1), torch.ones(values.sum(dim=1).shape))


def test_cam_as_probabilities() -> None:
    cam = torch.tensor([[0.2, 0.0, 0.0], [0.6, 1.0, 0.0]]).view(1, 2, 1, 3)
    # The background, class 1, gets 0.4, 0 and 1; then each pixel is divided by its sum, 1.2, 1 and 1.
    expected = torch.tensor([[0.2 / 1.2, 0, 0], [0.4 / 1.2, 0, 1], [0.6 / 1.2, 1, 0]]).view(1, 3, 1, 3)
    torch.testing.assert_close(cam_probabilities(cam, 1), expected)
    without = torch.tensor([[0.25, 0, 0.5], [0.75, 1, 0.5]]).view(1, 2, 1, 3)
    torch.testing.assert_close(cam_probabilities(cam, None), without)


@pytest.mark.parametrize("name", ["fixmatch", "unimatch", "pc2seg", "mean-teacher", "augseg", "unimatch-v2"])
def test_other_methods_show_who_labels(name, labeled) -> None:
    torch.manual_seed(0)
    row = METHODS[name]
    method = row.method(row.config(), patch_network(), labeled).eval()
    batch = random_batch().unlabeled
    ((role, values),) = method.pseudo_label_parts(batch).items()
    network = method.networks()[role]
    torch.testing.assert_close(values, network(batch.weak).softmax(dim=1))
    assert not values.requires_grad


@pytest.mark.parametrize(("host", "role"), [("base", "teacher"), ("unimatch", "student")])
def test_in_s4former_the_host_says_who_labels(host, role, labeled) -> None:
    torch.manual_seed(0)
    config = METHODS["s4former"].config(host=host, pasa=False, shuffle=False, ncr=False)
    method = METHODS["s4former"].method(config, patch_network(), labeled).eval()
    batch = random_batch().unlabeled
    assert method.pseudo_label_parts(batch).keys() == {role}


def test_crops_are_those_of_a_run_and_their_truth_is_of_the_same_pixels(pseudoseg_run) -> None:
    trained = load_trained(pseudoseg_run, ignore)
    assert trained.step == 1
    assert not trained.method.training
    samples = trained.data.samples("val")
    batches = list(labeled_crops(trained, samples, pseudoseg_run))
    assert [len(crops.names) for crops in batches] == [2, 2, 1]
    assert sorted(name for crops in batches for name in crops.names) == [sample.stem for sample in samples]
    colors = torch.tensor([(90, 90, 90), (200, 60, 40), (40, 90, 210)]) / 255
    for crops in batches:
        weak, truth = crops.batch.weak, crops.batch.labels
        assert truth[crops.batch.pad].eq(255).all()
        known = truth != 255
        # Scenes are drawn in one color for each class, with noise: the nearest color tells the class.
        nearest = (weak.permute(0, 2, 3, 1)[..., None, :] - colors).square().sum(dim=-1).argmin(dim=-1)
        assert (nearest == truth)[known].float().mean() > 0.95
        assert not crops.selects
        assert torch.equal(crops.learned, ~crops.batch.pad)
        assert {tuple(values.shape) for values in crops.parts.values()} == {(len(crops.names), 3, 32, 48)}


def test_a_run_without_pseudo_labels_is_refused(distilled_run) -> None:
    trained = load_trained(distilled_run, ignore)
    with pytest.raises(UserError, match="distillation computes no pseudo labels"):
        next(labeled_crops(trained, trained.data.samples("val"), distilled_run))


def by_hand(probabilities: list[float], right: list[bool]) -> LabeledCrops:
    """One crop of a row of pixels of two classes, predicted as class 0 with these probabilities."""
    first = torch.tensor(probabilities)
    label = torch.tensor([[[0 if hit else 1 for hit in right]]])
    label[0, 0, -1] = 255
    nothing = torch.zeros(1, 1, len(right), dtype=torch.bool)
    batch = UnlabeledBatch(torch.zeros(1, 3, 1, len(right)), [], nothing, [], labels=label)
    parts = {"decoder": torch.stack([first, 1 - first])[None, :, None]}
    return LabeledCrops(["a"], batch, parts, first[None, None] >= 0.8, True)


def test_calibration_by_hand() -> None:
    # 0.6 and 1.0 are whole numbers of 255; the last pixel has no label.
    crop = by_hand([0.6, 0.6, 0.6, 0.6, 1.0, 1.0, 1.0], [True, False, False, False, True, True, True])
    found = reliability(iter([crop]))["decoder"].to_json()
    assert found["bins"] == [
        {"confidence": pytest.approx(0.6), "accuracy": 0.25, "pixels": 4},
        {"confidence": 1.0, "accuracy": 1.0, "pixels": 2},
    ]
    assert found["expected_calibration_error"] == pytest.approx(4 / 6 * (0.6 - 0.25))
    assert found["accuracy"] == pytest.approx(3 / 6)
    assert found["confidence"] == pytest.approx((4 * 0.6 + 2) / 6)
    numbers = part_numbers(crop, 0)
    assert numbers == {
        "photo": "a",
        "labeled_pixels": 6,
        "accuracy": {"decoder": 0.5},
        "learned_pixels": 2,
        "learned_accuracy": 1.0,
    }


def test_of_a_run_the_parts_are_calibrated_over_the_same_pixels(pseudoseg_run) -> None:
    trained = load_trained(pseudoseg_run, ignore)
    batches = list(labeled_crops(trained, trained.data.samples("val"), pseudoseg_run))
    found = {name: part.to_json() for name, part in reliability(iter(batches)).items()}
    truth = np.concatenate([crops.batch.labels.numpy().ravel() for crops in batches])
    for name, numbers in found.items():
        predicted = np.concatenate([crops.parts[name].argmax(dim=1).numpy().ravel() for crops in batches])
        assert numbers["pixels"] == (truth != 255).sum()
        assert numbers["accuracy"] == pytest.approx((predicted == truth)[truth != 255].mean())


def test_probabilities_cover_the_crop_as_the_network_pads_it(pseudoseg_run) -> None:
    trained = load_trained(pseudoseg_run, ignore)
    crops = next(labeled_crops(trained, trained.data.samples("val"), pseudoseg_run))
    coarse = trained.method.pseudo_label_parts(crops.batch)["decoder"]
    expected = functional.interpolate(coarse, size=(32, 64), mode="bilinear")[..., :48]  # the stride is 32
    torch.testing.assert_close(crops.parts["decoder"].clone(), expected)
