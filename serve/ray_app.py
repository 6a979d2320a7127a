"""The API on Ray Serve: replicas of the server on the machines of a cluster, as many as the load needs.

    serve run semseg_app.serve.ray_app:app model=/models/street max_replicas=4

A replica is what `semseg serve --no-demo` is: the same engine, batcher, limits and answers, and it is ready once its
warm-up has passed. Ray starts and ends replicas by how many requests each has, and spreads the requests over them.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

from fastapi import FastAPI
from pydantic import Field, model_validator
from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig

from semseg_app.hub.download import local_model
from semseg_app.inference.engines.base import Engine
from semseg_app.inference.engines.halves import open_halves
from semseg_app.serve.app import create_app
from semseg_app.serve.config import ServeConfig
from semseg_app.serve.scheduling.registry import Models
from semseg_app.serve.scheduling.served_model import ServedModel


class Arguments(ServeConfig):
    """What `serve run` and a config file may say; anything else is refused. `ServeConfig` holds for each replica."""

    model: str
    """Model folders or .onnx files, as every machine sees them, or Hub ids; several separated by commas."""
    engine: str = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: str = "auto"
    revision: str | None = None
    min_replicas: int = Field(default=1, ge=0)
    max_replicas: int = Field(default=4, ge=1)
    target_requests: int = Field(default=8, ge=1)
    """Requests that a replica should have; with more, Ray starts another one."""
    upscale_delay_s: float = Field(default=30, ge=0)
    downscale_delay_s: float = Field(default=600, ge=0)
    num_cpus: int = Field(default=1, ge=1)
    """CPUs of a replica; its engine has as many threads."""
    num_gpus: float = Field(default=0, ge=0)
    demo: Literal[False] = False
    """The page keeps its visitors' uploads in one replica, so it is not offered here."""

    @model_validator(mode="after")
    def _fit(self) -> "Arguments":
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas {self.min_replicas} is above max_replicas {self.max_replicas}")
        if self.device == "cuda" and not self.num_gpus:
            raise ValueError("device cuda needs num_gpus=1, or Ray gives the replica no GPU")
        return self


def app(arguments: Arguments) -> Application:
    """The application, for `serve run`, `serve build` and `ray.serve.run`."""

    def build() -> FastAPI:
        return _replica(arguments)

    served = len(arguments.model.split(","))
    deployment = serve.deployment(
        name="semseg",
        # Each replica refuses by itself: it knows how long its requests take, and says when to come back. Ray
        # refuses beyond what all replicas could refuse by themselves.
        max_ongoing_requests=2 * served * arguments.max_requests,
        max_queued_requests=2 * served * arguments.max_requests,
        autoscaling_config=AutoscalingConfig(
            min_replicas=arguments.min_replicas,
            max_replicas=arguments.max_replicas,
            target_ongoing_requests=arguments.target_requests,
            upscale_delay_s=arguments.upscale_delay_s,
            downscale_delay_s=arguments.downscale_delay_s,
        ),
        ray_actor_options={"num_cpus": arguments.num_cpus, "num_gpus": arguments.num_gpus},
    )(serve.ingress(build)())
    return deployment.bind()


def _replica(arguments: Arguments) -> FastAPI:
    served = []
    for source in arguments.model.split(","):

        def reopen(source: str = source) -> Engine:
            model = local_model(source.strip(), arguments.revision)
            return open_halves(model, arguments.engine, arguments.device, arguments.num_cpus, arguments.precision)

        served.append(ServedModel(reopen(), reopen=reopen))
    models = Models(served, arguments)
    application = create_app(models)
    start = application.router.lifespan_context

    @asynccontextmanager
    async def once_warm(application: FastAPI) -> AsyncIterator[None]:
        async with start(application):
            await models.warm()
            yield

    application.router.lifespan_context = once_warm
    return application
