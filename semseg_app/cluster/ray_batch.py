"""`semseg predict --ray`: the same images, masks and table, over the machines of a cluster or the cores of this one.

Photos and results may lie in buckets. A worker holds one engine. It is given a few names at a time, fetches those
photos if it must, segments them as `semseg predict` does, and puts what came out in its place. Ray carries names and
figures, never pixels.
"""

import contextlib
import json
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import ray
import ray.data

from semseg_app.cluster import object_store as buckets
from semseg_app.errors import UserError
from semseg_app.hub.download import local_model
from semseg_app.inference import inputs
from semseg_app.inference.engines.base import Engine
from semseg_app.inference.engines.open import open_engine
from semseg_app.inference.files import make_predictor, segment_files
from semseg_app.inference.results import ResultFolder, refuse_to_replace
from semseg_app.labels import LabelSpace

AT_ONCE = 8
"""Photos that a worker is given at a time."""
OBJECT_STORE_BYTES = 100 * 2**20
"""Store of a Ray that is started here. Names and figures are small; Ray's default is a third of the memory."""


class Job(NamedTuple):
    """What every worker needs to know; paths as every machine of the cluster sees them."""

    model: str
    out: str
    engine: str = "auto"
    device: str = "auto"
    precision: str = "auto"
    tile: int = 1024
    overlay: bool = True
    revision: str | None = None
    force: bool = False
    confidence: bool = True

    def open(self) -> Engine:
        """The engine of one worker, on one core where it runs on CPUs. UserError as `open_engine`."""
        model = local_model(self.model, self.revision)
        return open_engine(model, self.engine, self.device, 1, self.precision, self.force)


class Outcome(NamedTuple):
    """What came of all images, in the order in which they were named."""

    ran: dict[str, str]
    """What the workers ran: `model`, `engine`, `device`, `precision`."""
    rows: list[dict[str, Any]]
    """As `ResultFolder.rows`."""
    failed: list[dict[str, str]]
    """`file` and `error` of those that could not be read."""
    shares: str
    """Where the table is."""


def find_sources(named: Sequence[str], out: str) -> dict[str, str]:
    """The images that files, folders, globs and addresses name: absolute path or address -> as it was named.

    UserError for what names none.
    """
    found: dict[str, str] = {}
    for text in named:
        if buckets.is_address(text):
            found |= {address: address for address in buckets.find_images(text, leave_out=out)}
        else:
            images = inputs.find_images([text], leave_out=Path(out))
            found = {str(inputs.absolute(path)): str(path) for path in images} | found
    return found


def segment_on_ray(
    sources: Mapping[str, str],
    job: Job,
    workers: int | None = None,
    told: Callable[[int, list[dict[str, str]]], None] = lambda images, failed: None,
) -> Outcome:
    """Segment images with as many workers as the cluster has room for. RAY_ADDRESS names it, else one is started here.

    A worker has one core and, if `job.device` is "cuda", one GPU.

    Args:
        sources: of `find_sources`.
        job: what to do with them.
        workers: the most; None = one for each core or GPU.
        told: is told of each portion that is done, how many images it had and which of them failed.

    UserError when the model cannot be run, or the results cannot be written. The table then has those that were done.
    """
    out = job.out
    if not buckets.is_address(out):
        job = job._replace(out=str(Path(out).resolve()))
    if Path(job.model).exists():
        job = job._replace(model=str(Path(job.model).resolve()))
    names = inputs.result_names([_path_of(source) for source in sources])
    if not buckets.is_address(out):
        refuse_to_replace(Path(out), names)
    rows: list[dict[str, Any]] = []
    failed: list[dict[str, str]] = []
    last: dict[str, Any] = {}

    def write_table() -> str:
        order = {source: number for number, source in enumerate(sources)}
        rows.sort(key=lambda row: order[row["file"]])
        failed.sort(key=lambda one: order[one["file"]])
        for row in (*rows, *failed):
            row["file"] = sources[row["file"]]
            row |= {key: out + row[key].removeprefix(job.out) for key in ("mask", "overlay") if key in row}
            if "georeference" in row:
                row["georeference"] = [out + file.removeprefix(job.out) for file in row["georeference"]]
        with _Outlet(out) as outlet:
            table = ResultFolder(outlet.folder, LabelSpace(**last["labels"]), overlays=False, confidence=job.confidence)
            table.rows = rows
            table.write_shares()
            return outlet.publish(table.shares)

    own = not ray.is_initialized()
    if own:
        _connect()
    try:
        for portion in _portions(list(sources), names, job, workers):
            if "error" in portion:
                raise UserError(portion["error"])
            last = portion
            rows += portion["rows"]
            failed += portion["failed"]
            told(len(portion["rows"]) + len(portion["failed"]), portion["failed"])
    except BaseException:
        if rows:
            with contextlib.suppress(UserError, OSError):  # the first error is the one to tell
                write_table()
        raise
    finally:
        if own:
            ray.shutdown()
    return Outcome(last["ran"], rows, failed, write_table())


