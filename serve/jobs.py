"""Images beyond the limit of one request: handed in, worked on beside everything else, and fetched later.

A job's image and its mask are files in a folder of their own under the system's temporary folder; the image is deleted
once it is segmented, the rest some minutes later or when the server stops. Its tiles wait in the queue between the
images of requests, so a large job slows them by one tile at most.
"""

import asyncio
import logging
import secrets
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from semseg_app.errors import UserError
from semseg_app.inference.decode import ImageTooLarge, UnsupportedImage
from semseg_app.inference.engines.base import Engine, Prediction
from semseg_app.inference.large import LargeResult, segment_large
from semseg_app.inference.strips import Strips
from semseg_app.serve.answers.options import Options
from semseg_app.serve.scheduling.queue import Overloaded
from semseg_app.serve.scheduling.registry import Models, ServedModel

log = logging.getLogger("semseg.serve")

RETRY_AFTER_S = 10
_PIECE = 2**20
"""Bytes that are gathered before they are written."""

State = Literal["waiting", "running", "done", "failed"]


class JobLimits(NamedTuple):
    """How much work a server takes on beside requests."""

    max_bytes: int = 2**30
    max_pixels: int = 1_000_000_000
    unfinished: int = 8
    """Jobs that are handed in or worked on; more are refused."""
    finished: int = 32
    """Jobs whose result is kept; of more, the oldest goes."""
    keep_s: float = 900.0
    """How long a result is kept."""


JOB_LIMITS = JobLimits()


class Job:
    """One image on its way. `result` and `error` are set once it is done or has failed."""

    def __init__(self, folder: Path, owner: str | None, served: ServedModel, options: Options):
        self.id = secrets.token_urlsafe(16)
        self.owner = owner
        self.served = served
        self.options = options
        self.folder = folder / self.id
        self.state: State = "waiting"
        self.outcome: State = "failed"
        """What `state` becomes once its thread has left it and everything that belongs to the end is done."""
        self.height = self.width = 0
        self.progress = 0.0
        self.engine: Engine | None = None
        self.result: LargeResult | None = None
        self.error = ""
        self.expires_at: float | None = None
        """On the monotonic clock."""
        self.wanted: Future[None] = Future()
        """Cancelled when nobody wants the result any more."""

    @property
    def image(self) -> Path:
        return self.folder / "image"

    @property
    def mask(self) -> Path:
        return self.folder / "mask.png"

    @property
    def is_finished(self) -> bool:
        return self.state in ("done", "failed")


