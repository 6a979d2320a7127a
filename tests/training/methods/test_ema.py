"""The moving-average teacher."""

import pytest
import torch
from torch import nn

from semseg_app.training.methods.ema import EmaConfig, ema_decay, make_teacher, update_ema


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(2, 2).double())
    net[1](torch.randn(5, 4, 3, 3))
    return net


def test_teacher_is_a_frozen_copy() -> None:
    student = network(0)
    teacher = make_teacher(student)
    assert not teacher.training
    assert student.training
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert all(parameter.requires_grad for parameter in student.parameters())
    for name, tensor in student.state_dict().items():
        assert teacher.state_dict()[name].equal(tensor)
        assert teacher.state_dict()[name].data_ptr() != tensor.data_ptr()


def test_average_covers_parameters_and_batch_statistics() -> None:
    student, teacher = network(1), make_teacher(network(0))
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    student[1](torch.randn(5, 4, 3, 3))  # a second batch: counters differ
    update_ema(teacher, student, 0.9)
    for name, tensor in teacher.state_dict().items():
        theirs = student.state_dict()[name]
        if name.endswith("num_batches_tracked"):
            assert tensor.item() == 2
        else:
            torch.testing.assert_close(tensor, 0.9 * before[name] + 0.1 * theirs)
    assert not teacher[0].weight.equal(before["0.weight"])
    assert not teacher[1].running_mean.equal(before["1.running_mean"])


@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_decay_zero_copies_and_one_freezes_bit_for_bit(decay: float) -> None:
    student, teacher = network(1), make_teacher(network(0))
    student[1](torch.randn(5, 4, 3, 3))
    expected = student if decay == 0 else network(0)
    update_ema(teacher, student, decay)
    for name, tensor in teacher.state_dict().items():
        assert tensor.equal(expected.state_dict()[name]), name


def test_warm_up_is_a_plain_mean_at_first() -> None:
    assert ema_decay(0, 0.999) == 0
    assert ema_decay(1, 0.999) == 0.5
    assert ema_decay(10**6, 0.999) == 0.999
    assert ema_decay(0, 0.999, warm_up=False) == 0.999
    students = [network(seed) for seed in range(4)]
    teacher = make_teacher(students[3])
    for step, student in enumerate(students):
        update_ema(teacher, student, ema_decay(step, 0.999))
    torch.testing.assert_close(teacher[0].weight, torch.stack([one[0].weight.detach() for one in students]).mean(0))


def test_the_update_leaves_no_graph_and_the_student_alone() -> None:
    student, teacher = network(1), make_teacher(network(0))
    before = student[0].weight.detach().clone()
    update_ema(teacher, student, 0.5)
    assert teacher[0].weight.grad_fn is None
    assert student[0].weight.equal(before)
    with pytest.raises(ValueError, match="zip"):
        update_ema(teacher, nn.Sequential(nn.Conv2d(3, 4, 3)), 0.5)


def test_the_teacher_is_the_student_for_the_first_steps_that_a_recipe_names() -> None:
    """AugSeg's first epoch; from then on the decay is that of the step, as without it."""
    config = EmaConfig(momentum=0.9, copy_steps=3)
    assert [config.decay(step) for step in (0, 1, 2, 3, 4, 100)] == [0, 0, 0, 1 - 1 / 4, 1 - 1 / 5, 0.9]
    assert [EmaConfig(momentum=0.9).decay(step) for step in (1, 3)] == [ema_decay(1, 0.9), ema_decay(3, 0.9)]
