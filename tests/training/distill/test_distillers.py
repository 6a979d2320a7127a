"""One tester for every distiller: a few steps of a tiny student behind a CNN and a transformer of other strides."""

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from semseg_app.artifact import ModelConfig
from semseg_app.data.layouts import open_dataset
from semseg_app.errors import UserError
from semseg_app.labels import LabelSpace
from semseg_app.models import ModelSpec, SegmentationNetwork, build, save_network
from semseg_app.training.data.streams import Batch, ImageDataset, LabeledBatch, UnlabeledBatch
from semseg_app.training.distill.maps import on_grid
from semseg_app.training.methods.distillation import Distillation, DistillationConfig

STUDENT = ModelSpec(architecture="segformer", encoder="tu-test_efficientnet", num_classes=3, decoder_channels=32)
TEACHERS = {
    "cnn": ModelSpec(architecture="deeplabv3", encoder="tu-test_resnet", num_classes=3, decoder_channels=24),
    "transformer": ModelSpec(architecture="segformer", encoder="mit_b0", num_classes=3, decoder_channels=32),
}
SECTIONS = {
    "kd": {"temperature": 2.0},
    "cwd": {},
    "skd": {},
    "ifvd": {},
    "attention_transfer": {"features": 1},
    "fitnet": {"features": "logits"},
    "mgd": {"features": -2},
    "af_dcd": {"channel_groups": 8, "patch_size": 2, "pool_size": 0},
    "cirkd": {"pixel_queue": 50, "region_queue": 20},
    "maskd": {"token_steps": 2},
}


@pytest.fixture(scope="module")
def dataset(tiny_dataset: Path) -> ImageDataset:
    data = open_dataset(tiny_dataset)
    return ImageDataset(data, data.samples("train"), with_labels=True)


