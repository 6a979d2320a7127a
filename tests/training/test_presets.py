"""Presets: each loads, fits its network, and is as long and as large as the run that it aims at."""

import re
from fractions import Fraction
from math import ceil

import pytest
import torch

from semseg_app.data.splits import split_name
from semseg_app.models import build
from semseg_app.training.methods import METHODS
from semseg_app.training.presets import PRESETS
from semseg_app.training.recipe import Recipe, load_recipe

NAMES = sorted(path.stem for path in PRESETS.glob("*.yaml"))
RECIPES = {name: load_recipe(name, []) for name in NAMES}
IMAGES = {"voc": 1464, "cityscapes": 2975, "coco": 118287, "camvid": 367, "ade20k": 20210}
"""What the labeled lists are drawn from."""
LABELED = {("voc", "1/16"): 92, ("cityscapes", "1/16"): 186, ("cityscapes", "1/8"): 372}
LABELED |= {("coco", "1/512"): 232, ("camvid", "1/8"): 46, ("ade20k", "1/64"): 316}

# Crop, labeled and unlabeled batch, optimizer, lr, factor of the head, weight decay, power of the schedule.
ROWS = {
    "voc-supervised": (513, 8, None, "sgd", 0.007, 1, 1e-4, 1.0),
    "cityscapes-supervised": (513, 8, None, "sgd", 0.007, 1, 1e-4, 1.0),
    "coco-supervised": (513, 8, None, "sgd", 0.007, 1, 4e-5, 1.0),
    "voc-mean-teacher": (512, 8, 8, "sgd", 0.001, 10, 0, 0.9),
    "voc-fixmatch": (321, 8, 8, "sgd", 0.001, 10, 1e-4, 0.9),
    "voc-self-training": (513, 64, 64, "sgd", 0.007, 1, 4e-5, 0.9),
    "voc-pseudoseg": (513, 64, 64, "sgd", 0.007, 1, 1e-4, 0.9),
    "cityscapes-pseudoseg": (513, 64, 64, "sgd", 0.007, 1, 1e-4, 0.9),
    "coco-pseudoseg": (513, 64, 64, "sgd", 0.007, 1, 4e-5, 0.9),
    "voc-pseudoseg-image-labels": (513, 64, 64, "sgd", 0.007, 1, 1e-4, 0.9),
    "voc-pseudoseg-many-labels": (513, 64, 64, "sgd", 0.007, 1, 4e-5, 0.9),
    "voc-pc2seg": (513, 8, 8, "sgd", 0.007, 1, 1e-4, 1.0),
    "cityscapes-pc2seg": (513, 8, 8, "sgd", 0.007, 1, 1e-4, 1.0),
    "coco-pc2seg": (513, 8, 8, "sgd", 0.007, 1, 4e-5, 1.0),
    "voc-s4former": (512, 8, 8, "sgd", 0.001, 10, 0, 0.9),
    "voc-s4former-segformer": (512, 8, 8, "adamw", 6e-5, 10, 0.01, 1.0),
    "cityscapes-s4former": (768, 8, 8, "sgd", 0.001, 10, 0, 0.9),
    "coco-s4former": (512, 8, 8, "sgd", 0.001, 10, 0, 0.9),
    "voc-unimatch": (321, 8, 8, "sgd", 0.001, 10, 1e-4, 0.9),
    "cityscapes-unimatch": (801, 8, 8, "sgd", 0.005, 1, 1e-4, 0.9),
    "coco-unimatch": (513, 8, 8, "sgd", 0.004, 10, 1e-4, 0.9),
    "voc-augseg": (513, 16, 16, "sgd", 0.001, 10, 1e-4, 0.9),
    "cityscapes-augseg": (800, 16, 16, "sgd", 0.01, 1, 5e-4, 0.9),
}
# UniMatch V2's released configurations, on four GPUs: batch, epochs, unlabeled images, crops with patches of 14 and 16.
UNIMATCH_V2 = {
    "voc": (16, 60, 10582 - 92, 518, 512),
    "cityscapes": (8, 180, 2975 - 186, 798, 800),
    "ade20k": (8, 60, 20210 - 316, 518, 512),
    "coco": (16, 20, 118287 - 232, 518, 512),
}
VARIANTS = ("", "-locked", "-dinov3", "-dinov3-locked")
ROWS |= {
    f"{data}-unimatch-v2{variant}": (crops["dinov3" in variant], batch, batch, "adamw", 5e-6, 40, 0.01, 0.9)
    for data, (batch, _, _, *crops) in UNIMATCH_V2.items()
    for variant in VARIANTS
}
STEPS = {
    "voc-supervised": 30_000,
    "voc-self-training": 30_000,
    "voc-pseudoseg": 30_000,
    "voc-pc2seg": 30_000,
    "voc-pseudoseg-image-labels": 30_000,
    "voc-pseudoseg-many-labels": 90_000,
    "voc-mean-teacher": 80_000,
    "voc-s4former": 80_000,
    "voc-s4former-segformer": 80_000,
    "cityscapes-supervised": 130_000,
    "cityscapes-pseudoseg": 130_000,
    "cityscapes-pc2seg": 130_000,
    "cityscapes-s4former": 40_000,
    "coco-supervised": 200_000,
    "coco-pseudoseg": 200_000,
    "coco-pc2seg": 200_000,
    "coco-s4former": 160_000,
}
EPOCHS = {
    "voc-fixmatch": (80, 10582 - 92),
    "voc-unimatch": (80, 10582 - 92),
    "voc-augseg": (80, 10582 - 92),
    "cityscapes-unimatch": (240, 2975 - 186),
    "cityscapes-augseg": (240, 2975 - 186),
    "coco-unimatch": (30, 118287 - 232),
}
"""Epochs of so many unlabeled images."""
EPOCHS |= {
    f"{data}-unimatch-v2{variant}": (epochs, images)
    for data, (_, epochs, images, *_) in UNIMATCH_V2.items()
    for variant in VARIANTS
}


