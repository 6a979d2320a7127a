"""The Space: what is uploaded runs by itself and gives the masks of the engine."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from hub_stand_in import StandIn
from huggingface_hub import RepoCard
from PIL import Image
from support.hub_machines import Machine

from semseg_app.inference.engines.open import open_engine


@pytest.mark.slow
def test_what_is_uploaded_runs_by_itself(
    hub: StandIn, machine: Callable[..., Machine], model: Path, tmp_path: Path
) -> None:
    here = machine()
    assert here.semseg("push", model, "ann/rgb").returncode == 0
    done = here.semseg("space", "ann/rgb", "ann/look")
    assert done.returncode == 0, done.stderr
    repo = hub.repo("ann/look", "space")
    assert (repo.private, repo.settings["sdk"]) == (True, "gradio")
    files = repo.files()
    card = RepoCard(files["README.md"].decode()).data.to_dict()
    assert card | {"sdk_version": "", "title": ""} == {
        "sdk": "gradio",
        "sdk_version": "",
        "title": "",
        "app_file": "app.py",
        "python_version": "3.11",
        "license": "apache-2.0",
        "models": ["ann/rgb"],
        "tags": ["semantic-segmentation"],
    }
    place = tmp_path / "space"
    place.mkdir()
    for name, content in files.items():
        (place / name).write_bytes(content)
    pixels = np.random.default_rng(2).integers(0, 256, (40, 70, 3), np.uint8)
    alpha = np.full((40, 70, 1), 255, np.uint8)
    alpha[:, :20] = 0
    Image.fromarray(np.dstack([pixels, alpha])).save(tmp_path / "photo.png")
    pixels[:, :20] = 255  # transparency is laid over white, as everywhere
    Image.fromarray(np.full((8, 8), 1000, np.uint16)).save(tmp_path / "deep.png")
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    blocked = "import sys, runpy; sys.modules['semseg_app'] = None; runpy.run_path('app.py', run_name='__main__')"
    quiet = {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_SERVER_PORT": str(port), "HF_HUB_OFFLINE": "1"}
    page = subprocess.Popen([sys.executable, "-c", blocked], cwd=place, env=os.environ | quiet)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                client = Client(f"http://127.0.0.1:{port}", verbose=False, download_files=str(tmp_path))
                break
            except Exception:
                assert time.monotonic() < deadline
                assert page.poll() is None
                time.sleep(0.2)
        _, mask, shares, _ = client.predict(handle_file(tmp_path / "photo.png"), api_name="/segment")
        with pytest.raises(AppError, match="16 bits or more"):
            client.predict(handle_file(tmp_path / "deep.png"), api_name="/segment")
        client.close()
    finally:
        page.terminate()
        page.wait(30)
    engine = open_engine(model, "onnxruntime")
    classes = engine.infer(pixels[None]).classes[0]
    shown = np.asarray(Image.open(mask if isinstance(mask, str) else mask["path"]).convert("RGB"))
    np.testing.assert_array_equal(shown, np.array(engine.labels.palette, np.uint8)[classes])
    assert shares["label"] == engine.labels.classes[np.bincount(classes.ravel()).argmax()]


def test_what_is_not_verified_is_not_shown(machine: Callable[..., Machine], model: Path) -> None:
    here = machine()
    assert here.semseg("space", model, "--out", "look").returncode == 0
    assert sorted(path.name for path in (here.place / "look").iterdir()) == [
        "README.md",
        "app.py",
        "model.onnx",
        "requirements.txt",
    ]
    (model / "onnx" / "model.onnx").write_bytes(b"another")
    changed, nowhere = here.mistakes(("space", model, "ann/look"), ("space", model))
    assert "is not the file that was verified" in changed
    assert "add user/space, or --out FOLDER" in nowhere
