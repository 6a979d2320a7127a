"""Run the API and the web page in this process until it is told to stop."""

import asyncio
import contextlib
import ctypes
import errno
import gc
import logging
import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from types import FrameType

import uvicorn
from fastapi import FastAPI

from semseg_app.errors import UserError
from semseg_app.inference.engines.base import Engine
from semseg_app.serve.app import create_app, models_of
from semseg_app.serve.config import ServeConfig
from semseg_app.serve.http.logs import write_logs
from semseg_app.serve.http.protocol import Http
from semseg_app.serve.scheduling.registry import Models

log = logging.getLogger("semseg.serve")

SECONDS_TO_FINISH = 2
"""How long requests in flight may take after SIGTERM or Ctrl-C, beside the time that any answer may take."""
SECONDS_TO_LEAVE = 1.0
"""After SIGTERM: how long the server still accepts, not ready any more and closing each connection after its answer.
Clients that keep connections open, and balancers that look at /health/ready, go elsewhere without losing a request."""
LOCAL_PROXIES = "127.0.0.1,::1,::ffff:127.0.0.1"
"""Whose X-Forwarded-For counts: a proxy on this machine, also where the server listens on ::."""
UNREAD_S = 60
"""A connection ends when its client has taken nothing of an answer for so long."""
SWITCH_INTERVAL_S = 0.0002
"""How long a thread that is busy in Python keeps the others out. With the default, 5 ms, small images wait longer for
Python's lock than for the device."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""Options of glibc's mallopt, by their numbers in malloc.h."""
SECONDS_ON_ITS_WAY = 0.2
"""How long a request takes at most from a connection to us, once we have accepted that."""


def claim_address(host: str, port: int) -> socket.socket:
    """Bind, without listening yet: a port in use is known before anything slow happens. Port 0 takes a free one.

    UserError when the address cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise UserError(f"host {host!r}: {error.strerror}; use 127.0.0.1 or 0.0.0.0") from None
    claimed = socket.socket(family, kind, protocol)
    claimed.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if sys.platform == "linux":  # for its connections: one whose client reads nothing ends
        claimed.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_S * 1000)
    try:
        claimed.bind(address)
        # While neither listens, a second process with this option could bind the same port.
        claimed.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    except OSError as error:
        claimed.close()
        if error.errno == errno.EADDRINUSE:
            raise UserError(
                f"port {port} on {host} is in use; stop what runs there, or choose another --port"
            ) from None
        raise UserError(
            f"cannot serve on {host} port {port}: {error.strerror}; choose another --host or --port"
        ) from None
    return claimed


_reload_requested = threading.Event()


def note_reload_signals() -> None:
    """Until the server runs, remember SIGHUP instead of ending the process. Call it in the main thread."""
    if sys.platform != "win32":
        signal.signal(signal.SIGHUP, lambda number, frame: _reload_requested.set())


def return_freed_memory() -> None:
    """Have glibc give the memory of images back to the system when they are freed.

    By default it raises the size from which it does so with every image that it frees, and keeps what is below in a
    heap for each thread. Over 3,000 images of up to 6 megapixels a server grew by 175 MiB that way, and by none with
    this. Call it before threads begin. Other C libraries have no such options.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            set_option = ctypes.CDLL(None).mallopt
            for option, value in ((M_MMAP_THRESHOLD, 2**20), (M_TRIM_THRESHOLD, 16 * 2**20), (M_ARENA_MAX, 2)):
                set_option(option, value)


def run_server(served: Models | Engine, address: socket.socket, config: ServeConfig | None = None) -> None:
    """Serve on a claimed address; returns after SIGTERM or Ctrl-C, once requests in flight are answered.

    SIGHUP loads every model anew. Says on stderr what runs and where. The arguments are those of `create_app`.
    """
    return_freed_memory()
    models = models_of(served, config)
    config = models.config
    app = create_app(models)
    address.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # for connections that an earlier server has closed
    write_logs(sys.stderr, config.json_logs)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    say: Callable[[str], None] = log.info if config.json_logs else partial(print, file=sys.stderr, flush=True)
    host, port = address.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    for name in models.names():
        engine = models.get(name).engine
        say(f"{name}: {engine.kind} on {engine.device}, {engine.precision}")
    say(f"{'page: ' + url + '   ' if config.demo else ''}API: {url}/docs   (stop with Ctrl-C)")
    _Server(uvicorn_config(app, config.timeout_s), models).run(sockets=[address])


def uvicorn_config(app: FastAPI, timeout_s: float) -> uvicorn.Config:
    """How uvicorn serves the application, whose answers take so long at most."""
    return uvicorn.Config(
        app,
        http=Http,
        ws="none",  # `Http` ignores offers of websockets
        log_level="warning",
        access_log=False,
        # uvloop is quicker by a tenth, but takes one connection a turn of its loop: under a flood of new connections
        # they would wait for seconds to be told 429. This one takes all that there are.
        loop="asyncio",
        server_header=False,
        forwarded_allow_ips=os.environ.get("FORWARDED_ALLOW_IPS", LOCAL_PROXIES),
        timeout_graceful_shutdown=math.ceil(timeout_s) + SECONDS_TO_FINISH,
    )


class _Server(uvicorn.Server):
    """Uvicorn, which leaves before it stops, and reloads on SIGHUP."""

    def __init__(self, config: uvicorn.Config, models: Models):
        super().__init__(config)
        self._models = models
        self._leaves_at = 0.0
        self._reload_now = asyncio.Event()
        self._reloading: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # What is there now stays. To look through all of it again and again would stop the server for 70 ms each time.
        gc.collect()
        gc.freeze()
        self._reloading = asyncio.create_task(self._reload())
        if sys.platform != "win32":
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reload_now.set)
        if _reload_requested.is_set():
            self._reload_now.set()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called for SIGTERM and SIGINT. A second signal does not wait."""
        if sig == signal.SIGTERM and not self._models.stopping:
            self._leaves_at = time.monotonic() + SECONDS_TO_LEAVE
        else:
            self._leaves_at = 0.0
        self._models.stopping = True
        super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        """Called ten times per second: whether to stop now."""
        return await super().on_tick(counter) and time.monotonic() >= self._leaves_at

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more connections, answer what is on its way over those that there are, then end."""
        if self._reloading is not None:
            self._reloading.cancel()
        for end in self._models.at_stop:
            end()
        for server in self.servers:
            server.close()
        if self._leaves_at:
            await asyncio.sleep(SECONDS_ON_ITS_WAY)  # else it closes connections whose request it has not read yet
        await super().shutdown(sockets)

    async def _reload(self) -> None:
        """Reload for each signal. One that comes during a reload leads to another: the models may be newer by now."""
        with contextlib.suppress(Exception):  # the log has it
            await self._models.warm()
        while True:
            await self._reload_now.wait()
            self._reload_now.clear()
            await self._models.reload_all()