@pytest.fixture(scope="module")
def teachers(dataset: ImageDataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Model folders of random networks."""
    folders = {}
    for name, spec in TEACHERS.items():
        torch.manual_seed(1)
        folders[name] = tmp_path_factory.mktemp("teachers") / name
        save_network(folders[name], build(spec), config_of(spec, dataset))
    return folders


def config_of(spec: ModelSpec, dataset: ImageDataset) -> ModelConfig:
    info = dataset.data.info
    return ModelConfig(name="tiny", model=spec, labels=LabelSpace(classes=info.classes, palette=info.palette))


def student() -> SegmentationNetwork:
    torch.manual_seed(0)
    return build(STUDENT)


def batch(unlabeled: bool = True) -> Batch:
    """Two labeled images of 48x64, which the student pads to 64x64 and the CNN teacher does not, and two without."""
    images = torch.rand(4, 3, 48, 64)
    labels = torch.randint(0, 3, (2, 6, 8)).repeat_interleave(8, 1).repeat_interleave(8, 2)
    labels[:, :8] = 255
    pad = torch.zeros(2, 48, 64, dtype=torch.bool)
    first = LabeledBatch(images[:2], labels, pad, torch.tensor(float((labels != 255).sum())))
    return Batch(first, UnlabeledBatch(images[2:], [], pad, []) if unlabeled else None)


@pytest.mark.parametrize("teacher", TEACHERS)
@pytest.mark.parametrize("section", SECTIONS)
def test_distiller(
    section: str, teacher: str, teachers: dict[str, Path], dataset: ImageDataset, tmp_path: Path
) -> None:
    chosen = {"kd": None} | {section: SECTIONS[section]}
    network = student()
    method = Distillation(DistillationConfig(teacher=teachers[teacher], **chosen), network, dataset).train()
    assert not method.teacher.training
    learned = [(name, one) for name, one in method.named_parameters() if one.requires_grad]
    optimizer = torch.optim.SGD([one for _, one in learned], lr=1e-4)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    for step in range(3):
        losses = method(batch(), step)
        own = losses.keys() - {"supervised"}
        assert own
        assert all(name.startswith(section) for name in own)
        assert all(value.ndim == 0 and value.isfinite() for value in losses.values())
        torch.stack(list(losses.values())).sum().backward()
        # What has no gradient would make several processes wait for it.
        assert all(one.grad is not None and one.grad.isfinite().all() for _, one in learned)
        method.clip_gradients()
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(step)
    after = method.state_dict()
    taught = [name for name in after if name.startswith("teacher.")]
    assert all(torch.equal(after[name], before[name]) for name in taught)
    assert all(one.grad is None for one in method.teacher.parameters())
    assert not torch.equal(after["network.classifier.weight"], before["network.classifier.weight"])

    save_network(tmp_path / "student", network, config_of(STUDENT, dataset))
    assert load_file(tmp_path / "student" / "model.safetensors").keys() == build(STUDENT).state_dict().keys()
    assert list(method.references().values()) == [method.teacher]


@pytest.mark.parametrize("section", SECTIONS)
def test_images_without_labels(section: str, teachers: dict[str, Path], dataset: ImageDataset) -> None:
    """They change what needs no labels, and nothing else; without labels at all everything stays finite."""
    chosen = {"kd": None} | {section: SECTIONS[section]}
    method = Distillation(DistillationConfig(teacher=teachers["cnn"], **chosen), student(), dataset).eval()
    both = batch()
    values = []
    for given in (both, both._replace(unlabeled=None)):
        torch.manual_seed(2)
        values.append({name: value.item() for name, value in copy.deepcopy(method)(given, 0).items()})
    changed = {name for name in values[0] if abs(values[0][name] - values[1][name]) > 1e-6 * abs(values[0][name])}
    unchanged = {"supervised", "ifvd", "cirkd_pixels", "cirkd_regions", "maskd_tokens"}
    assert changed == values[0].keys() - unchanged
    nothing = both.labeled._replace(labels=torch.full_like(both.labeled.labels, 255))
    assert all(value.isfinite() for value in method(Batch(nothing, both.unlabeled), 0).values())


def test_maps_of_other_strides_meet_pixel_for_pixel() -> None:
    torch.manual_seed(0)
    feature = torch.randn(2, 3, 5, 7)
    assert on_grid(feature, (40, 56), (5, 7), (40, 56)) is feature
    resized = functional.interpolate(feature, size=(20, 21), mode="bilinear", align_corners=False)
    torch.testing.assert_close(on_grid(feature, (40, 56), (20, 21), (40, 56)), resized, rtol=1e-4, atol=1e-5)

    def ramp(rows: int, columns: int, height: int, width: int) -> Tensor:
        """At every cell the row and the column, in pixels, of its center."""
        row = (torch.arange(rows) + 0.5) * height / rows
        column = (torch.arange(columns) + 0.5) * width / columns
        return torch.stack(torch.meshgrid(row, column, indexing="ij")).unsqueeze(0)

    # A 360x360 image: 12x12 cells of a teacher that pads it to 384, 45x45 of a student that does not.
    ours = on_grid(ramp(12, 12, 384, 384), (384, 384), (45, 45), (360, 360))
    inside = slice(2, 43)  # further out there is nothing to interpolate between
    torch.testing.assert_close(ours[..., inside, inside], ramp(45, 45, 360, 360)[..., inside, inside])
    # The other way round the student's last cells lie behind the teacher's map, whose border goes on.
    ours = on_grid(ramp(45, 45, 360, 360), (360, 360), (12, 12), (384, 384))
    torch.testing.assert_close(ours[..., :11, :11], ramp(12, 12, 384, 384)[..., :11, :11])
    assert ours[0, 0, 11, 0] == pytest.approx(356, rel=1e-5)


def test_what_cannot_be_compared_is_named(teachers: dict[str, Path], dataset: ImageDataset) -> None:
    def refused(match: str, **changes: object) -> None:
        with pytest.raises(UserError, match=match):
            Distillation(DistillationConfig(teacher=teachers["transformer"], **changes), student(), dataset)

    refused(r"method.cwd.features: the teacher's mit_b0 has stages -4 to 3, not 4", cwd={"features": 4})
    refused(r"method.skd.features: the student's tu-test_efficientnet has stages -5 to 4, not -6", skd={"features": -6})
    refused(r"channel_groups 7 does not divide the teacher's 256 channels; use 8", af_dcd={"channel_groups": 7})
    refused("no distiller is on; leave kd on, or use method.name=supervised", kd=None)
