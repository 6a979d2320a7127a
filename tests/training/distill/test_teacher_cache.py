"""The teacher's maps in files: what they hold, how crops are cut out of them, and when they are not used."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from support.other_graphs import other_graph
from support.small_recipe import small_recipe
from support.tiny_models import COLORS
from support.two_ranks import train_on_two_ranks
from torch import Tensor

from semseg_app.artifact import ModelConfig
from semseg_app.data.layouts import open_dataset
from semseg_app.errors import UserError
from semseg_app.labels import LabelSpace
from semseg_app.models import ModelSpec, build, save_network
from semseg_app.training.contracts import MapName
from semseg_app.training.data.randomness import generator
from semseg_app.training.data.streams import AugmentedDataset, ImageDataset
from semseg_app.training.data.weak_augmentation import PAD_COLOR, View, WeakView, Window, weak_view
from semseg_app.training.distill import teacher_cache
from semseg_app.training.distill.teacher_cache import TeacherCache, TeacherCacheConfig
from semseg_app.training.distill.teachers import Teacher
from semseg_app.training.loop import train
from semseg_app.training.methods.distillation import Distillation
from semseg_app.training.recipe import Recipe

CLASSES = ["ground", "box", "disc"]
NAMES: list[MapName] = ["decoder", "logits", -1]
RGB = {"classes": ["red", "green", "blue"], "mean": [0, 0, 0], "std": [1, 1, 1]}
PARTNERS = {"red": "box", "blue": "disc", "green": "ground"}


def quiet(line: str) -> None:
    """Takes what a run says."""


def save_teacher(folder: Path, seed: int, **changes: Any) -> Path:
    """Random weights, stride 32: photos of 48x64 are padded, so the grids end beyond them."""
    torch.manual_seed(seed)
    network = {"architecture": "segformer", "encoder": "tu-test_resnet", "decoder_channels": 16} | changes
    spec = ModelSpec(**network, num_classes=3)
    labels = LabelSpace(classes=CLASSES, palette=[(0, 0, 0)] * 3)
    save_network(folder, build(spec), ModelConfig(name="teacher", model=spec, labels=labels))
    return folder


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_teacher(tmp_path_factory.mktemp("teacher") / "model", 0)


def filled(
    root: Path,
    model: Path,
    folder: Path,
    view: WeakView,
    names: list[MapName] | None = None,
    partners: dict[str, str] | None = None,
) -> tuple[Teacher, ImageDataset, dict[str, Any]]:
    """A teacher, a list whose maps the folder now holds, and what was said of it."""
    data = open_dataset(root)
    images = ImageDataset(data, data.samples("few-labeled"), with_labels=True)
    followed = Teacher(model, data, partners)
    cache = TeacherCache(followed, names or NAMES, view, TeacherCacheConfig(), folder)
    return followed, images, cache.fill([images], Accelerator(cpu=True), quiet)


def answer(teacher: Teacher, image: Tensor, name: MapName) -> Tensor:
    """What the teacher says of a uint8 image `[3, H, W]`."""
    return teacher.maps(image[None].float() / 255, [name])[name][0]


@pytest.mark.parametrize("crop", [(48, 64), (40, 56)])
def test_a_photo_shown_whole_gives_the_teacher_s_own_answer(
    tiny_dataset: Path, teacher: Path, tmp_path: Path, crop: tuple[int, int]
) -> None:
    """Every map, in the teacher's own padding too; a crop that hides nothing and one from the top left."""
    view = WeakView(crop=crop, scale=(1, 1), flip=0)
    followed, images, _ = filled(tiny_dataset, teacher, tmp_path, view)
    assert images.teacher_maps is not None
    image, _ = images[2]
    window = Window((0, 0, *crop), crop)
    for name, values in images.teacher_maps.of_crop(2, (48, 64), window, False).items():
        own = answer(followed, image, name)
        assert values.shape == answer(followed, image[:, : crop[0], : crop[1]], name).shape
        rows, columns = values.shape[1:]
        torch.testing.assert_close(values, own[:, :rows, :columns], rtol=2**-10, atol=1e-6)


