"""Comparisons that ship with the package: each row is a recipe, and rows of published tables have their settings."""

import re
from pathlib import Path

import pytest
from support import tiny_encoders  # noqa: F401, adds its small encoders to timm

from semseg_app.training.compare import load_comparison, recipes_of
from semseg_app.training.dry_run import dry_run
from semseg_app.training.methods.distillation import DistillationKeys
from semseg_app.training.methods.s4former import S4FormerConfig
from semseg_app.training.presets import COMPARISONS, PRESETS
from semseg_app.training.recipe import Recipe, load_recipe

NAMES = sorted(path.stem for path in COMPARISONS.glob("*.yaml"))


def rows_of(name: str, *overrides: str, seed: int | None = None) -> dict[str, Recipe]:
    comparison = load_comparison(COMPARISONS / f"{name}.yaml", overrides)
    return recipes_of(comparison, Path("runs/compare"), comparison.seeds[0] if seed is None else seed)


@pytest.mark.parametrize("name", NAMES)
def test_every_row_is_a_recipe_and_none_is_there_twice(name: str) -> None:
    rows = rows_of(name)
    contents = [recipe.model_dump_json(exclude={"name", "output", "aims_at"}) for recipe in rows.values()]
    timed = [row for row in rows if "as long" in row]
    assert len(set(contents)) >= len(contents) - len(timed)


# Crop, optimizer, lr, weight decay, batch, steps, power and warm-up, of tables 4 to 7 of the contrast supplement; the
# weight decay of Cityscapes and the warm-up of the Swins are those of the released code.
CITYSCAPES = ((512, 1024), "sgd", 1e-2, 5e-4, 12, 120_000, 0.9, 0)
CITYSCAPES_SWIN = ((512, 1024), "adamw", 6e-5, 1e-2, 8, 120_000, 1.0, 1500)
ADE20K = ((512, 512), "sgd", 1e-2, 1e-4, 16, 160_000, 0.9, 0)
ADE20K_SWIN = ((512, 512), "adamw", 6e-5, 1e-2, 16, 160_000, 1.0, 1500)
PASCAL_CONTEXT = ((512, 512), "sgd", 1e-3, 1e-4, 16, 160_000, 0.9, 0)
CONTRAST = {
    "contrast-cityscapes": {
        "HRNet": ("tu-hrnet_w48", CITYSCAPES),
        "OCRNet": ("tu-hrnet_w48", CITYSCAPES),
        "DeepLabV3-R101": ("resnet101", CITYSCAPES),
        "UPerNet-R101": ("resnet101", CITYSCAPES),
        "UPerNet-Swin-T": ("tu-swin_tiny", CITYSCAPES_SWIN),
        "UPerNet-Swin-S": ("tu-swin_small", CITYSCAPES_SWIN),
        "UPerNet-Swin-B": ("tu-swin_base", CITYSCAPES_SWIN),
    },
    "contrast-ade20k": {
        "OCRNet": ("tu-hrnet_w48", ADE20K),
        "DeepLabV3-R101": ("resnet101", ADE20K),
        "UPerNet-R101": ("resnet101", ADE20K),
        "UPerNet-Swin-T": ("tu-swin_tiny", ADE20K_SWIN),
        "UPerNet-Swin-S": ("tu-swin_small", ADE20K_SWIN),
        "UPerNet-Swin-B": ("tu-swin_base", ADE20K_SWIN),
        "UPerNet-Swin-L": ("tu-swin_large", ((640, 640), *ADE20K_SWIN[1:])),
    },
    "contrast-pascal-context": {"OCRNet": ("tu-hrnet_w48", PASCAL_CONTEXT), "HRNet": ("tu-hrnet_w48", PASCAL_CONTEXT)},
    "contrast-cadis": {"OCRNet-R50": ("resnet50", ((540, 960), "adam", 1e-4, 0, 8, 20_000, 0.9, 0))},
}
ARCHITECTURES = {"HRNet": "hrnet", "OCRNet": "ocr", "DeepLabV3": "deeplabv3", "UPerNet": "upernet"}


@pytest.mark.parametrize(("name", "row"), [(name, row) for name, rows in CONTRAST.items() for row in rows])
def test_contrast_rows_have_the_published_settings(name: str, row: str) -> None:
    encoder, settings = CONTRAST[name][row]
    rows = rows_of(name)
    plain, contrasted = rows[row], rows[f"{row} + contrast"]
    optimizer, schedule = plain.optimizer, plain.schedule
    found = (plain.view.crop, optimizer.name, optimizer.lr, optimizer.weight_decay, plain.batch_size)
    assert (*found, schedule.steps, schedule.power, schedule.warmup) == settings
    assert plain.model.encoder.startswith(encoder)
    architecture = ARCHITECTURES[row.partition("-")[0]]
    assert plain.model.architecture == ("upernet-plain" if row == "UPerNet-R101" else architecture)
    assert plain.view.max_class_share == 0.75
    # The row with the loss differs in the loss alone, whose weights are the same everywhere.
    assert plain.method.contrast is None
    contrast = contrasted.method.contrast
    assert contrast is not None
    assert (contrast.weight, contrast.cross_weight, contrast.scale_weights) == (0.1, 0.1, (1, 0.7, 0.4, 0.1))
    assert contrast.attach == ("fpn" if name == "contrast-ade20k" and "UPerNet" in row else "encoder")
    same = {"name": plain.name, "output": plain.output, "method": plain.method}
    assert contrasted.model_copy(update=same) == plain


