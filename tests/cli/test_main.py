"""The command line as a whole."""

import errno
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import typer
from support.in_process import semseg

from semseg_app.cli.main import app, main
from semseg_app.errors import UserError
from semseg_app.files import atomic_file, atomic_folder, require_writable

VERBS = ["check", "data", "train", "evaluate", "predict", "export", "benchmark", "serve", "demo", "doctor", "schema"]
VERBS += ["push", "pull", "space", "compare", "verify"]


def in_a_process(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "semseg_app.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_help_is_instant_and_names_every_verb():
    seconds = []  # of processor time: a busy machine must not decide
    for _ in range(3):
        before = os.times()
        result = in_a_process("--help")
        after = os.times()
        seconds.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert result.returncode == 0
    assert all(f"\n  {verb} " in result.stdout for verb in VERBS)
    assert min(seconds) < 0.4


def test_an_unknown_preset_is_told_at_once():
    """Before torch is imported. Time of the processor, which other work on the machine does not lengthen."""
    seconds = []
    for _ in range(3):
        before = os.times()
        result = in_a_process("train", "nosuch")
        after = os.times()
        seconds.append(sum(after[2:4]) - sum(before[2:4]))
    assert result.returncode == 2
    assert min(seconds) < 0.5


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb):
    shown = semseg(verb, "--help")
    assert shown.returncode == 0
    assert shown.stdout.startswith(f"Usage: semseg {verb} ")


def test_a_mistake_is_one_line_and_exit_code_2():
    result = in_a_process("check", "nowhere")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("semseg: ")
    assert result.stderr.count("\n") == 1
    assert "nowhere" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            "predict m x -o y --engine foo",
            "--engine: unknown value 'foo'; choose one of auto, torch, onnxruntime, openvino, tensorrt",
        ),
        ("predict m x -o y --engine onnx", "tensorrt; did you mean onnxruntime?"),
        ("export m --to foo", "--to: unknown value 'foo'; choose one of onnx, tensorrt, tensorrt-rtx, triton, web"),
        ("export m --limit 0", "--limit: must be greater than or equal to 1; see `semseg export --help`"),
        ("export m --limit many", "--limit: must be a whole number; see `semseg export --help`"),
        ("foo", "no such command 'foo'; see `semseg --help`"),
        ("trian recipe.yaml", "no such command 'trian'; did you mean train?"),
        ("data imprt x", "no such command 'imprt'; did you mean import?"),
        ("data foo x", "no such command 'foo'; see `semseg data --help`"),
        ("predict m x -o y --engin foo", "no such option: --engin; did you mean --engine?"),
        ("check . --layout cityscape", "; did you mean cityscapes?"),
        ("train street-teacher", "; did you mean streets-teacher?"),
        ("--bogus", "no such option: --bogus; see `semseg --help`"),
        ("check data --bogus", "no such option: --bogus; see `semseg check --help`"),
        ("predict", "missing argument 'model'; see `semseg predict --help`"),
        ("schema more", "got unexpected extra argument(s) (more); see `semseg schema --help`"),
        ("train streets-teacher schedule.steps=x", "schedule.steps: must be a whole number"),
        ("train streets-teacher method.name=fixmach", "; did you mean fixmatch?"),
        ("train streets-teacher precision=fp99", "precision: unknown value 'fp99'; choose one of fp32, bf16, fp16"),
    ],
)
def test_every_mistake_on_the_command_line_is_one_line_and_exit_code_2(arguments, line, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["semseg", *arguments.split()])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("semseg: ")
    assert err.count("\n") == 1
    assert line in err
    for library_words in ("Value error", "Input should", "Input tag", "found using", "Usage:", "Traceback"):
        assert library_words not in err


def test_the_version_is_that_of_the_package():
    result = semseg("--version")
    assert (result.returncode, result.stdout) == (0, f"semseg {metadata.version('semseg-app')}\n")


def help_pages() -> list[tuple[str, ...]]:
    """The arguments that lead to every page of help."""
    pages: list[tuple[str, ...]] = [()]
    for words in pages:
        command = typer.main.get_command(app)
        for word in words:
            command = command.commands[word]
        pages += [(*words, name) for name in getattr(command, "commands", {})]
    return pages


@pytest.mark.parametrize("words", help_pages(), ids=" ".join)
def test_help_has_whole_sentences_and_no_words_of_python(words, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["semseg", *words, "--help"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert not stopped.value.code
    page = capsys.readouterr().out
    assert not re.search(r"<list\[|<str>|range>|Path\]", page)
    assert not re.search(r"\w\.\.\.$", page, re.MULTILINE), "a sentence was cut"


def test_a_command_without_arguments_shows_its_help():
    for arguments in ([], ["data"]):
        result = semseg(*arguments)
        assert result.returncode == 2
        assert result.stderr.startswith("Usage: semseg")
        assert "Commands:" in result.stderr


@pytest.mark.parametrize("inner", ["x", "x/y"])
def test_a_file_where_a_folder_should_be_is_named(inner, tmp_path, monkeypatch, capsys):
    """By what writes whole files and folders, and by whatever else meets it."""
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text("name: r")
    path = Path("r.yaml", inner)
    with pytest.raises(UserError, match=f"{path}: cannot be written, because r.yaml is no folder"), atomic_file(path):
        pass
    with pytest.raises(UserError, match=f"{path}: cannot be written, because r.yaml is no folder"), atomic_folder(path):
        pass
    with pytest.raises(UserError, match=f"{path}: cannot be written, because r.yaml is no folder"):
        require_writable(path)
    Path("folder").mkdir()
    require_writable(Path("folder", "new", "one"))
    assert not list(Path("folder").iterdir())
    with pytest.raises(UserError, match="folder: is a folder; name a file"), atomic_file(Path("folder")):
        pass
    with pytest.raises(FileNotFoundError), atomic_file(Path("new")):
        Path("gone").read_text()
    monkeypatch.setattr("semseg_app.synthetic.generate", lambda *_, **__: path.mkdir(parents=True))
    monkeypatch.setattr(sys, "argv", ["semseg", "data", "generate", "streets"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert said.endswith("; r.yaml is no folder; choose another path\n")
    assert said.count("\n") == 1


@pytest.mark.parametrize("name", ["ENOSPC", "EROFS", "EACCES"])
def test_a_disk_that_refuses_is_one_line(name, monkeypatch, capsys):
    """Whichever verb meets it; a full disk cannot be had here, so the verb's own write is made to fail."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(getattr(errno, name), os.strerror(getattr(errno, name)), "streets/images/1.jpg")

    monkeypatch.setattr("semseg_app.synthetic.generate", refuse)
    monkeypatch.setattr(sys, "argv", ["semseg", "data", "generate", "streets"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"semseg: streets/images/1.jpg: {os.strerror(getattr(errno, name))}; ")
    assert said.count("\n") == 1