def test_grids_whose_corners_are_pixels(tiny_dataset: Path, tmp_path: Path) -> None:
    """A DeepLabV3+ with align_corners: the whole photo is the teacher's own answer."""
    model = save_teacher(tmp_path / "model", 0, architecture="deeplabv3plus-separable", align_corners=True)
    view = WeakView(crop=(48, 64), scale=(1, 1), flip=0)
    followed, images, _ = filled(tiny_dataset, model, tmp_path, view)
    assert images.teacher_maps is not None
    for name, values in images.teacher_maps.of_crop(0, (48, 64), Window((0, 0, 48, 64), (48, 64)), False).items():
        torch.testing.assert_close(values, answer(followed, images[0][0], name), rtol=2**-10, atol=1e-6)


def reference(
    whole: np.ndarray, padding: np.ndarray, crop: tuple[int, int], view: View, covers: tuple[int, int]
) -> np.ndarray:
    """Cell by cell, in words: where the center of a cell lies in the photo, and the four values around that place."""
    rows, columns = padding.shape[1:]
    top, left, height, width = view.window.source
    seen_height, seen_width = view.window.size
    extent = [side + -side % 32 for side in crop]
    cut = np.zeros(padding.shape)
    for row in range(rows):
        for column in range(columns):
            y, x = (row + 0.5) * extent[0] / rows, (column + 0.5) * extent[1] / columns
            in_crop = y <= crop[0], x <= crop[1]
            x = crop[1] - x if view.flipped else x
            if (in_crop[0] and y > seen_height) or (in_crop[1] and x > seen_width):
                cut[:, row, column] = padding[:, row, column]
                continue
            y, x = top + y * height / seen_height, left + x * width / seen_width
            y = min(max(y * whole.shape[1] / covers[0] - 0.5, 0), whole.shape[1] - 1)
            x = min(max(x * whole.shape[2] / covers[1] - 0.5, 0), whole.shape[2] - 1)
            above, before = int(y), int(x)
            below, after = min(above + 1, whole.shape[1] - 1), min(before + 1, whole.shape[2] - 1)
            upper = whole[:, above, before] * (1 - x + before) + whole[:, above, after] * (x - before)
            lower = whole[:, below, before] * (1 - x + before) + whole[:, below, after] * (x - before)
            cut[:, row, column] = upper * (1 - y + above) + lower * (y - above)
    return cut


def test_crops_flips_and_scales_are_those_of_a_naive_reference(
    tiny_dataset: Path, teacher: Path, tmp_path: Path
) -> None:
    config = WeakView(crop=(40, 56), scale=(0.5, 1.3))
    followed, images, _ = filled(tiny_dataset, teacher, tmp_path, config, ["logits", -1])
    assert images.teacher_maps is not None
    flat = torch.tensor(PAD_COLOR, dtype=torch.uint8)[:, None, None].expand(3, 40, 56)
    padded = flipped = 0
    for seed in range(12):
        view = weak_view(*images[1], config, generator(seed, "test"))
        padded, flipped = padded + bool(view.pad.any()), flipped + view.flipped
        for name, values in images.teacher_maps.of_crop(1, (48, 64), view.window, view.flipped).items():
            whole, padding = answer(followed, images[1][0], name).half(), answer(followed, flat, name).half()
            expected = reference(whole.double().numpy(), padding.double().numpy(), (40, 56), view, (64, 64))
            np.testing.assert_allclose(values.numpy(), expected, rtol=1e-5, atol=1e-5)
    assert padded > 2
    assert 2 < flipped < 10


def test_a_mirror_image_is_the_mirrored_map(tiny_dataset: Path, teacher: Path, tmp_path: Path) -> None:
    view = WeakView(crop=(32, 64), scale=(1, 1), flip=1)
    _, images, _ = filled(tiny_dataset, teacher, tmp_path, view)
    assert images.teacher_maps is not None
    window = Window((16, 0, 32, 64), (32, 64))
    straight, mirrored = (images.teacher_maps.of_crop(0, (48, 64), window, flipped) for flipped in (False, True))
    for name in NAMES:
        assert torch.equal(straight[name].flip(-1), mirrored[name])


