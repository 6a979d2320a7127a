"""Comparisons that ship with the package: each row is a recipe, and rows of published tables have their settings."""

from pathlib import Path

import pytest
from support import tiny_encoders  # noqa: F401, adds its small encoders to timm

from semseg_app.training.compare import load_comparison, recipes_of
from semseg_app.training.dry_run import dry_run
from semseg_app.training.presets import COMPARISONS
from semseg_app.training.recipe import Recipe

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


DISTINCT: dict[str, tuple[str, str]] = {}
for _name in NAMES:
    for _row, _recipe in rows_of(_name).items():
        key = _recipe.model_dump_json(include={"model", "method", "data"}).replace(_name, "")
        DISTINCT.setdefault(key, (_name, _row))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "row"), sorted(DISTINCT.values()))
def test_every_row_takes_a_step(name: str, row: str) -> None:
    recipe = rows_of(name)[row]
    patch = 16 * (4 if recipe.model.architecture in ("setr", "linear") or "s4former" in name else 1)
    side = 128 if recipe.method.name == "s4former" else max(patch, 64)
    if "af_dcd" in recipe.method.model_dump() and recipe.method.name == "distillation" and recipe.method.af_dcd:
        side = 256  # a map that holds a patch
    if row == "N 16" or "segformer" in name:
        side = 512
    if recipe.method.name == "s4former" and recipe.method.shuffle_block == 80:
        side = 160
    small = rows_of(
        name, f"view.crop=[{side}, {side}]", "batch_size=2", "precision=fp32", "threads=1", "sync_batch_norm=true"
    )[row]
    report = dry_run(small, recipe, generated=True)
    assert report["losses"]
    assert report["projected"]["steps"] == recipe.schedule.steps
