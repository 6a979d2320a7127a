"""What annotation tools make of their own files, by their own rules: class maps, 255 where no shape is."""

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import yaml
from PIL import Image
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO
from support.brush_bits import unpacked

Maps = dict[str, np.ndarray]
"""split/name of a photo -> uint8 [H, W]."""


def polygon(corners: np.ndarray, height: int, width: int) -> np.ndarray:
    """[N, 2] of (x, y) -> bool [H, W], as pycocotools fills it."""
    runs = coco_masks.frPyObjects([np.asarray(corners, float).ravel().tolist()], height, width)
    return coco_masks.decode(coco_masks.merge(runs)).astype(bool)


def read_coco(folder: Path, classes: list[str]) -> Maps:
    """By pycocotools alone."""
    maps = {}
    for path in sorted((folder / "annotations").glob("*.json")):
        coco = COCO(path)
        for image in coco.loadImgs(coco.getImgIds()):
            canvas = np.full((image["height"], image["width"]), 255, np.uint8)
            for annotation in coco.loadAnns(coco.getAnnIds(image["id"])):
                assert annotation["iscrowd"] == 0
                name = coco.loadCats(annotation["category_id"])[0]["name"]
                canvas[coco.annToMask(annotation).astype(bool)] = classes.index(name)
            assert (folder / "images" / image["file_name"]).is_file()
            maps[image["file_name"]] = canvas
    return maps


def read_yolo(folder: Path, classes: list[str]) -> Maps:
    """As Ultralytics: larger ones below smaller ones."""
    info = yaml.safe_load((folder / "data.yaml").read_text())
    assert list(info.pop("names").values()) == classes
    maps = {}
    for split, images in info.items():
        for photo in sorted(path for path in (folder / images).rglob("*") if path.is_file()):
            with Image.open(photo) as image:
                width, height = image.size
            name = photo.relative_to(folder / images)
            canvas = np.full((height, width), 255, np.uint8)
            masks = []
            for line in (folder / "labels" / split / name).with_suffix(".txt").read_text().splitlines():
                number, *numbers = line.split()
                corners = np.array(numbers, float).reshape(-1, 2) * (width, height)
                masks.append((int(number), polygon(corners, height, width)))
            for number, mask in sorted(masks, key=lambda pair: -pair[1].sum()):
                canvas[mask] = number
            maps[f"{split}/{name}"] = canvas
    return maps


def read_labelme(folder: Path, classes: list[str]) -> Maps:
    """As labelme.utils.shape: a mask lies in the box whose corners are its first and its last pixel."""
    maps = {}
    for path in sorted(folder.rglob("*.json")):
        content = json.loads(path.read_text())
        canvas = np.full((content["imageHeight"], content["imageWidth"]), 255, np.uint8)
        for shape in content["shapes"]:
            points = np.array(shape["points"])
            if shape["shape_type"] == "mask":
                (left, top), (right, bottom) = points.astype(int)
                mask = np.zeros(canvas.shape, bool)
                mask[top : bottom + 1, left : right + 1] = np.array(
                    Image.open(io.BytesIO(base64.b64decode(shape["mask"])))
                )
            else:
                mask = polygon(points, *canvas.shape)
            canvas[mask] = classes.index(shape["label"])
        assert (path.parent / content["imagePath"]).is_file()
        maps[(path.relative_to(folder).parent / content["imagePath"]).as_posix()] = canvas
    return maps


def read_cvat(folder: Path, classes: list[str]) -> Maps:
    """As CVAT's documentation of the format: z_order, run lengths along the rows of a box."""
    root = ElementTree.parse(folder / "annotations.xml").getroot()
    assert [label.findtext("name") for label in root.iter("label")] == classes
    maps = {}
    for image in root.iter("image"):
        height, width = int(image.get("height", "")), int(image.get("width", ""))
        canvas = np.full((height, width), 255, np.uint8)
        for shape in sorted(image, key=lambda shape: int(shape.get("z_order", ""))):
            if shape.tag == "polygon":
                corners = [point.split(",") for point in shape.get("points", "").split(";")]
                mask = polygon(np.array(corners, float), height, width)
            else:
                left, top, columns, rows = (int(shape.get(key, "")) for key in ("left", "top", "width", "height"))
                flat: list[bool] = []
                for number, count in enumerate(shape.get("rle", "").split(",")):
                    flat += [number % 2 == 1] * int(count)
                mask = np.zeros((height, width), bool)
                mask[top : top + rows, left : left + columns] = np.array(flat).reshape(rows, columns)
            canvas[mask] = classes.index(shape.get("label", ""))
        assert (folder / "images" / image.get("name", "")).is_file()
        maps[image.get("name", "")] = canvas
    return maps


def read_label_studio(folder: Path, classes: list[str]) -> Maps:
    """As Label Studio: corners in percent, brushes as RGBA run lengths; labels must stand in the configuration."""
    config = ElementTree.parse(folder / "label_config.xml").getroot()
    controls = {tag.get("name"): [label.get("value") for label in tag] for tag in config if tag.tag != "Image"}
    maps = {}
    for task in json.loads((folder / "tasks.json").read_text()):
        path = unquote(task["data"]["image"].partition("?d=")[2])
        assert (folder / path).is_file()
        (answer,) = [*task.get("annotations", []), *task.get("predictions", [])]
        canvas = None
        for region in answer["result"]:
            height, width = region["original_height"], region["original_width"]
            canvas = np.full((height, width), 255, np.uint8) if canvas is None else canvas
            (label,) = region["value"][region["type"]]
            assert label in controls[region["from_name"]]
            if region["type"] == "polygonlabels":
                mask = polygon(np.array(region["value"]["points"]) * (width, height) / 100, height, width)
            else:
                mask = unpacked(region["value"]["rle"]).reshape(height, width, 4)[..., 3] > 0
            canvas[mask] = classes.index(label)
        assert canvas is not None
        maps[path.removeprefix("images/")] = canvas
    return maps


READERS: dict[str, Callable[[Path, list[str]], Maps]] = {
    "coco": read_coco,
    "cvat": read_cvat,
    "label-studio": read_label_studio,
    "labelme": read_labelme,
    "yolo": read_yolo,
}
