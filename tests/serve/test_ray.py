"""Ray Serve and Ray Data, on a Ray of this machine."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image, TiffImagePlugin
from pydantic import ValidationError
from starlette.testclient import TestClient
from support.tiny_models import make_graph as make_graph
from support.tiny_models import rgb_logits as rgb_logits

ray = pytest.importorskip("ray")
from ray import serve  # noqa: E402

from semseg_app.cluster import object_store as buckets  # noqa: E402
from semseg_app.errors import UserError  # noqa: E402
from semseg_app.inference.decode import decode_image  # noqa: E402
from semseg_app.serve.ray_app import Arguments, _replica, app  # noqa: E402

OURS = os.environ | {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}


@pytest.fixture
def photos(tmp_path):
    """Nine photos of one color each, in two folders, and a broken one."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for number in range(9):
        color = [0, 0, 0]
        color[number % 3] = 200 + number
        below = "more" if number > 5 else "."
        Image.new("RGB", (40 + number, 30), tuple(color)).save(folder / below / f"p{number}.png")
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, values in {33550: (0.5, 0.5, 0.0), 33922: (0.0, 0.0, 0.0, 500000.0, 4100000.0, 0.0)}.items():
        tags[tag], tags.tagtype[tag] = values, 12
    tags[42113], tags.tagtype[42113] = "0", 2
    Image.new("RGB", (40, 30)).save(folder / "place.tif", tiffinfo=tags)  # with a place on the ground, without data
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def predict(*arguments: object, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "semseg_app.cli", "predict", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=OURS, timeout=300, cwd=folder)


@pytest.mark.slow
def test_predict_on_ray_writes_what_predict_writes(make_graph, photos, tmp_path):
    graph = make_graph()
    here = predict(graph, "photos", "-o", "here", "--json", folder=tmp_path)
    there = predict(graph, "photos", "-o", "there", "--json", "--ray", "--workers", 2, folder=tmp_path)
    assert (here.returncode, there.returncode) == (1, 1)  # the broken one
    assert contents(tmp_path / "there") == contents(tmp_path / "here")
    assert len(contents(tmp_path / "here")) == 22
    assert "place.tif: 100 % of it have no data" in here.stderr
    # Workers, whose folder is another one, name the broken one in full. Of Ray itself there is nothing to be seen.
    # Ray takes a while to start, so on a slow machine lines of progress come between.
    lines = there.stderr.replace(f"{tmp_path}/", "").splitlines()
    assert [line for line in lines if not line.startswith("segmenting: ")] == here.stderr.splitlines()
    assert there.stdout.replace(f"{tmp_path}/", "") == here.stdout.replace('"here/', '"there/')


