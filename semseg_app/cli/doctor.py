"""`semseg doctor`: what works on this machine, what does not, and what to do about it."""

from pathlib import Path
from typing import Annotated

import typer

COLORS = {"ok": "green", "warning": "yellow", "error": "red"}


def doctor(
    model: Annotated[Path | None, typer.Argument(help="Also try this model folder or exported file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The findings as JSON on stdout.")] = False,
) -> None:
    """Try Python, torch, CUDA, ONNX Runtime, TensorRT, memory and disk. Exits with 1 when something is broken."""
    import json

    from semseg_app.doctor import examine
    from semseg_app.errors import UserError

    if model is not None and not model.exists():
        raise UserError(f"{model}: no such model folder or exported file")
    checks = []
    for check in examine(model):
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
