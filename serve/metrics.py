"""What /metrics says, in Prometheus' text format. One registry per application: nothing is global."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

Stage = Literal["decode", "wait", "infer", "encode"]
Caller = Literal["api", "huggingface", "kserve", "label-studio", "page", "job"]
Reason = Literal["overloaded", "deadline", "disconnected"]

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
IMAGES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Everything that is counted while the server runs."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "semseg_requests", "Requests that were answered.", ["route", "status"], registry=self.registry
        )
        self._request_seconds = Histogram(
            "semseg_request_seconds",
            "From a request's head to the end of its answer.",
            ["route"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self._stages = Histogram(
            "semseg_stage_seconds",
            "Stages of an image: decode, wait for the device, infer (the call it was in), encode.",
            ["model", "stage"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self._batches = Histogram(
            "semseg_batch_images", "Images per call of the engine.", ["model"], buckets=IMAGES, registry=self.registry
        )
        self._rejected = Counter(
            "semseg_rejected",
            "Requests without an answer: no request slot, too late, or their client went away.",
            ["model", "reason"],
            registry=self.registry,
        )
        self._reloads = Counter("semseg_reloads", "Hot reloads.", ["model", "outcome"], registry=self.registry)
        self._waiting = Gauge("semseg_waiting_images", "Images in the queue.", ["model"], registry=self.registry)
        self._inside = Gauge(
            "semseg_requests_inside", "Requests accepted and not yet answered.", ["model"], registry=self.registry
        )
        self._admitted = Counter(
            "semseg_admitted", "Request slots given, by interface.", ["model", "caller"], registry=self.registry
        )
        self._sending = Gauge(
            "semseg_answers_sending", "Large answers that their clients have not read yet.", registry=self.registry
        )
        self._jobs = Gauge("semseg_jobs_unfinished", "Jobs handed in and not finished.", registry=self.registry)
        self._info = Gauge(
            "semseg_model",
            "1 for what really runs.",
            ["model", "engine", "device", "precision"],
            registry=self.registry,
        )
        ProcessCollector(registry=self.registry)
        # Looking a child up costs more than observing.
        self._stage_seconds = cache(self._stages.labels)
        self._answered = cache(self._requests.labels)
        self._answered_seconds = cache(self._request_seconds.labels)
        self._refused = cache(self._rejected.labels)
        self._slots = cache(self._admitted.labels)

    @contextmanager
    def stage(self, model: str, stage: Stage) -> Iterator[None]:
        """Time a block."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.observe(model, stage, time.perf_counter() - start)

    def observe(self, model: str, stage: Stage, seconds: float) -> None:
        """One image took so long."""
        self._stage_seconds(model, stage).observe(seconds)

    def sending(self) -> AbstractContextManager[None]:
        """Count an answer while it is being sent."""
        tracker: AbstractContextManager[None] = self._sending.track_inprogress()
        return tracker

    def answered(self, route: str, status: int, seconds: float) -> None:
        """One request was, or its client went away (499)."""
        self._answered(route, status).inc()
        self._answered_seconds(route).observe(seconds)

    def batch(self, model: str, images: int) -> None:
        """One call of an engine."""
        self._batches.labels(model).observe(images)

    def admitted(self, model: str, caller: Caller) -> None:
        """One request slot was given."""
        self._slots(model, caller).inc()

    def rejected(self, model: str, reason: Reason) -> None:
        """One request without an answer."""
        self._refused(model, reason).inc()

    def reloaded(self, model: str, outcome: Literal["replaced", "failed"]) -> None:
        """One hot reload."""
        self._reloads.labels(model, outcome).inc()

    def watch(self, model: str, waiting: Callable[[], float], inside: Callable[[], float]) -> None:
        """Read these two gauges whenever /metrics is read."""
        self._waiting.labels(model).set_function(waiting)
        self._inside.labels(model).set_function(inside)

    def watch_jobs(self, unfinished: Callable[[], float]) -> None:
        """Read this gauge whenever /metrics is read."""
        self._jobs.set_function(unfinished)

    def runs(self, model: str, engine: str, device: str, precision: str) -> None:
        """This is what runs now under that name."""
        self._info.remove_by_labels({"model": model})
        self._info.labels(model, engine, device, precision).set(1)

    def exposition(self) -> Response:
        """The answer of /metrics."""
        return Response(generate_latest(self.registry), media_type="text/plain; version=1.0.0; charset=utf-8")


class Measure:
    """Pure ASGI middleware: counts and times requests by route, not by address: their number stays small."""

    def __init__(self, app: ASGIApp, metrics: Metrics):
        self.app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        start = time.perf_counter()
        status = 499  # as nginx says: the client closed the connection first

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, send_and_note)
        finally:
            route = scope.get("route")
            path = route.path if isinstance(route, Route) else "other"
            self._metrics.answered(path, status, time.perf_counter() - start)
