"""Push; on another machine, without the training extra, all that the card says works and gives the same masks."""

import io
import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hub_stand_in import StandIn
from huggingface_hub import ModelCard
from PIL import Image
from support.hub_machines import WITHOUT_TRAINING, Machine

from semseg_app.inference.engines.open import open_engine

RECIPE = """
name: rgb
license: mit
data: {root: DATA}
model: {architecture: segformer, encoder: tu-test_efficientnet, weights: null, decoder_channels: 32}
view: {crop: [32, 64]}
schedule: {steps: 3}
batch_size: 2
precision: fp32
threads: 1
"""


@pytest.fixture
def trained(tiny_dataset: Path, tmp_path: Path) -> Path:
    """A teacher and its student, really trained for some steps, and the student exported."""
    pytest.importorskip("torch")
    from semseg_app.export.pipeline import export_verified
    from semseg_app.training.loop import train
    from semseg_app.training.recipe import load_recipe

    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.replace("DATA", str(tiny_dataset)))
    train(load_recipe(str(recipe), [f"output={tmp_path / 'teacher'}"]), say=lambda line: None)
    distil = ["name=student", "method.name=distillation", f"method.teacher={tmp_path / 'teacher' / 'best'}"]
    train(load_recipe(str(recipe), [*distil, f"output={tmp_path / 'student'}"]), say=lambda line: None)
    folder = tmp_path / "student" / "best"
    ((_, entry),) = export_verified(folder, "fp32")
    assert entry["verdict"] == "passed", entry["reasons"]
    return folder


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def run_shell(block: str, machine: Machine) -> None:
    """A block of the card, line by line; what serves stays up until its end. Another port, in case 7860 is taken."""
    port, servers = str(free_port()), []
    try:
        for line in block.replace("7860", port).splitlines():
            if line.startswith("semseg serve"):
                command = ["bash", "-c", f"exec {line} --port {port} --no-demo"]
                servers.append(subprocess.Popen(command, cwd=machine.place, env=machine.environment))
                deadline = time.monotonic() + 60
                while time.monotonic() < deadline:
                    try:
                        urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=5).close()
                        break
                    except OSError:
                        time.sleep(0.1)
            else:
                subprocess.run(["bash", "-euc", line], cwd=machine.place, env=machine.environment, check=True)
    finally:
        for server in servers:
            server.send_signal(signal.SIGTERM)
            server.wait(30)


def test_what_the_card_says(hub: StandIn, machine: Callable[..., Machine], model: Path) -> None:
    push_and_use_elsewhere(hub, machine, model)


@pytest.mark.slow
def test_trained_and_exported(hub: StandIn, machine: Callable[..., Machine], trained: Path) -> None:
    files = push_and_use_elsewhere(hub, machine, trained)
    lineage = json.loads(files["config.json"])["provenance"]["training"]["lineage"]
    assert [teacher["name"] for teacher in lineage["teachers"]] == ["rgb"]
    assert lineage["weights"] == [{"name": "rgb", "role": "teacher", "license": "mit", "link": None}]


@pytest.mark.slow
def test_a_teacher_of_the_hub(hub: StandIn, machine: Callable[..., Machine], trained: Path, tmp_path: Path) -> None:
    here = machine()
    teacher = tmp_path / "teacher" / "best"
    sent = here.full("push", teacher, "ann/teacher", "--weights-only", "--data-license", "mit", "--tag", "v1")
    assert sent.returncode == 0, sent.stderr
    done = here.full("train", tmp_path / "recipe.yaml", "method.name=distillation", "method.teacher=ann/teacher@v1")
    assert done.returncode == 0, done.stderr
    lineage = json.loads((here.place / "runs" / "rgb" / "best" / "config.json").read_text())["provenance"]["training"][
        "lineage"
    ]
    assert [one["repo"] for one in lineage["teachers"]] == ["ann/teacher"]
    drafted = here.full("push", "runs/rgb/best", "ann/student", "--weights-only", "--data-license", "mit")
    assert drafted.returncode == 0, drafted.stderr
    card = ModelCard(hub.repo("ann/student").files()["README.md"].decode())
    assert card.data.to_dict()["base_model"] == ["ann/teacher"]
    # What writes beside a model works on a copy, not in the cache.
    verified = here.full("export", "ann/student")
    assert "was copied to student, which is written to" in verified.stderr
    assert (here.place / "student" / "onnx" / "model.onnx").is_file()
    assert not list((here.place / "hf").rglob("*.onnx"))


def push_and_use_elsewhere(hub: StandIn, machine: Callable[..., Machine], model: Path) -> dict[str, bytes]:
    """What is on the Hub afterwards."""
    pushed = machine().semseg("push", model, "ann/student", "--public", "--data-license", "cc0-1.0")
    assert pushed.returncode == 0, pushed.stderr
    files = hub.repo("ann/student").files()
    assert files["onnx/model.onnx"] == (model / "onnx" / "model.onnx").read_bytes()
    there = machine("there", token=None)
    (there.place / "bin").mkdir()
    (there.place / "bin" / "semseg").write_text(f"#!{sys.executable}\n{WITHOUT_TRAINING}")
    (there.place / "bin" / "semseg").chmod(0o755)
    there.environment["PATH"] = f"{there.place / 'bin'}:{there.environment['PATH']}"
    pixels = np.random.default_rng(5).integers(0, 256, (61, 83, 3), np.uint8)
    photo = io.BytesIO()
    Image.fromarray(pixels).save(photo, "PNG")  # its name does not matter, and nothing is lost
    (there.place / "photo.jpg").write_bytes(photo.getvalue())
    expected = open_engine(model, "onnxruntime").infer(pixels[None])

    card = ModelCard(files["README.md"].decode())
    blocks = re.findall(r"^```(sh|python)\n(.*?)^```", card.text, re.MULTILINE | re.DOTALL)
    assert [language for language, _ in blocks] == ["sh", "python", "python", "sh"]
    assert not set(re.findall(r"^```(\w+)", card.text, re.MULTILINE)) - {"sh", "python", "console", "yaml"}
    masks = []
    for language, block in blocks:
        if language == "sh":
            run_shell(block, there)
        else:
            blocked = WITHOUT_TRAINING.partition("from semseg_app")[0]
            there.python(
                f"{blocked}\nimport numpy as np\n{block}\nnp.save('classes.npy', classes.reshape(classes.shape[-2:]))"
            )
            masks.append(np.load(there.place / "classes.npy"))
            if (there.place / "mask.png").exists():
                palette = np.array(json.loads(files["config.json"])["labels"]["palette"], np.uint8)
                shown = np.asarray(Image.open(there.place / "mask.png"))
                np.testing.assert_array_equal(shown, palette[expected.classes[0]])
                (there.place / "mask.png").unlink()
    masks.append(np.asarray(Image.open(there.place / "results" / "masks" / "photo.png")))
    masks.append(np.asarray(Image.open(there.place / "mask.png")))  # of the server
    for mask in masks:
        np.testing.assert_array_equal(mask, expected.classes[0])
    assert len(masks) == 4
    return files
