"""`semseg`: one verb a file, each importing what it needs when it runs, so that `semseg --help` stays instant."""

import os
import sys

import typer

from semseg_app.cli import data, hub_data
from semseg_app.cli.benchmark import benchmark
from semseg_app.cli.check import check
from semseg_app.cli.compare import compare
from semseg_app.cli.demo import demo
from semseg_app.cli.doctor import doctor
from semseg_app.cli.evaluate import evaluate
from semseg_app.cli.export import export
from semseg_app.cli.generate import generate
from semseg_app.cli.predict import predict
from semseg_app.cli.pull import pull
from semseg_app.cli.push import push
from semseg_app.cli.serve import serve
from semseg_app.cli.space import space
from semseg_app.cli.train import schema, train
from semseg_app.cli.verify import verify
from semseg_app.errors import UserError

app = typer.Typer(
    name="semseg",
    help="Semantic segmentation from a few labels to a verified, served model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
data.app.command()(generate)
data.app.command()(hub_data.pull)
data.app.command()(hub_data.push)
app.add_typer(data.app, name="data")
app.command()(check)
app.command()(train)
app.command()(schema)
app.command()(compare)
app.command()(evaluate)
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
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # as every other bar of ours
    try:
        app([*verb, *sys.argv[1:]])
    except UserError as error:
        print(f"semseg: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("semseg: interrupted", file=sys.stderr)
        sys.exit(130)