class _Outlet:
    """Where results go: written into `folder`, and from there into the bucket if it is one."""

    def __init__(self, out: str):
        self._out = out
        self._temporary = tempfile.TemporaryDirectory() if buckets.is_address(out) else None
        self.folder = Path(self._temporary.name if self._temporary else out)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._temporary:
            self._temporary.cleanup()

    def publish(self, file: Path | str) -> str:
        """Bring one of the written files to its place, and say where that is."""
        if self._temporary is None:
            return str(file)
        address = buckets.join(self._out, Path(file).relative_to(self.folder).as_posix())
        buckets.put(Path(file), address)
        return address


class _Worker:
    """One engine, and the files that it is given."""

    def __init__(self, job: Job):
        self._job = job
        self._engine: Engine | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """`file` and `name` of some images -> one portion of the outcome, as JSON."""
        try:
            portion = self._segment(batch["file"], batch["name"])
        except UserError as error:  # Ray would wrap it in many lines of its own, and try again
            portion = {"error": str(error)}
        return {"portion": [json.dumps(portion)]}

    def _segment(self, sources: Sequence[str], names: Sequence[str]) -> dict[str, Any]:
        failed: list[dict[str, str]] = []
        self._engine = engine = self._engine or self._job.open()
        with tempfile.TemporaryDirectory() as fetched, _Outlet(self._job.out) as outlet:
            source_of: dict[str, str] = {}

            def files() -> Iterator[tuple[Path, str]]:
                for number, (source, name) in enumerate(zip(sources, names, strict=True)):
                    path = Path(source)
                    if buckets.is_address(source):
                        path = Path(fetched) / f"{number}{Path(source.partition('?')[0]).suffix}"
                        try:
                            buckets.fetch(source, path)
                        except UserError as error:
                            failed.append({"file": str(source), "error": str(error)})
                            continue
                    source_of[str(path)] = str(source)
                    yield path, str(name)

            def fail(path: Path, error: UserError) -> None:
                source = source_of[str(path)]
                failed.append({"file": source, "error": str(error).replace(str(path), source)})

            results = ResultFolder(outlet.folder, engine.labels, self._job.overlay, self._job.confidence)
            segment_files(files(), make_predictor(engine, self._job.tile), results, fail)
            for row in results.rows:
                row["file"] = source_of[row["file"]]
                row |= {key: outlet.publish(row[key]) for key in ("mask", "overlay") if key in row}
                if "georeference" in row:
                    row["georeference"] = [outlet.publish(file) for file in row["georeference"]]
        ran = {"model": engine.name, "engine": engine.kind, "device": engine.device, "precision": engine.precision}
        return {"ran": ran, "labels": engine.labels.model_dump(), "rows": results.rows, "failed": failed}


def _path_of(source: str) -> Path:
    """What the names of results are made of."""
    if not buckets.is_address(source):
        return Path(source)
    return Path("/", source.partition("://")[2].partition("?")[0])


def _portions(sources: Sequence[str], names: Sequence[str], job: Job, workers: int | None) -> Iterator[dict[str, Any]]:
    """What each worker says of each portion, as they come."""
    on_gpu = job.device == "cuda"
    room = int(ray.cluster_resources().get("GPU" if on_gpu else "CPU", 0))  # type: ignore[no-untyped-call]
    if not room:
        raise UserError(f"the Ray cluster has no {'GPU' if on_gpu else 'CPU'}; ask it with `ray status`")
    portions = -(-len(sources) // AT_ONCE)
    most = min(room, portions, workers or room)
    items = [{"file": source, "name": name} for source, name in zip(sources, names, strict=True)]
    done = ray.data.from_items(items, override_num_blocks=portions).map_batches(
        _Worker,
        fn_constructor_args=(job,),
        batch_size=AT_ONCE,
        num_cpus=1,
        num_gpus=1 if on_gpu else None,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=most),
    )
    for row in done.iter_rows():
        yield json.loads(row["portion"])


def _connect() -> None:
    """To the cluster of RAY_ADDRESS, or to one that is started here and ends with this process."""
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # else it warns of how its own actors are made
    options: dict[str, Any] = {}
    if not os.environ.get("RAY_ADDRESS"):
        options = {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
    with _unless_it_fails():
        ray.init(logging_level=logging.ERROR, log_to_driver=False, **options)
    for name in ("ray.data", "ray.data._internal"):
        logging.getLogger(name).setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False


@contextlib.contextmanager
def _unless_it_fails() -> Iterator[None]:
    """Keep what is written to stderr, also from C++, to when it explains an exception."""
    sys.stderr.flush()
    real = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            yield
        except BaseException:
            said.seek(0)
            os.write(real, said.read())
            raise
        finally:
            os.dup2(real, 2)
            os.close(real)