@pytest.mark.filterwarnings("ignore:method.teacher_classes")
@pytest.mark.parametrize("scale", [0.5, 0.8, 1.7])
def test_scaled_crops_agree_with_a_teacher_that_sees_them(tiny_dataset: Path, tmp_path: Path, scale: float) -> None:
    """A teacher whose logits are linear in color, on a smooth photo: showing it the crop or cutting its answer differs
    by the rounding of colors alone, 1 of 255, but at the crop's rim, where resizing has no pixels to look at."""
    rows, columns = np.mgrid[:48, :64]
    smooth = np.stack([4 * rows, 3 * columns, 250 - 2 * rows - columns], 2).astype(np.uint8)
    root = tmp_path / "data"
    shutil.copytree(tiny_dataset, root)
    for index in range(4):
        Image.fromarray(smooth).save(root / "images" / "train" / f"train{index:02d}.png")
    config = WeakView(crop=(40, 40), scale=(scale, scale))
    graph = other_graph(tmp_path / "colors.onnx", description=RGB)
    followed, images, _ = filled(root, graph, tmp_path / "cache", config, ["logits"], PARTNERS)
    assert images.teacher_maps is not None
    one_step = float(np.abs(COLORS).sum(0).max())
    for seed in range(6):
        view = weak_view(*images[0], config, generator(seed, "test"))
        taught = images.teacher_maps.of_crop(0, (48, 64), view.window, view.flipped)["logits"]
        shown = answer(followed, view.image, "logits")
        inside = torch.zeros_like(view.pad)
        inside[2 : view.window.size[0] - 2, 2 : view.window.size[1] - 2] = True
        inside = inside.flip(-1) if view.flipped else inside
        assert inside.sum() > 200
        difference = (taught - shown).abs()
        assert difference[:, inside].max() < 1.1 * one_step
        assert not view.pad.any() or difference[:, view.pad].max() < 2**-8


def test_changed_colors_and_other_processes_make_no_difference(
    tiny_dataset: Path, teacher: Path, tmp_path: Path
) -> None:
    """The teacher does not see the student's colors; a loader process reads what this one reads."""
    samples = []
    for photometric in (False, True):
        view = WeakView(crop=(40, 40), photometric=photometric)
        _, images, _ = filled(tiny_dataset, teacher, tmp_path, view, ["logits"])
        augmented = AugmentedDataset(images, "labeled", 0, view)
        samples += [augmented[3], pickle.loads(pickle.dumps(augmented))[3]]
    assert not torch.equal(samples[0]["image"], samples[2]["image"])
    for sample in samples:
        assert torch.equal(sample["taught"]["logits"], samples[0]["taught"]["logits"])


def files(folder: Path) -> dict[Path, int]:
    return {path.relative_to(folder): path.stat().st_mtime_ns for path in folder.rglob("*.npy")}


def test_files_are_shared_and_never_stale(tiny_dataset: Path, teacher: Path, tmp_path: Path) -> None:
    """The same again writes nothing; another photo, teacher or size is another file; a damaged one is written anew."""
    root, cache, view = tmp_path / "data", tmp_path / "cache", WeakView(crop=(40, 40))
    shutil.copytree(tiny_dataset, root)
    filled(root, teacher, cache, view, ["logits"])
    first = files(cache)
    assert len(first) == 5  # four photos, and padding
    filled(root, teacher, cache, view, ["logits"])
    assert files(cache) == first

    filled(root, teacher, cache, view, ["decoder", "logits"])
    assert first == {path: time for path, time in files(cache).items() if path in first}
    assert len(files(cache)) == 10

    photo = root / "images" / "train" / "train01.png"
    Image.fromarray(np.asarray(Image.open(photo))[::-1]).save(photo)
    followed, images, _ = filled(root, teacher, cache, view, ["logits"])
    assert len(files(cache)) == 11
    assert images.teacher_maps is not None
    window = Window((0, 0, 40, 40), (40, 40))
    cut = images.teacher_maps.of_crop(1, (48, 64), window, False)["logits"]
    torch.testing.assert_close(cut, answer(followed, images[1][0], "logits")[:, :16, :16], rtol=2**-10, atol=1e-6)

    filled(root, save_teacher(tmp_path / "other", 1), cache, view, ["logits"])
    filled(root, teacher, cache, WeakView(crop=(40, 40), short_side=96), ["logits"])
    assert len({path.parts[0] for path in files(cache)}) == 3

    damaged = cache / next(path for path in first if "padding" not in path.name)
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-20])
    filled(tiny_dataset, teacher, cache, view, ["logits"])
    assert damaged.read_bytes() == whole


