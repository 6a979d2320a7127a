"""A dataset's val masks, written by other people's tools, and what `semseg data import` makes of their files.

The writers live in an environment of their own, so that no code of ours writes what we read:

    python -m venv writers
    writers/bin/pip install supervision==0.31.2 label-studio-sdk==2.1.2 datumaro==1.13.12 cvat-sdk==2.80.0
    writers/bin/pip install labelme==6.3.1 rasterio==1.4.4
    writers/bin/python benchmarks/import_fidelity.py write DATASET FOLDER
    python benchmarks/import_fidelity.py measure DATASET FOLDER [--json FILE]

`write` needs nothing of this project. Each connected part of a class is an object, and so is each part without a class
("void", imported with `--map void=ignore`), so that every pixel has a right answer. Polygons run along the edges of
pixels (GDAL's polygonize) or through their middles (OpenCV's contours, in supervision); formats without holes get the
objects in the order of their area, the larger first. FOLDER/read holds what a tool itself reads from its file, where it
has a reader: pixels that differ there were lost by the writer.
"""

import argparse
import importlib.metadata
import json
import shutil
import subprocess
import time
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from PIL import Image

VOID = "void"
PACKAGES = ("pycocotools", "supervision", "labelme", "label-studio-sdk", "cvat-sdk", "datumaro", "rasterio")
EXACT = {
    "coco-runs",
    "labelme-masks",
    "label-studio-brush",
    "cvat-masks",
    "cvat-sdk-masks",
    "cvat-png",
    "coco-panoptic",
}
"""Formats that keep every pixel; the others hold polygons, which are to give back 99.9 % of the pixels."""
OPTIONS: dict[str, list[str]] = {"cvat-png": ["--map", "background=ignore"], "coco-panoptic": []}
"""Of `semseg data import`, where a format needs others than the usual ones."""


class Part(NamedTuple):
    """One object."""

    number: int
    """Its class."""
    index: int
    """Its value in `Photo.objects`."""
    ring: np.ndarray
    """float64 `[N, 2]` of (x, y): its outline along the edges of pixels, without holes."""


class Photo(NamedTuple):
    """One photo and its objects, the largest first."""

    path: Path
    mask: np.ndarray
    """uint8 `[H, W]`: class numbers, and the number behind them where no class is."""
    objects: np.ndarray
    """int32 `[H, W]`: which object each pixel belongs to."""
    parts: list[Part]

    def pixels(self, part: Part) -> np.ndarray:
        """bool `[H, W]`."""
        return self.objects == part.index


def photos_of(dataset: Path, every: int) -> tuple[list[str], list[Photo]]:
    """Class names with VOID, and every so many-th val photo."""
    import cv2
    from rasterio.features import shapes

    info = yaml.safe_load((dataset / "dataset.yaml").read_text())
    classes = [*info["classes"], VOID]
    photos = []
    for path in sorted((dataset / "images" / "val").iterdir())[::every]:
        mask = np.array(Image.open(dataset / "labels" / "val" / f"{path.stem}.png"))
        mask[mask == info.get("ignore_index", 255)] = len(info["classes"])
        objects = np.zeros(mask.shape, np.int32)
        for number in np.unique(mask).tolist():
            _, numbered = cv2.connectedComponents((mask == number).astype(np.uint8), connectivity=4)
            objects += np.where(numbered, numbered + objects.max(), 0)
        parts = []
        for outline, value in shapes(objects, connectivity=4):
            ring = np.array(outline["coordinates"][0][:-1])
            parts.append(Part(int(mask[objects == value][0]), int(value), ring))
        parts.sort(key=lambda part: -_area(part.ring))
        photos.append(Photo(path, mask, objects, parts))
    return classes, photos


def _area(ring: np.ndarray) -> float:
    x, y = ring.T
    return abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))) / 2


