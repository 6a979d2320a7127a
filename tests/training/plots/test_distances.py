"""Distances of student and teacher, against loops over pixels and groups."""

import numpy as np
import pytest
import torch

from semseg_app.errors import UserError
from semseg_app.plots.feature_points import as_input
from semseg_app.training.data.randomness import derive
from semseg_app.training.plots import distances as fine
from semseg_app.training.run.trained import load_trained


def ignore(line: str) -> None:
    raise AssertionError(line)


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_one_distance_for_each_pixel_and_group(norm) -> None:
    student, teacher = torch.randn(2, 6, 2, 3), torch.randn(2, 6, 2, 3)
    found = fine.fine_grained(student, teacher, 3, norm)
    assert found.shape == (2, 3, 2, 3)
    for image, group, row, column in np.ndindex(2, 3, 2, 3):
        own = student[image, 2 * group : 2 * group + 2, row, column].numpy()
        other = teacher[image, 2 * group : 2 * group + 2, row, column].numpy()
        expected = np.abs(own - other).sum() if norm == "l1" else np.sqrt(np.square(own - other).sum())
        assert found[image, group, row, column] == pytest.approx(expected, rel=1e-5)
    by_hand = fine.fine_grained(torch.tensor([3.0, 0, 1, 1])[None, :, None, None], torch.zeros(1, 4, 1, 1), 2, "l2")
    assert by_hand.flatten().tolist() == pytest.approx([3.0, 2**0.5])
    with pytest.raises(ValueError, match="use 3"):
        fine.fine_grained(student, teacher, 4, "l1")


def test_statistics_are_over_all_pairs_and_the_sample_is_of_them(distilled_run, monkeypatch) -> None:
    trained = load_trained(distilled_run, ignore)
    what = fine.compared(trained, distilled_run, logits=False)
    assert (what.name, what.section) == ("decoder", "mgd")
    samples = trained.data.samples("val")
    method = trained.method
    expected = []
    for number, sample in enumerate(samples):
        images = as_input(trained.data.read_image(sample), "cpu")
        torch.manual_seed(derive(0, "plot/distances", number))
        with torch.no_grad():
            student = method.distillers["mgd"].generation(method.network.features(images).decoder)
            teacher = method.teacher.network.features(images).decoder
        groups = (student - teacher).abs().reshape(1, 4, 4, *student.shape[2:]).sum(dim=2)
        expected.append(groups.flatten().numpy())
    everything = np.concatenate(expected).astype(np.float64)
    monkeypatch.setattr(fine, "SAMPLE", 100)
    found = fine.distances(trained, what, samples, groups=4)
    assert found.pairs == len(everything)
    assert found.mean == pytest.approx(everything.mean(), rel=1e-5)
    assert found.deviation == pytest.approx(everything.std(), rel=1e-4)
    assert (found.smallest, found.largest) == pytest.approx((everything.min(), everything.max()), rel=1e-5)
    assert len(found.sample) == 100
    nearest = np.abs(everything[:, None] - found.sample).argmin(axis=0)
    assert len(set(nearest.tolist())) == 100
    np.testing.assert_allclose(everything[nearest], found.sample, rtol=1e-5)
    # Drawn from all photos, not from the last one.
    photo = nearest // len(expected[0])
    assert set(photo.tolist()) == set(range(5))
    np.testing.assert_array_equal(fine.distances(trained, what, samples, groups=4).sample, found.sample)


def test_what_cannot_be_compared_is_one_line(distilled_run, pseudoseg_run) -> None:
    with pytest.raises(UserError, match="pseudoseg has no teacher"):
        fine.compared(load_trained(pseudoseg_run, ignore), pseudoseg_run, False)
    trained = load_trained(distilled_run, ignore)
    with pytest.raises(UserError, match="--groups: 16 channels: 5 groups do not divide them; use 4"):
        fine.distances(trained, fine.compared(trained, distilled_run, False), trained.data.samples("val"), groups=5)
    scores = fine.compared(trained, distilled_run, logits=True)
    found = fine.distances(trained, scores, trained.data.samples("val")[:1], groups=1, norm="l2")
    assert found.pairs == len(found.sample)
