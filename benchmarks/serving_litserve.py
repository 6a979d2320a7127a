"""LitServe as its documentation batches images: decode each, stack, one call, encode each. See serving_rivals.py."""

from pathlib import Path
from typing import Any

import litserve as ls
import numpy as np
from fastapi import Request, Response
from serving_rivals import Codec, Session


class Segment(ls.LitAPI):  # type: ignore[misc]
    """At the top level of a module: LitServe sends it to a process of its own."""

    def __init__(self, graph: Path, session: str, codec: str, **options: Any):
        super().__init__(**options)
        self._graph, self._session, self._codec = graph, session, codec

    def setup(self, device: str) -> None:
        self.session, self.way = Session(self._graph, self._session), Codec(self._codec, self._graph)

    def decode_request(self, request: Request) -> np.ndarray:
        return self.way.decode(request["image"].file.read())

    def batch(self, inputs: list[np.ndarray]) -> np.ndarray:
        return np.stack(inputs)

    def predict(self, x: np.ndarray) -> np.ndarray:
        return self.session.classes(x)

    def unbatch(self, output: np.ndarray) -> list[np.ndarray]:
        return list(output)

    def encode_response(self, output: np.ndarray) -> Response:
        return Response(self.way.encode(output), media_type="image/png")


def litserve(graph: Path, session: str, codec: str, port: int) -> None:
    """With the faster of its two queues, and a batch that waits no longer than it must to gather eight."""
    api = Segment(graph, session, codec, max_batch_size=8, batch_timeout=0.01, api_path="/segment")
    server = ls.LitServer(api, accelerator="cpu", workers_per_device=1, fast_queue=True)
    server.run(host="127.0.0.1", port=port, log_level="warning", generate_client_file=False, access_log=False)
