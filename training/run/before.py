"""What a run must know before its first step: whether its data may be used, and what an earlier part of it left."""

import hashlib
from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from semseg_app.data.dataset import DatasetInfo, SegmentationData
from semseg_app.data.layouts import open_dataset
from semseg_app.data.pseudo_label_folder import read_manifest
from semseg_app.data.training_check import shared_photos
from semseg_app.errors import UserError, explain
from semseg_app.inference.teacher_lineage import weights_of
from semseg_app.training.contracts import Method
from semseg_app.training.data.streams import ImageDataset
from semseg_app.training.recipe import Recipe
from semseg_app.training.run.folder import RunFolder, refuse_changed_data, refuse_changed_recipe, refuse_changed_sources


def refuse_overlap(labeled: ImageDataset, val: ImageDataset, recipe: Recipe) -> None:
    """UserError where a photo is both learned from and scored on."""
    shared = shared_photos(labeled.samples, val.samples)
    if shared:
        if recipe.data.labeled == recipe.data.val:
            split = f"semseg data split {recipe.data.root} --val 0.2"
            fix = f"hold photos out with `{split}`, and name data.labeled=all-labeled data.val=val"
        else:
            fix = f"write data.labeled='{recipe.data.labeled} - {recipe.data.val}', or delete the copies"
        raise UserError(
            f"data: {len(shared)} images are both in {recipe.data.labeled} and in {recipe.data.val} "
            f"(e.g. {min(shared)}); a score on training images means nothing: {fix}"
        )


def warn_of_random_encoder(recipe: Recipe, say: Callable[[str], None]) -> None:
    """Say where weights that nothing has taught are kept as they are."""
    keys = [key for key, frozen in (("freeze", recipe.model.freeze), ("lora", recipe.model.lora)) if frozen]
    if keys and recipe.model.weights is None:
        say(
            f"warning: model.{keys[0]} keeps weights of the encoder as they are, and model.weights=null makes them "
            "random; name weights, or let the encoder learn"
        )


def warn_of_unlabeled(
    unlabeled: ImageDataset | None, val: ImageDataset | None, recipe: Recipe, say: Callable[[str], None]
) -> None:
    """Say where the recipe names unlabeled photos that its method does not read, or photos that it is scored on."""
    if unlabeled is None:
        if recipe.data.unlabeled or recipe.data.more_unlabeled:
            key = "data.unlabeled" if recipe.data.unlabeled else "data.more_unlabeled"
            fix = (
                "set method.use_unlabeled=true"
                if "use_unlabeled" in type(recipe.method).model_fields
                else "choose a semi-supervised method, e.g. method.name=unimatch"
            )
            say(f"warning: {key} is not read by method {recipe.method.name}; {fix}, or leave {key} out")
    elif val and (shared := shared_photos(unlabeled.samples, val.samples)):
        say(
            f"warning: data.unlabeled holds {len(shared)} of the {len(val)} photos of data.val (e.g. {min(shared)}): "
            "a score on photos that are learned from, even without masks, says little about new ones; take them out"
        )


def warn_of_padding(labeled: ImageDataset, recipe: Recipe, say: Callable[[str], None]) -> None:
    """Say where a crop is mostly padding, by the first photo: 4 times its area, far beyond what papers use."""
    image, _ = labeled[0]
    (height, width), crop = image.shape[-2:], recipe.view.crop
    if crop[0] * crop[1] >= 4 * height * width:
        say(
            f"warning: view.crop is [{crop[0]},{crop[1]}] (height, width), but {labeled.samples[0].image} has "
            f"{height}x{width}: most of each crop is padding; lower view.crop, or enlarge the photos"
        )


def fingerprints(
    recipe: Recipe,
    data: SegmentationData,
    labeled: ImageDataset,
    unlabeled: ImageDataset | None,
    val: ImageDataset | None,
) -> dict[str, Any]:
    """Name, license and source of the data, and of every list that is read how many images and their hash."""
    datasets = {"labeled": labeled, "unlabeled": unlabeled, "val": val}
    lists = {
        name: {"images": len(dataset), "hash": data.fingerprint(dataset.samples)}
        for name, dataset in datasets.items()
        if dataset
    }
    folder = recipe.method.pseudo_label_folder()
    written = {"pseudo_labels": read_manifest(folder).model_dump()} if folder else {}
    joined = [open_dataset(more.root, more.layout).info for more in recipe.data.more_unlabeled]
    others = {"more_unlabeled": [{"name": info.name, **_terms(info)} for info in joined]} if joined else {}
    return {"name": data.info.name, **_terms(data.info), **lists, **others, **written}


def warn_of_cutout(recipe: Recipe, say: Callable[[str], None]) -> None:
    """Say where CutOut, whose size is in pixels, takes most of a small crop. Cut pixels teach nothing."""
    size, side = getattr(recipe.method, "cutout_size", 0), min(recipe.view.crop)
    if 2 * size > side:
        say(
            f"warning: method.cutout_size={size} cuts most of a view of view.crop [{recipe.view.crop[0]},"
            f"{recipe.view.crop[1]}], and what is cut teaches nothing; a fifth of its side, as published, is "
            f"method.cutout_size={side // 5}"
        )


def sources(method: Method, unlabeled: ImageDataset | None) -> dict[str, str]:
    """SHA-256, by key of the recipe, of what a run reads beside photos and masks: its teacher, and image labels.

    The recipe names files, and a file may become another: `teacher: runs/street/best` moves with every better score.
    """
    found = {}
    if method.teacher_model is not None:
        found["method.teacher"] = weights_of(method.teacher_model)
    if unlabeled and unlabeled.image_classes is not None:
        found["method.image_labels"] = hashlib.sha256(unlabeled.image_classes.numpy().tobytes()).hexdigest()
    return found


def _terms(info: DatasetInfo) -> dict[str, str | None]:
    return {"license": info.license, "source": info.source}


def refuse_other_run(
    state: dict[str, Any], recipe: Recipe, facts: dict[str, Any], read: dict[str, str], folder: RunFolder
) -> None:
    """UserError where the checkpoint belongs to a run of another recipe, of other data or of other `sources`."""
    try:  # through the model, so that keys which a newer version added have their defaults
        before = Recipe.model_validate(state["recipe"])
    except ValidationError as error:
        raise explain(error, f"{folder.path}: --resume: its recipe is of another version of semseg") from None
    refuse_changed_recipe(before, recipe)
    lists = ("labeled", "unlabeled", "val")
    was, now = ({name: data[name] for name in lists if name in data} for data in (state["data"], facts["data"]))
    refuse_changed_data(was, now, recipe.data.root)
    refuse_changed_sources(state.get("sources", {}), read, recipe)


def evaluations_before(
    folder: RunFolder,
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]], int, int]:
    """By role, the best and the last evaluation of the run so far; the last one's step (-1 before the first); and how
    many in a row were no better than an earlier one, for the role that comes first. Nothing where a model folder that
    they left is gone: the next evaluation leaves another."""
    best: dict[str, dict[str, float]] = {}
    last: dict[str, dict[str, float]] = {}
    step, without_gain = -1, 0
    if not all((folder.path / link).exists() for link in ("best", "last")):
        return best, last, step, without_gain
    for entry in folder.evaluations():
        step, last = entry["step"], entry["evaluation"]
        without_gain += 1
        for role, scores in last.items():
            if scores["miou"] > best.get(role, {}).get("miou", -1.0):
                best[role] = {"step": step, **scores}
                without_gain = 0 if role == next(iter(last)) else without_gain
    return best, last, step, without_gain
