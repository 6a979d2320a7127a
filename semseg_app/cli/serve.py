"""`semseg serve`: the HTTP API and the web page for one model or several."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from semseg_app.cli.model_option import MODEL, Revision


class LogFormat(StrEnum):
    """What stderr gets."""

    TEXT = "text"
    JSON = "json"


def serve(
    model: Annotated[list[str], typer.Argument(help=f"{MODEL} The first answers when none is named.")],
    name: Annotated[list[str] | None, typer.Option(help="Name of a model, in their order; else its own.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for every network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 7860,
    engine: Annotated[str, typer.Option(help="auto, torch, onnxruntime, openvino or tensorrt.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    precision: Annotated[str, typer.Option(help="Which exported graph: auto (fp32), fp32, fp16 or int8.")] = "auto",
    revision: Revision = None,
    force: Annotated[bool, typer.Option("--force", help="Serve a graph that verification rejected.")] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads of the engine; by default one per core.")
    ] = None,
    examples: Annotated[Path | None, typer.Option(help="Folder of photos that the page offers (the first 12).")] = None,
    demo: Annotated[bool, typer.Option("--demo/--no-demo", help="The web page at /, beside the API.")] = True,
    demo_urls: Annotated[bool, typer.Option("--demo-urls", help="Let visitors name a photo's public address.")] = False,
    flag_to: Annotated[
        Path | None, typer.Option(metavar="DATASET", help="Dataset folder for the photos that visitors flag.")
    ] = None,
    warm_up: Annotated[list[str] | None, typer.Option(metavar="WxH", help="Size of photos to warm up with.")] = None,
    places: Annotated[int, typer.Option(min=1, help="Requests a model takes in at once; then 429.")] = 64,
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds an image may take; then 504.")] = 30,
    max_batch: Annotated[int | None, typer.Option(min=1, help="Photos a call of the engine; CPU 1, GPU 8.")] = None,
    max_delay_ms: Annotated[float, typer.Option(min=0, help="Wait for photos on their way to share a call.")] = 5,
    max_megabytes: Annotated[float, typer.Option(min=0.001, help="Largest upload, MiB.")] = 32,
    max_megapixels: Annotated[float, typer.Option(min=0.001, max=178, help="Largest image, before decoding.")] = 32,
    max_job_megabytes: Annotated[float, typer.Option(min=0.001, help="Largest upload of a job, MiB.")] = 1024,
    max_job_megapixels: Annotated[float, typer.Option(min=0.001, help="Largest image of a job.")] = 1000,
    api_keys: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Who may ask: a line `SHA-256 NAME` a key; or SEMSEG_API_KEYS.")
    ] = None,
    rate_limit: Annotated[int | None, typer.Option(min=1, help="Requests a minute for each API key.")] = None,
    cors_origin: Annotated[list[str] | None, typer.Option(help="A site whose scripts may ask; * for any.")] = None,
    root_path: Annotated[str, typer.Option(help="The path under which a proxy offers the server: /semseg.")] = "",
    body_timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for a slow upload; then 408.")] = 20,
    label_studio_url: Annotated[str | None, typer.Option(help="Where the images of Label Studio's tasks are.")] = None,
    log_format: Annotated[LogFormat, typer.Option(help="json: a line a request too.")] = LogFormat.TEXT,
) -> None:
    """Serve models: POST /v1/segment, /docs, /health/ready, and a web page at /. SIGHUP loads them anew."""
    from semseg_app.errors import UserError

    try:
        from semseg_app.serve.http.access import access_from
        from semseg_app.serve.jobs import JobLimits
        from semseg_app.serve.scheduling.registry import Limits, Models, ServedModel
        from semseg_app.serve.scheduling.warm_up import SIZES, parse_size
        from semseg_app.serve.server import claim_address, run_server
    except ImportError as error:
        raise UserError(f"serving needs the extra `serve` ({error}): pip install 'semseg-app[serve]'") from error
    from semseg_app.data.dataset import IMAGE_SUFFIXES
    from semseg_app.hub.download import local_model
    from semseg_app.inference.engines.base import Engine
    from semseg_app.inference.engines.open import open_engine

    if name and len(name) != len(model):
        raise UserError(f"{len(model)} models and {len(name)} names; give one --name for each, in their order, or none")
    access = access_from(api_keys, rate_limit, cors_origin or [], root_path, body_timeout, label_studio_url)
    sizes = [parse_size(size) for size in warm_up] if warm_up else SIZES
    if (demo_urls or flag_to) and not demo:
        raise UserError("--demo-urls and --flag-to belong to the web page; leave --no-demo out")
    photos: list[Path] = []
    if examples is not None:
        if not examples.is_dir():
            raise UserError(f"{examples}: no such folder; --examples takes a folder of photos")
        photos = sorted(path for path in examples.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)[:12]
        if not photos:
            raise UserError(f"{examples}: holds no photos ({', '.join(IMAGE_SUFFIXES)})")
    with claim_address(host, port) as address:  # before the model is loaded: a port in use is known at once
        served = []
        for index, source in enumerate(model):

            def reopen(source: str = source) -> Engine:
                return open_engine(local_model(source, revision), engine, device, threads, precision, force)

            served.append(ServedModel(reopen(), name[index] if name else None, reopen, sizes))
        limits = Limits(round(max_megapixels * 1e6), places, timeout, max_batch, max_delay_ms / 1000)
        run_server(
            Models(served, limits),
            address,
            photos,
            demo=demo,
            max_bytes=round(max_megabytes * 2**20),
            access=access,
            job_limits=JobLimits(round(max_job_megabytes * 2**20), round(max_job_megapixels * 1e6)),
            json_logs=log_format is LogFormat.JSON,
            demo_urls=demo_urls,
            flag_to=flag_to,
        )
