"""Every answer that is not 2xx: `{"error": "one line"}`, and which exception becomes which status."""

from functools import lru_cache
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from semseg_app.errors import UserError, plain
from semseg_app.inference.decode import ImageTooLarge, UnsupportedImage
from semseg_app.serve.answers.options import BadOption
from semseg_app.serve.scheduling.admission import DeadlineExceeded, Overloaded
from semseg_app.serve.scheduling.registry import UnknownModel
from semseg_app.serve.storage import StorageFull

NO_ADDRESS = "no such address; /docs lists them"


def problem(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """The body of every answer that is not 2xx: `{"error": "one line"}`."""
    return JSONResponse({"error": message}, status, headers)


@lru_cache(maxsize=64)
def too_busy(retry_after_s: int) -> Response:
    """429 with Retry-After. It may be sent any number of times."""
    return problem(429, str(Overloaded(retry_after_s)), {"Retry-After": str(retry_after_s)})


def answer_errors(app: FastAPI) -> None:
    """Let `app` answer with `problem` whatever its routes raise."""
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(UserError, _user_error)
    app.add_exception_handler(RequestValidationError, _bad_parameter)
    app.add_exception_handler(Overloaded, _overloaded)
    app.add_exception_handler(DeadlineExceeded, _too_late)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    unknown = error.status_code == 404 and error.detail == HTTPStatus.NOT_FOUND.phrase  # the router's own word
    return problem(error.status_code, NO_ADDRESS if unknown else error.detail, dict(error.headers or {}))


async def _user_error(request: Request, error: Exception) -> Response:
    if isinstance(error, UnknownModel):
        return problem(404, str(error))
    if isinstance(error, ImageTooLarge):
        return problem(413, str(error))
    if isinstance(error, BadOption):
        return problem(422, str(error))
    if isinstance(error, StorageFull):
        return problem(507, str(error))
    return problem(415 if isinstance(error, UnsupportedImage) else 400, str(error))


async def _bad_parameter(request: Request, error: Exception) -> Response:
    """What FastAPI found wrong with a query, as one line."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"][1:])
    return problem(422, f"{name}: {plain(first['msg'])}".replace("\n", " "))


async def _overloaded(request: Request, error: Exception) -> Response:
    assert isinstance(error, Overloaded)
    return too_busy(error.retry_after_s)


async def _too_late(request: Request, error: Exception) -> Response:
    return problem(504, str(error))
