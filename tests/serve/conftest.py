import contextlib
import io
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import uvicorn
from fastapi import FastAPI
from PIL import Image
from support.color_engine import ColorEngine

from semseg_app.serve.server import claim_address, uvicorn_config


@pytest.fixture
def engine() -> ColorEngine:
    return ColorEngine()


@pytest.fixture
def photo() -> np.ndarray:
    """uint8 RGB [40, 60, 3]: left half red, right half green, a blue bar at the bottom, all shades."""
    photo = np.zeros((40, 60, 3), np.uint8)
    photo[:, :30, 0] = 255
    photo[:, 30:, 1] = 200
    photo[30:] = (0, 0, 128)
    return photo


@pytest.fixture
def mask(photo: np.ndarray) -> np.ndarray:
    """What the color engine must say of `photo`."""
    expected = np.zeros((40, 60), np.uint8)
    expected[:, 30:] = 1
    expected[30:] = 2
    return expected


def encoded(image: np.ndarray | Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture(name="encoded", scope="session")
def encoded_fixture():
    return encoded


@contextlib.contextmanager
def running(app: FastAPI) -> Iterator[str]:
    """`app` behind a real uvicorn in a thread. Yields its address."""
    address = claim_address("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn_config(app, 20))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [address]})
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        yield f"http://127.0.0.1:{address.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        address.close()


@pytest.fixture(name="running", scope="session")
def running_fixture():
    return running