def _coco(classes: list[str], photos: list[Photo]) -> dict[str, Any]:
    return {
        "images": [
            {"id": index, "file_name": photo.path.name, "width": photo.mask.shape[1], "height": photo.mask.shape[0]}
            for index, photo in enumerate(photos)
        ],
        "categories": [{"id": number + 1, "name": name} for number, name in enumerate(classes)],
        "annotations": [],
    }


def write_coco(classes: list[str], photos: list[Photo], out: Path) -> None:
    """pycocotools: run lengths of each object, and polygons that it also reads back."""
    from pycocotools import mask as coco_masks
    from pycocotools.coco import COCO

    runs, polygons = _coco(classes, photos), _coco(classes, photos)
    for index, photo in enumerate(photos):
        for part in photo.parts:
            packed = coco_masks.encode(np.asfortranarray(photo.pixels(part).astype(np.uint8)))
            common = {"image_id": index, "category_id": part.number + 1, "iscrowd": 0}
            text = packed | {"counts": packed["counts"].decode()}
            runs["annotations"].append(common | {"id": len(runs["annotations"]) + 1, "segmentation": text})
            ring = part.ring.ravel().tolist()
            polygons["annotations"].append(common | {"id": len(polygons["annotations"]) + 1, "segmentation": [ring]})
    for name, content in (("coco-runs", runs), ("coco-polygons", polygons)):
        (out / name).mkdir()
        (out / name / "instances_val.json").write_text(json.dumps(content))
    reader = COCO(str(out / "coco-polygons" / "instances_val.json"))
    for index, photo in enumerate(photos):
        annotations = reader.loadAnns(sorted(reader.getAnnIds(index)))
        objects = ((reader.annToMask(it), it["category_id"] - 1) for it in annotations)
        _keep_read(out, "coco-polygons", photo, objects)


def _keep_read(out: Path, name: str, photo: Photo, objects: Iterable[tuple[np.ndarray, int]]) -> None:
    """Paint what a tool read, one object over the other."""
    painted = np.full(photo.mask.shape, 255, np.uint8)
    for pixels, number in objects:
        painted[pixels.astype(bool)] = number
    (out / "read" / name).mkdir(parents=True, exist_ok=True)
    Image.fromarray(painted).save(out / "read" / name / f"{photo.path.stem}.png")


def write_supervision(classes: list[str], photos: list[Photo], out: Path) -> None:
    """supervision: COCO, from one mask for each class of a photo, and YOLO, from the parts with their holes filled.

    Its `as_yolo` (0.31.2) raises a ValueError for some objects with holes.
    """
    import supervision
    from rasterio.features import rasterize

    coco, yolo = out / "supervision-coco", out / "supervision-yolo"
    coco.mkdir()
    (yolo / "images").mkdir(parents=True)
    annotations = {}
    for photo in photos:
        numbers = np.unique(photo.mask)
        objects = photo.mask == numbers[:, None, None]
        boxes = supervision.mask_to_xyxy(objects)
        annotations[str(photo.path)] = supervision.Detections(xyxy=boxes, mask=objects, class_id=numbers.astype(int))
        rings = [{"type": "Polygon", "coordinates": [part.ring.tolist()]} for part in photo.parts]
        filled = np.stack([rasterize([ring], photo.mask.shape) for ring in rings]).astype(bool)
        numbers = np.array([part.number for part in photo.parts])
        parts = supervision.Detections(xyxy=supervision.mask_to_xyxy(filled), mask=filled, class_id=numbers)
        dataset = supervision.DetectionDataset(classes, [str(photo.path)], {str(photo.path): parts})
        dataset.as_yolo(
            images_directory_path=str(yolo / "images" / "val"),
            annotations_directory_path=str(yolo / "labels" / "val"),
            data_yaml_path=str(yolo / "data.yaml"),
            approximation_percentage=0,
        )
    dataset = supervision.DetectionDataset(classes, [str(photo.path) for photo in photos], annotations)
    dataset.as_coco(annotations_path=str(coco / "instances_val.json"), approximation_percentage=0)
    # It writes the names alone; where the photos are is for the user to say.
    described = yaml.safe_load((yolo / "data.yaml").read_text())
    (yolo / "data.yaml").write_text(yaml.safe_dump(described | {"val": "images/val"}))
    read = supervision.DetectionDataset.from_coco(str(photos[0].path.parent), str(coco / "instances_val.json"), True)
    objects_of = {Path(path).name: detections for path, _, detections in read}
    for photo in photos:
        detections = objects_of[photo.path.name]
        numbers = [classes.index(read.classes[number]) for number in detections.class_id]
        _keep_read(out, "supervision-coco", photo, zip(detections.mask, numbers, strict=True))
        size = photo.mask.shape[1], photo.mask.shape[0]
        polygons = []
        for line in (yolo / "labels" / "val" / f"{photo.path.stem}.txt").read_text().splitlines():
            number, *fractions = line.split()
            corners = np.rint(np.array(fractions, float).reshape(-1, 2) * size).astype(int)
            polygons.append((supervision.polygon_to_mask(corners, size), int(number)))
        polygons.sort(key=lambda polygon: -int(polygon[0].sum()))
        _keep_read(out, "supervision-yolo", photo, iter(polygons))


