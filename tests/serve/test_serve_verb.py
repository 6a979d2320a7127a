import socket

import pytest
import typer
from colour_engine import ColourEngine
from typer.testing import CliRunner

import semseg_app.inference.engines
import semseg_app.serve.server
from semseg_app.cli.serve import serve
from semseg_app.errors import UserError


def run(*arguments: str) -> None:
    app = typer.Typer()
    app.command()(serve)
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output


def test_options_reach_the_server(tmp_path, monkeypatch):
    opened, served = [], []
    engine = ColourEngine()

    def open_engine(*arguments):
        opened.append(arguments)
        return engine

    def run_server(engine, address, examples, **options):
        served.append((engine, address.getsockname()[0], [path.name for path in examples], options))
        address.close()

    monkeypatch.setattr(semseg_app.inference.engines, "open_engine", open_engine)
    monkeypatch.setattr(semseg_app.serve.server, "run_server", run_server)
    for name in ("b.JPG", "a.png", "notes.txt"):
        (tmp_path / name).touch()

    run("model", "--port", "0", "--examples", tmp_path)
    run(
        *("model", "--port", "0", "--host", "0.0.0.0", "--engine", "torch", "--device", "cpu", "--threads", "2"),
        *("--no-demo", "--max-megabytes", "0.5", "--max-megapixels", "1.5", "--precision", "int8", "--force"),
    )
    assert [(str(model), *rest) for model, *rest in opened] == [
        ("model", "auto", "auto", None, "auto", False),
        ("model", "torch", "cpu", 2, "int8", True),
    ]
    defaults = {"demo": True, "max_bytes": 32 * 2**20, "max_pixels": 32_000_000}
    assert served == [
        (engine, "127.0.0.1", ["a.png", "b.JPG"], defaults),
        (engine, "0.0.0.0", [], {"demo": False, "max_bytes": 2**19, "max_pixels": 1_500_000}),
    ]


def test_mistakes_are_one_line_that_names_the_fix(tmp_path):
    with pytest.raises(UserError, match=r"nowhere: no such folder; --examples takes a folder of photos$"):
        run("model", "--examples", tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"holds no photos \(\.jpg, "):
        run("model", "--examples", tmp_path)
    with pytest.raises(UserError, match=r"no model here: no such model folder or \.onnx file$"):
        run(tmp_path / "no model here", "--port", "0")
    # Before the model is loaded: that can take a while.
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(UserError, match="is in use; stop what runs there"),
    ):
        run(tmp_path / "no model here", "--port", taken.getsockname()[1])
