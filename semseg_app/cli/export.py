"""`semseg export`: a model folder -> a deployed graph, verified against the trained network."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from semseg_app.cli.model_option import Revision, writable_model
from semseg_app.errors import UserError


def export(
    model: Annotated[str, typer.Argument(help="A model folder, or a Hub id (user/repo), which is copied to ./repo.")],
    to: Annotated[
        Literal["onnx", "tensorrt", "tensorrt-rtx", "triton", "web"], typer.Option("--to", help="What to make.")
    ] = "onnx",
    precision: Annotated[
        Literal["fp32", "fp16", "int8"] | None,
        typer.Option(help="Arithmetic of the exported file (default: fp32; for --to web int8)."),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Dataset to verify with; int8 needs one.")] = None,
    split: Annotated[str, typer.Option(help="Split or list of it that verifies, with labels.")] = "val",
    limit: Annotated[int, typer.Option(min=1, help="Most images to measure the mIoU on, evenly spaced.")] = 200,
    calibration: Annotated[
        Literal["minmax", "percentile", "entropy"], typer.Option(help="How int8 chooses the range of activations.")
    ] = "minmax",
    calibration_split: Annotated[
        str | None, typer.Option(help="Split or list whose photos calibrate; train, where there is one.")
    ] = None,
    calibration_images: Annotated[int, typer.Option(min=1, help="Most photos to calibrate on, evenly spaced.")] = 32,
    buckets: Annotated[
        str | None, typer.Option(help="TensorRT, Triton: photo sizes to be fast at, 512x512,480x360; else from --data.")
    ] = None,
    max_batch: Annotated[int, typer.Option(min=1, help="TensorRT, Triton: most photos a run.")] = 4,
    compute_capability: Annotated[
        str | None,
        typer.Option(help="TensorRT for RTX: GPUs to build for ahead of time, 8.6,8.9; else this machine's."),
    ] = None,
    backend: Annotated[
        Literal["onnxruntime", "tensorrt"], typer.Option(help="Triton: what runs the model.")
    ] = "onnxruntime",
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Web: the page's folder; else MODEL/web.")] = None,
    runtime: Annotated[
        Path | None, typer.Option(help="Web: folder with the package of onnxruntime-web, where there is no network.")
    ] = None,
    examples: Annotated[Path | None, typer.Option(help="Web: folder of photos to offer (the first 8).")] = None,
    opset: Annotated[
        int | None, typer.Option(min=16, max=21, help="ONNX operator set for an older runtime (default: 20).")
    ] = None,
    revision: Revision = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest's entry as JSON on stdout.")] = False,
) -> None:
    """Export a model, verify it against the trained weights and write manifest.json. Exits with 1 when rejected."""
    precision = precision or ("int8" if to == "web" else "fp32")
    try:
        from semseg_app.export.int8 import Calibration
        from semseg_app.export.pipeline import export_verified
        from semseg_app.export.verification_set import calibration_photos, gather_photos
        from semseg_app.export.verify import has_passed
    except ModuleNotFoundError as error:
        raise UserError(f"exporting needs the package {error.name}: pip install 'semseg-app[export,cpu]'") from error
    from semseg_app.artifact import read_config
    from semseg_app.cli.data_option import open_aloud
    from semseg_app.cli.export_engines import Choices, make
    from semseg_app.cli.export_web import WebChoices, make_web, refuse_web_options
    from semseg_app.cli.gate_report import print_entry, rejection
    from semseg_app.inference.engines.base import GRAPHS

    refuse_web_options(to, out, runtime, examples)
    folder = writable_model(model, revision)
    labels = read_config(folder).labels
    choices = web = None
    if to == "web":
        web = WebChoices.check(folder, out, runtime, examples)
    elif to != "onnx":
        choices = Choices.check(to, data, buckets, max_batch, compute_capability, backend)
    verification = calibrated = None
    if data:
        opened = open_aloud(data)
        verification = gather_photos(labels, opened, split, limit)
        if precision != "fp32":
            source = calibration_split or ("train" if "train" in opened.split_names() else split)
            photos = calibration_photos(opened, source, calibration_images)
            calibrated = Calibration(photos, f"{opened.info.name} {source}", calibration)
    verified = to != "onnx" and opset is None and has_passed(folder, folder / GRAPHS[precision])
    if not verified:
        for exported_file, entry in export_verified(folder, precision, verification, calibrated, opset):
            print_entry(exported_file, entry)
        verified = entry["verdict"] == "passed"
    if choices and verified:
        exported_file, entry = make(folder, precision, choices, verification)
    if web and verified:
        exported_file, entry = make_web(folder, precision, web)
    if as_json:
        print(json.dumps({"file": str(exported_file), **entry}, indent=2))
    if entry["verdict"] == "rejected":
        typer.echo(rejection(exported_file, entry), err=True)
        raise typer.Exit(1)