def unlabeled_batch(recipe: Recipe) -> int | None:
    return None if recipe.data.unlabeled is None else recipe.unlabeled_batch_size or recipe.batch_size


def test_every_semi_supervised_preset_of_a_published_row_is_in_the_tables():
    named = {
        name
        for name in NAMES
        if name.startswith(("voc-", "cityscapes-", "coco-", "ade20k-")) and RECIPES[name].data.unlabeled
    }
    supervised = {name for name in ROWS if name.endswith("-supervised")}
    assert ROWS.keys() == STEPS.keys() | EPOCHS.keys() == named | supervised
    methods = {recipe.method.name for recipe in RECIPES.values()}
    assert METHODS.keys() <= methods


@pytest.mark.parametrize("name", ROWS)
def test_size_optimizer_and_length_are_the_published_ones(name):
    recipe = RECIPES[name]
    optimizer = recipe.optimizer
    row = (*recipe.view.crop[:1], recipe.batch_size, unlabeled_batch(recipe), optimizer.name, optimizer.lr)
    row += (optimizer.head_lr_factor, optimizer.weight_decay, recipe.schedule.power)
    assert row == pytest.approx(ROWS[name])
    assert recipe.view.crop[0] == recipe.view.crop[1]
    assert (recipe.view.scale, recipe.view.flip, optimizer.momentum) == ((0.5, 2.0), 0.5, 0.9)
    if name in EPOCHS:
        epochs, images = EPOCHS[name]
        assert recipe.schedule.steps == epochs * (images // recipe.batch_size)
    else:
        assert recipe.schedule.steps == STEPS[name]


def test_what_only_cityscapes_has():
    unimatch, augseg = RECIPES["cityscapes-unimatch"].method, RECIPES["cityscapes-augseg"].method
    assert (unimatch.threshold, unimatch.ohem_threshold, unimatch.ohem_min_kept) == (0, 0.7, 200_000)
    assert (augseg.threshold, augseg.ohem_threshold, augseg.ohem_min_kept) == (0, 0.7, 100_000)
    assert (augseg.ema.momentum, RECIPES["voc-augseg"].method.ema.momentum) == (0.996, 0.999)
    # The teacher is the student for an epoch of batches of 16.
    assert (augseg.ema.copy_steps, RECIPES["voc-augseg"].method.ema.copy_steps) == (2789 // 16, 10490 // 16)
    elsewhere = [RECIPES[name].method for name in ROWS if not name.startswith("cityscapes")]
    # PseudoSeg learns from every pixel.
    assert all(
        getattr(method, "threshold", 0.95) == 0.95 * (method.name != "pseudoseg") and method.ohem_threshold is None
        for method in elsewhere
    )


@pytest.mark.parametrize("name", NAMES)
def test_lists_crop_and_batch_fit_the_method(name):
    recipe = RECIPES[name]
    listed, _, kind = recipe.data.labeled.rpartition("-")
    if kind == "labeled":
        dataset, size = name.partition("-")[0], listed.replace("_", "/")
        assert split_name(size) == listed
        assert ceil(Fraction(size) * IMAGES[dataset]) == LABELED[dataset, size]
    if recipe.method.name not in ("supervised", "distillation"):
        # One process or two, with a pair to mix on each.
        assert recipe.batch_size == unlabeled_batch(recipe)
        assert recipe.batch_size % 4 == 0
    if patch := re.search(r"patch(\d+)", recipe.model.encoder):
        assert all(side % int(patch[1]) == 0 for side in recipe.view.crop)
    if recipe.method.name == "s4former":
        assert all(side % recipe.method.shuffle_block == 0 for side in recipe.view.crop)


@pytest.mark.parametrize("choice", sorted({one.model.model_dump_json() for one in RECIPES.values()}))
def test_networks_can_be_built(choice):
    recipe = next(one for one in RECIPES.values() if one.model.model_dump_json() == choice)
    spec = recipe.model.spec(21)
    # A MiT reads numbers from tensors while it is built, which a device without memory cannot give.
    with torch.device("cpu" if spec.encoder.startswith("mit_") else "meta"):
        network = build(spec, auxiliary=recipe.model.auxiliary).to("meta")
    images = torch.rand(2, 3, *recipe.view.crop, device="meta")
    features = network.eval().features(images)
    assert network.upsample(features.logits, *recipe.view.crop).shape == (2, 21, *recipe.view.crop)
    own = recipe.model.architecture == "ocr"  # its coarse segmentation, whatever the recipe says
    assert len(features.auxiliary) == len(recipe.model.auxiliary) + own


@pytest.mark.parametrize("data", ["camvid", *UNIMATCH_V2])
@pytest.mark.parametrize("variant", VARIANTS)
def test_unimatch_v2_on_dinov2_and_dinov3_locked_and_not(data, variant):
    """64 channels of the DPT for a ViT-S, as published; and the locked ones differ in the lock alone."""
    recipe = RECIPES[f"{data}-unimatch-v2{variant}"]
    model = recipe.model
    encoder = "tu-vit_small_patch16_dinov3" if "dinov3" in variant else "tu-vit_small_patch14_dinov2"
    assert (model.architecture, model.encoder, model.decoder_channels) == ("dpt", encoder, 64)
    assert model.freeze == ("encoder" if "locked" in variant else ())
    other = RECIPES[f"{data}-unimatch-v2{variant.removesuffix('-locked')}"]
    changed = {"name": recipe.name, "aims_at": recipe.aims_at, "model": model}
    assert other.model_copy(update=changed) == recipe
    assert (recipe.method.threshold, recipe.method.ohem_threshold) == (0.95, 0.7 if data == "cityscapes" else None)


def test_blend_is_an_override_away():
    recipe = load_recipe("voc-unimatch", ["data.labeled=train_aug-1_8-labeled"])
    assert recipe.data.labeled == f"{split_name('1/8', 'train_aug')}-labeled"
