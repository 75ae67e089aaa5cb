"""The HTTP API as an ASGI application, without a word about how it is deployed."""

from __future__ import annotations

import math
import uuid
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from policies.costs import CHARACTERS_PER_TOKEN
from serve.conversation import routing_text, whole_text
from serve.decider import Decider, NoEligibleModelError, UnknownModelsError
from serve.embedding import Embedder
from serve.schemas import (
    ErrorAnswer,
    ErrorBody,
    ErrorDetail,
    HealthAnswer,
    ModelInfo,
    ModelsAnswer,
    Preference,
    RouteAnswer,
    RouteRequest,
    openapi_components,
)
from serve.settings import ServeSettings

MAX_DETAILS = 20
JSON_BYTES_PER_CHAR = 6
"""A character of the prompt takes at most six bytes of JSON (an escape), plus the request's other fields."""
OTHER_FIELDS_BYTES = 65_536


class ApiError(Exception):
    """A refusal that the caller can act upon."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        param: str | None,
        details: list[ErrorDetail] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = ErrorBody(
            type="invalid_request_error" if status < 500 else "server_error",
            code=code,
            message=message,
            param=param,
            details=details or [ErrorDetail(param=param, message=message)],
        )


def create_app(decider: Decider, embedder: Embedder, settings: ServeSettings) -> FastAPI:
    """Return the application: ``POST /v1/route``, ``GET /v1/models``, ``GET /healthz``."""
    app = FastAPI(title="Tradewind", version="1", description="Which model should answer this prompt?")
    bundle = decider.bundle
    models_answer = ModelsAnswer(
        data=[
            ModelInfo(
                id=spec.name,
                input_price_per_mtok_usd=spec.input_price_per_mtok_usd,
                output_price_per_mtok_usd=spec.output_price_per_mtok_usd,
                context_window_tokens=spec.context_window_tokens,
                tags=list(spec.tags),
            )
            for spec in bundle.pool.specs
        ],
        policy_version=bundle.policy_version,
    )
    health_answer = HealthAnswer(
        policy_version=bundle.policy_version,
        policy_kind=bundle.policy.kind,
        encoder=f"{embedder.encoder.identity.name} ({embedder.encoder.identity.backend})",
        models=len(bundle.pool.models),
    )
    errors: dict[int | str, dict[str, Any]] = {
        413: {"model": ErrorAnswer, "description": "prompt or body too long"},
        422: {"model": ErrorAnswer, "description": "bad request; the error names the field"},
    }
    body_schema = {"application/json": {"schema": {"$ref": f"#/components/schemas/{RouteRequest.__name__}"}}}

    @app.post(
        "/v1/route",
        response_model=RouteAnswer,
        responses=errors,
        openapi_extra={"requestBody": {"required": True, "content": body_schema}},
    )
    async def route(request: Request) -> Response:
        """Choose a model for a prompt or conversation at a point of the cost-quality dial."""
        # Parsed here rather than by FastAPI: one pass from bytes to model, and errors in our own shape.
        asked = parse_route_request(await request.body(), settings.max_prompt_chars)
        decider.check_models(asked.models)
        if asked.messages is None:
            text = whole = asked.prompt or ""
        else:
            text = routing_text(asked.messages, bundle.encoder.max_tokens)
            whole = whole_text(asked.messages)
        if len(whole) > settings.max_prompt_chars:
            field = "prompt" if asked.messages is None else "messages"
            raise _too_long(f"{len(whole)} characters", f"{settings.max_prompt_chars} characters", field)
        decision = decider.decide(
            await embedder.embed(text),
            asked.preference,
            prompt_tokens=max(math.ceil(len(whole) / CHARACTERS_PER_TOKEN), 1),
            models=asked.models,
        )
        w_quality, w_cost = asked.preference
        return _json(
            RouteAnswer(
                decision_id=uuid.uuid4().hex,
                policy_version=bundle.policy_version,
                model=decision.model,
                propensity=decision.propensity,
                probabilities=decision.probabilities,
                expected_cost_usd=decision.expected_costs_usd[decision.model],
                expected_costs_usd=decision.expected_costs_usd,
                preference=Preference(w_quality=w_quality, w_cost=w_cost),
                ineligible=decision.ineligible,
            )
        )

    @app.get("/v1/models", response_model=ModelsAnswer)
    async def models() -> Response:
        """List the models that may be chosen, with their prices."""
        return _json(models_answer)

    @app.get("/healthz", response_model=HealthAnswer)
    async def healthz() -> Response:
        """Tell that the replica answers and which policy it decides with."""
        return _json(health_answer)

    _handle_errors(app)
    _complete_openapi(app)
    return app


def parse_route_request(body: bytes, max_prompt_chars: int) -> RouteRequest:
    """Return the checked request.

    Raises:
        ApiError: 413 when the body is longer than any allowed prompt could make it, else 422 with the fields.
    """
    limit = max_prompt_chars * JSON_BYTES_PER_CHAR + OTHER_FIELDS_BYTES
    if len(body) > limit:
        raise _too_long(f"a body of {len(body)} bytes", f"{limit} bytes", None)
    try:
        return RouteRequest.model_validate_json(body)
    except ValidationError as error:
        details = _details(error)
        first = details[0]
        message = f"{first.param}: {first.message}" if first.param else first.message
        raise ApiError(422, "invalid_request", message, first.param, details) from None


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


def _too_long(found: str, allowed: str, param: str | None) -> ApiError:
    return ApiError(413, "too_long", f"{found}; allowed: at most {allowed}", param)


def _json(answer: BaseModel, status: int = 200) -> Response:
    return Response(answer.model_dump_json(), status_code=status, media_type="application/json")


def _handle_errors(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def refused(request: Request, error: ApiError) -> Response:
        return _json(ErrorAnswer(error=error.body), error.status)

    @app.exception_handler(UnknownModelsError)
    async def unknown_models(request: Request, error: UnknownModelsError) -> Response:
        return await refused(request, ApiError(422, "unknown_model", str(error), "models"))

    @app.exception_handler(NoEligibleModelError)
    async def no_model(request: Request, error: NoEligibleModelError) -> Response:
        details = [ErrorDetail(param=None, message=f"{model}: {why}") for model, why in error.reasons.items()]
        return await refused(request, ApiError(422, "no_eligible_model", str(error), None, details))

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        response = await refused(request, ApiError(error.status_code, "http_error", str(error.detail), None))
        response.headers.update(error.headers or {})
        return response


def _complete_openapi(app: FastAPI) -> None:
    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(
                title=app.title, version=app.version, description=app.description, routes=app.routes
            )
            schema.setdefault("components", {}).setdefault("schemas", {}).update(openapi_components())
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
