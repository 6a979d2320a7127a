"""`semseg export --to web`: what is in the page's folder, where the runtime comes from, and what is refused."""

import base64
import hashlib
import http.server
import io
import json
import re
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from support.tiny_models import METADATA
from support.tiny_models import make_graph as make_graph
from support.tiny_models import network_folder as network_folder
from typer.testing import CliRunner

from semseg_app import artifact
from semseg_app.cli.export import export
from semseg_app.errors import UserError
from semseg_app.export.web import runtime
from semseg_app.inference.engines.base import GRAPHS

CONTENT = {name: f"the content of {name}".encode() for name in runtime.FILES}

app = typer.Typer()
app.command()(export)


def package(content: dict[str, bytes]) -> bytes:
    """An npm package: a tarball, everything in package/."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, file in {"package.json": b"{}", **{f"dist/{name}": file for name, file in content.items()}}.items():
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(file)
            archive.addfile(entry, io.BytesIO(file))
    return packed.getvalue()


class Registry(http.server.ThreadingHTTPServer):
    """Answers with one package, and remembers what it was asked for."""

    def __init__(self, content: bytes):
        self.content, self.asked = content, []
        super().__init__(("127.0.0.1", 0), Answer)


class Answer(http.server.BaseHTTPRequestHandler):
    server: Registry

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.server.content)

    def log_message(self, *arguments: Any) -> None: ...


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """A stand-in for npm's, whose package is the published one as far as the pinned hash goes."""
    content = package(CONTENT)
    digest = base64.b64encode(hashlib.sha512(content).digest()).decode()
    monkeypatch.setattr(runtime, "INTEGRITY", f"sha512-{digest}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with Registry(content) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("npm_config_registry", f"http://127.0.0.1:{server.server_port}/")
        yield server
        server.shutdown()


@pytest.fixture
def model(network_folder: Path, make_graph: Any) -> Path:
    """A model folder whose int8 graph has passed, as its manifest says."""
    graph = make_graph(network_folder / GRAPHS["int8"], metadata={**METADATA, "precision": "int8"})
    hashes = {
        key: hashlib.sha256(file.read_bytes()).hexdigest()
        for key, file in (("sha256", graph), ("source_sha256", network_folder / artifact.WEIGHTS))
    }
    entry = {"verdict": "passed", "reasons": [], **hashes}
    artifact.write_manifest(network_folder, {"format_version": 1, "exports": {"onnx/model-int8.onnx": entry}})
    return network_folder


def to_web(model: Path, *options: Any) -> dict[str, Any]:
    result = CliRunner().invoke(app, [str(model), "--to", "web", "--json", *map(str, options)])
    if result.exception:
        raise result.exception
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def refused(model: Path, *options: Any) -> str:
    with pytest.raises(UserError) as caught:
        to_web(model, *options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_folder_is_the_page_its_graph_and_the_runtime(model: Path, registry: Registry, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    exif = Image.Exif()
    exif[0x010F] = "a secret camera"
    Image.fromarray(np.full((900, 1800, 3), 90, np.uint8)).save(photos / "first <1>.jpg", exif=exif)
    (photos / "notes.txt").write_text("no photo")

    answer = to_web(model, "--examples", photos)
    assert registry.asked == [f"/onnxruntime-web/-/onnxruntime-web-{runtime.VERSION}.tgz"]
    page = model / "web"
    assert answer["file"] == str(page.resolve())
    graph = (model / GRAPHS["int8"]).read_bytes()
    name = f"model-{hashlib.sha256(graph).hexdigest()[:12]}.onnx"
    found = files(page)
    ours = {"index.html", "app.js", "worker.js", "style.css"}
    carried = {f"runtime/{file}" for file in (*runtime.FILES, "LICENSE.txt")}
    assert found.keys() == ours | carried | {"model.json", name, "examples/1.jpg"}
    assert found[name] == graph
    assert all(found[f"runtime/{file}"] == content for file, content in CONTENT.items())
    assert b"Copyright (c) Microsoft Corporation" in found["runtime/LICENSE.txt"]
    described = json.loads(found["model.json"])
    assert described["classes"] == ["red", "green", "blue"]
    assert described["palette"] == [[200, 0, 0], [0, 200, 0], [0, 0, 200]]
    assert (described["name"], described["precision"], described["graph"]) == ("tiny", "int8", name)
    assert described["examples"] == [{"file": "examples/1.jpg", "name": "first <1>"}]
    with Image.open(page / "examples" / "1.jpg") as example:
        assert (example.size, dict(example.getexif())) == ((1280, 640), {})

    # Nothing names another place than this folder (an XML namespace is a name, not an address), and every file that
    # the page names is there.
    for file in ours:
        text = found[file].decode()
        assert set(re.findall(r"""(?:https?:)?//[^\s'"`]+\.[^\s'"`]+""", text)) <= {"http://www.w3.org/2000/svg"}
        for named in re.findall(r"""(?:src|href|import|Worker|fetch)[ (=].*?["']([\w./-]+\.\w+)["']""", text):
            assert named.removeprefix("./") in found, f"{file}: {named}"
    assert "connect-src 'self'" in found["index.html"].decode()


def test_the_second_page_needs_no_network_and_replaces_the_first(model: Path, registry: Registry) -> None:
    to_web(model)
    (model / "web" / "left").write_text("over")
    registry.shutdown()
    registry.server_close()
    to_web(model)
    assert len(registry.asked) == 1
    assert not (model / "web" / "left").exists()
    assert {path.name for path in model.iterdir() if path.name.startswith(".")} == set()


def test_the_runtime_is_the_published_one_or_none(
    model: Path, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine, cached = registry.content, tmp_path / "cache" / "semseg_app" / runtime.PACKAGE
    registry.content = package({**CONTENT, runtime.FILES[0]: b"evil"})
    assert re.search(r"onnxruntime-web-[\d.]+\.tgz: refused: .* \(its sha512 differs\)", refused(model))
    assert not cached.exists()
    registry.content = genuine
    to_web(model)
    cached.write_bytes(genuine[:-1])
    assert refused(model) == (
        f"{cached}: not onnxruntime-web {runtime.VERSION} as it was published (its sha512 differs); "
        "delete it and run again"
    )
    cached.unlink()

    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9")
    message = refused(model)
    assert "cannot be fetched ([Errno 111] Connection refused)" in message
    assert f"npm pack onnxruntime-web@{runtime.VERSION}` and give the folder of its file with --runtime" in message
    mine = tmp_path / "mine"
    mine.mkdir()
    assert refused(model, "--runtime", mine).startswith(f"{mine / runtime.PACKAGE}: missing; run `npm pack")
    (mine / runtime.PACKAGE).write_bytes(genuine)
    assert to_web(model, "--runtime", mine)["verdict"] == "passed"
    (mine / runtime.PACKAGE).write_bytes(genuine + b"\0")
    assert "its sha512 differs); delete it and run `npm pack" in refused(model, "--runtime", mine)


def test_what_cannot_become_a_page_is_refused_before_anything_is_written(
    model: Path, registry: Registry, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "model.json").write_text('{"producer": "somebody"}')
    assert "there is something else already; choose a new folder" in refused(model, "-o", other)
    assert [path.name for path in other.iterdir()] == ["model.json"]
    assert "not a folder of photos" in refused(model, "--examples", tmp_path / "nowhere")
    assert "holds no .bmp" in refused(model, "--examples", other)
    (other / "no.jpg").write_bytes(b"no photo")
    assert "no.jpg: unreadable image" in refused(model, "--examples", other)
    assert "--out x: only for --to web; --to onnx writes" in refused(model, "--to", "onnx", "--out", "x")
    assert not (model / "web").exists()

    # A graph of other weights than it was verified against has not passed, and int8 is not made without labels.
    weights = model / artifact.WEIGHTS
    weights.write_bytes(weights.read_bytes() + b" ")
    assert "add --data DATASET" in refused(model)
    assert not (model / "web").exists()
