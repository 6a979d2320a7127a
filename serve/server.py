"""Run the API and the web page in this process until it is told to stop."""

import errno
import logging
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from semseg_app.errors import UserError
from semseg_app.inference.engines import Engine
from semseg_app.serve.api import MAX_BYTES, MAX_PIXELS, create_app

SECONDS_TO_FINISH = 20
"""How long requests in flight may take after the first SIGTERM or Ctrl-C."""


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
    try:
        claimed.bind(address)
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


def run_server(
    engine: Engine,
    address: socket.socket,
    examples: Sequence[Path] = (),
    *,
    demo: bool = True,
    max_bytes: int = MAX_BYTES,
    max_pixels: int = MAX_PIXELS,
) -> None:
    """Serve `engine` on a claimed address; returns after SIGTERM or Ctrl-C, once requests in flight are answered.

    Says on stderr what runs and where. The other arguments are those of `create_app`.
    """
    app = create_app(engine, examples, demo=demo, max_bytes=max_bytes, max_pixels=max_pixels)
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    host, port = address.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    print(f"{engine.name}: {engine.kind} on {engine.device}, {engine.precision}", file=sys.stderr)
    print(f"{'page: ' + url + '   ' if demo else ''}API: {url}/docs   (stop with Ctrl-C)", file=sys.stderr, flush=True)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=SECONDS_TO_FINISH,
    )
    uvicorn.Server(config).run(sockets=[address])
