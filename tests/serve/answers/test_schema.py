"""What OpenAPI promises, tried with what it allows and what it forbids: no 5xx, no undocumented answer."""

import contextlib

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import content_type_conformance, status_code_conformance
from support.color_engine import ColorEngine

from semseg_app.serve.app import create_app
from semseg_app.serve.config import ServeConfig

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance]


@pytest.fixture(scope="module")
def schema(running):
    with running(create_app(ColorEngine(), ServeConfig(demo=False, max_bytes=200_000, max_pixels=500_000))) as url:
        yield schemathesis.openapi.from_url(f"{url}/openapi.json")


def try_every_operation(schema, mode: GenerationMode, examples: int) -> int:
    """Send so many requests to each operation; how many operations there were."""
    operations = [result.ok() for result in schema.get_all_operations()]
    if mode is GenerationMode.NEGATIVE:  # a GET takes nothing, so it cannot be given anything forbidden
        operations = [operation for operation in operations if operation.method == "post"]
    for operation in operations:

        @settings(
            max_examples=examples,
            derandomize=True,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def answers_as_documented(case):
            response = case.call()
            if response.content != b"Invalid HTTP request received.":  # uvicorn's own, of a head above 64 KiB
                case.validate_response(response, checks=CHECKS)

        with contextlib.suppress(Unsatisfiable):  # it takes anything
            answers_as_documented()
    return len(operations)


MODES = [GenerationMode.POSITIVE, GenerationMode.NEGATIVE]


@pytest.mark.parametrize("mode", MODES, ids=["allowed", "forbidden"])
def test_every_answer_is_documented(schema, mode):
    assert try_every_operation(schema, mode, examples=2) >= 10


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("mode", MODES, ids=["allowed", "forbidden"])
def test_every_answer_is_documented_at_length(schema, mode):
    try_every_operation(schema, mode, examples=200)
