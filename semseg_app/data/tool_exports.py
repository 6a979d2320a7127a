"""Annotation tools' exports, recognized so that the message can say what they are and what to do with them."""

import json
from pathlib import Path

from semseg_app.data.listing import MASK_FOLDERS

MOST_BYTES = 64 * 2**20
"""Larger JSON files are recognized by their first keys alone."""


def recognize(root: Path) -> str | None:
    """What kind of export `root` holds, as a phrase with what to do; None where it looks like none of them."""
    masks = next((name for name in ("SegmentationClass", "SegmentationClassPNG") if (root / name).is_dir()), None)
    if (root / "JPEGImages").is_dir() and masks:
        return (
            f"JPEGImages/ and {masks}/ without a class list: write the class names, one per line, into "
            f"{root / 'class_names.txt'}, or write {root / 'dataset.yaml'} and move the files to images/<split>/ and "
            "labels/<split>/"
        )
    for tool, patterns, is_one in (
        ("a COCO export", ("*.json", "annotations/*.json", "*/*.json"), _is_coco),
        ("labelme files", ("*.json", "*/*.json"), _is_labelme),
        ("a Label Studio export", ("*.json",), _is_label_studio),
        ("a VGG Image Annotator project", ("*.json", "*/*.json"), _is_via),
        ("a Supervisely project", ("meta.json",), _is_supervisely),
    ):
        for pattern in patterns:
            for path in sorted(root.glob(pattern))[:20]:
                if is_one(_beginning(path)):
                    return f"{tool} ({path.relative_to(root)}); {WITHOUT_POLYGONS}"
    for tool, names in FILES.items():
        for name in names:
            for path in sorted(root.glob(name))[:1]:
                return f"{tool} ({path.relative_to(root)}); {WITHOUT_POLYGONS}"
    return _loose(root)


def _loose(root: Path) -> str | None:
    """What lies there without a description: a dataset one folder down, or photos beside a folder of masks."""
    inner = sorted(root.glob("*/dataset.yaml"))
    if inner:
        return f"the folder above a dataset; name {inner[0].parent}"
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    masks = next((path for path in folders if path.name in ("labels", *MASK_FOLDERS)), None)
    photos = next((path for path in folders if path != masks and path.name.lower() in PHOTO_FOLDERS), None)
    if masks is None or photos is None:
        return None
    return (
        f"{photos.name}/ and {masks.name}/ without a description: write the names of the classes into "
        f"{root / 'dataset.yaml'} (name: ..., classes: [...]), and move the photos to images/<split>/ and the masks to "
        "labels/<split>/, where a split is train or val"
    )


PHOTO_FOLDERS = ("images", "photos", "imgs", "img", "image", "jpegimages", "train")
FILES = {
    "CVAT for images": ("annotations.xml",),
    "YOLO labels": ("data.yaml", "data.yml", "labels/*.txt", "labels/*/*.txt", "*/labels/*.txt"),
    "Pascal VOC boxes": ("Annotations/*.xml",),
    "a Labelbox export": ("*.ndjson",),
}
"""Exports that are known by the names of their files."""
WITHOUT_POLYGONS = (
    "polygons and boxes are not read: export masks from the tool (CVAT: Segmentation mask 1.1, labelme: labelme2voc, "
    "Roboflow: Semantic Segmentation Masks), or write PNG masks to labels/<split>/ beside images/<split>/"
)


def _beginning(path: Path) -> object:
    """The file's JSON; of a large one, an object with the names of its first keys."""
    try:
        if path.stat().st_size <= MOST_BYTES:
            return json.loads(path.read_text(encoding="utf-8-sig"))
        with path.open(encoding="utf-8", errors="replace") as file:
            text = file.read(2**16)
        return {key: [] for key in ("images", "annotations", "categories", "shapes") if f'"{key}"' in text}
    except (OSError, ValueError):
        return None


def _is_coco(content: object) -> bool:
    return isinstance(content, dict) and "images" in content and ("annotations" in content or "categories" in content)


def _is_labelme(content: object) -> bool:
    return isinstance(content, dict) and "shapes" in content


def _is_via(content: object) -> bool:
    if not isinstance(content, dict):
        return False
    return "_via_img_metadata" in content or any(isinstance(it, dict) and "regions" in it for it in content.values())


def _is_supervisely(content: object) -> bool:
    return isinstance(content, dict) and "classes" in content and "tags" in content


def _is_label_studio(content: object) -> bool:
    return isinstance(content, list) and bool(content) and isinstance(content[0], dict) and "data" in content[0]
