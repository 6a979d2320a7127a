"""Copy-paste use of a published model: by this package, by ONNX Runtime alone, over HTTP."""

INSTALL = """```console
pip install 'semseg-app[serve,cpu]'
```"""

PACKAGE = """```sh
semseg predict {repo} photo.jpg -o results
```

```python
import semseg_app

model = semseg_app.load("{repo}")
result = model.predict("photo.jpg")
print(result)
result.overlay().save("overlay.jpg")
classes, confidence = result  # uint8 [H, W]; model.labels.classes has the names, confidence 255 is certain
```"""

RUNTIME = """```python
import json
import numpy as np, onnxruntime
from huggingface_hub import hf_hub_download
from PIL import Image

session = onnxruntime.InferenceSession(hf_hub_download("{repo}", "{graph}"))
labels = json.load(open(hf_hub_download("{repo}", "config.json"), "rb"))["labels"]
photo = np.asarray(Image.open("photo.jpg").convert("RGB"))  # uint8 [H, W, 3], any size
classes, confidence = session.run(["classes", "confidence"], {{"images": photo[None]}})  # uint8 [1, H, W]
Image.fromarray(np.array(labels["palette"], np.uint8)[classes[0]]).save("mask.png")
```"""

HTTP = """```sh
semseg serve {repo}
curl --fail -F image=@photo.jpg http://127.0.0.1:7860/v1/segment -o mask.png
```"""


def usage(repo: str, graphs: list[str]) -> str:
    """The section of the card. Without an exported graph the package alone, with torch, can run the model."""
    if not graphs:
        return f"## Use\n\n{INSTALL.replace('serve,cpu', 'train')}\n\n{PACKAGE.format(repo=repo)}"
    graph = "onnx/model.onnx" if "onnx/model.onnx" in graphs else graphs[0]
    return "\n\n".join(
        [
            "## Use",
            INSTALL,
            PACKAGE.format(repo=repo),
            "With ONNX Runtime alone (normalizing, padding and upsampling are inside the graph):",
            RUNTIME.format(repo=repo, graph=graph),
            "Over HTTP, with a web page at http://127.0.0.1:7860:",
            HTTP.format(repo=repo),
        ]
    )