def write_labelme(classes: list[str], photos: list[Photo], out: Path) -> None:
    """LabelMe's own label file: masks in their boxes, and polygons."""
    from labelme import LabelFile, utils

    for name in ("labelme-masks", "labelme-polygons"):
        folder = out / name / "val"
        folder.mkdir(parents=True)
        for photo in photos:
            shapes = []
            for part in photo.parts:
                common: dict[str, Any] = {"label": classes[part.number], "group_id": None, "flags": {}}
                if name == "labelme-polygons":
                    shapes.append(common | {"shape_type": "polygon", "points": part.ring.tolist()})
                    continue
                rows, columns = np.nonzero(photo.pixels(part))
                (top, left), (bottom, right) = (rows.min(), columns.min()), (rows.max(), columns.max())
                cut = photo.pixels(part)[top : bottom + 1, left : right + 1]
                points = [[float(left), float(top)], [float(right), float(bottom)]]
                packed = utils.img_arr_to_b64(cut.astype(np.uint8))
                shapes.append(common | {"shape_type": "mask", "points": points, "mask": packed})
            shutil.copy(photo.path, folder)
            height, width = photo.mask.shape
            file = LabelFile()
            file.save(
                filename=str(folder / f"{photo.path.stem}.json"),
                shapes=shapes,
                image_path=photo.path.name,
                image_height=height,
                image_width=width,
            )
            if name == "labelme-polygons":
                read = LabelFile(str(folder / f"{photo.path.stem}.json"))
                numbers, _ = utils.shapes_to_label(
                    photo.mask.shape, read.shapes, {it: i + 1 for i, it in enumerate(classes)}
                )
                _keep_read(out, name, photo, ((numbers == i + 1, i) for i in range(len(classes))))