def test_a_size_of_the_shorter_side_is_what_the_teacher_sees(tiny_dataset: Path, teacher: Path, tmp_path: Path) -> None:
    view = WeakView(crop=(96, 128), scale=(1, 1), short_side=96, flip=0)
    followed, images, _ = filled(tiny_dataset, teacher, tmp_path, view, ["logits"])
    assert images.teacher_maps is not None
    drawn = weak_view(*images[0], view, generator(0, "test"))
    taught = images.teacher_maps.of_crop(0, (48, 64), drawn.window, drawn.flipped)["logits"]
    torch.testing.assert_close(taught, answer(followed, drawn.image, "logits"), rtol=2**-9, atol=1e-3)


def recipe(root: Path, output: Path, teacher: Path, **changes: Any) -> Recipe:
    content: dict[str, Any] = {
        "data": {"root": root, "labeled": "few-labeled", "unlabeled": "few-unlabeled", "val": None},
        "view": {"crop": [48, 64], "scale": [0.8, 1.5]},
        "method": {"name": "distillation", "teacher": teacher, "use_unlabeled": True, "teacher_cache": {}, "cwd": {}},
        "schedule": {"steps": 4},
        "log_every": 1,
        "checkpoint_every": 1,
    }
    return small_recipe(root, output, **content | changes)


def state_of(run: Path, step: int) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(run / "checkpoints" / f"step-{step:07d}.pt", weights_only=True)["method"]
    return state


@pytest.fixture(scope="module")
def cached_run(tiny_dataset: Path, teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """An uninterrupted run, and what it said."""
    output = tmp_path_factory.mktemp("cached") / "run"
    lines: list[str] = []
    train(recipe(tiny_dataset, output, teacher), say=lines.append)
    return output, lines


def test_a_run_says_where_and_how_large_the_cache_is(cached_run: tuple[Path, list[str]]) -> None:
    run, lines = cached_run
    said = next(line for line in lines if line.startswith("teacher cache") and "MB" in line)
    facts = json.loads((run / "report.json").read_text())["teacher_cache"]
    assert facts["folder"] in said
    assert Path(facts["folder"]).parent == run.parent / "teacher-cache"
    assert facts["photos"] == 12
    assert facts["bytes"] == sum(path.stat().st_size for path in Path(facts["folder"]).rglob("*.npy"))


def counted_maps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the number of photos with each look of a teacher."""
    looks: list[int] = []
    original = Teacher.maps

    def count(self: Teacher, images: Tensor, names: Any) -> Any:
        looks.append(len(images))
        return original(self, images, names)

    monkeypatch.setattr(Teacher, "maps", count)
    return looks


def test_an_interrupted_run_goes_on_to_the_same_numbers(
    cached_run: tuple[Path, list[str]],
    tiny_dataset: Path,
    teacher: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed twice: while the cache is filled, and in a step. The teacher looks at each photo once, and at padding."""

    class Killed(BaseException):
        pass

    looks = counted_maps(monkeypatch)

    def die_after(call: Callable[..., Any], times: int) -> Callable[..., Any]:
        calls = []

        def dying(*arguments: Any) -> Any:
            calls.append(arguments)
            if len(calls) > times:
                raise Killed
            return call(*arguments)

        return dying

    run = tmp_path / "run"
    for owner, name, times in ((TeacherCache, "_write", 6), (Distillation, "after_step", 2)):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, die_after(getattr(owner, name), times))
            with pytest.raises(Killed):
                train(recipe(tiny_dataset, run, teacher), resume=True, say=quiet)
    train(recipe(tiny_dataset, run, teacher), resume=True, say=quiet)
    ours, theirs = state_of(run, 4), state_of(cached_run[0], 4)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert looks == [1] * 13


