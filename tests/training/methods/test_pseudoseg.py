"""PseudoSeg as a whole: what learns from what, what each step costs, and images that come with their classes."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.patch_network import HEIGHT, WIDTH, changed_where, patch_network, random_batch, recorded_passes
from torch import Tensor, nn
from torch.nn import functional
from typer.testing import CliRunner

from semseg_app.cli.main import app
from semseg_app.data.layouts import open_dataset
from semseg_app.errors import UserError
from semseg_app.models import ModelSpec, build
from semseg_app.training.data.image_labels import read_image_labels
from semseg_app.training.data.streams import AugmentedDataset, ImageDataset
from semseg_app.training.data.weak_augmentation import WeakView
from semseg_app.training.loop import train
from semseg_app.training.methods import pseudoseg
from semseg_app.training.methods.pseudoseg import PseudoSeg, PseudoSegConfig, background_class
from semseg_app.training.methods.self_attention_cam import classes_present
from semseg_app.training.recipe import Recipe

BOTH_MODES = pytest.mark.parametrize("image_classes", [None, torch.tensor([[1, 1, 0], [0, 0, 1]]).bool()])
CNN = {"architecture": "segformer", "encoder": "tu-test_efficientnet", "decoder_channels": 16}


@pytest.fixture(scope="module")
def labeled(tiny_dataset) -> ImageDataset:
    data = open_dataset(tiny_dataset)
    return ImageDataset(data, data.samples("train"), with_labels=True)


def small(labeled: ImageDataset, **config) -> PseudoSeg:
    torch.manual_seed(0)
    return PseudoSeg(PseudoSegConfig(background="ground", **config), patch_network(), labeled).train()


def real(labeled: ImageDataset, **config) -> PseudoSeg:
    """With batch norms and real receptive fields."""
    torch.manual_seed(0)
    network = build(ModelSpec(**CNN, num_classes=3))
    return PseudoSeg(PseudoSegConfig(background="ground", **config), network, labeled).train()


def gradients(loss: Tensor, module: nn.Module) -> list[Tensor | None]:
    learned = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return list(torch.autograd.grad(loss, learned, retain_graph=True, allow_unused=True))


def untouched(loss: Tensor, module: nn.Module) -> bool:
    return all(gradient is None for gradient in gradients(loss, module))


@BOTH_MODES
@pytest.mark.parametrize("cam_mode", ["eval", "train"])
def test_each_loss_teaches_only_what_it_should(labeled, image_classes, cam_mode):
    method = real(labeled, cam_mode=cam_mode)
    batch = random_batch(image_classes)
    images = [batch.labeled.images, batch.unlabeled.weak, batch.unlabeled.strong[0]]
    for one in images:
        one.requires_grad_()
    losses = method(batch, 0)
    assert set(losses) == {"supervised", "attention", "classifier", "unsupervised"}
    network = method.network

    assert untouched(losses["attention"], network)
    assert untouched(losses["attention"], method.classifier)
    assert all(gradient.abs().sum() > 0 for gradient in gradients(losses["attention"], method.attention))
    assert untouched(losses["unsupervised"], method.attention)
    assert untouched(losses["unsupervised"], method.classifier)
    assert any(gradient.abs().sum() > 0 for gradient in gradients(losses["unsupervised"], network))
    assert untouched(losses["classifier"], method.attention)
    assert untouched(losses["classifier"], network.decoder)
    assert any(gradient is not None for gradient in gradients(losses["classifier"], network.encoder))

    def learned_from(name: str) -> list[bool]:
        found = torch.autograd.grad(losses[name], images, retain_graph=True, allow_unused=True)
        return [gradient is not None for gradient in found]

    assert learned_from("supervised") == [True, False, False]
    assert learned_from("attention") == [False, False, False]
    assert learned_from("classifier") == ([True, False, False] if image_classes is None else [False, True, False])
    assert learned_from("unsupervised") == [False, False, True]


@BOTH_MODES
def test_every_weight_learns_under_autocast(labeled, image_classes):
    """Autocast keeps half-precision copies of weights between passes, and some passes are without gradient."""
    method = real(labeled)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = method(random_batch(image_classes), 0)
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    assert all(parameter.grad is not None for parameter in method.parameters() if parameter.requires_grad)
    fixed = [name for name, parameter in method.named_parameters() if not parameter.requires_grad]
    assert fixed == ["attention.output.1.weight"], "the norm of SGC shifts and does not scale"


@pytest.mark.parametrize("cam_mode", ["eval", "train"])
@BOTH_MODES
def test_a_step_costs_the_passes_it_says(labeled, image_classes, cam_mode):
    method = real(labeled, cam_mode=cam_mode)
    passes = recorded_passes(method.network)
    method(random_batch(image_classes), 0)
    weak_learns = image_classes is not None
    expected = [
        ("encoder", True, True),  # labeled
        ("decoder", True, True),
        ("encoder", True, weak_learns),  # weak
        ("decoder", True, False),
        ("encoder", False, False),  # weak, for the activation maps
        ("encoder", True, True),  # strong
        ("decoder", True, True),
    ]
    if cam_mode == "train":
        expected.remove(("encoder", False, False))
    assert passes == expected
    # The eval pass puts the mode back and leaves the statistics alone: three updates, not four.
    assert all(module.training for module in method.modules())
    counters = [module.num_batches_tracked.item() for module in method.network.modules() if hasattr(module, "momentum")]
    assert set(counters) == {3}


def test_cut_and_padded_pixels_of_strong_views_do_nothing(labeled):
    method, batch = small(labeled), random_batch()
    unlabeled = batch.unlabeled
    dead = unlabeled.pad | unlabeled.cut[0]
    strong = unlabeled.strong[0].requires_grad_()
    loss = method(batch, 0)["unsupervised"]
    gradient = torch.autograd.grad(loss, strong)[0].abs().sum(dim=1)
    assert gradient[dead].eq(0).all()
    assert gradient[~dead].gt(0).float().mean() > 0.9
    other = unlabeled._replace(strong=[changed_where(strong.detach(), dead)])
    assert method(batch._replace(unlabeled=other), 0)["unsupervised"].equal(loss)
    # Nothing left: exactly zero.
    everywhere = unlabeled._replace(cut=[torch.ones_like(dead)])
    assert method(batch._replace(unlabeled=everywhere), 0)["unsupervised"] == 0


def test_attention_gathers_nothing_from_where_the_strong_view_is_cut(labeled, monkeypatch):
    """The released code has one mask: an activation map of the weak view is not read under CutOut."""
    method, batch = small(labeled, gamma=0.0), random_batch()
    masks = []
    forward = method.attention.forward
    monkeypatch.setattr(
        method.attention, "forward", lambda columns, cam, pad: masks.append(pad) or forward(columns, cam, pad)
    )
    method(batch, 0)
    expected = torch.zeros(2, 5, 7, dtype=torch.bool)  # cells of 8 pixels
    expected[:, :, 6:] = True  # half of it beyond the crop
    expected[0, :, :2] = expected[1, 4:] = True  # padding
    assert masks[0].shape == expected.shape
    expected[0, 1:3, 2:4] = True  # CutOut
    assert masks[1].equal(expected)


def test_hard_labels_are_the_cross_entropy_to_the_most_probable_class(labeled):
    method, batch = small(labeled, hard_labels=True), random_batch()
    logits = method.network(batch.unlabeled.strong[0])
    soft = {}
    original = pseudoseg.soft_label_loss

    def recorded(strong: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        soft.update(target=target, valid=valid)
        return original(strong, target, valid)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pseudoseg, "soft_label_loss", recorded)
        loss = method(batch, 0)["unsupervised"]
        method.config = PseudoSegConfig(background="ground")
        method(batch, 0)
    labels = torch.where(soft["valid"], soft["target"].argmax(dim=1), 255)
    torch.testing.assert_close(loss, functional.cross_entropy(logits, labels, ignore_index=255))


def test_without_hypercolumn_the_deepest_stage_alone_is_attended_by(labeled):
    method, batch = real(labeled, hypercolumn=False), random_batch()
    assert method.attention.query.in_channels == method.network.stage_channels[-1]
    losses = method(batch, 0)
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_the_monitor_counts_all_but_padding(labeled):
    method, batch = small(labeled), random_batch()
    method(batch, 0)
    counts = method.monitor.take()
    assert counts[0].sum() == 0  # no threshold
    assert counts.sum() * 16 == (~batch.unlabeled.pad).sum()  # on a grid of stride 4


def test_classifier_loss_by_hand_and_weights(labeled):
    """Crop labels where there is nothing better; image labels instead of them, and only with the unlabeled weight."""
    method, batch = small(labeled), random_batch()
    batch.labeled.labels[0][batch.labeled.labels[0] == 2] = 255  # no disc in the first crop: ignored is not there
    truth = classes_present(batch.labeled.labels, 3, background=0).double()
    assert truth.tolist() == [[1, 0], [1, 1]]

    @torch.no_grad()
    def by_hand(images: Tensor, truth: Tensor) -> float:
        pooled = method.network.features(images).stages[-1].mean(dim=(2, 3))
        scores = (pooled @ method.classifier.linear.weight.t() + method.classifier.linear.bias).double()
        return float(-(truth * scores.sigmoid().log() + (1 - truth) * (1 - scores.sigmoid()).log()).mean())

    plain = method(batch, 0)
    assert plain["classifier"].item() == pytest.approx(by_hand(batch.labeled.images, truth), rel=1e-5)
    classes = torch.tensor([[True, False, True], [False, True, True]])
    weakly = batch._replace(unlabeled=batch.unlabeled._replace(image_classes=classes))
    expected = by_hand(batch.unlabeled.weak, classes[:, 1:].double())
    losses = method(weakly, 0)
    assert losses["classifier"].item() == pytest.approx(expected, rel=1e-5)

    settings = {"classifier_weight": 0.5, "attention_weight": 3.0, "unsupervised_weight": 2.0, "ramp_up": 9}
    weighted = small(labeled, **settings)
    half = weighted(batch, 0)
    factors = {"supervised": 1, "attention": 3, "classifier": 0.5, "unsupervised": 0.2}
    for name, factor in factors.items():
        torch.testing.assert_close(half[name], factor * plain[name])
    torch.testing.assert_close(weighted(weakly, 0)["classifier"], 0.2 * 0.5 * losses["classifier"])


def test_true_image_labels_take_the_place_of_predicted_ones(labeled):
    method, batch = small(labeled), random_batch()
    with torch.no_grad():  # surely a box, surely no disc
        method.classifier.linear.bias.copy_(torch.tensor([50.0, -50.0]))
    predicted = method(batch, 0)["unsupervised"]

    def told(*classes: bool) -> Tensor:
        table = torch.tensor([classes, classes])
        return method(batch._replace(unlabeled=batch.unlabeled._replace(image_classes=table)), 0)["unsupervised"]

    assert told(False, True, False).equal(predicted)
    assert told(True, True, False).equal(predicted)  # the background is no object: naming it changes nothing
    assert not told(False, True, True).equal(predicted)


def test_background_is_found_named_or_absent(labeled, tiny_dataset):
    data = labeled.data
    assert background_class(None, data) is None
    assert background_class("box", data) == 1
    with pytest.raises(UserError, match=r"method.background: .* no class 'sky'; its classes are ground, box, disc"):
        background_class("sky", data)
    voc = open_dataset(tiny_dataset)
    voc.info.classes = ["disc", "background", "box"]
    assert background_class(None, voc) == 1
    torch.manual_seed(0)
    method = PseudoSeg(PseudoSegConfig(), patch_network(), labeled)
    assert method.classifier.linear.out_features == 3
    assert all(torch.isfinite(loss) for loss in method(random_batch(), 0).values())


def test_the_strong_view_travels_to_workers_with_its_size_and_strength(labeled):
    (view,) = pickle.loads(pickle.dumps(small(labeled, cutout_size=8, jitter=0.0).strong_views))
    image = torch.randint(0, 256, (3, 200, 200), dtype=torch.uint8)
    seen, cut = view(image, torch.Generator().manual_seed(0))
    assert cut.sum() == 64
    assert ((seen.int() - image.int()).abs()[:, ~cut] <= 1).all(), "a jitter of strength 0 changes no color"


# Images that come with their classes


def write_table(root: Path, path: Path) -> Path:
    """The truth about every training image of a dataset, as Excel would save it."""
    data = open_dataset(root)
    lines = ["image,classes"]
    for sample in data.samples("train"):
        present = sorted(set(data.read_label(sample).flatten().tolist()) - {0, 255})
        lines.append(f"{sample.stem},{';'.join(data.info.classes[index] for index in present)}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    return path


def test_the_stream_carries_the_classes_of_its_own_image(tiny_dataset, tmp_path):
    data = open_dataset(tiny_dataset)
    table = write_table(tiny_dataset, tmp_path / "truth.csv")
    written = tmp_path / "written.csv"  # the product's own writer says the same, and the background beside it
    answer = CliRunner().invoke(app, ["data", "image-labels", str(tiny_dataset), "--out", str(written)])
    assert answer.exit_code == 0, answer.output
    expected, own = (read_image_labels(path, data, data.samples("train")) for path in (table, written))
    assert own[:, 1:].equal(expected[:, 1:])
    assert own[:, 0].any()
    again = CliRunner().invoke(app, ["data", "image-labels", str(tiny_dataset), "--out", str(written)])
    assert "exists; add --force to replace it" in str(again.exception)
    dataset = ImageDataset(
        data,
        data.samples("few-unlabeled"),
        with_labels=True,
        image_classes=read_image_labels(table, data, data.samples("few-unlabeled")),
    )
    stream = AugmentedDataset(dataset, "unlabeled", 0, WeakView(crop=(HEIGHT + 8, WIDTH + 12), scale=(1, 1)))
    for position in range(12):
        sample = stream[position]
        expected = classes_present(sample["label"].unsqueeze(0), 3, background=0)[0]
        assert sample["image_classes"][1:].equal(expected)
    assert not dataset.image_classes[:, 0].any()


def test_a_run_with_image_labels(tiny_dataset, tmp_path, monkeypatch):
    root = shutil.copytree(tiny_dataset, tmp_path / "tiny")
    write_table(root, root / "image_labels.csv")
    seen = []
    forward = PseudoSeg.forward

    def spy(self, batch, step):
        seen.append(batch.unlabeled.image_classes)
        return forward(self, batch, step)

    monkeypatch.setattr(PseudoSeg, "forward", spy)
    recipe = {
        "name": "weak",
        "output": tmp_path / "run",
        "data": {"root": root, "labeled": "few-labeled", "unlabeled": "few-unlabeled"},
        "model": CNN | {"weights": None},
        "view": {"crop": [HEIGHT, WIDTH]},
        "method": {
            "name": "pseudoseg",
            "background": "ground",
            "image_labels": "image_labels.csv",
            "cutout_size": 16,
        },
        "schedule": {"steps": 2},
        "batch_size": 4,
        "threads": 1,
        "log_every": 1,
    }
    train(Recipe.model_validate(recipe), say=lambda line: None)
    assert [classes.shape for classes in seen] == [(4, 3), (4, 3)]
    assert seen[0][:, 1:].any()
    entries = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    losses = [entry["losses"] for entry in entries if "losses" in entry]
    assert all(set(one) == {"supervised", "attention", "classifier", "unsupervised"} for one in losses)
    assert all(0 < value < 100 for one in losses for value in one.values())
    saved = load_file(tmp_path / "run" / "last" / "model.safetensors")
    assert saved.keys() == build(ModelSpec(**CNN, num_classes=3)).state_dict().keys()
    table = root / "image_labels.csv"
    table.write_text(table.read_text().replace("disc", ""))
    with pytest.raises(UserError, match=r"--resume: method.image_labels=image_labels.csv holds something else than"):
        train(Recipe.model_validate(recipe), resume=True, say=lambda line: None)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (None, "image_labels.csv: no such file; method.image_labels is relative to data.root"),
        ([], ":1: expected the header image,classes, found ''"),
        (["train04,box"], ":1: expected the header image,classes, found 'train04,box'"),
        (["image,classes", "train04,box,disc"], ":2: 3 columns, not 2; write image,class;class"),
        (["image,classes", "", "train04,disk"], ":3: no class 'disk'; did you mean disc?"),
        (["image,classes", "train04,car"], ":2: no class 'car'; the classes are ground, box, disc"),
        (["image,classes", "train99,box"], ":2: 'train99' has no image; take the line out"),
        (["image,classes", "train04,box", "train/train04,"], ":3: 'train/train04' is in line 2 already; keep one"),
        (["image,classes", "train04,box"], "no line for train05 and 6 more images; add it, or take it out of data.unl"),
        (["image,classes", *[f"train{index:02d}," for index in range(4, 11)]], "no line for train11; add it"),
    ],
)
def test_errors_in_the_table_name_line_and_fix(lines, message, tiny_dataset, tmp_path):
    path = tmp_path / "image_labels.csv"
    if lines is not None:
        path.write_text("\n".join(lines))
    data = open_dataset(tiny_dataset)
    with pytest.raises(UserError) as raised:
        read_image_labels(path, data, data.samples("few-unlabeled"))
    text = str(raised.value)
    assert text.startswith(str(path))
    assert message in text
    assert "\n" not in text


def test_a_table_of_bytes_is_refused(tiny_dataset, tmp_path):
    data = open_dataset(tiny_dataset)
    (tmp_path / "table.csv").write_bytes(b"image,classes\n\xff\xfe,box\n")
    with pytest.raises(UserError, match=r"table.csv: not a table in UTF-8 .*; its first line is image,classes"):
        read_image_labels(tmp_path / "table.csv", data, data.samples("train"))


def test_a_stem_in_two_splits_wants_its_split(tiny_dataset, tmp_path):
    data = open_dataset(tiny_dataset)
    sample = data.samples("train")[0]
    data.by_entry["both"] = [sample, data.samples("val")[0]]
    table = tmp_path / "table.csv"
    table.write_text("image,classes\nboth,box\n")
    with pytest.raises(UserError, match=r"table.csv:2: 'both' is in several splits; write split/stem"):
        read_image_labels(table, data, [sample])
    # Spaces and the background are taken as they come; no class is an answer too; other images may have lines.
    table.write_text("image,classes\ntrain/train00, box ; ground\ntrain01,\nval00,disc\n")
    found = read_image_labels(table, data, data.samples("train")[:2])
    assert found.tolist() == [[True, True, False], [False, False, False]]
