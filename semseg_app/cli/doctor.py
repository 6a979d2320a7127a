"""`semseg doctor`: what works on this machine, what does not, and what to do about it."""

from pathlib import Path
from typing import Annotated

import typer

from semseg_app.cli.model_option import MODEL

COLORS = {"ok": "green", "warning": "yellow", "error": "red"}


def doctor(
    model: Annotated[str | None, typer.Argument(help=f"Also try this model. {MODEL}")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The findings as JSON on stdout.")] = False,
) -> None:
    """Try Python, torch, CUDA, ONNX Runtime, TensorRT, memory and disk. Exits with 1 when something is broken."""
    import json

    from semseg_app.doctor import examine

    path = None if model is None else Path(model)
    if model is not None and path is not None and not path.exists():
        from semseg_app.hub.download import local_model  # the doctor itself runs where packages are missing

        path = local_model(model)
    checks = []
    for check in examine(path):
        checks.append(check)
        if not as_json:
            typer.echo(f"{typer.style(f'{check.status:8}', fg=COLORS[check.status])} {check.name}: {check.message}")
            if check.fix:
                typer.echo(f"{'':8} -> {check.fix}")
    counts = {status: sum(check.status == status for check in checks) for status in COLORS}
    if as_json:
        typer.echo(json.dumps({**counts, "checks": [check._asdict() for check in checks]}, indent=2))
    else:
        typer.echo(f"{counts['error']} errors, {counts['warning']} warnings")
    if counts["error"]:
        raise typer.Exit(1)
