"""Refusals in one shape: that of OpenAI-compatible APIs, plus every detail."""

from __future__ import annotations

from typing import TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from serve.api.sender import POLICY_HEADER
from serve.eligibility import NoEligibleModelError, UnknownModelsError
from serve.question import BadEmbeddingError, UnknownVersionError
from serve.schemas import ErrorAnswer, ErrorBody, ErrorDetail

MAX_DETAILS = 20

IMPOSSIBLE = (UnknownModelsError, NoEligibleModelError, BadEmbeddingError, UnknownVersionError)
"""Errors of routing that a caller can act upon."""

Body = TypeVar("Body", bound=BaseModel)


class ApiError(Exception):
    """A refusal that the caller can act upon."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        param: str | None = None,
        details: list[ErrorDetail] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers or {}
        self.body = ErrorBody(
            type="invalid_request_error" if status < 500 else "server_error",
            code=code,
            message=message,
            param=param,
            details=details or [ErrorDetail(param=param, message=message)],
        )


def parsed(model: type[Body], body: bytes, max_bytes: int) -> Body:
    """Return a checked request body.

    Parsed here rather than by FastAPI: one pass from bytes to model, and errors in our own shape.

    Raises:
        ApiError: 413 when the body is too long, else 422 with the fields.
    """
    if len(body) > max_bytes:
        raise too_long(f"a body of {len(body)} bytes", f"{max_bytes} bytes", None)
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise _invalid(error) from None


def checked(model: type[Body], values: object) -> Body:
    """Return a checked part of a parsed body.

    Raises:
        ApiError: 422 with the fields.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _invalid(error) from None


def _invalid(error: ValidationError) -> ApiError:
    details = _details(error)
    first = details[0]
    message = f"{first.param}: {first.message}" if first.param else first.message
    return ApiError(422, "invalid_request", message, first.param, details)


def too_long(found: str, allowed: str, param: str | None) -> ApiError:
    """Return the refusal of something that is longer than it may be."""
    return ApiError(413, "too_long", f"{found}; allowed: at most {allowed}", param)


def check_characters(found: int, allowed: int, param: str) -> None:
    """Raise ApiError 413 when a text has more characters than it may have."""
    if found > allowed:
        raise too_long(f"{found} characters", f"{allowed} characters", param)


def json_answer(answer: BaseModel, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a model as a JSON response."""
    return Response(
        answer.model_dump_json(), status_code=status, headers=headers, media_type="application/json"
    )


def handle_errors(app: FastAPI) -> None:
    """Give every refusal of the application the same shape."""

    @app.exception_handler(ApiError)
    async def refused(request: Request, error: ApiError) -> Response:
        # For the door, which counts refusals by their code.
        request.state.error_code = error.body.code
        return json_answer(ErrorAnswer(error=error.body), error.status, error.headers)

    @app.exception_handler(RequestValidationError)
    async def bad_parameters(request: Request, error: RequestValidationError) -> Response:
        details = [
            ErrorDetail(param=".".join(str(part) for part in problem["loc"][1:]), message=problem["msg"])
            for problem in error.errors()
        ]
        first = details[0]
        message = f"{first.param}: {first.message}"
        return await refused(request, ApiError(422, "invalid_request", message, first.param, details))

    async def impossible(request: Request, error: Exception) -> Response:
        return await refused(request, refusal(error))

    for kind in IMPOSSIBLE:
        app.add_exception_handler(kind, impossible)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        response = await refused(request, ApiError(error.status_code, "http_error", str(error.detail)))
        response.headers.update(error.headers or {})
        return response


def refusal(error: Exception) -> ApiError:
    """Return what a caller is told of an error of routing.

    Raises:
        Exception: the error itself, when it is none that a caller can act upon.
    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, UnknownModelsError):
        return ApiError(422, "unknown_model", str(error), error.param)
    if isinstance(error, BadEmbeddingError):
        return ApiError(422, "invalid_request", str(error), "embedding")
    if isinstance(error, UnknownVersionError):
        return ApiError(422, "unknown_policy_version", str(error), POLICY_HEADER)
    if isinstance(error, NoEligibleModelError):
        details = [ErrorDetail(param=None, message=f"{model}: {why}") for model, why in error.reasons.items()]
        return ApiError(422, "no_eligible_model", str(error), None, details)
    raise error


def _details(error: ValidationError) -> list[ErrorDetail]:
    found: dict[tuple[str | None, str], None] = {}
    # Neither input nor context is passed on: an answer must not echo prompts into someone's log.
    for problem in error.errors(include_url=False, include_input=False):
        parts = [str(part) for part in problem["loc"]]
        # Branches of a union carry its type's name as a path element, which no caller ever sent.
        path = ".".join(part for part in parts if part != "str" and not part.startswith("list["))
        field = path or problem.get("ctx", {}).get("field")
        found[(field, problem["msg"])] = None
    return [ErrorDetail(param=param, message=message) for param, message in found][:MAX_DETAILS]