def write_label_studio(classes: list[str], photos: list[Photo], out: Path) -> None:
    """Label Studio's converter: brushes (one for each class of a photo), and polygons from the COCO file."""
    from label_studio_sdk.converter import Converter
    from label_studio_sdk.converter.brush import mask2rle
    from label_studio_sdk.converter.imports.coco import convert_coco_to_ls

    tasks = []
    for photo in photos:
        height, width = photo.mask.shape
        common = {"to_name": "image", "from_name": "brush", "type": "brushlabels", "image_rotation": 0}
        common |= {"original_width": width, "original_height": height}
        regions = []
        for number in np.unique(photo.mask).tolist():
            packed = mask2rle(np.where(photo.mask == number, 255, 0).astype(np.uint8))
            value = {"format": "rle", "rle": packed, "brushlabels": [classes[number]]}
            regions.append(common | {"id": f"{photo.path.stem}-{number}", "value": value})
        address = f"/data/local-files/?d=val/{photo.path.name}"
        tasks.append({"data": {"image": address, "split": "val"}, "annotations": [{"result": regions}]})
    for name in ("label-studio-brush", "label-studio-polygons"):
        (out / name).mkdir()
    (out / "label-studio-brush" / "project.json").write_text(json.dumps(tasks))
    project = out / "label-studio-polygons" / "project.json"
    convert_coco_to_ls(str(out / "coco-polygons" / "instances_val.json"), str(project))
    tasks = json.loads(project.read_text())
    for number, task in enumerate(tasks):  # what the server adds when the tasks are imported and exported again
        task["id"] = number
        task["data"]["split"] = "val"
        task["annotations"][0] |= {"id": number, "completed_by": 1, "was_cancelled": False}
    project.write_text(json.dumps(tasks))
    config = project.with_name("project.label_config.xml")
    converter = Converter(config.read_text(), str(out), download_resources=False)
    converter.convert_to_coco(str(project), str(out / "label-studio-coco"), is_dir=False)
    config.unlink()
    # Its COCO file names the photos by their addresses; the import finds them by the end of the path.
    written = out / "label-studio-coco"
    (written / "result.json").rename(written / "instances_val.json")


