"""`semseg serve`: the HTTP API and the web page for one model or several."""

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from semseg_app.cli.model_option import MODEL, Revision

MOST_EXAMPLES = 12


class LogFormat(StrEnum):
    """What stderr gets."""

    TEXT = "text"
    JSON = "json"


def serve(
    model: Annotated[list[str], typer.Argument(help=f"{MODEL} The first model is the default.")],
    name: Annotated[
        list[str] | None, typer.Option(help="A name for each model, in their order; default: its own.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for every network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 7860,
    engine: Annotated[str, typer.Option(help="auto, torch, onnxruntime, openvino or tensorrt.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    precision: Annotated[str, typer.Option(help="Which exported graph: auto (fp32), fp32, fp16 or int8.")] = "auto",
    revision: Revision = None,
    force: Annotated[bool, typer.Option("--force", help="Serve a rejected graph, or one of other weights.")] = False,
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
    max_requests: Annotated[int, typer.Option(min=1, help="Concurrent requests per model; more get 429.")] = 64,
    client_share: Annotated[
        float, typer.Option(min=0.01, max=1, help="Fraction of the requests that one key or address may have.")
    ] = 0.75,
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds per image; then 504.")] = 30,
    max_batch: Annotated[
        int | None, typer.Option(min=1, help="Photos per call of the engine; default: 1 on a CPU, 8 on a GPU.")
    ] = None,
    max_delay_ms: Annotated[
        float, typer.Option(min=0, help="How long a photo waits for others that are being decoded, to share a call.")
    ] = 5,
    max_megabytes: Annotated[float, typer.Option(min=0.001, help="Largest upload, MiB.")] = 32,
    max_megapixels: Annotated[float, typer.Option(min=0.001, max=178, help="Largest image, by its header.")] = 32,
    max_job_megabytes: Annotated[float, typer.Option(min=0.001, help="Largest upload of a job, MiB.")] = 1024,
    max_job_megapixels: Annotated[float, typer.Option(min=0.001, help="Largest image of a job.")] = 1000,
    api_keys: Annotated[
        Path | None, typer.Option(metavar="FILE", help="API keys, one line `SHA-256 NAME` per key; or SEMSEG_API_KEYS.")
    ] = None,
    rate_limit: Annotated[int | None, typer.Option(min=1, help="Requests per minute of each API key.")] = None,
    cors_origin: Annotated[
        list[str] | None, typer.Option(help="A site whose scripts may use the API; * for any.")
    ] = None,
    root_path: Annotated[str, typer.Option(help="The path under which a proxy offers the server: /semseg.")] = "",
    body_timeout: Annotated[float, typer.Option(min=0.1, help="Seconds that a slow upload may take; then 408.")] = 20,
    label_studio_url: Annotated[
        str | None, typer.Option(help="Address of the Label Studio whose images may be fetched.")
    ] = None,
    log_format: Annotated[LogFormat, typer.Option(help="json: also one line per request.")] = LogFormat.TEXT,
) -> None:
    """Serve models: POST /v1/segment, /docs, /health/ready, and a web page at /. SIGHUP reloads the models."""
    from semseg_app.errors import UserError

    try:
        from semseg_app.serve.config import ServeConfig
        from semseg_app.serve.http.api_keys import read_keys
        from semseg_app.serve.model_facts import ModelFacts, model_facts
        from semseg_app.serve.scheduling.registry import Models
        from semseg_app.serve.scheduling.served_model import ServedModel
        from semseg_app.serve.scheduling.warm_up import SIZES, parse_size
        from semseg_app.serve.server import claim_address, note_reload_signals, run_server
    except ImportError as error:
        raise UserError(f"serving needs the extra `serve` ({error}): pip install 'semseg-app[serve]'") from error
    from semseg_app.hub.download import local_model
    from semseg_app.inference.engines.base import Engine
    from semseg_app.inference.engines.halves import open_halves

    if name and len(name) != len(model):
        raise UserError(f"{len(model)} models and {len(name)} names; give one --name for each, in their order, or none")
    sizes = [parse_size(size) for size in warm_up] if warm_up else SIZES
    if (demo_urls or flag_to) and not demo:
        raise UserError("--demo-urls and --flag-to belong to the web page; leave --no-demo out")
    max_pixels = round(max_megapixels * 1e6)
    config = ServeConfig(
        max_requests=max_requests,
        client_share=client_share,
        timeout_s=timeout,
        max_batch=max_batch,
        max_delay_s=max_delay_ms / 1000,
        max_pixels=max_pixels,
        max_bytes=round(max_megabytes * 2**20),
        body_timeout_s=body_timeout,
        max_job_bytes=round(max_job_megabytes * 2**20),
        max_job_pixels=round(max_job_megapixels * 1e6),
        keys=read_keys(api_keys, rate_limit),
        cors_origins=tuple(cors_origin or ()),
        root_path=root_path,
        label_studio_url=label_studio_url,
        label_studio_token=os.environ.get("LABEL_STUDIO_API_KEY"),
        demo=demo,
        examples=_photos(examples, max_pixels),
        demo_urls=demo_urls,
        flag_to=flag_to,
        json_logs=log_format is LogFormat.JSON,
    )
    note_reload_signals()
    with claim_address(host, port) as address:  # before the model is loaded: a port in use is known at once
        served = []
        opened: dict[int, Path] = {}  # by position: one model may be served twice, under two names
        for index, source in enumerate(model):

            def reopen(source: str = source, index: int = index) -> Engine:
                opened[index] = local_model(source, revision)
                return open_halves(opened[index], engine, device, threads, precision, force)

            def describe(running: Engine, index: int = index) -> ModelFacts:
                return model_facts(opened[index], running)

            served.append(ServedModel(reopen(), name[index] if name else None, reopen, sizes, describe))
        run_server(Models(served, config), address)


def _photos(folder: Path | None, max_pixels: int) -> tuple[Path, ...]:
    """The first photos of a folder that can be read; of the others before them it says why. UserError without any."""
    from semseg_app.data.listing import IMAGE_SUFFIXES, list_files
    from semseg_app.errors import UserError
    from semseg_app.serve.scheduling.decoding import decode

    if folder is None:
        return ()
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; --examples takes a folder of photos")
    photos: list[Path] = []
    for _, path in list_files(folder, IMAGE_SUFFIXES, nested=False):
        try:
            decode(path.read_bytes(), max_pixels)
        except (UserError, OSError) as error:
            print(f"{path}: is no example on the page: {error}", file=sys.stderr)
        else:
            photos.append(path)
        if len(photos) == MOST_EXAMPLES:
            break
    if not photos:
        raise UserError(f"{folder}: holds no photos that can be read ({', '.join(IMAGE_SUFFIXES)})")
    return tuple(photos)
