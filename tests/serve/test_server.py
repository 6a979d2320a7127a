import contextlib
import io
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from support.tiny_models import METADATA
from support.tiny_models import make_graph as make_graph

from semseg_app.errors import UserError
from semseg_app.serve.server import claim_address


def start(seconds: str) -> subprocess.Popen[str]:
    """`color_engine.py` as a program: so many seconds an image. It prints the shape of what it segments."""
    program = Path(__file__).parents[1] / "support" / "color_engine.py"
    return subprocess.Popen(
        [sys.executable, program, seconds], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture
def process():
    """`color_engine.py` as a program, half a second an image: (process, HTTP client)."""
    process = start("0.5")
    assert process.stderr.readline() == "colors: fake on cpu, fp32\n"
    url = process.stderr.readline().split("API: ")[1].split("/docs")[0]
    with httpx.Client(base_url=url, transport=httpx.HTTPTransport(retries=9), timeout=60) as http:
        http.get("/health/live")
        yield process, http
    process.kill()
    process.communicate()


@contextlib.contextmanager
def started(code: str) -> Iterator[subprocess.Popen[str]]:
    """A program that serves, in Python; killed in the end."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, env=environment) as server:
        try:
            yield server
        finally:
            server.kill()


def address_of(server: subprocess.Popen[str]) -> str:
    """Where it serves, as it says when it starts."""
    while "API: " not in (line := server.stderr.readline()):
        assert server.poll() is None
    return line.split("API: ")[1].split("/docs")[0]


def curl(*arguments: str) -> str:
    return subprocess.run(["curl", "-sS", *arguments], check=True, capture_output=True, text=True).stdout


def test_real_curl_against_a_real_process(process, encoded, photo, mask, tmp_path):
    url = process[1].base_url.copy_with(path="")
    (tmp_path / "photo.png").write_bytes(encoded(photo))
    curl("-F", f"image=@{tmp_path}/photo.png", f"{url}/v1/segment", "-o", f"{tmp_path}/mask.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "mask.png")), mask)

    raw = ["-H", "Content-Type: image/png", "--data-binary", f"@{tmp_path}/photo.png"]
    assert '"name":"red"' in curl(*raw, "-H", "Accept: application/json", f"{url}/v1/segment")

    (tmp_path / "cut.png").write_bytes(encoded(photo)[:-40])
    code = ["-w", " %{http_code}"]
    assert curl("-F", f"image=@{tmp_path}/cut.png", *code, f"{url}/v1/segment").endswith('"} 400')
    assert curl("--data-binary", "x", *code, f"{url}/v1/segment").endswith('"} 415')

    (tmp_path / "large").write_bytes(bytes(34_000_000))
    for more in ([], ["-H", "Transfer-Encoding: chunked"], ["-H", "Expect:"]):
        answer = curl("-F", f"image=@{tmp_path}/large", *more, *code, f"{url}/v1/segment")
        assert answer == '{"error":"the upload is above the limit of 32 MiB"} 413'


def test_sigterm_finishes_what_was_accepted(process, encoded, photo, mask):
    server, http = process
    upload = {"image": encoded(photo)}
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(http.post, "/v1/segment", files=upload) for _ in range(3)]
        wait(asked, return_when=FIRST_COMPLETED)  # by then the others are in, waiting for the engine
        server.send_signal(signal.SIGTERM)
        answers = [request.result() for request in asked]
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    for answer in answers:
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(answer.content))), mask)
    _, errors = server.communicate(timeout=20)
    assert server.returncode == -signal.SIGTERM
    assert "Traceback" not in errors


def test_sigterm_under_load_loses_nothing_that_was_accepted(encoded, photo):
    """Eight clients that never pause, over kept connections: each gets answers until it can connect no more."""
    server = start("0.005")
    server.stderr.readline()
    url = server.stderr.readline().split("API: ")[1].split("/docs")[0]
    data = encoded(photo)

    def ask() -> tuple[list[int], Exception]:
        statuses = []
        with httpx.Client(base_url=url, transport=httpx.HTTPTransport(retries=0), timeout=30) as http:
            while True:
                try:
                    answer = http.post("/v1/segment", content=data, headers={"Content-Type": "image/png"})
                except httpx.TransportError as error:
                    return statuses, error
                statuses.append(answer.status_code)

    with ThreadPoolExecutor(8) as pool:
        while True:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{url}/health/ready").status_code == 200:
                    break
        clients = [pool.submit(ask) for _ in range(8)]
        time.sleep(1)
        server.send_signal(signal.SIGTERM)
        outcomes = [client.result() for client in clients]
    segmented, errors = server.communicate(timeout=30)
    photos = segmented.splitlines().count("(1, 40, 60, 3)")
    statuses = [status for seen, _ in outcomes for status in seen]
    assert set(statuses) == {200}
    # Nobody lost a connection over which a request had gone, and all that the engine did reached a client.
    assert {type(error) for _, error in outcomes} == {httpx.ConnectError}
    assert len(statuses) == photos > 50
    assert "Traceback" not in errors


WITH_PAGE = """
from support.color_engine import ColorEngine
from semseg_app.serve.server import claim_address, run_server

run_server(ColorEngine(), claim_address("127.0.0.1", 0))
"""


def test_an_open_page_does_not_hold_the_server_back():
    with (
        started(WITH_PAGE) as server,
        httpx.Client(base_url=address_of(server), transport=httpx.HTTPTransport(retries=9), timeout=60) as http,
        http.stream("GET", "/gradio_api/heartbeat/visitor") as alive,
    ):
        assert next(alive.iter_lines()) == "data: ALIVE"
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=10)


QUICK_TO_STOP = """
from support.color_engine import ColorEngine
from semseg_app.serve.config import ServeConfig
from semseg_app.serve.server import claim_address, run_server

run_server(ColorEngine(), claim_address("127.0.0.1", 0), ServeConfig(demo=False, timeout_s=0.5))
"""


def test_what_is_not_done_when_the_server_stops_is_503_in_one_line():
    """An upload that is still arriving then."""
    with started(QUICK_TO_STOP) as server:
        port = int(address_of(server).rpartition(":")[2])
        with httpx.Client(transport=httpx.HTTPTransport(retries=9)) as http:
            http.get(f"http://127.0.0.1:{port}/health/live")
        with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
            head = b"POST /v1/segment HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\nContent-Length: 9999\r\n\r\n"
            client.sendall(head + b"begins")
            time.sleep(0.5)
            server.send_signal(signal.SIGTERM)
            answer = b"".join(iter(lambda: client.recv(10_000), b""))
        _, errors = server.communicate(timeout=20)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 "), answer
    assert body == b'{"error":"the server is stopping; send the request again"}'
    assert b"x-request-id: " in head.lower()
    assert "the server stops before POST /v1/segment is answered" in errors
    assert "Traceback" not in errors


@contextlib.contextmanager
def serving(graph: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`semseg serve` itself, ready: (process, address)."""
    command = [Path(sys.executable).with_name("semseg"), "serve", graph, "--port", "0", "--no-demo"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        while "API: " not in (line := server.stderr.readline()):
            assert server.poll() is None
        url = line.split("API: ")[1].split("/docs")[0]
        status = 0
        while status != 200:
            with contextlib.suppress(httpx.TransportError):
                status = httpx.get(f"{url}/health/ready").status_code
            time.sleep(0.01)
        yield server, url
    finally:
        server.kill()
        server.communicate()


def test_ready_again_within_ten_seconds_of_a_kill_and_sighup_loads_what_is_there_then(make_graph, tmp_path):
    graph = make_graph()
    with serving(graph):
        pass
    began = time.monotonic()
    with serving(graph) as (server, url):
        assert time.monotonic() - began < 10

        def classes() -> list[str]:
            return [entry["name"] for entry in httpx.get(f"{url}/v1/models").json()["models"][0]["classes"]]

        assert classes() == METADATA["labels"]["classes"]
        labels = METADATA["labels"] | {"classes": ["rot", "grün", "blau"]}
        make_graph(tmp_path / "new.onnx", METADATA | {"labels": labels}).replace(graph)
        server.send_signal(signal.SIGHUP)
        while classes() == METADATA["labels"]["classes"]:
            time.sleep(0.02)
        assert classes() == ["rot", "grün", "blau"]


SLOW_TO_LOAD = """
import sys, time
from pathlib import Path
from support.color_engine import ColorEngine
from semseg_app.serve.config import ServeConfig
from semseg_app.serve.scheduling.registry import Models
from semseg_app.serve.scheduling.served_model import ServedModel
from semseg_app.serve.server import claim_address, note_reload_signals, run_server

def load():
    engine = ColorEngine()
    first = Path(sys.argv[1]).read_text()
    time.sleep(0.6)
    engine.labels = engine.labels.model_copy(update={"classes": [first, "green", "blue"]})
    return engine

note_reload_signals()
print("loading", file=sys.stderr, flush=True)
models = Models([ServedModel(load(), reopen=load)], ServeConfig(demo=False))
run_server(models, claim_address("127.0.0.1", 0))
"""


def test_signals_to_reload_are_not_lost_while_a_model_loads(tmp_path):
    model = tmp_path / "model"
    model.write_text("one")
    command = [sys.executable, "-c", SLOW_TO_LOAD, model]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as server:
        try:
            while server.stderr.readline() != "loading\n":
                assert server.poll() is None
            time.sleep(0.2)
            model.write_text("two")
            server.send_signal(signal.SIGHUP)  # the first load has read the old file
            while "API: " not in (line := server.stderr.readline()):
                assert server.poll() is None
            url = line.split("API: ")[1].split("/docs")[0]

            def wait_for(name: str) -> None:
                deadline = time.monotonic() + 10
                # It says where it serves a moment before it does.
                with httpx.Client(transport=httpx.HTTPTransport(retries=9)) as http:
                    while http.get(f"{url}/v1/models").json()["models"][0]["classes"][0]["name"] != name:
                        assert time.monotonic() < deadline
                        time.sleep(0.02)

            wait_for("two")
            server.send_signal(signal.SIGHUP)
            time.sleep(0.2)
            model.write_text("three")
            server.send_signal(signal.SIGHUP)  # during the reload, which has read the old file
            wait_for("three")
        finally:
            server.kill()


def test_an_address_that_cannot_be_had_is_one_line():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"^port {port} on 127.0.0.1 is in use; .* another --port$"):
            claim_address("127.0.0.1", port)
    claim_address("127.0.0.1", port).close()
    with pytest.raises(UserError, match=r"^host 'no such host': "):
        claim_address("no such host", 7860)
    with pytest.raises(UserError, match=r"^cannot serve on 192\.0\.2\.1 port 7860: "):
        claim_address("192.0.2.1", 7860)  # TEST-NET: no machine has it
