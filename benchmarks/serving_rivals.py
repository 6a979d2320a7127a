"""What else one would write around the same graph: a bare loop, plain FastAPI, LitServe with batching.

    python benchmarks/serving_rivals.py bare GRAPH --photo FILE --seconds 5
    python benchmarks/serving_rivals.py steady GRAPH --photo FILE --seconds 5 --rate 6 [--engine openvino]
    python benchmarks/serving_rivals.py plain|litserve GRAPH --port PORT

All of them decode and encode with this project's own codecs, so that what differs is the server; `--codec pillow` gives
them what one would take without it. Their session is the one that ONNX Runtime makes by default; with `--session ours`
its threads stop spinning after a run, like those of `semseg serve`.
"""

import argparse
import io
import json
import time
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

from semseg_app.inference.decode import decode_image
from semseg_app.inference.engines.open import open_engine
from semseg_app.labels import LabelSpace
from semseg_app.masks import indexed_png

MAX_PIXELS = 32_000_000


class Session:
    """Photos to class maps."""

    def __init__(self, graph: Path, kind: str):
        options = onnxruntime.SessionOptions()
        if kind == "ours":
            options.add_session_config_entry("session.force_spinning_stop", "1")
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def classes(self, images: np.ndarray) -> np.ndarray:
        return np.asarray(self._session.run(["classes"], {"images": images})[0])


class Codec:
    """Photo to pixels and class map to PNG, one way or the other."""

    def __init__(self, name: str, graph: Path):
        self._ours = name == "ours"
        labels: LabelSpace = open_engine(graph, "onnxruntime", "cpu").labels
        self._palette = labels.palette

    def decode(self, data: bytes) -> np.ndarray:
        if self._ours:
            return decode_image(data, MAX_PIXELS)
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))

    def encode(self, classes: np.ndarray) -> bytes:
        if self._ours:
            return indexed_png(classes, self._palette)
        image = Image.fromarray(classes)
        image.putpalette([channel for color in self._palette for channel in color])
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return buffer.getvalue()


def bare(session: Session, way: Codec, photo: Path, seconds: float) -> None:
    """Prints images per second of decode, session, encode, one after the other in one process."""
    data = photo.read_bytes()

    def once() -> None:
        way.encode(session.classes(way.decode(data)[None])[0])

    for _ in range(5):
        once()
    count, start = 0, time.perf_counter()
    while time.perf_counter() < start + seconds:
        once()
        count += 1
    print(json.dumps({"per_second": round(count / (time.perf_counter() - start), 2)}))


def steady(graph: Path, engine: str, photo: Path, seconds: float, rate: float | None) -> None:
    """Prints the milliseconds of each image that is due `rate` times per second, or when the last one is done.

    The same work with the same engine as in `semseg serve`, in one thread and without a server: what is late here is
    late because of the machine.
    """
    runs = open_engine(graph, engine, "cpu")
    data, palette = photo.read_bytes(), runs.labels.palette
    each = []
    due = time.perf_counter()
    end = due + seconds
    while due < end:
        time.sleep(max(0.0, due - time.perf_counter()))
        indexed_png(runs.infer(decode_image(data, MAX_PIXELS)[None]).classes[0], palette)
        done = time.perf_counter()
        each.append(round(1000 * (done - due), 2))
        due = done if rate is None else due + 1 / rate
    print(json.dumps({"each_ms": each[3:]}))  # the first ones warm the engine up


def plain(session: Session, way: Codec, port: int) -> None:
    """The FastAPI application of a tutorial: a route that FastAPI runs in its threads, a lock around the session."""
    import threading

    import uvicorn
    from fastapi import FastAPI, UploadFile
    from fastapi.responses import Response

    lock = threading.Lock()
    app = FastAPI()

    @app.post("/segment")
    def segment(image: UploadFile) -> Response:
        pixels = way.decode(image.file.read())
        with lock:
            classes = session.classes(pixels[None])[0]
        return Response(way.encode(classes), media_type="image/png")

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rival", choices=["bare", "steady", "plain", "litserve"])
    parser.add_argument("graph", type=Path)
    parser.add_argument("--codec", choices=["ours", "pillow"], default="ours")
    parser.add_argument("--session", choices=["default", "ours"], default="default")
    parser.add_argument("--port", type=int)
    parser.add_argument("--photo", type=Path)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rate", type=float, help="of steady; none = one after the other")
    parser.add_argument("--engine", default="onnxruntime", help="of steady")
    arguments = parser.parse_args()
    if arguments.rival == "litserve":
        from serving_litserve import litserve  # beside this file; LitServe need not be installed for the others

        litserve(arguments.graph, arguments.session, arguments.codec, arguments.port)
        return
    if arguments.rival == "steady":
        steady(arguments.graph, arguments.engine, arguments.photo, arguments.seconds, arguments.rate)
        return
    session, way = Session(arguments.graph, arguments.session), Codec(arguments.codec, arguments.graph)
    if arguments.rival == "bare":
        bare(session, way, arguments.photo, arguments.seconds)
    else:
        plain(session, way, arguments.port)


if __name__ == "__main__":
    main()