@pytest.mark.slow
def test_predict_on_ray_from_a_bucket_to_a_bucket(make_graph, photos, tmp_path):
    source, target = f"file://{photos}", f"file://{tmp_path}/re%20sults"
    done = predict(make_graph(), source, "-o", target, "--ray", "--no-overlay", "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 1
    assert [Path(row["file"]).name for row in report["images"]] == [
        *(f"p{n}.png" for n in range(6, 9)),
        *(f"p{n}.png" for n in range(6)),
        "place.tif",
    ]
    assert report["images"][-1]["georeference"] == [f"{target}/masks/place.pgw"]
    assert report["failed"][0]["file"] == f"{source}/broken.png"
    assert report["failed"][0]["error"].startswith(f"{source}/broken.png: unreadable image")
    assert report["shares"] == f"{target}/shares.csv"
    written = contents(tmp_path / "re sults")
    assert sorted(written) == [
        *(f"masks/p{n}.png" for n in range(9)),
        "masks/place.pgw",
        "masks/place.png",
        "shares.csv",
    ]
    assert report["images"][0]["mask"] == f"{target}/masks/p6.png"
    for number in range(9):
        mask = np.asarray(Image.open(tmp_path / "re sults" / "masks" / f"p{number}.png"))
        assert mask.shape == (30, 40 + number)
        assert (mask == number % 3).all()

    wrong = predict(tmp_path / "no-model", source, "-o", target, "--ray")
    assert wrong.returncode == 2
    assert wrong.stderr.count("\n") == 1
    assert wrong.stderr.startswith(f"semseg: {tmp_path}/no-model")


def test_what_cannot_be_in_a_bucket(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: no images in it or below it \(\.jpg"):
        buckets.find_images(f"file://{tmp_path}/empty", leave_out=f"file://{tmp_path}/out")
    with pytest.raises(UserError, match=r"nowhere://bucket: cannot be read .*check address and credentials"):
        buckets.find_images("nowhere://bucket", leave_out="out")
    with pytest.raises(UserError, match="cannot be read"):
        buckets.fetch(f"file://{tmp_path}/none.png", tmp_path / "here.png")
    with pytest.raises(UserError, match="cannot be written"):
        buckets.put(tmp_path / "empty", f"file://{tmp_path}/there")
    Image.new("RGB", (4, 4)).save(tmp_path / "a b.png")
    (tmp_path / "out" / "masks").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(tmp_path / "out" / "masks" / "mask.png")
    found = buckets.find_images(f"file://{tmp_path}?x=1", leave_out=f"file://{tmp_path}/out?x=1")
    assert found == [f"file://{tmp_path}/a%20b.png?x=1"]
    buckets.fetch(found[0].partition("?")[0], tmp_path / "copy.png")
    assert (tmp_path / "copy.png").read_bytes() == (tmp_path / "a b.png").read_bytes()


def test_a_replica_is_ready_when_it_has_started(make_graph):
    replica = _replica(Arguments(model=str(make_graph()), max_requests=3))
    with TestClient(replica) as client:
        assert client.get("/health/ready").status_code == 200
        assert client.get("/v1/models").json()["models"][0]["name"] == "rgb"
    with pytest.raises(UserError, match="nowhere"):
        _replica(Arguments(model="/nowhere"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({}, "model"),
        ({"model": "m", "replicas": 3}, "replicas"),
        ({"model": "m", "min_replicas": 5}, "min_replicas 5 is above max_replicas 4"),
        ({"model": "m", "device": "cuda"}, "device cuda needs num_gpus=1"),
    ],
)
def test_arguments_that_make_no_sense(wrong, message):
    with pytest.raises(ValidationError, match=message):
        Arguments.model_validate(wrong)


@pytest.fixture
def cluster(monkeypatch):
    """A Ray with a proxy on a free port; -> its address."""
    for name in ("READY_CHECK", "HEALTH_CHECK"):  # by default a proxy that takes 5 s to start is ended
        monkeypatch.setenv(f"RAY_SERVE_PROXY_{name}_TIMEOUT_S", "120")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ray.init(num_cpus=3, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()
    ray.shutdown()


@pytest.mark.slow
def test_ray_serve_answers_refuses_and_grows(cluster, make_graph, photos):
    arguments = Arguments(
        model=str(make_graph()),
        max_replicas=2,
        target_requests=1,
        max_requests=2,
        upscale_delay_s=1,
        max_pixels=10_000_000,
    )
    serve.run(app(arguments), route_prefix="/")
    photo = (photos / "p4.png").read_bytes()
    assert httpx.get(f"{cluster}/health/ready").status_code == 200
    answer = httpx.post(f"{cluster}/v1/segment", files={"image": photo}, timeout=60)
    assert answer.status_code == 200
    assert (decode_image(answer.content, 10_000) > 0).any()
    wrong = httpx.post(f"{cluster}/v1/segment?size=tiny", files={"image": photo})
    assert wrong.status_code == 422
    assert "size" in wrong.json()["error"]

    large = Image.fromarray(np.random.default_rng(0).integers(0, 255, (2000, 3000, 3), np.uint8))
    large.save(photos / "large.bmp")
    heavy = (photos / "large.bmp").read_bytes()

    async def flood() -> list[httpx.Response]:
        async with httpx.AsyncClient(timeout=120) as client:
            return await asyncio.gather(
                *(
                    client.post(f"{cluster}/v1/segment", content=heavy, headers={"Content-Type": "image/bmp"})
                    for _ in range(12)
                )
            )

    deadline = time.monotonic() + 120
    statuses: set[int] = set()
    replicas = 1
    while (replicas < 2 or 429 not in statuses) and time.monotonic() < deadline:
        answers = asyncio.run(flood())
        statuses |= {answer.status_code for answer in answers}
        for answer in answers:
            assert answer.status_code in (200, 429, 503), answer.text
            if answer.status_code == 429:
                assert answer.headers["retry-after"].isdecimal()
        deployment = serve.status().applications["default"].deployments["semseg"]
        replicas = deployment.replica_states.get("RUNNING", 0)
    assert statuses >= {200, 429}
    assert replicas == 2
