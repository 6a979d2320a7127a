"""Images beyond the limit of one request: handed in, worked on beside everything else, and fetched later.

A job's image and its mask are files in a folder of their own under the system's temporary folder; the image is deleted
once it is segmented, the rest some minutes later or when the server stops. Its tiles wait in the queue between the
images of requests, so a large job slows them by one tile at most.
"""

import asyncio
import errno
import logging
import secrets
import shutil
import time
from collections.abc import AsyncIterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from semseg_app.errors import UserError
from semseg_app.inference.decode import ImageTooLarge, UnsupportedImage
from semseg_app.inference.engines.base import Engine
from semseg_app.inference.large import LargeResult
from semseg_app.serve.answers.options import MaskOptions
from semseg_app.serve.scheduling.admission import Admission, Requester, RequestSlot
from semseg_app.serve.scheduling.decoding import decode
from semseg_app.serve.scheduling.registry import Models
from semseg_app.serve.scheduling.served_model import ServedModel
from semseg_app.serve.storage import OwnedFolder, StorageFull, check_free

log = logging.getLogger("semseg.serve")

RETRY_AFTER_S = 10
_PIECE = 2**20
"""Bytes that are gathered before they are written."""

State = Literal["waiting", "running", "done", "failed"]


class Job:
    """One image from upload to result. `result` or `error` is set once it is done or has failed."""

    def __init__(self, folder: Path, owner: str | None, served: ServedModel, options: MaskOptions, slot: RequestSlot):
        self.slot = slot
        """Left when the job is finished or dropped."""
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
        self.work: Future[None] = Future()
        """Cancelled when the job is dropped."""

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

    def __init__(self, models: Models):
        self.config = models.config
        self._admission = Admission(
            models.metrics, self.config.max_jobs, self.config.client_share, timeout_s=None, retry_after_s=RETRY_AFTER_S
        )
        models.metrics.watch_jobs(lambda: self._admission.used)
        self._jobs: dict[str, Job] = {}
        self._folder: OwnedFolder | None = None
        self._worker: ThreadPoolExecutor | None = None

    async def start(self) -> None:
        """Make the folder and the thread; delete the folders of servers that were killed."""
        self._folder = await asyncio.to_thread(OwnedFolder, "semseg-jobs-")
        self._worker = ThreadPoolExecutor(1, "semseg-jobs")

    async def stop(self) -> None:
        """Cancel what runs and delete everything."""
        assert self._worker is not None
        assert self._folder is not None
        for job in self._jobs.values():
            job.work.cancel()
        self._jobs.clear()
        await asyncio.to_thread(self._worker.shutdown, cancel_futures=True)
        await asyncio.to_thread(self._folder.delete)

    async def submit(
        self, served: ServedModel, options: MaskOptions, owner: str | None, who: Requester, body: AsyncIterator[bytes]
    ) -> Job:
        """Store an image; it is segmented when those before it are.

        Args:
            served: the model that segments.
            options: `classes` and `threshold` are used here.
            owner: the API key that may fetch the result; None = everyone who knows the job's id.
            who: sends the request.
            body: the image.

        Raises:
            Overloaded: too many jobs are unfinished, or too many of `who`.
            UnsupportedImage, ImageTooLarge, StorageFull: nothing of it is kept.
        """
        assert self._worker is not None
        assert self._folder is not None
        job = Job(self._folder.path, owner, served, options, self._admission.admit(served.name, who))
        self._jobs[job.id] = job
        try:
            try:
                await asyncio.to_thread(job.folder.mkdir)
                await _store(body, job.image)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise StorageFull from None
                raise
            job.height, job.width = await asyncio.to_thread(_size, job.image, self.config.max_job_pixels)
        except BaseException:
            self._forget(job)
            raise
        future = asyncio.wrap_future(self._worker.submit(_run, job))
        future.add_done_callback(lambda done: self._finish(job, done))
        return job

    def get(self, job_id: str, owner: str | None) -> Job | None:
        """The job of that id; None for an unknown id and for another key's job."""
        job = self._jobs.get(job_id)
        return job if job is not None and job.owner == owner else None

    def drop(self, job: Job) -> None:
        """Stop a job and delete its files."""
        self._forget(job)

    def _finish(self, job: Job, done: "asyncio.Future[None]") -> None:
        """In the event loop, once its thread has left a job."""
        if not done.cancelled() and (error := done.exception()) is not None:
            log.error("job %s failed", job.id, exc_info=error)
        if job.id not in self._jobs:
            shutil.rmtree(job.folder, ignore_errors=True)  # dropped while its thread still wrote
            return
        job.expires_at = time.monotonic() + self.config.keep_job_s
        job.state = job.outcome
        job.slot.leave()
        asyncio.get_running_loop().call_later(self.config.keep_job_s, self._forget, job)
        finished = [job for job in self._jobs.values() if job.is_finished]
        for oldest in sorted(finished, key=lambda job: job.expires_at or 0)[: -self.config.max_job_results]:
            self._forget(oldest)

    def _forget(self, job: Job) -> None:
        job.work.cancel()
        job.slot.leave()
        if self._jobs.pop(job.id, None) is not None:
            asyncio.get_running_loop().run_in_executor(None, lambda: shutil.rmtree(job.folder, ignore_errors=True))


def _run(job: Job) -> None:
    """In the jobs' thread. `outcome` and `error` say how it went."""
    if job.work.cancelled():
        return
    job.state = "running"
    try:

        def progress(done: float) -> None:
            job.progress = done

        keep = job.options.filtered
        job.result, job.engine = job.served.segment_file(job.image, job.mask, keep, job.work, progress)
        job.outcome = "done"
    except CancelledError:
        pass  # dropped
    except UserError as error:
        job.error = _without_path(error, job.folder)
    except Exception:
        if job.work.cancelled():  # its files are gone
            return
        job.error = "internal error; the server's log has the details under this job's id"
        raise
    finally:
        job.image.unlink(missing_ok=True)


async def _store(body: AsyncIterator[bytes], path: Path) -> None:
    """Write a body as it arrives. StorageFull when that would fill the disk."""
    with path.open("wb") as file:
        waiting = bytearray()
        async for chunk in body:
            waiting += chunk
            if len(waiting) >= _PIECE:
                check_free(path.parent, len(waiting))
                await asyncio.to_thread(file.write, waiting)
                waiting = bytearray()
        check_free(path.parent, len(waiting))
        await asyncio.to_thread(file.write, waiting)


def _size(path: Path, max_pixels: int) -> tuple[int, int]:
    """Height and width by the header. UnsupportedImage when it cannot be read, ImageTooLarge above the limit."""
    try:
        strips = decode(path, max_pixels)
    except ImageTooLarge as error:
        raise ImageTooLarge(f"{error} of a job") from None
    except UserError as error:
        raise UnsupportedImage(_without_path(error, path.parent)) from None
    return strips.height, strips.width


def _without_path(error: Exception, folder: Path) -> str:
    """What an error says, without where the server keeps its files."""
    text = str(error)
    for path in (folder / "image", folder / "mask.png", folder):
        text = text.replace(f"{path}: ", "").replace(str(path), "the image")
    return text
