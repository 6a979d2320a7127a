"""`semseg init`: lists, choices with reasons, and lengths that fit the time."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from semseg_app.data.layouts import open_dataset
from semseg_app.errors import UserError
from semseg_app.training.recipe import load_recipe
from semseg_app.training.starter import choices, write
from semseg_app.training.starter.lists import choose_lists, count
from semseg_app.training.starter.measure import Measured
from semseg_app.training.starter.write import write_recipe


def quiet(line: str) -> None:
    pass


@pytest.fixture
def few_labels(tiny_dataset, tmp_path) -> Path:
    """4 photos with masks, 8 without, 5 for validation."""
    root = tmp_path / "My street photos"
    shutil.copytree(tiny_dataset, root, ignore=shutil.ignore_patterns("splits"))
    for index in range(4, 12):
        (root / "labels" / "train" / f"train{index:02d}.png").unlink()
    return root


@pytest.fixture
def measured(monkeypatch) -> None:
    """Half a second per step, a second per validation photo, a batch of 4."""

    def largest_batch(recipe, most, seconds, say):
        return recipe.model_copy(update={"batch_size": 4}), Measured(0.5, 1.0, 500.0), "as measured"

    monkeypatch.setattr(write, "largest_batch", largest_batch)


def test_a_real_recipe_for_few_labels(few_labels, tmp_path, monkeypatch):
    """Measured with real steps of the loop, then read back as any recipe is."""
    monkeypatch.setattr(write, "LARGEST_BATCH", {"cpu": 2, "cuda": 2})
    monkeypatch.setattr(choices, "package_for", lambda encoder: None)
    monkeypatch.setattr(choices, "LARGEST_CROP", {"cpu": 64, "cuda": 64})

    def tiny(cuda: bool) -> list[choices.Choice]:
        rows = {"architecture": "segformer", "encoder": "tu-test_efficientnet", "weights": None, "decoder_channels": 16}
        return [choices.Choice(f"model.{key}", value, "a tiny network") for key, value in rows.items()]

    monkeypatch.setattr(choices, "_network", tiny)
    out = tmp_path / "recipe.yaml"
    recipe = write_recipe(few_labels, out, 30, False, quiet)
    assert load_recipe(str(out), []) == recipe
    assert (recipe.name, recipe.batch_size, recipe.view.crop) == ("my-street-photos", 2, (64, 64))
    assert (recipe.data.labeled, recipe.data.unlabeled, recipe.data.val) == ("train", "unlabeled", "val")
    assert (recipe.method.name, recipe.method.cutout_size) == ("pc2seg", 12)
    assert recipe.schedule.steps >= 1
    lines = out.read_text().splitlines()
    assert all(line.endswith(":") or len(line.partition("# ")[2]) > 10 for line in lines)
    with pytest.raises(UserError, match=r"exists; train it with `semseg train .*--force"):
        write_recipe(few_labels, out, 30, False, quiet)


def test_steps_fill_the_time(few_labels, tmp_path, measured):
    """600 s: 95 % of them, less ten evaluations of 5 photos, in steps of half a second."""
    recipe = write_recipe(few_labels, tmp_path / "recipe.yaml", 600, False, quiet)
    assert recipe.schedule.steps == (570 - 10 * 5) / 0.5
    assert recipe.evaluate_every == 104
    short = write_recipe(few_labels, tmp_path / "recipe.yaml", 60, True, quiet)
    assert short.schedule.steps == (57 - 5) / 0.5
    assert short.evaluate_every == 104


def test_a_time_that_is_too_short_to_learn_is_said(few_labels, tmp_path, measured):
    """104 steps fit into a minute: 300 take 2.9."""
    said = list[str]()
    write_recipe(few_labels, tmp_path / "recipe.yaml", 60, False, said.append)
    (warning,) = [line for line in said if line.startswith("warning")]
    assert "104 steps fit into 1 min 00 s" in warning
    assert warning.endswith("--minutes 3 allows 300")
    said.clear()
    write_recipe(few_labels, tmp_path / "recipe.yaml", 600, True, said.append)
    assert not [line for line in said if line.startswith("warning")]


def test_a_teacher_makes_it_the_recipe_of_a_student(few_labels, tmp_path, measured):
    out = tmp_path / "student.yaml"
    recipe = write_recipe(few_labels, out, 600, False, quiet, teacher="runs/my-street-photos/best")
    assert load_recipe(str(out), []) == recipe
    assert recipe.name == "my-street-photos-student"
    assert (recipe.method.name, recipe.method.use_unlabeled) == ("distillation", True)
    assert recipe.method.teacher == Path("runs/my-street-photos/best")
    assert (recipe.data.labeled, recipe.data.unlabeled, recipe.data.val) == ("train", "unlabeled", "val")
    teacher = write_recipe(few_labels, tmp_path / "teacher.yaml", 600, False, quiet)
    assert recipe.model.decoder_channels < teacher.model.decoder_channels


def test_lists_are_drawn_where_no_val_exists_and_stay(tiny_dataset, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(tiny_dataset, root, ignore=shutil.ignore_patterns("splits", "val"))
    for number, path in enumerate(sorted((root / "images" / "train").iterdir())):  # no photo nearly repeats another
        Image.fromarray((np.asarray(Image.open(path)) * (1 - number / 14)).astype(np.uint8)).save(path)
    lists = choose_lists(open_dataset(root))
    data = open_dataset(root)
    val, labeled = ({sample.stem for sample in data.samples(name)} for name in (lists.val, lists.labeled))
    assert (len(val), len(labeled), lists.unlabeled) == (3, 9, None)
    assert not val & labeled
    before = {path: path.read_text() for path in (root / "splits").iterdir()}
    again = choose_lists(data)
    assert (again.labeled, again.unlabeled, again.val) == (lists.labeled, None, lists.val)
    assert {path: path.read_text() for path in (root / "splits").iterdir()} == before


def test_unlabeled_photos_that_repeat_a_held_out_one_are_not_learned_from(tiny_dataset, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(tiny_dataset, root, ignore=shutil.ignore_patterns("splits", "val"))
    (root / "unlabeled").mkdir()
    for number, path in enumerate(sorted((root / "images" / "train").iterdir())):
        Image.fromarray((np.asarray(Image.open(path)) * (1 - number / 14)).astype(np.uint8)).save(path)
        shutil.copy(path, root / "unlabeled" / f"again{path.name}")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)).save(root / "unlabeled/new.png")
    first, again = choose_lists(open_dataset(root)), choose_lists(open_dataset(root))
    assert (first.unlabeled, again.unlabeled) == ("all-unlabeled", "all-unlabeled")
    data = open_dataset(root)
    held = {f"again{sample.stem}" for sample in data.samples("val")}
    learned = {sample.stem for sample in data.samples("all-unlabeled")}
    assert len(held) == 3
    assert "new" in learned
    assert not learned & held


def test_rare_classes_weigh_more_and_all_labels_need_no_method_for_few(tiny_dataset, tmp_path):
    def chosen(root: Path) -> dict[str, object]:
        data = open_dataset(root)
        lists = choose_lists(data)
        rows = choices.choose("x", str(root), "auto", lists, count(data, lists))
        return {choice.key: choice.value for choice in rows}

    usual = chosen(tiny_dataset)
    assert usual["method.name"] == "supervised"
    assert usual["data.unlabeled"] is None
    assert usual["method.class_balance"] == 0.0
    root = tmp_path / "data"
    shutil.copytree(tiny_dataset, root)
    for path in sorted((root / "labels" / "train").iterdir())[1:]:  # discs in one photo alone
        label = np.asarray(Image.open(path)).copy()
        label[label == 2] = 0
        Image.fromarray(label).save(path)
    assert chosen(root)["method.class_balance"] == 0.2


def test_weights_that_cannot_be_had_are_said_and_left_out(few_labels, tmp_path, monkeypatch, measured):
    real, said = write.largest_batch, list[str]()

    def offline(recipe, most, seconds, say):
        if recipe.model.weights is not None:
            raise UserError("model.weights: no weights for it: the Hub cannot be reached")
        return real(recipe, most, seconds, say)

    monkeypatch.setattr(write, "largest_batch", offline)
    out = tmp_path / "recipe.yaml"
    recipe = write_recipe(few_labels, out, 60, False, said.append)
    assert recipe.model.weights is None
    assert recipe.optimizer.lr == 0.0015
    assert "warning: model.weights: no weights for it: the Hub cannot be reached" in said
    line = next(line for line in out.read_text().splitlines() if line.strip().startswith("weights:"))
    assert "random, since" in line
    assert yaml.safe_load(line) == {"weights": None}


def test_photos_of_a_list_val_are_not_learned_from(tiny_dataset, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(tiny_dataset, root, ignore=shutil.ignore_patterns("splits", "val"))
    (root / "splits").mkdir()
    (root / "splits" / "val.txt").write_text("train00\ntrain01\n")
    lists = choose_lists(open_dataset(root))
    assert (lists.labeled, lists.unlabeled, lists.val) == ("train - val", None, "val")
    for index in range(4, 12):
        (root / "labels" / "train" / f"train{index:02d}.png").unlink()
    lists, data = choose_lists(open_dataset(root)), open_dataset(root)
    assert (lists.labeled, lists.unlabeled, lists.val) == ("train - val", "unlabeled", "val")
    assert [sample.stem for sample in data.labeled_samples(lists.labeled)] == ["train02", "train03"]
    (root / "splits" / "val.txt").write_text("train00\ntrain01\ntrain02\ntrain03\n")
    with pytest.raises(UserError, match="all photos of 'train' are in 'val'"):
        choose_lists(open_dataset(root))


@pytest.mark.parametrize("name", ["valid", "validation"])
def test_a_validation_folder_of_another_name(tiny_dataset, tmp_path, name):
    root = tmp_path / "data"
    shutil.copytree(tiny_dataset, root, ignore=shutil.ignore_patterns("splits"))
    for part in ("images", "labels"):
        (root / part / "val").rename(root / part / name)
    lists = choose_lists(open_dataset(root))
    assert (lists.labeled, lists.val) == ("train", name)


def test_a_validation_folder_without_masks(tiny_dataset, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(tiny_dataset, root, ignore=shutil.ignore_patterns("splits"))
    shutil.rmtree(root / "labels" / "val")
    with pytest.raises(UserError, match=r"images/val: no photo in it has a mask"):
        choose_lists(open_dataset(root))


def test_one_slow_video_is_held_out_aloud(tiny_dataset, tmp_path, measured):
    root = tmp_path / "data"
    shutil.copytree(tiny_dataset, root, ignore=shutil.ignore_patterns("splits", "val"))
    for number, path in enumerate(sorted((root / "images" / "train").iterdir())):
        Image.fromarray(np.full((48, 64, 3), 100 + 3 * number, np.uint8)).save(path)
    said, out = list[str](), tmp_path / "recipe.yaml"
    write_recipe(root, out, 600, False, said.append)
    (warning,) = [line for line in said if line.startswith("warning")]
    assert "where they are one video, scores on val will be too high" in warning
    assert "they resemble training photos, so scores may be too high" in out.read_text()