def test_a_teacher_that_became_another_is_not_gone_on_with(tiny_dataset: Path, tmp_path: Path) -> None:
    """Nor are the old one's answers, which the checkpoint holds, written as those of the new one."""
    model, run = save_teacher(tmp_path / "model", 0), tmp_path / "run"
    train(recipe(tiny_dataset, run, model), say=quiet)
    shutil.rmtree(model)
    save_teacher(model, 1)
    with pytest.raises(UserError, match=f"--resume: method.teacher={model} holds something else than when the run beg"):
        train(recipe(tiny_dataset, run, model), resume=True, say=quiet)
    assert len(list((tmp_path / "teacher-cache").iterdir())) == 1
    shutil.rmtree(model)
    save_teacher(model, 0)
    train(recipe(tiny_dataset, run, model), resume=True, say=quiet)


def test_another_run_of_other_distillers_needs_no_look_of_the_teacher(
    cached_run: tuple[Path, list[str]],
    tiny_dataset: Path,
    teacher: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks = counted_maps(monkeypatch)
    base = recipe(tiny_dataset, tmp_path / "run", teacher, schedule={"steps": 1}).model_dump(mode="json")
    folder = cached_run[0].parent / "teacher-cache"
    base["method"] |= {"teacher_cache": {"folder": str(folder)}, "cwd": None, "skd": {}}
    train(Recipe.model_validate(base), say=quiet)
    assert looks == []


def test_what_cannot_be_cached_is_one_line_at_the_start(
    tiny_dataset: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hard = other_graph(tmp_path / "hard.onnx", "classes", description=RGB)
    looks = counted_maps(monkeypatch)
    for model, changes, said in (
        (
            teacher,
            {"teacher_cache": {"limit_gb": 3e-5}},
            r"12 photos need .* GB .*, more than limit_gb=3e-05; raise it",
        ),
        (hard, {"teacher_classes": PARTNERS, "cwd": None}, r"method.teacher_cache: the teacher gives hard labels"),
    ):
        base = recipe(tiny_dataset, tmp_path / "run", teacher).model_dump(mode="json")
        base["method"] |= {"teacher": str(model)} | changes
        with pytest.raises(UserError, match=said) as refusal:
            train(Recipe.model_validate(base), say=quiet)
        assert "\n" not in str(refusal.value)
    assert looks == [1]  # padding alone
    usage = shutil.disk_usage(tmp_path)._replace(free=10**4)
    monkeypatch.setattr(teacher_cache.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"but the disk of .* has 1e-05 GB left; choose another folder"):
        train(recipe(tiny_dataset, tmp_path / "run2", teacher), say=quiet)


def test_a_file_that_disappears_in_a_run_is_one_line(tiny_dataset: Path, teacher: Path, tmp_path: Path) -> None:
    view = WeakView(crop=(40, 40))
    _, images, facts = filled(tiny_dataset, teacher, tmp_path, view, ["logits"])
    shutil.rmtree(facts["folder"])
    with pytest.raises(UserError, match=r"\.npy: no readable map of the teacher .* run again with --resume"):
        AugmentedDataset(images, "labeled", 0, view)[0]


@pytest.mark.slow
def test_two_ranks_share_the_work(
    cached_run: tuple[Path, list[str]], tiny_dataset: Path, teacher: Path, tmp_path: Path
) -> None:
    """They fill one folder, each photo once, with the same content as one process."""
    train_on_two_ranks(recipe(tiny_dataset, tmp_path / "run", teacher), tmp_path)
    ours, theirs = (folder / "teacher-cache" for folder in (tmp_path, cached_run[0].parent))
    assert files(ours).keys() == files(theirs).keys()
    for path in files(ours):
        np.testing.assert_allclose(np.load(ours / path), np.load(theirs / path), rtol=2**-9, atol=1e-5)
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["processes"] == 2
    assert report["teacher_cache"]["photos"] == 12