class Jobs:
    """The jobs of one server. Its methods belong into the event loop."""

    def __init__(self, models: Models, limits: JobLimits):
        self.limits = limits
        self._models = models
        self._jobs: dict[str, Job] = {}
        self._folder: Path | None = None
        self._worker: ThreadPoolExecutor | None = None

    async def start(self) -> None:
        """Make the folder and the thread."""
        self._folder = Path(tempfile.mkdtemp(prefix="semseg-jobs-"))
        self._worker = ThreadPoolExecutor(1, "semseg-jobs")

    async def stop(self) -> None:
        """Break off what runs and delete everything."""
        assert self._worker is not None
        assert self._folder is not None
        for job in self._jobs.values():
            job.wanted.cancel()
        self._jobs.clear()
        await asyncio.to_thread(self._worker.shutdown, cancel_futures=True)
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    async def submit(self, served: ServedModel, options: Options, owner: str | None, body: AsyncIterator[bytes]) -> Job:
        """Take an image in; it is segmented when those before it are.

        Raises:
            Overloaded: too many jobs are unfinished.
            UnsupportedImage, ImageTooLarge: nothing of it is kept.
        """
        assert self._worker is not None
        assert self._folder is not None
        if sum(not job.is_finished for job in self._jobs.values()) >= self.limits.unfinished:
            raise Overloaded(RETRY_AFTER_S)
        job = Job(self._folder, owner, served, options)
        self._jobs[job.id] = job
        try:
            await asyncio.to_thread(job.folder.mkdir)
            await _store(body, job.image)
            job.height, job.width = await asyncio.to_thread(_size, job.image)
            if job.height * job.width > self.limits.max_pixels:
                raise ImageTooLarge(
                    f"the image has {job.width} x {job.height} pixels, above the limit of "
                    f"{self.limits.max_pixels / 1e6:g} million of a job"
                )
        except BaseException:
            self._forget(job)
            raise
        future = asyncio.wrap_future(self._worker.submit(_run, job))
        future.add_done_callback(lambda done: self._finish(job, done))
        return job

    def get(self, job_id: str, owner: str | None) -> Job | None:
        """The job of that id; None when there is none, or it is another key's."""
        job = self._jobs.get(job_id)
        return job if job is not None and job.owner == owner else None

    def drop(self, job: Job) -> None:
        """Nobody wants it any more: it stops, and its files go."""
        self._forget(job)

    def _finish(self, job: Job, done: "asyncio.Future[None]") -> None:
        """In the event loop, once its thread has left a job."""
        if not done.cancelled() and (error := done.exception()) is not None:
            log.error("job %s failed", job.id, exc_info=error)
        if job.id not in self._jobs:
            shutil.rmtree(job.folder, ignore_errors=True)  # dropped while its thread still wrote
            return
        job.expires_at = time.monotonic() + self.limits.keep_s
        job.state = job.outcome
        asyncio.get_running_loop().call_later(self.limits.keep_s, self._forget, job)
        finished = [job for job in self._jobs.values() if job.is_finished]
        for oldest in sorted(finished, key=lambda job: job.expires_at or 0)[: -self.limits.finished]:
            self._forget(oldest)

    def _forget(self, job: Job) -> None:
        job.wanted.cancel()
        if self._jobs.pop(job.id, None) is not None:
            asyncio.get_running_loop().run_in_executor(None, lambda: shutil.rmtree(job.folder, ignore_errors=True))


class _Filtered:
    """An engine whose answers are what some options leave of them."""

    def __init__(self, engine: Engine, options: Options):
        self.name, self.kind, self.labels = engine.name, engine.kind, engine.labels
        self.device, self.precision = engine.device, engine.precision
        self._engine = engine
        self._options = options

    def infer(self, images: np.ndarray) -> Prediction:
        return self._options.filtered(self._engine.infer(images), self.labels)


def _run(job: Job) -> None:
    """In the jobs' thread. `outcome` and `error` say how it went."""
    if job.wanted.cancelled():
        return
    job.state = "running"
    try:
        predictor = job.served.predictor(job.wanted)
        job.engine = predictor.engine
        predictor.engine = _Filtered(predictor.engine, job.options)

        def progress(share: float) -> None:
            job.progress = share

        job.result = segment_large(job.image, predictor, job.mask, progress=progress)
        job.outcome = "done"
    except CancelledError:
        pass  # nobody asks any more
    except UserError as error:
        job.error = _without_path(error, job.folder)
    except Exception:
        job.error = "internal error; the server's log has the details under this job's id"
        raise
    finally:
        job.image.unlink(missing_ok=True)


async def _store(body: AsyncIterator[bytes], path: Path) -> None:
    """Write a body as it arrives."""
    with path.open("wb") as file:
        waiting = bytearray()
        async for chunk in body:
            waiting += chunk
            if len(waiting) >= _PIECE:
                await asyncio.to_thread(file.write, waiting)
                waiting = bytearray()
        await asyncio.to_thread(file.write, waiting)


def _size(path: Path) -> tuple[int, int]:
    """Height and width by the header. UnsupportedImage when it cannot be read."""
    try:
        strips = Strips(path)
    except UserError as error:
        raise UnsupportedImage(_without_path(error, path.parent)) from None
    return strips.height, strips.width


def _without_path(error: Exception, folder: Path) -> str:
    """What an error says, without where the server keeps its files."""
    text = str(error)
    for path in (folder / "image", folder / "mask.png", folder):
        text = text.replace(f"{path}: ", "").replace(str(path), "the image")
    return text
