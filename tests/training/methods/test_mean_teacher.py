"""Mean teacher in both forms: passes, labels, mixing and losses, recomputed from what the networks saw."""

import math

import pytest
import torch
from support.crops import HEIGHT, WIDTH, batch, full_logits_of, hard_label_loss, network, pasted, seen_by

from semseg_app.data.layouts import open_dataset
from semseg_app.training.data.streams import ImageDataset
from semseg_app.training.methods.ema import EmaConfig
from semseg_app.training.methods.mean_teacher import MeanTeacher, MeanTeacherConfig

THRESHOLD = 0.6


@pytest.fixture(scope="module")
def dataset(tiny_dataset) -> ImageDataset:
    data = open_dataset(tiny_dataset)
    return ImageDataset(data, data.samples("train"), with_labels=True)


def make(dataset: ImageDataset, **config) -> MeanTeacher:
    """A teacher that has drifted away from its student."""
    method = MeanTeacher(MeanTeacherConfig(**{"threshold": THRESHOLD} | config), network(), dataset)
    torch.manual_seed(2)
    with torch.no_grad():
        for weight in method.teacher.network.parameters():
            weight += 0.02 * torch.randn_like(weight)
    return method


def test_labels_travel_with_the_pixels_of_the_mixed_image(dataset):
    """S4Former-Base: half-area boxes from the next image, labels of the teacher."""
    crops = batch()
    method = make(dataset, mix_probability=1.0)
    student, teacher = seen_by(method.network), seen_by(method.teacher.network)
    losses = method(crops, 0)
    assert ([len(images) for images in student], [len(images) for images in teacher]) == ([2, 4], [4])
    torch.testing.assert_close(teacher[0], crops.unlabeled.weak)

    with torch.no_grad():
        weak = method.teacher.network.full_logits(crops.unlabeled.weak)
        strong = method.network.full_logits(student[1])
    confidence, labels = weak.softmax(1).max(1)
    assert 0.1 < (confidence >= THRESHOLD).float().mean() < 0.9
    own = crops.unlabeled.strong[0]
    box = pasted(student[1], own, own.roll(-1, 0))
    assert (box.flatten(1).float().mean(1) - 0.5).abs().max() < 0.02
    valid = ~(crops.unlabeled.pad | crops.unlabeled.cut[0])
    expected = hard_label_loss(
        strong,
        torch.where(box, labels.roll(-1, 0), labels),
        torch.where(box, confidence.roll(-1, 0), confidence),
        torch.where(box, valid.roll(-1, 0), valid),
        THRESHOLD,
    )
    torch.testing.assert_close(losses["unsupervised"], expected)


@pytest.mark.parametrize("reduction", ["valid", "all"])
def test_squared_loss_of_french_pixel_by_pixel(reduction, dataset):
    """Teacher logits are mixed, then softmaxed; the share of sure pixels weighs the whole batch."""
    crops = batch()
    method = make(dataset, loss="squared", mix="french", reduction=reduction)
    student = seen_by(method.network)
    loss = method(crops, 0)["unsupervised"]

    with torch.no_grad():
        teacher_logits = method.teacher.network.full_logits(crops.unlabeled.weak).tolist()
        student_logits = method.network.full_logits(student[1]).tolist()
    own = crops.unlabeled.strong[0]
    box = pasted(student[1], own, own.flip(0)).tolist()
    valid = (~(crops.unlabeled.pad | crops.unlabeled.cut[0])).tolist()

    def softmax(logits: list, image: int, row: int, column: int) -> list[float]:
        exponents = [math.exp(logits[image][label][row][column]) for label in range(3)]
        return [one / sum(exponents) for one in exponents]

    squares = sure = count = 0.0
    for image in range(4):
        for row in range(HEIGHT):
            for column in range(WIDTH):
                source = 3 - image if box[image][row][column] else image
                if not valid[source][row][column]:
                    continue
                count += 1
                wanted = softmax(teacher_logits, source, row, column)
                given = softmax(student_logits, image, row, column)
                squares += sum((one - other) ** 2 for one, other in zip(given, wanted, strict=True))
                sure += max(wanted) >= THRESHOLD
    divisor = count if reduction == "valid" else 4 * HEIGHT * WIDTH
    assert 0.1 < sure / count < 0.9
    assert float(loss.detach()) == pytest.approx(squares / divisor * sure / divisor, rel=1e-4)


@pytest.mark.parametrize("config", [{}, {"loss": "squared"}])
def test_only_valid_pixels_of_the_student_have_a_gradient(config, dataset):
    crops = batch()
    method = make(dataset, threshold=0.0, mix="none", **config)
    logits = full_logits_of(method.network)
    losses = method(crops, 0)
    strong = [one for one in logits if one.requires_grad][-1]
    gradient = torch.autograd.grad(losses["unsupervised"], strong, retain_graph=True)[0]
    assert gradient.ne(0).any(1).equal(~(crops.unlabeled.pad | crops.unlabeled.cut[0]))
    torch.stack(list(losses.values())).sum().backward()
    assert all(weight.grad is None and not weight.requires_grad for weight in method.teacher.parameters())
    assert all(weight.grad is not None for weight in method.network.parameters())


@pytest.mark.parametrize("config", [{}, {"loss": "squared", "mix": "french"}])
def test_nothing_confident_is_exactly_zero(config, dataset):
    losses = make(dataset, threshold=1.0, **config)(batch(), 0)
    assert losses["unsupervised"] == 0
    assert losses["supervised"] > 0


def test_the_teacher_is_delivered_and_follows_after_the_step(dataset):
    method = make(dataset, ema=EmaConfig(momentum=0.9, warm_up=False)).train()
    assert list(method.networks()) == ["teacher", "student"]
    assert method.networks()["teacher"] is method.teacher.network
    assert method.network.training
    assert not method.teacher.network.training
    before = {name: tensor.clone() for name, tensor in method.teacher.network.state_dict().items()}
    torch.stack(list(method(batch(), 0).values())).sum().backward()
    torch.optim.SGD(method.network.parameters(), lr=0.1).step()
    student = method.network.state_dict()
    assert all(tensor.equal(before[name]) for name, tensor in method.teacher.network.state_dict().items())
    method.after_step(0)
    for name, tensor in method.teacher.network.state_dict().items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, 0.9 * before[name] + 0.1 * student[name])
    assert any(not tensor.equal(before[name]) for name, tensor in method.teacher.network.state_dict().items())
