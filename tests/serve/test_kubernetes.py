"""docs/kubernetes.yaml, as far as it can be judged without a cluster: it is valid, and fits image and server."""

import re
from pathlib import Path

import kubernetes_validate
import pytest
import typer
import yaml
from support.color_engine import ColorEngine

import semseg_app
from semseg_app.cli.main import app
from semseg_app.serve.app import create_app
from semseg_app.serve.config import ServeConfig
from semseg_app.serve.http.api_keys import Keys
from semseg_app.serve.server import SECONDS_TO_FINISH, SECONDS_TO_LEAVE

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
FOUND = {found["kind"]: found for found in yaml.safe_load_all((ROOT / "docs" / "kubernetes.yaml").read_text())}
POD = FOUND["Deployment"]["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]


@pytest.mark.parametrize("kind", FOUND)
def test_valid(kind):
    kubernetes_validate.validate(FOUND[kind], "1.33", strict=True)


def test_the_parts_find_each_other():
    labels = FOUND["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert FOUND["Deployment"]["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert FOUND["Service"]["spec"]["selector"].items() <= labels.items()
    assert FOUND["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert FOUND["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == FOUND["Deployment"]["metadata"]["name"]
    (port,) = CONTAINER["ports"]
    assert FOUND["Service"]["spec"]["ports"][0]["targetPort"] == port["name"]
    assert {mount["name"] for mount in CONTAINER["volumeMounts"]} == {volume["name"] for volume in POD["volumes"]}


def test_it_fits_the_image():
    assert f'"--port", "{CONTAINER["ports"][0]["containerPort"]}"' in DOCKERFILE
    assert f"--uid {POD['securityContext']['runAsUser']} " in DOCKERFILE
    written = [mount["mountPath"] for mount in CONTAINER["volumeMounts"]]
    assert re.findall(r"^VOLUME (\S+)", DOCKERFILE, re.MULTILINE) == ["/cache"]
    assert written == ["/cache", "/tmp"]  # the root is read-only: the Hub's files, and uploads of jobs


def test_image_and_model_are_pinned():
    """A pod that starts later runs the same image and the same model."""
    tag = CONTAINER["image"].rpartition("/")[2].partition(":")[2]
    assert tag == semseg_app.__version__
    revision = CONTAINER["args"][CONTAINER["args"].index("--revision") + 1]
    assert revision not in ("main", "latest", "HEAD")


def test_it_fits_the_server():
    paths = create_app(ColorEngine(), ServeConfig(demo=False)).openapi()["paths"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert "get" in paths[CONTAINER[probe]["httpGet"]["path"]]
    assert POD["terminationGracePeriodSeconds"] > SECONDS_TO_LEAVE + ServeConfig().timeout_s + SECONDS_TO_FINISH
    # A pod that leaves must be out of the service before it stops to answer.
    ready = CONTAINER["readinessProbe"]
    assert ready["periodSeconds"] * ready["failureThreshold"] <= SECONDS_TO_LEAVE
    serve = typer.main.get_command(app).commands["serve"]
    chosen = serve.make_context("serve", list(CONTAINER["args"])).params
    assert chosen["model"] == ["user/repo"]
    assert not chosen["demo"]
    made = "".join(f"{number:02x}" for number in range(24))  # as `openssl rand -hex 24` would
    assert Keys.from_environment(made).name_of(made) == "key-1"
