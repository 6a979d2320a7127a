"""`semseg predict`: segment images into masks, overlays and a table of class shares."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from semseg_app.cli.model_option import ANY_MODEL, Revision


def predict(
    model: Annotated[str, typer.Argument(help=ANY_MODEL)],
    inputs: Annotated[list[str], typer.Argument(metavar="IN...", help="Images, folders (searched below) or globs.")],
    out: Annotated[str, typer.Option("-o", "--out", metavar="FOLDER", help="Folder for the results.")],
    engine: Annotated[
        Literal["auto", "torch", "onnxruntime", "openvino", "tensorrt"], typer.Option(help="What runs the model.")
    ] = "auto",
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Device to run on.")] = "auto",
    precision: Annotated[
        Literal["auto", "fp32", "fp16", "int8"], typer.Option(help="Which exported graph of the folder; auto is fp32.")
    ] = "auto",
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads; by default one per core that the process may use.")
    ] = None,
    tile: Annotated[int, typer.Option(help="Longest side run at once, in pixels; 0 = never tile.")] = 1024,
    overlay: Annotated[bool, typer.Option(help="Also write the photo under the class colors.")] = True,
    confidence: Annotated[
        bool, typer.Option(help="Tell the mean confidence of each image; without it most engines have less to do.")
    ] = True,
    revision: Revision = None,
    force: Annotated[bool, typer.Option("--force", help="Run a rejected graph, or one of other weights.")] = False,
    ray: Annotated[
        bool, typer.Option("--ray", help="On a Ray cluster; IN and OUT may be addresses of buckets.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="With --ray: most workers; default one per core or GPU.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON on stdout.")] = False,
) -> None:
    """Segment images: OUT/masks/*.png, OUT/overlays/*.jpg, OUT/shares.csv."""
    import contextlib
    import json

    from semseg_app.cli.progress import progress_bar
    from semseg_app.errors import UserError

    if tile and tile < 64:
        raise UserError(f"--tile {tile}: at least 64 pixels, or 0 for whole images")
    if workers and not ray:
        raise UserError("--workers belongs to --ray")
    if threads and ray:
        raise UserError("--threads is for this machine; on a Ray cluster, Ray shares out the cores")
    if not ray and (addresses := [text for text in (*inputs, out) if "://" in text]):
        if addresses[0].lower().startswith(("http://", "https://")):
            raise UserError(f"{addresses[0]}: an address is not fetched; download the photo first")
        raise UserError(f"{addresses[0]}: buckets are read and written with --ray")
    failed: list[dict[str, str]] = []
    done = 0

    def say(error: object) -> None:
        print(f"semseg: {error}", file=sys.stderr)

    with progress_bar("segmenting") as update:
        if ray:
            try:
                from semseg_app.cluster.ray_batch import Job, find_sources, segment_on_ray
            except ImportError as error:
                raise UserError(f"--ray needs the extra `ray` ({error}): pip install 'semseg-app[ray]'") from error

            sources = find_sources(inputs, out)

            def told(images: int, broken: list[dict[str, str]]) -> None:
                nonlocal done
                done += images
                update(done, len(sources))
                for failure in broken:
                    say(failure["error"])

            job = Job(model, out, engine, device, precision, tile, overlay, revision, force, confidence)
            ran, rows, failed, shares = segment_on_ray(sources, job, workers, told)
        else:
            from semseg_app.hub.download import local_model
            from semseg_app.inference.engines.open import open_engine
            from semseg_app.inference.files import make_predictor, segment_files
            from semseg_app.inference.inputs import find_images, result_names
            from semseg_app.inference.results import ResultFolder, refuse_to_replace

            images = find_images(inputs, leave_out=Path(out))
            names = result_names(images)
            refuse_to_replace(Path(out), names)
            loaded = open_engine(local_model(model, revision), engine, device, threads, precision, force)
            results = ResultFolder(Path(out), loaded.labels, overlay, confidence)

            def fail(path: Path, error: UserError) -> None:
                failed.append({"file": str(path), "error": str(error)})
                say(error)

            def taken(path: Path) -> None:
                nonlocal done
                done += 1
                update(done, len(images))

            def part_done(path: Path, share: float) -> None:
                update(done + share, len(images))

            def write_shares() -> None:
                order = {str(path): index for index, path in enumerate(images)}
                results.rows.sort(key=lambda row: order[row["file"]])
                results.write_shares()

            files = zip(images, names, strict=True)
            try:
                segment_files(files, make_predictor(loaded, tile), results, fail, taken, part_done)
            except BaseException:  # Ctrl-C, a full disk, ...
                if results.rows:
                    with contextlib.suppress(UserError, OSError):  # the first error is the one to tell
                        write_shares()
                raise
            write_shares()
            rows, shares = results.rows, str(results.shares)
            ran = {"model": loaded.name, "engine": loaded.kind, "device": loaded.device, "precision": loaded.precision}
    for row in rows:
        for warning in row.get("warnings", ()):
            say(f"{row['file']}: {warning}")
    if as_json:
        print(json.dumps(ran | {"images": rows, "shares": shares, "failed": failed}, indent=2))
    else:
        broken = f"; {len(failed)} failed" if failed else ""
        print(f"{len(rows)} images in {out} ({', '.join(ran.values())}){broken}", file=sys.stderr)
    if failed:
        raise typer.Exit(1)
