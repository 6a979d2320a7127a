import hashlib
import re
import socket

import pytest
import typer
from PIL import Image
from support.color_engine import ColorEngine
from typer.testing import CliRunner

import semseg_app.inference.engines
import semseg_app.serve.server
from semseg_app.cli.serve import serve
from semseg_app.errors import UserError
from semseg_app.serve.config import ServeConfig


def run(*arguments: str) -> str:
    """What the command writes to stderr."""
    app = typer.Typer()
    app.command()(serve)
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stderr


def test_options_reach_the_server(tmp_path, monkeypatch):
    opened, served = [], []

    def open_engine(*arguments):
        opened.append(arguments)
        return ColorEngine()

    def run_server(models, address):
        served.append((models, address.getsockname()[0]))
        address.close()

    monkeypatch.setattr("semseg_app.inference.engines.halves.open_halves", open_engine)
    monkeypatch.setattr(semseg_app.serve.server, "run_server", run_server)
    for name in ("b.JPG", "a.png"):
        Image.new("RGB", (3, 2)).save(tmp_path / name)
    for name in ("notes.txt", "._a.png", "cut.jpg"):
        (tmp_path / name).write_text("no photo")
    model, other = tmp_path / "model", tmp_path / "other"
    model.mkdir()
    other.mkdir()

    said = run(model, "--port", "0", "--examples", tmp_path)
    assert re.fullmatch(rf"{tmp_path}/cut.jpg: is no example on the page: .*\n", said)
    run(
        *(model, other, "--name", "big", "--name", "small", "--port", "0", "--host", "0.0.0.0", "--engine", "torch"),
        *("--device", "cpu", "--threads", "2", "--no-demo", "--max-megabytes", "0.5", "--max-megapixels", "1.5"),
        *("--precision", "int8", "--force", "--max-requests", "3", "--timeout", "2.5", "--max-batch", "4"),
        *("--max-delay-ms", "7", "--warm-up", "640x480", "--warm-up", "64x32"),
    )
    assert opened == [
        (model, "auto", "auto", None, "auto", False),
        (model, "torch", "cpu", 2, "int8", True),
        (other, "torch", "cpu", 2, "int8", True),
    ]
    (first, host), (second, other_host) = served
    assert (host, other_host) == ("127.0.0.1", "0.0.0.0")
    assert (first.names(), second.names()) == (["colors"], ["big", "small"])
    # Without options the command line serves as Python does.
    assert first.config == ServeConfig(examples=[tmp_path / "a.png", tmp_path / "b.JPG"])
    assert second.config == ServeConfig(
        demo=False, max_bytes=2**19, max_pixels=1_500_000, max_requests=3, timeout_s=2.5, max_batch=4, max_delay_s=0.007
    )


def test_access_options_reach_the_server(tmp_path, monkeypatch):
    served = []

    def run_server(models, address):
        served.append(models.config)
        address.close()

    monkeypatch.setattr("semseg_app.inference.engines.halves.open_halves", lambda *arguments: ColorEngine())
    monkeypatch.setattr(semseg_app.serve.server, "run_server", run_server)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "token")
    (tmp_path / "model").mkdir()
    (tmp_path / "keys.txt").write_text(hashlib.sha256(b"the-key-of-alice").hexdigest() + " alice\n")
    run(
        *(tmp_path / "model", "--port", "0", "--api-keys", tmp_path / "keys.txt", "--rate-limit", "1"),
        *("--cors-origin", "https://a.example", "--cors-origin", "https://b.example", "--root-path", "/semseg/"),
        *("--body-timeout", "5", "--label-studio-url", "http://labels:8080", "--log-format", "json"),
        *("--max-job-megabytes", "2", "--max-job-megapixels", "3"),
    )
    monkeypatch.setenv("SEMSEG_API_KEYS", "a-key-of-sixteen-characters")
    run(tmp_path / "model", "--port", "0")
    config = served[0]
    assert config.keys.name_of("the-key-of-alice") == "alice"
    assert [config.keys.take("alice") for _ in range(2)] == [0, 60]
    assert config.cors_origins == ("https://a.example", "https://b.example")
    assert (config.root_path, config.body_timeout_s) == ("/semseg", 5)
    assert (config.label_studio_url, config.label_studio_token) == ("http://labels:8080", "token")
    assert (config.json_logs, config.max_job_bytes, config.max_job_pixels) == (True, 2 * 2**20, 3_000_000)
    assert served[1].keys.name_of("a-key-of-sixteen-characters") == "key-1"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rate-limit", "5"], "--rate-limit is for each API key; give --api-keys or SEMSEG_API_KEYS too"),
        (["--cors-origin", "a.example"], "--cors-origin 'a.example': give an origin such as https://app.example"),
        (["--root-path", "semseg"], "--root-path 'semseg': give the path"),
        (["--label-studio-url", "labels:8080"], "--label-studio-url 'labels:8080': give an address"),
        (["--api-keys", "no/such/file"], "no/such/file: cannot be read"),
    ],
)
def test_access_mistakes(arguments, words):
    with pytest.raises(UserError, match=re.escape(words)):
        run("model", "--port", "0", *arguments)


def test_mistakes_are_one_line_that_names_the_fix(tmp_path):
    with pytest.raises(UserError, match=r"nowhere: no such folder; --examples takes a folder of photos$"):
        run("model", "--examples", tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"holds no photos that can be read \(\.jpg, "):
        run("model", "--examples", tmp_path)
    with pytest.raises(UserError, match=r"no model here: no such model folder or \.onnx file"):
        run(tmp_path / "no model here", "--port", "0")
    for arguments, words in {
        ("a", "b", "--name", "one"): r"^2 models and 1 names; give one --name for each",
        ("a", "--warm-up", "640"): r"^--warm-up '640': give width and height, such as 640x480$",
    }.items():
        with pytest.raises(UserError, match=words):
            run(*arguments, "--port", "0")
    # Before the model is loaded: that can take a while.
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(UserError, match="is in use; stop what runs there"),
    ):
        run(tmp_path / "no model here", "--port", taken.getsockname()[1])