# Crop, steps, batch, and the weights of KD, features and contrast in the released scripts.
AF_DCD = {
    "cityscapes": ((512, 1024), 40_000, 1.0, 2e-6, 5e-3),
    "voc": ((512, 512), 40_000, 1.0, 1e-6, 5e-3),
    "camvid": ((360, 360), 40_000, 1.0, 8e-6, 1e-2),
    "ade20k": ((512, 512), 40_000, 0.5, 1e-6, 4e-2),
    "coco-stuff": ((512, 512), 80_000, 0.5, 5e-6, 5e-3),
}


@pytest.mark.parametrize("data", AF_DCD)
def test_af_dcd_rows_have_the_settings_of_the_scripts(data: str) -> None:
    crop, steps, kd, features, contrast = AF_DCD[data]
    rows = rows_of(f"af-dcd-{data}")
    for row, recipe in rows.items():
        optimizer = recipe.optimizer
        assert (recipe.view.crop, recipe.schedule.steps, recipe.batch_size) == (crop, steps, 16), row
        assert (optimizer.name, optimizer.lr, optimizer.weight_decay) == ("sgd", 0.02, 1e-4), row
        assert recipe.model.auxiliary == (() if recipe.model.encoder == "mobilenet_v2" else (-2,)), row
    method = rows["R18, Af-DCD"].method
    assert method.name == "distillation"
    assert (method.kd.weight, method.af_dcd.feature_weight, method.af_dcd.contrast_weight) == (kd, features, contrast)
    assert str(method.teacher) == f"runs/{data}-deeplabv3/best"
    rival = rows["R18, CIRKD"].method
    assert rival.name == "distillation"
    assert sorted(rival.sections()) == ["cirkd", "kd"]
    assert rival.kd.weight == 1.0


def test_each_seed_of_the_three_splits_reads_its_own_list() -> None:
    for seed in (1, 2, 3):
        assert {recipe.data.labeled for recipe in rows_of("pseudoseg-splits", seed=seed).values()} == {
            f"92-seed{seed}-labeled"
        }


def kind_of(recipe: Recipe) -> str:
    """What a dry run can tell apart: the network, the method and which of its parts are on."""
    model, method = recipe.model, recipe.method
    choices = method.model_dump(exclude={"teacher", "preset"})
    if isinstance(method, DistillationKeys):
        choices = {"sections": sorted(method.sections()), "labels": method.labels, "unlabeled": method.use_unlabeled}
    network = (model.architecture, model.encoder, model.freeze, model.weights is None)
    return repr((network, method.name, sorted(choices.items())))


KINDS: dict[str, tuple[str, str]] = {}
for _name in NAMES:
    for _row, _recipe in rows_of(_name).items():
        KINDS.setdefault(kind_of(_recipe), (_name, _row))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*made for transformers")
@pytest.mark.parametrize(("name", "row"), sorted(KINDS.values()))
def test_every_kind_of_row_takes_a_step(name: str, row: str) -> None:
    rows = rows_of(name)
    recipe = rows[row]
    method, side = recipe.method, 64
    if isinstance(method, DistillationKeys) and "af_dcd" in method.sections():
        side = 512  # a map that holds a patch
    for other in rows.values():  # all rows of a file have its crop
        if isinstance(other.method, S4FormerConfig):
            side = max(side, 128, 2 * other.method.shuffle_block)
    small = [f"view.crop=[{side}, {side}]", "batch_size=2", "precision=fp32", "threads=1"]
    tried = rows_of(name, *small)[row]
    if isinstance(method, DistillationKeys) and method.cirkd is not None:
        queues = method.cirkd.model_copy(update={"pixel_queue": 100, "region_queue": 10})  # gigabytes with many classes
        tried = tried.model_copy(update={"method": method.model_copy(update={"cirkd": queues})})
    report = dry_run(tried, recipe, generated=True)
    assert report["losses"]
    assert report["projected"]["steps"] == recipe.schedule.steps


PAGE = (Path(__file__).parents[2] / "docs" / "papers.md").read_text(encoding="utf-8")
PAPERS = re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL)


def test_the_page_of_the_papers_names_every_comparison_and_only_what_there_is() -> None:
    presets = {path.stem for path in PRESETS.glob("*.yaml")}
    named = {words.split()[0] for words in re.findall(r"`([^`]+)`", PAPERS) if "-" in words.split()[0]}
    prefixes = {name.partition("-")[0] for name in presets | set(NAMES)}
    meant = {
        name for name in named if name.partition("-")[0] in prefixes and not name.startswith(("cadis-8", "cadis-17"))
    }
    assert meant <= presets | set(NAMES)
    assert set(NAMES) <= named
    published = {
        name for name in presets if name.startswith(("voc-", "coco-", "cityscapes-")) and "unimatch-v2" not in name
    }
    quoted = {"voc-fixmatch", "voc-mean-teacher", "cityscapes-unimatch", "coco-unimatch", "cityscapes-augseg"}
    shared = {name for name in published if name.endswith(("-af-dcd", "-contrast", "-supervised"))}
    assert published - named <= quoted | shared


def test_overrides_on_the_page_of_the_papers_are_keys() -> None:
    presets = {path.stem for path in PRESETS.glob("*.yaml")}
    commands = [words.split() for words in re.findall(r"`([^`]+)`", PAPERS)]
    overridden = [words for words in commands if words[0] in presets and "=" in words[-1]]
    assert len(overridden) >= 3
    for name, *overrides in overridden:
        load_recipe(name, overrides)
