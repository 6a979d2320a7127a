"""Datasets and views: functions of (seed, name, position), and geometry that image and label share."""

import numpy as np
import pytest
import torch

from semseg_app.data.layouts import open_dataset
from semseg_app.errors import UserError
from semseg_app.training.data.randomness import generator
from semseg_app.training.data.streams import AugmentedDataset, ImageDataset, StepBatchSampler, batches
from semseg_app.training.data.weak_augmentation import PAD_COLOR, WeakView, largest_class_share, weak_view


@pytest.fixture(scope="module")
def augmented(tiny_dataset) -> AugmentedDataset:
    data = open_dataset(tiny_dataset)
    return AugmentedDataset(
        ImageDataset(data, data.samples("train"), with_labels=True), "labeled", seed=3, weak=WeakView(crop=(32, 40))
    )


def collect(augmented: AugmentedDataset, workers: int, **positions) -> list[dict[str, torch.Tensor]]:
    defaults = {"batch_size": 4, "accumulate": 1, "rank": 0, "world": 1, "first_step": 0, "steps": 5}
    return list(batches(augmented, StepBatchSampler(**defaults | positions), workers, pin_memory=False))


def assert_same(left: list[dict[str, torch.Tensor]], right: list[dict[str, torch.Tensor]]) -> None:
    assert len(left) == len(right)
    for ours, theirs in zip(left, right, strict=True):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_workers_and_interruptions_change_nothing(augmented):
    alone = collect(augmented, workers=0)
    assert_same(alone, collect(augmented, workers=2))
    assert_same(alone[3:], collect(augmented, workers=0, first_step=3))


def test_the_global_generator_is_left_alone(augmented):
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    collect(augmented, workers=0)
    assert torch.equal(torch.rand(3), expected)


def test_ranks_and_accumulation_share_out_the_same_step():
    whole = list(StepBatchSampler(8, 1, 0, 1, first_step=2, steps=4))
    assert whole == [list(range(16, 24)), list(range(24, 32))]
    ranks = [list(StepBatchSampler(8, 2, rank, 2, first_step=2, steps=4)) for rank in (0, 1)]
    assert ranks[0] == [[16, 17], [20, 21], [24, 25], [28, 29]]
    joined = [sorted(ranks[0][i] + ranks[1][i] + ranks[0][i + 1] + ranks[1][i + 1]) for i in (0, 2)]
    assert joined == whole
    assert len(StepBatchSampler(8, 2, 0, 2, first_step=2, steps=4)) == 4


def test_an_epoch_shows_every_image_once(tiny_dataset):
    data = open_dataset(tiny_dataset)
    dataset = ImageDataset(data, data.samples("train"), with_labels=True)
    still = AugmentedDataset(dataset, "labeled", 0, WeakView(crop=(48, 64), scale=(1, 1), flip=0))
    sums = [int(still[position]["image"].sum()) for position in range(24)]
    expected = sorted(int(dataset[index][0].sum()) for index in range(12))
    assert sorted(sums[:12]) == expected
    assert sorted(sums[12:]) == expected
    assert sums[:12] != sums[12:]


def coordinates(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """An image whose red and green are row and column, and a label that is a function of them."""
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([rows, columns, np.full_like(rows, 128)]).astype(np.uint8)
    return torch.from_numpy(image), torch.from_numpy(((rows // 20 + columns // 20) % 4).astype(np.uint8))


@pytest.mark.parametrize("seed", range(12))
def test_label_and_image_stay_on_top_of_each_other(seed):
    """Each pixel's own color says where it came from; its label must be the label of that place."""
    image, label = coordinates(120, 160)
    view = weak_view(image, label, WeakView(crop=(90, 100), scale=(0.5, 2.0)), generator(seed, "test"))
    assert view.image.shape == (3, 90, 100)
    assert view.label is not None
    rows, columns = view.image[0].long(), view.image[1].long()
    # Only well inside a 20-pixel cell: there interpolation cannot have crossed into the next one.
    inside = ~view.pad & ((rows % 20 - 10).abs() < 7) & ((columns % 20 - 10).abs() < 7)
    assert inside.sum() > 500
    assert torch.equal(view.label[inside].long(), ((rows // 20 + columns // 20) % 4)[inside])


def test_padding_is_ignored_and_marked():
    image, label = coordinates(40, 40)
    view = weak_view(image, label, WeakView(crop=(64, 80), scale=(1, 1), flip=0), generator(0, "test"))
    assert torch.equal(view.image[:, :40, :40], image)
    assert torch.equal(view.label[:40, :40], label)
    assert (view.label[view.pad] == 255).all()
    assert int(view.pad.sum()) == 64 * 80 - 40 * 40
    assert [int(channel[view.pad].float().mean()) for channel in view.image] == list(PAD_COLOR)


def test_the_scale_can_count_from_a_size_of_the_shorter_side():
    """S4Former's: a photo of 30x60 at half of 80 is 40x80, whatever its own size is."""
    image, label = coordinates(30, 60)
    view = weak_view(image, label, WeakView(crop=(64, 96), scale=(0.5, 0.5), flip=0, short_side=80), generator(0, "x"))
    assert (~view.pad).nonzero().amax(0).tolist() == [39, 79]
    again = weak_view(image.repeat_interleave(2, 1).repeat_interleave(2, 2), None, WeakView(
        crop=(64, 96), scale=(0.5, 0.5), flip=0, short_side=80), generator(0, "x"))  # fmt: skip
    assert again.pad.equal(view.pad)


def test_crops_of_almost_one_class_are_drawn_again_and_only_where_there_are_labels():
    image = torch.zeros(3, 40, 400, dtype=torch.uint8)
    label = torch.zeros(40, 400, dtype=torch.uint8)
    label[:, 300:320] = 1
    label[:, :10] = 255
    config = WeakView(crop=(40, 40), scale=(1, 1), flip=0)
    varied = config.model_copy(update={"max_class_share": 0.75})

    def shares(config: WeakView) -> list[float]:
        views = [weak_view(image, label, config, generator(seed, "test")).label for seed in range(60)]
        return [largest_class_share(view) for view in views]

    def is_varied(values: list[float]) -> float:
        return sum(value < 0.75 for value in values) / len(values)

    plain, drawn_again = is_varied(shares(config)), is_varied(shares(varied))
    chance = 39 / 361  # windows that show at least 11 of the 20 columns of class 1: their first column is 271 to 309
    assert plain == pytest.approx(chance, abs=0.08)
    assert drawn_again == pytest.approx(1 - (1 - chance) ** 11, abs=0.12)
    blind = [weak_view(image, None, each, generator(7, "test")).image for each in (config, varied)]
    assert blind[0].equal(blind[1])


def test_share_of_the_largest_class_is_mmsegmentations():
    assert largest_class_share(torch.tensor([[0, 0, 1, 255]])) == pytest.approx(2 / 3)
    assert largest_class_share(torch.tensor([[4, 4, 255]])) == 1
    assert largest_class_share(torch.tensor([[255]])) == 1


def test_image_and_label_of_different_size_are_named(tiny_dataset, tmp_path):
    import shutil

    from PIL import Image

    root = tmp_path / "data"
    shutil.copytree(tiny_dataset, root)
    Image.new("L", (10, 20)).save(root / "labels" / "train" / "train03.png")
    data = open_dataset(root)
    with pytest.raises(UserError, match=r"train03.png: 10x20 pixels, but its image is 64x48; make them equal"):
        ImageDataset(data, data.samples("train"), with_labels=True)