def write_cvat_sdk(classes: list[str], photos: list[Photo], out: Path) -> None:
    """CVAT's XML as its documentation shows it, masks packed by cvat-sdk."""
    from xml.etree import ElementTree

    from cvat_sdk.masks import encode_mask

    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    labels = ElementTree.SubElement(ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task"), "labels")
    for name in classes:
        ElementTree.SubElement(ElementTree.SubElement(labels, "label"), "name").text = name
    for index, photo in enumerate(photos):
        height, width = photo.mask.shape
        image = ElementTree.SubElement(
            root,
            "image",
            {"id": str(index), "name": photo.path.name, "subset": "val", "width": str(width), "height": str(height)},
        )
        for part in photo.parts:
            *runs, left, top, right, bottom = map(int, encode_mask(photo.pixels(part)))
            box = {"left": left, "top": top, "width": right - left + 1, "height": bottom - top + 1, "z_order": 0}
            attributes = {
                "label": classes[part.number],
                "source": "manual",
                "occluded": "0",
                "rle": ", ".join(map(str, runs)),
            }
            ElementTree.SubElement(image, "mask", attributes | {key: str(value) for key, value in box.items()})
    (out / "cvat-sdk-masks").mkdir()
    ElementTree.ElementTree(root).write(out / "cvat-sdk-masks" / "annotations.xml")


def write_datumaro(classes: list[str], photos: list[Photo], out: Path) -> None:
    """datumaro: CVAT's XML, with polygons and with masks; CVAT's PNG masks and COCO files; COCO panoptic."""
    import datumaro

    for name, kind in (
        ("cvat-polygons", "cvat"),
        ("cvat-masks", "cvat"),
        ("cvat-png", "voc_segmentation"),
        ("coco-panoptic", "coco_panoptic"),
        ("coco-brush", "coco_instances"),
    ):
        items = []
        for photo in photos:
            shapes: list[Any] = []
            for order, part in enumerate(photo.parts):
                common = {"label": part.number, "z_order": order, "id": order + 1, "group": order + 1}
                if name == "cvat-polygons":
                    shapes.append(datumaro.Polygon(part.ring.ravel().tolist(), **common))
                else:
                    shapes.append(datumaro.Mask(photo.pixels(part), **common))
            media = datumaro.Image.from_file(str(photo.path))
            items.append(datumaro.DatasetItem(photo.path.stem, subset="val", annotations=shapes, media=media))
        dataset = datumaro.Dataset.from_iterable(items, categories=classes, media_type=datumaro.Image)
        dataset.export(str(out / name), kind, save_media=True)


def write(dataset: Path, out: Path, every: int) -> None:
    """Every format into a folder of its own below `out`."""
    warnings.simplefilter("ignore")
    classes, photos = photos_of(dataset, every)
    out.mkdir(parents=True)
    for writer in (write_coco, write_supervision, write_labelme, write_label_studio, write_cvat_sdk, write_datumaro):
        print(writer.__name__, round(time.process_time()), flush=True)
        writer(classes, photos, out)
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    (out / "versions.json").write_text(json.dumps(versions))


def measure(dataset: Path, out: Path, every: int, record: Path | None) -> None:
    """Import every format and compare with the dataset's own masks; exit code 1 where one falls short."""
    info = yaml.safe_load((dataset / "dataset.yaml").read_text())
    expected = {}
    for path in sorted((dataset / "labels" / "val").iterdir())[::every]:
        mask = np.array(Image.open(path))
        mask[mask == info.get("ignore_index", 255)] = 255
        expected[path.stem] = mask
    rows = {}
    for folder in sorted(path for path in out.iterdir() if path.is_dir() and path.name != "read"):
        row = _imported(folder, dataset, info["classes"], expected)
        read = {path.stem: np.array(Image.open(path)) for path in (out / "read" / folder.name).glob("*.png")}
        if read:
            by_tool = {stem: np.where(mask == len(info["classes"]), 255, mask) for stem, mask in read.items()}
            row["equal_in_the_tool"] = _equal(by_tool, expected)
        goal = 1.0 if folder.name in EXACT else 0.999
        row["ok"] = bool(row["equal"] >= goal and row["classes"] and row["split"] and row["photos"])
        rows[folder.name] = row
        print(f"{folder.name}: {row}", flush=True)
    if record:
        commit = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        versions = json.loads((out / "versions.json").read_text())
        content = {
            "commit": commit,
            "photos": len(expected),
            "versions": versions,
            "formats": rows,
        }
        record.write_text(json.dumps(content, indent=2) + "\n")
    if not all(row["ok"] for row in rows.values()):
        raise SystemExit("a format falls short")


def _imported(folder: Path, dataset: Path, classes: list[str], expected: dict[str, np.ndarray]) -> dict[str, Any]:
    """What the command line makes of one format: fractions of equal pixels, and what was kept."""
    from typer.testing import CliRunner

    from semseg_app.cli.main import app

    photos = dataset / "images" / "val"
    target = folder.with_name(f"{folder.name}-imported")
    options = OPTIONS.get(folder.name, [])
    command = ["data", "import", str(folder), "-o", str(target), "--images", str(photos), "--no-check", "--json"]
    command += [*options, "--map", f"{VOID}=ignore", "--background", "ignore"]
    result = CliRunner().invoke(app, command)
    if result.exception:
        raise result.exception
    report = json.loads(result.stdout)
    try:
        names = yaml.safe_load((target / "dataset.yaml").read_text())["classes"]
        numbers = np.full(256, 255, np.uint8)
        numbers[: len(names)] = [classes.index(name) if name in classes else 254 for name in names]
        masks = {path.stem: numbers[np.array(Image.open(path))] for path in (target / "labels" / "val").iterdir()}
        written = {path.name: path.read_bytes() for path in (target / "images" / "val").iterdir()}
    finally:
        shutil.rmtree(target)
    return {
        "format": report["format"],
        "objects": report["objects"],
        "equal": _equal(masks, expected),
        "classes": sorted(names) == sorted(classes),
        "split": report["photos"]["written"].get("val") == len(masks) == len(expected),
        "photos": written == {path.name: path.read_bytes() for path in photos.iterdir() if path.stem in expected},
    }


def _equal(masks: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    """Fraction of the pixels of all photos that are the same; a photo that is missing has none."""
    same = sum(int((masks[stem] == mask).sum()) for stem, mask in expected.items() if stem in masks)
    return same / sum(mask.size for mask in expected.values())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["write", "measure"])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--every", type=int, default=1, help="take every so many-th photo")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    if arguments.what == "write":
        write(arguments.dataset, arguments.folder, arguments.every)
    else:
        measure(arguments.dataset, arguments.folder, arguments.every, arguments.json)


if __name__ == "__main__":
    main()
