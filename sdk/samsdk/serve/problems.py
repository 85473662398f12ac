"""What goes wrong, as the service says it: a status and `{"error": kind, "detail": text}`, never what was sent."""

import logging
import traceback
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from samsdk.errors import (
    BackendError,
    BundleError,
    CancelledError,
    ImageError,
    MissingExtraError,
    OutputError,
    PromptError,
    SamsdkError,
)

_log = logging.getLogger(__name__)
# Of the errors of a request, as many as are told; a body can hold thousands.
_TOLD: Final = 5
_KINDS: Final[tuple[tuple[type[SamsdkError], int, str], ...]] = (
    (ImageError, 422, "image"),
    (PromptError, 422, "prompt"),
    (MissingExtraError, 501, "missing_extra"),
    (CancelledError, 503, "cancelled"),
    (BundleError, 500, "bundle"),
    (BackendError, 500, "backend"),
    (OutputError, 500, "output"),
)
# Statuses that the framework answers with by itself.
_STATUS_KINDS: Final = {400: "request", 404: "not_found", 405: "method", 413: "too_large"}


class Problem(BaseModel):
    """Every answer that is not a success."""

    error: str = Field(description="the kind of problem, one word", examples=["prompt"])
    detail: str = Field(description="what was expected, what came, and what to do")


class Refused(SamsdkError):
    """The service will not do this.

    Args:
        status: of HTTP.
        kind: one word.
        detail: what was expected, what came, and what to do.
        headers: that go with it.
    """

    def __init__(self, status: int, kind: str, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.headers = headers


def problem(status: int, kind: str, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """The answer to a request that failed."""
    return JSONResponse({"error": kind, "detail": detail}, status, headers)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For OpenAPI: these statuses answer with a `Problem`, and so do those that any request may get."""
    every = (400, 401, 403, 413, 421, 422, 429, 500, 503)
    return {
        status: {"model": Problem, "description": HTTPStatus(status).phrase} for status in sorted({*every, *statuses})
    }


def add_problem_handlers(app: FastAPI) -> None:
    """Let what an application refuses be a `Problem`; what it does not expect is the guard's."""
    app.add_exception_handler(SamsdkError, _of_samsdk)
    app.add_exception_handler(RequestValidationError, _of_validation)
    app.add_exception_handler(HTTPException, _of_http)


def _of_samsdk(_request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, Refused):
        return problem(error.status, error.kind, str(error), error.headers)
    for kind, status, name in _KINDS:
        if isinstance(error, kind):
            if status >= 500:
                _log.error("%s: %s", type(error).__name__, error)
            return problem(status, name, str(error))
    return failure(error)


def _of_validation(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    # Where and what was expected; what came is not repeated.
    told = [f"{'.'.join(str(part) for part in one['loc'])}: {one['msg']}" for one in found[:_TOLD]]
    more = f"; and {len(found) - _TOLD} more" if len(found) > _TOLD else ""
    return problem(422, "request", "; ".join(told) + more)


def _of_http(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    kind = _STATUS_KINDS.get(error.status_code, "request")
    return problem(error.status_code, kind, str(error.detail), dict(error.headers or {}))


def failure(error: Exception) -> JSONResponse:
    """The answer to a request on which the service itself failed; the log says where."""
    # Without the error's text, which may hold what was sent.
    _log.error("%s\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))
    return problem(500, "internal", "the service failed; its log says where")
