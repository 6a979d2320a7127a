"""The models that one server offers, by name; their start, reload and end."""

import asyncio
import logging
from collections.abc import Callable, Sequence

from semseg_app.errors import UserError
from semseg_app.inference.engines.halves import AT_ONCE
from semseg_app.machine import cores
from semseg_app.serve.config import ServeConfig
from semseg_app.serve.metrics import Metrics
from semseg_app.serve.scheduling.queue import Batcher
from semseg_app.serve.scheduling.served_model import ServedModel
from semseg_app.serve.scheduling.workers import IMAGES_IN_MEMORY, Workers

log = logging.getLogger("semseg.serve")

MAX_BATCH_ON_GPU = 8
FEW_CORES = 2
"""So many belong to the engine and the event loop; threads that decode and encode would have none of their own."""


class UnknownModel(UserError):
    """No model of that name is served. The HTTP API answers 404."""


class Models:
    """What is served, by name; the first is the default.

    Args:
        served: at least one; no two of one name, and no name with a slash (UserError).
        config: how the server serves them; None = the defaults.
    """

    def __init__(self, served: Sequence[ServedModel], config: ServeConfig | None = None):
        self._served = {model.name: model for model in served}
        if len(self._served) < len(served):
            raise UserError("two models have one name; give each its own with --name")
        for name in self._served:
            if "/" in name:  # /v2/models/NAME/infer would never be found
                raise UserError(f"the model name {name!r} holds a slash, where addresses end; give another --name")
        self.config = config or ServeConfig()
        self.metrics = Metrics()
        self.stopping = False
        """Shutting down: accepted requests are finished, and the server reports that it is not ready."""
        self.at_stop: list[Callable[[], None]] = []
        """Called in the event loop when the server is about to stop: they end streams that no answer hangs on."""
        self._batchers: dict[str, Batcher] = {}
        self._workers: Workers | None = None
        self._warm_up: asyncio.Task[None] | None = None

    def names(self) -> list[str]:
        """In the order in which they were given."""
        return list(self._served)

    def get(self, name: str | None = None) -> ServedModel:
        """The model of that name; None = the first. UnknownModel for an unknown name."""
        if name is None:
            return next(iter(self._served.values()))
        if name not in self._served:
            raise UnknownModel(f"unknown model {name!r}; available: {', '.join(self._served)}")
        return self._served[name]

    async def start(self) -> None:
        """Start the threads, and the warm-up beside the event loop: /health/live answers while a slow engine starts."""
        config = self.config
        self._workers = Workers(config.max_pixels, max(IMAGES_IN_MEMORY, 2 * (config.max_batch or 1)))
        for model in self._served.values():
            device = model.engine.device
            if device not in self._batchers:
                max_batch = config.max_batch or (1 if device == "cpu" else MAX_BATCH_ON_GPU)
                one_by_one = max_batch == 1 and device == "cpu"
                self._batchers[device] = Batcher(
                    f"semseg-{device}",
                    max_batch,
                    config.max_delay_s,
                    few_cores=one_by_one and cores() <= FEW_CORES,
                    workers=AT_ONCE if one_by_one else 1,
                    observe=self.metrics.batch,
                )
            model.attach(self._batchers[device], self._workers, self.metrics, config)
        self._warm_up = asyncio.create_task(self._warm_up_all())
        self._warm_up.add_done_callback(_log_failure)

    async def warm(self) -> None:
        """Wait until the warm-up has passed. What it raised, when it failed."""
        assert self._warm_up is not None
        await self._warm_up

    async def stop(self) -> None:
        """Finish what was accepted, then end the threads."""
        assert self._warm_up is not None
        assert self._workers is not None
        await asyncio.wait([self._warm_up])
        for batcher in self._batchers.values():
            await asyncio.to_thread(batcher.close)
        self._batchers.clear()
        await asyncio.to_thread(self._workers.close)

    def why_not_ready(self) -> str | None:
        """None once every model has passed its warm-up, else one line."""
        if self.stopping:
            return "stopping"
        if self._warm_up is None or not self._warm_up.done():
            return "warming up"
        return "the warm-up failed; the server's log says why" if self._warm_up.exception() else None

    async def reload_all(self) -> None:
        """Reload every model, one after another. A model that fails keeps its engine, and the log says why."""
        for name, model in self._served.items():
            try:
                await model.reload()
            except UserError as error:
                log.error("model %s keeps its old version: %s", name, error)
            except Exception:
                log.exception("model %s keeps its old version", name)
            else:
                engine = model.engine
                log.warning("model %s reloaded: %s on %s, %s", name, engine.kind, engine.device, engine.precision)

    async def _warm_up_all(self) -> None:
        for model in self._served.values():
            # By the thread that calls the engine later: requests may be waiting for it by now.
            await asyncio.wrap_future(self._batchers[model.engine.device].run_exclusive(model.warm_up))


def _log_failure(warm_up: "asyncio.Task[None]") -> None:
    if not warm_up.cancelled() and (error := warm_up.exception()):
        log.error("the warm-up failed", exc_info=error)
