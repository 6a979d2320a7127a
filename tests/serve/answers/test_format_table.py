"""One row in FORMATS is all that a new output format takes."""

import asyncio
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

from semseg_app.serve.answers.formats import FORMATS, Format, Rendering, by_media_type
from semseg_app.serve.app import create_app
from semseg_app.serve.config import ServeConfig
from semseg_app.serve.demo.page import Built, build_page
from semseg_app.serve.scheduling.registry import Models
from semseg_app.serve.scheduling.served_model import ServedModel

API_PAGE = Path(__file__).parents[3] / "docs" / "api.md"


def documented_formats(page: str) -> list[tuple[str, str, str]]:
    """Name, media type of `Accept` or "", and sentence of each row of the table of formats."""
    table = page.partition("| `format=` | `Accept:` | answer |\n|---|---|---|\n")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return [(name.strip("`"), accept.removesuffix(" (default)").strip("`"), answer) for name, accept, answer in rows]


def expected_rows() -> list[tuple[str, str, str]]:
    chosen = by_media_type()
    return [
        (name, row.media_type if chosen[row.media_type] == name else "", row.answer) for name, row in FORMATS.items()
    ]


@pytest.fixture
def npz(monkeypatch) -> Format:
    """A row that the product does not have."""

    def render(asked: Rendering) -> bytes:
        buffer = io.BytesIO()
        np.savez(buffer, classes=asked.segmentation.classes)
        return buffer.getvalue()

    row = Format("application/x-npz", "classes.npz", "Classes: NPZ", "an archive of numpy", quick=False, render=render)
    monkeypatch.setitem(FORMATS, "npz", row)
    return row


def test_a_new_row_is_in_the_api_and_in_openapi(npz, engine, encoded, photo, mask):
    with TestClient(create_app(engine, ServeConfig(demo=False))) as client:
        for query, accept in (("?format=npz", "*/*"), ("", npz.media_type)):
            answer = client.post(
                f"/v1/segment{query}", content=encoded(photo), headers={"Content-Type": "image/png", "Accept": accept}
            )
            assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-npz"), answer.text
            np.testing.assert_array_equal(np.load(io.BytesIO(answer.content))["classes"], mask)
        several = client.post("/v1/segment?format=npz", files=[("image", ("a.png", encoded(photo)))] * 2)
        assert several.headers["content-type"] == "application/zip"
        assert b"000-a.npz" in several.content
        wrong = client.post("/v1/segment?format=tiff", files={"image": encoded(photo)})
        assert wrong.json()["error"].endswith("raw, npz")
        operation = client.get("/openapi.json").json()["paths"]["/v1/segment"]["post"]
    (parameter,) = (parameter for parameter in operation["parameters"] if parameter["name"] == "format")
    assert "npz" in json.dumps(parameter["schema"])
    assert npz.media_type in operation["responses"]["200"]["content"]
    assert npz.answer in operation["responses"]["200"]["description"]


def test_a_new_row_is_on_the_page(npz, engine):
    # Inside a loop, because Gradio makes (and never closes) one of its own for each lock that it creates outside.
    async def build() -> Built:
        return build_page(Models([ServedModel(engine)]))

    config = asyncio.run(build()).blocks.get_config_file()
    (dropdown,) = (part for part in config["components"] if part["props"].get("elem_id") == "format")
    assert [npz.title, "npz"] in [list(choice) for choice in dropdown["props"]["choices"]]
    assert any(npz.file in str(dependency.get("js")) for dependency in config["dependencies"])


def test_the_table_of_the_docs_is_the_table_of_the_code():
    assert documented_formats(API_PAGE.read_text("utf-8")) == expected_rows()


def test_a_new_row_is_missed_in_the_docs(npz):
    missing = set(expected_rows()) - set(documented_formats(API_PAGE.read_text("utf-8")))
    assert missing == {("npz", npz.media_type, npz.answer)}


def test_openapi_examples_are_answers_of_their_types():
    for name, row in FORMATS.items():
        if row.schema is not None:
            assert row.schema.model_validate(row.example, strict=False), name


def test_titles_and_files_are_unique():
    rows = FORMATS.values()
    assert len({row.title for row in rows}) == len({row.file for row in rows}) == len(FORMATS)
    assert all(re.fullmatch(r"[a-z.]+\.[a-z]+", row.file) for row in rows)
