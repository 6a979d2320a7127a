"""What a recipe reads, made up: photos of the size and classes of its dataset, pseudo labels, a teacher.

With these a dry run needs no download. Nothing can be learned from them.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml
from PIL import Image

from semseg_app.artifact import ModelConfig
from semseg_app.data.image_label_table import write_image_labels
from semseg_app.data.layouts import open_dataset, published_info
from semseg_app.data.pseudo_label_folder import Coverage, Manifest, mask_path, write_manifest
from semseg_app.errors import UserError
from semseg_app.labels import IGNORE, LabelSpace
from semseg_app.models import build, save_network
from semseg_app.synthetic import CLASSES as STREETS
from semseg_app.training.methods.distillation import DistillationKeys
from semseg_app.training.methods.pseudoseg import PseudoSegConfig
from semseg_app.training.methods.self_training import SelfTrainingConfig
from semseg_app.training.recipe import Recipe

PHOTOS = 2
"""Of each list; a step reads them again and again, in other crops."""
BLOCK = 48
"""Side of the squares of one class that a photo consists of, in pixels."""


class StandIn(NamedTuple):
    """What photos of a dataset look like."""

    classes: list[str]
    height: int
    width: int


def stand_in(root: Path) -> StandIn:
    """Classes and usual size of the photos of the dataset that presets expect in a folder of this name. UserError for
    another name."""
    known = {
        "voc": ("voc.yaml", 375, 500),
        "cityscapes": ("cityscapes.yaml", 1024, 2048),
        "ade20k": ("ade20k.yaml", 512, 683),
        "camvid": ("camvid_segnet.yaml", 360, 480),
        "coco-stuff": ("coco_stuff.yaml", 480, 640),
        "pascal-context": ("pascal_context.yaml", 375, 500),
        "cadis": ("cadis.yaml", 540, 960),
    }
    if root.name in known:
        file, height, width = known[root.name]
        return StandIn(published_info(file).classes, height, width)
    if root.name == "coco":  # background and the 80 objects
        return StandIn(["background", *(f"object {index}" for index in range(1, 81))], 480, 640)
    if root.name == "streets":
        return StandIn(STREETS, 192, 256)
    names = ", ".join([*known, "coco", "streets"])
    raise UserError(f"data.root: {root}: --generated knows the photos of {names}; take --dry-run alone for other data")


def with_stand_ins(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe on made-up photos in `folder`, from random weights, with all else that it names made up too."""
    look = stand_in(recipe.data.root)
    _write_photos(folder / "data", look)
    data = recipe.data.model_copy(
        update={
            "root": folder / "data",
            "layout": "folder",
            "labeled": "train",
            "unlabeled": recipe.data.unlabeled and "more",
            "more_unlabeled": (),
        }
    )
    model = recipe.model.model_copy(update={"weights": None})
    method = recipe.method
    if isinstance(method, PseudoSegConfig) and method.image_labels is not None:
        made_up = open_dataset(folder / "data")
        write_image_labels(made_up, made_up.samples("more"), folder / "data" / "image_labels.csv")
        method = method.model_copy(update={"image_labels": Path("image_labels.csv")})
    if isinstance(method, SelfTrainingConfig):
        _write_pseudo_labels(folder / "pseudo-labels", folder / "data")
        method = method.model_copy(update={"pseudo_labels": folder / "pseudo-labels"})
    if isinstance(method, DistillationKeys):
        spec = recipe.model.spec(len(look.classes))
        labels = LabelSpace(classes=look.classes, palette=[(0, 0, 0)] * len(look.classes))
        save_network(folder / "teacher", build(spec), ModelConfig(name="stand-in", model=spec, labels=labels))
        method = method.model_copy(update={"teacher": str(folder / "teacher")})
    return recipe.model_copy(update={"data": data, "model": model, "method": method})


def _write_photos(root: Path, look: StandIn) -> None:
    random = np.random.default_rng(0)
    colors = random.integers(0, 256, (256, 3))
    for split in ("train", "more"):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for index in range(PHOTOS):
            blocks = random.integers(0, len(look.classes), (-(-look.height // BLOCK), -(-look.width // BLOCK)))
            label = blocks.repeat(BLOCK, 0).repeat(BLOCK, 1)[: look.height, : look.width].astype(np.uint8)
            photo = (colors[label] + random.integers(-20, 21, (look.height, look.width, 1))).clip(0, 255)
            label[:4] = IGNORE
            Image.fromarray(photo.astype(np.uint8)).save(root / "images" / split / f"{split}{index}.jpg")
            Image.fromarray(label).save(root / "labels" / split / f"{split}{index}.png")
    content = {"name": "stand-ins", "classes": look.classes}
    (root / "dataset.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")


def _write_pseudo_labels(folder: Path, root: Path) -> None:
    folder.mkdir()
    data = open_dataset(root)
    samples = data.samples("more")
    for sample in samples:
        path = mask_path(folder, data, sample)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(data.read_label(sample)).save(path)
    write_manifest(
        folder,
        Manifest(
            teacher="stand-in",
            weights="0" * 64,
            threshold=0.5,
            dataset=data.info.name,
            split="more",
            fingerprint=data.fingerprint(samples),
            images=len(samples),
            classes=data.info.classes,
            coverage=Coverage(overall=1.0, by_class={}, near_edges=None, inside=None),
        ),
    )
