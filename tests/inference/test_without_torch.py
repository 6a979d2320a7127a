import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

SERVING = """
import sys
sys.modules["torch"] = None  # what an import of torch meets on a machine that serves
import numpy as np
from semseg_app import masks
from semseg_app.metrics import confusion as metrics
from semseg_app.plots import overlays as visualize
from semseg_app.errors import UserError
from semseg_app.inference.engines.open import open_engine
from semseg_app.inference.predictor import Predictor

graph, folder = sys.argv[1:]
engine = open_engine(graph)
image = np.zeros((50, 70, 3), np.uint8)
image[:, 30:, 2] = 255
prediction = Predictor(engine, tile=32, overlap=8).predict(image)
assert visualize.class_shares(prediction.classes, 3)[2] == 40 / 70
assert masks.indexed_png(prediction.classes, engine.labels.palette)[1:4] == b"PNG"
assert visualize.overlay(image, prediction.classes, engine.labels.palette).shape == image.shape
matrix = metrics.ConfusionMatrix(3)
matrix.add(prediction.classes, prediction.classes)
assert matrix.result().miou == 1
assert open_engine(folder).kind == "onnxruntime"
try:
    open_engine(folder, kind="torch")
except UserError as error:
    print(error)
assert not [name for name in sys.modules if name.split(".")[0] in ("torchvision", "segmentation_models_pytorch")]
"""


def test_the_serving_path_needs_no_torch(make_graph: Callable[..., Path], network_folder: Path) -> None:
    make_graph(network_folder / "onnx" / "model.onnx")
    arguments = [sys.executable, "-W", "error", "-c", SERVING, str(make_graph()), str(network_folder)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "pip install 'semseg-app[train]'" in done.stdout
    assert len(done.stdout.splitlines()) == 1
