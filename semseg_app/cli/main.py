"""`semseg`: one file per verb. Each imports what it needs when it runs, so that `semseg --help` stays instant."""

import errno
import io
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from typer.exceptions import TyperException

from semseg_app import __version__
from semseg_app.cli import data, hub_data, plot, plot_runs
from semseg_app.cli.benchmark import benchmark
from semseg_app.cli.check import check
from semseg_app.cli.compare import compare
from semseg_app.cli.data_export import export_data
from semseg_app.cli.demo import demo
from semseg_app.cli.doctor import doctor
from semseg_app.cli.evaluate import evaluate
from semseg_app.cli.export import export
from semseg_app.cli.generate import generate
from semseg_app.cli.help import App
from semseg_app.cli.init import init
from semseg_app.cli.predict import predict
from semseg_app.cli.pull import pull
from semseg_app.cli.push import push
from semseg_app.cli.report import report
from semseg_app.cli.serve import serve
from semseg_app.cli.space import space
from semseg_app.cli.train import schema, train
from semseg_app.cli.verify import verify
from semseg_app.errors import UserError, did_you_mean, plain
from semseg_app.files import NO_FOLDER, in_the_way

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it: 128 + SIGINT."""
_MORE_SPACE = "free space there, or choose another folder"
_OTHER_RIGHTS = "change its permissions, or choose another folder"
DISK_ERRORS = {
    errno.ENOSPC: _MORE_SPACE,
    errno.EDQUOT: _MORE_SPACE,
    errno.EROFS: "choose a folder that can be written",
    errno.EACCES: _OTHER_RIGHTS,
    errno.EPERM: _OTHER_RIGHTS,
}
"""What the operating system refuses and the user can change, whichever verb meets it -> the fix."""


app = App(
    name="semseg",
    add_completion=False,
    pretty_exceptions_enable=False,
)


GROUPS = ("data", "plot")
"""Words that have verbs of their own."""


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"semseg {__version__}")
        raise typer.Exit


@app.callback()
def semseg(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Semantic segmentation from a few labels to a verified, served model."""


data.app.command("export")(export_data)
data.app.command()(generate)
data.app.command()(hub_data.pull)
data.app.command()(hub_data.push)
app.add_typer(data.app, name="data")
plot.app.command("pseudo-labels")(plot_runs.pseudo_labels)
plot.app.command()(plot_runs.calibration)
plot.app.command()(plot_runs.distances)
app.command()(check)
app.command()(init)
app.command()(train)
app.command()(schema)
app.command()(report)
app.command()(compare)
app.command()(evaluate)
app.add_typer(plot.app, name="plot")
app.command()(export)
app.command()(verify)
app.command()(benchmark)
app.command()(predict)
app.command()(serve)
app.command()(push)
app.command()(pull)
app.command()(space)
app.command()(demo)
app.command()(doctor)


def main(*verb: str) -> None:
    """Entry point. A user's mistake is one line and exit code 2, never a traceback."""
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # like every other progress bar here
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: a file's name may be no text of its encoding
    try:
        code = app([*verb, *sys.argv[1:]], prog_name="semseg", standalone_mode=False) or 0
    except UserError as error:
        _stop(str(error))
    except TyperException as error:
        if error.message.startswith("Usage: "):  # a command without its arguments shows its help
            print(error.message, file=sys.stderr)
            sys.exit(2)
        _stop(usage_error(error.format_message(), [*verb, *sys.argv[1:]]))
    except OSError as error:
        fix = DISK_ERRORS.get(error.errno or 0)
        named = isinstance(error.filename, str | Path) and error.errno in NO_FOLDER
        blocker = in_the_way(Path(error.filename)) if named else None
        if blocker:
            fix = f"{blocker} is no folder; choose another path"
        if fix is None:
            raise
        _stop(f"{error.filename or 'a file'}: {error.strerror}; {fix}")
    if code == INTERRUPTED:
        print("semseg: interrupted", file=sys.stderr)
    sys.exit(code)


def usage_error(message: str, arguments: Sequence[str]) -> str:
    """What Typer says of an option or argument, as one line in the words of this program.

    Args:
        message: Typer's, which may have several lines.
        arguments: of the command line; they tell whose help to show.
    """
    line = plain(" ".join(message.split()))
    line = re.sub(r"^Invalid value for '(.+?)': ", r"\1: ", line)
    choice = re.match(r"(?P<option>.*?: )?(?P<value>'.*?') is not one of (?P<choices>'.*')\.?$", line)
    if choice:
        known = choice["choices"].replace("'", "").split(", ")
        near = did_you_mean(choice["value"].strip("'"), known)
        return f"{choice['option'] or ''}unknown value {choice['value']}; choose one of {', '.join(known)}{near}"
    line = re.sub(r"\. Did you mean (.*)\?$", lambda near: _did_you_mean(near[1]), line)
    line = re.sub(r" \(Possible options: (.*)\)$", lambda near: _did_you_mean(near[1]), line)
    at_top = arguments[0].startswith("-") or (message.startswith("No such command") and arguments[0] not in GROUPS)
    verb = "" if at_top else f"{arguments[0]} "
    if line.endswith("?"):
        return f"{line[:1].lower()}{line[1:]}"
    return f"{line[:1].lower()}{line[1:].rstrip('.')}; see `semseg {verb}--help`"


def _did_you_mean(near: str) -> str:
    """The end of a message, from a list of typer's: "'a', 'b'"."""
    return f"; did you mean {' or '.join(near.replace(chr(39), '').split(', '))}?"


def _stop(line: str) -> NoReturn:
    print(f"semseg: {line}", file=sys.stderr)
    sys.exit(2)
