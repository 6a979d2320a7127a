"""`semseg export`: a model folder -> a deployed graph, verified against the trained network."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from semseg_app.cli.model_option import Revision, writable_model
from semseg_app.errors import UserError

CALIBRATION = ("calibration", "calibration_split", "calibration_images")
"""Parameters of reduced precisions."""


def export(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="A model folder, or a Hub id (user/repo), which is copied to ./repo.")],
    to: Annotated[
        Literal["onnx", "tensorrt", "tensorrt-rtx", "triton", "web"], typer.Option("--to", help="What to make.")
    ] = "onnx",
    precision: Annotated[
        Literal["fp32", "fp16", "int8"] | None,
        typer.Option(help="Arithmetic of the exported file (default: fp32; for --to web int8)."),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Dataset to verify with; int8 needs one.")] = None,
    split: Annotated[str, typer.Option(help="Split or list of --data that verifies, with labels.")] = "val",
    limit: Annotated[int, typer.Option(min=1, help="Most labeled images to score on, evenly spaced.")] = 200,
    calibration: Annotated[
        Literal["minmax", "percentile", "entropy"], typer.Option(help="How int8 chooses the range of an activation.")
    ] = "minmax",
    calibration_split: Annotated[
        str | None, typer.Option(help="Split or list whose photos calibrate (default: train if --data has it).")
    ] = None,
    calibration_images: Annotated[int, typer.Option(min=1, help="Most photos to calibrate on, evenly spaced.")] = 32,
    buckets: Annotated[
        str | None,
        typer.Option(help="TensorRT, Triton: photo sizes to be fast at, e.g. 512x512,480x360 (default: from --data)."),
    ] = None,
    max_batch: Annotated[int, typer.Option(min=1, help="TensorRT, Triton: most photos per run.")] = 4,
    compute_capability: Annotated[
        str | None,
        typer.Option(help="TensorRT for RTX: GPUs to build for ahead of time, e.g. 8.6,8.9 (default: this machine's)."),
    ] = None,
    backend: Annotated[
        Literal["onnxruntime", "tensorrt"], typer.Option(help="Triton: what runs the model.")
    ] = "onnxruntime",
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Web: the page's folder (default: MODEL/web).")
    ] = None,
    runtime: Annotated[
        Path | None,
        typer.Option(help="Web: folder with the package of onnxruntime-web, for machines without a network."),
    ] = None,
    examples: Annotated[Path | None, typer.Option(help="Web: folder of photos to offer (the first 8).")] = None,
    opset: Annotated[
        int | None, typer.Option(min=16, max=21, help="ONNX operator set for an older runtime (default: 20).")
    ] = None,
    revision: Revision = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest's entry as JSON on stdout.")] = False,
) -> None:
    """Export a model, verify it against the trained weights and write manifest.json. Exits with 1 when rejected."""
    from semseg_app.artifact import read_config
    from semseg_app.cli.data_option import open_aloud
    from semseg_app.cli.export_engines import EngineOptions, make_engine, refuse_engine_options
    from semseg_app.cli.export_web import WebOptions, make_web, refuse_web_options
    from semseg_app.cli.gate_report import print_entry, rejection
    from semseg_app.cli.given import given, refuse_given
    from semseg_app.cli.progress import show_steps
    from semseg_app.export.manifest import has_passed
    from semseg_app.export.verification_set import ExportData, check_data
    from semseg_app.inference.engines.base import GRAPHS

    precision = precision or ("int8" if to == "web" else "fp32")
    refuse_web_options(to, out, runtime, examples)
    refuse_engine_options(context, to, backend)
    if precision == "fp32":
        refuse_given(context, CALIBRATION, "fp32 needs no calibration; only for --precision int8")
    if precision == "fp16":
        refuse_given(context, ("calibration",), "only for --precision int8")
    if data is None:
        refuse_given(context, (*CALIBRATION, "split", "limit"), "belongs to --data DATASET")
    folder = writable_model(model, revision)
    read_config(folder)
    dataset = None
    if data:
        opened = open_aloud(data)
        dataset = ExportData(opened, split, limit, calibration_split, calibration_images, calibration)
    web = WebOptions.check(folder, out, runtime, examples) if to == "web" else None
    engine = None
    if to not in ("onnx", "web"):
        engine = EngineOptions.check(to, dataset, buckets, max_batch, compute_capability, backend)
    anew = to == "onnx" or opset is not None or given(context, CALIBRATION)
    reused = not anew and has_passed(folder, folder / GRAPHS[precision])
    if dataset or not reused:
        check_data(folder, precision, dataset)
    show_steps("semseg_app.export")
    print(f"{folder}: exporting, {to} {precision}", file=sys.stderr)
    try:
        from semseg_app.export.pipeline import export_verified
    except ModuleNotFoundError as error:
        raise UserError(f"exporting needs the package {error.name}: pip install 'semseg-app[export,cpu]'") from error
    entry: dict[str, Any] = {"verdict": "passed"}
    for exported_file, entry in () if reused else export_verified(folder, precision, dataset, opset):
        print_entry(exported_file, entry)
    if engine and entry["verdict"] == "passed":
        exported_file, entry = make_engine(folder, precision, engine, dataset)
    if web and entry["verdict"] == "passed":
        exported_file, entry = make_web(folder, precision, web)
    if as_json:
        print(json.dumps({"file": str(exported_file), **entry}, indent=2))
    if entry["verdict"] == "rejected":
        typer.echo(rejection(exported_file, entry), err=True)
        raise typer.Exit(1)
