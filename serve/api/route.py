"""``POST /v1/route``: the decision alone; ``GET /v1/models`` and ``GET /healthz``."""

from __future__ import annotations

import math
from typing import Any

from fastapi import APIRouter, Request, Response

from policies.costs import CHARACTERS_PER_TOKEN
from serve.api.errors import json_answer, parsed, too_long
from serve.conversation import routing_text, whole_text
from serve.question import Constraints, Question
from serve.runtime import Runtime
from serve.schemas import (
    ErrorAnswer,
    HealthAnswer,
    ModelInfo,
    ModelsAnswer,
    Preference,
    RouteAnswer,
    RouteRequest,
)
from serve.service import Routed

JSON_BYTES_PER_CHAR = 6
"""A character of the prompt takes at most six bytes of JSON (an escape), plus the request's other fields."""
OTHER_FIELDS_BYTES = 65_536

ERRORS: dict[int | str, dict[str, Any]] = {
    413: {"model": ErrorAnswer, "description": "prompt or body too long"},
    422: {"model": ErrorAnswer, "description": "bad request; the error names the field"},
}
BODY_SCHEMA = {"application/json": {"schema": {"$ref": f"#/components/schemas/{RouteRequest.__name__}"}}}


def max_body_bytes(max_prompt_chars: int) -> int:
    """Return the longest body that an allowed prompt could make."""
    return max_prompt_chars * JSON_BYTES_PER_CHAR + OTHER_FIELDS_BYTES


def route_routes(runtime: Runtime) -> APIRouter:
    """Return the routes that decide and describe."""
    routes = APIRouter()
    limit = max_body_bytes(runtime.settings.max_prompt_chars)

    @routes.post(
        "/v1/route",
        response_model=RouteAnswer,
        responses=ERRORS,
        openapi_extra={"requestBody": {"required": True, "content": BODY_SCHEMA}},
    )
    async def route(request: Request) -> Response:
        """Choose a model for a prompt or conversation at a point of the cost-quality dial."""
        asked = parsed(RouteRequest, await request.body(), limit)
        routed = await runtime.service.route(_question(asked, runtime))
        return json_answer(_answer(routed))

    @routes.get("/v1/models", response_model=ModelsAnswer)
    async def models() -> Response:
        """List the models that may be chosen, with their prices."""
        bundle = runtime.releases.champion.bundle
        data = [
            ModelInfo(
                id=spec.name,
                input_price_per_mtok_usd=spec.input_price_per_mtok_usd,
                output_price_per_mtok_usd=spec.output_price_per_mtok_usd,
                context_window_tokens=spec.context_window_tokens,
                tags=list(spec.tags),
            )
            for spec in bundle.pool.specs
        ]
        return json_answer(ModelsAnswer(data=data, policy_version=bundle.policy_version))

    @routes.get("/healthz", response_model=HealthAnswer)
    async def healthz() -> Response:
        """Tell that the replica answers and which policy it decides with."""
        champion = runtime.releases.champion
        encoder = champion.embedder.encoder.identity
        answer = HealthAnswer(
            policy_version=champion.bundle.policy_version,
            policy_kind=champion.bundle.policy.kind,
            encoder=f"{encoder.name} ({encoder.backend})",
            models=len(champion.bundle.pool.models),
        )
        return json_answer(answer)

    return routes


def _question(asked: RouteRequest, runtime: Runtime) -> Question:
    if asked.messages is None:
        text = whole = asked.prompt or ""
    else:
        text = routing_text(asked.messages, runtime.releases.champion.bundle.encoder.max_tokens)
        whole = whole_text(asked.messages)
    allowed = runtime.settings.max_prompt_chars
    if len(whole) > allowed:
        field = "prompt" if asked.messages is None else "messages"
        raise too_long(f"{len(whole)} characters", f"{allowed} characters", field)
    return Question(
        text=text,
        prompt_tokens=max(math.ceil(len(whole) / CHARACTERS_PER_TOKEN), 1),
        preference=asked.preference,
        constraints=Constraints(models=None if asked.models is None else tuple(asked.models)),
    )


def _answer(routed: Routed) -> RouteAnswer:
    decision = routed.decision
    w_quality, w_cost = routed.question.preference
    return RouteAnswer(
        decision_id=routed.decision_id,
        policy_version=routed.release.bundle.policy_version,
        model=decision.model,
        propensity=decision.propensity,
        probabilities=decision.probabilities,
        expected_cost_usd=decision.expected_costs_usd[decision.model],
        expected_costs_usd=decision.expected_costs_usd,
        preference=Preference(w_quality=w_quality, w_cost=w_cost),
        ineligible=decision.ineligible,
    )
