"""Write the files of this folder: two generated streets as other people's tools write them.

    pip install supervision==0.31.2 label-studio-sdk==2.1.2
    python tests/data/importers/written_by_tools/write.py

masks/ holds what each tool was given: class numbers, and 255 for pixels of no class. test_written_by_tools.py imports
what the tools made of it. The photos are not kept (the import needs no more of them than their size), nor the white
space of the COCO file.
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import supervision
import yaml
from label_studio_sdk.converter.brush import image2annotation
from PIL import Image

from semseg_app.synthetic import generate

HERE = Path(__file__).parent
SIZE = (48, 64)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        streets = Path(name) / "streets"
        generate(streets, train=2, val=1, size=SIZE, seed=5)
        classes = yaml.safe_load((streets / "dataset.yaml").read_text())["classes"]
        (HERE / "masks").mkdir(exist_ok=True)
        photos, annotations, tasks = [], {}, []
        for path in sorted((streets / "images" / "train").iterdir()):
            mask = np.array(Image.open(streets / "labels" / "train" / f"{path.stem}.png"))
            Image.fromarray(mask).save(HERE / "masks" / f"{path.stem}.png", optimize=True)
            present = [index for index in range(len(classes)) if (mask == index).any()]
            objects = np.stack([mask == index for index in present])
            photos.append(str(path))
            annotations[str(path)] = supervision.Detections(
                xyxy=supervision.mask_to_xyxy(objects), mask=objects, class_id=np.array(present)
            )
            regions = []
            for index, pixels in zip(present, objects, strict=True):
                Image.fromarray(pixels.astype(np.uint8) * 255).save(Path(name) / "object.png")
                written = image2annotation(str(Path(name) / "object.png"), classes[index], "brush", "image")
                regions += written["result"]
            tasks.append({"data": {"image": f"/data/local-files/?d={path.name}"}, "annotations": [{"result": regions}]})
        (HERE / "label_studio.json").write_text(json.dumps(tasks, separators=(",", ":")) + "\n")
        dataset = supervision.DetectionDataset(classes=classes, images=photos, annotations=annotations)
        coco = HERE / "supervision_coco.json"
        dataset.as_coco(annotations_path=str(coco))
        coco.write_text(json.dumps(json.loads(coco.read_text()), separators=(",", ":")) + "\n")
        dataset.as_yolo(
            annotations_directory_path=str(HERE / "supervision_yolo"),
            data_yaml_path=str(HERE / "supervision_yolo" / "data.yaml"),
            approximation_percentage=0,
        )


if __name__ == "__main__":
    main()
