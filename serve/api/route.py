"""``POST /v1/route``: the decision alone, single and batch; ``GET /healthz``."""

from __future__ import annotations

from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response
from pydantic_core import from_json

from policies.costs import estimate_tokens
from policies.preference import normalise_preference
from serve.api.errors import ApiError, check_characters, checked, json_answer, parsed, refusal
from serve.api.sender import Sender, sender_of
from serve.conversation import routing_text, whole_text
from serve.question import BadEmbeddingError, Constraints, Question
from serve.runtime import Runtime
from serve.schemas import (
    BatchAnswer,
    BatchRequest,
    ErrorAnswer,
    HealthAnswer,
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
_SCHEMAS = [{"$ref": f"#/components/schemas/{model.__name__}"} for model in (RouteRequest, BatchRequest)]
BODY_SCHEMA = {"application/json": {"schema": {"anyOf": _SCHEMAS}}}


def max_body_bytes(max_prompt_chars: int) -> int:
    """Return the longest body that an allowed prompt could make; a batch may be as long."""
    return max_prompt_chars * JSON_BYTES_PER_CHAR + OTHER_FIELDS_BYTES


def route_routes(runtime: Runtime) -> APIRouter:
    """Return the routes that decide and describe."""
    routes = APIRouter()
    limit = max_body_bytes(runtime.settings.max_prompt_chars)

    @routes.post(
        "/v1/route",
        response_model=RouteAnswer | BatchAnswer,
        responses=ERRORS,
        openapi_extra={"requestBody": {"required": True, "content": BODY_SCHEMA}},
    )
    async def route(request: Request) -> Response:
        """Choose a model for a prompt or conversation at a point of the cost-quality dial."""
        body, sender = await request.body(), sender_of(request)
        if _is_batch(body, limit):
            batch = parsed(BatchRequest, body, limit)
            return json_answer(await _route_batch(batch, runtime, sender))
        asked = parsed(RouteRequest, body, limit)
        return json_answer(_answer(await runtime.service.route(_question(asked, runtime, sender))))

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


def _is_batch(body: bytes, limit: int) -> bool:
    # Inside a JSON string the quotes would be escaped, so that few single requests are looked at twice.
    if len(body) > limit or b'"inputs"' not in body:
        return False
    try:
        values = from_json(body)
    except ValueError:
        return False
    return isinstance(values, dict) and "inputs" in values


async def _route_batch(batch: BatchRequest, runtime: Runtime, sender: Sender) -> BatchAnswer:
    questions: dict[int, Question] = {}
    answers: dict[int, RouteAnswer | ErrorAnswer] = {}
    for number, values in enumerate(batch.inputs):
        try:
            questions[number] = _question(checked(RouteRequest, values), runtime, sender)
        except (ApiError, BadEmbeddingError) as error:
            answers[number] = ErrorAnswer(error=refusal(error).body)
    for number, found in zip(questions, await runtime.service.route_many(list(questions.values()))):
        answers[number] = (
            ErrorAnswer(error=refusal(found).body) if isinstance(found, Exception) else _answer(found)
        )
    return BatchAnswer(answers=[answers[number] for number in range(len(batch.inputs))])


def _question(asked: RouteRequest, runtime: Runtime, sender: Sender) -> Question:
    bundle = runtime.releases.champion.bundle
    if asked.messages is not None:
        text = routing_text(asked.messages, bundle.encoder.max_tokens)
        whole = whole_text(asked.messages)
    else:
        text = whole = asked.prompt or ""
    field = "prompt" if asked.messages is None else "messages"
    check_characters(len(whole), runtime.settings.max_prompt_chars, field)
    if asked.prompt_tokens is not None:
        prompt_tokens: float = asked.prompt_tokens
    elif whole:
        prompt_tokens = estimate_tokens(len(whole))
    else:
        prompt_tokens = bundle.cost_model.mean_prompt_tokens
    constraints = Constraints(
        models=None if asked.models is None else tuple(asked.models),
        exclude=tuple(asked.exclude),
        max_cost_usd=asked.max_cost_usd,
        max_latency_s=asked.max_latency_s,
        needs=tuple(asked.needs),
        completion_tokens=asked.completion_tokens,
    )
    return Question(
        text=text,
        prompt_tokens=prompt_tokens,
        preference=_weights(asked, runtime),
        constraints=constraints,
        embedding=_vector(asked.embedding),
        session_id=asked.session_id,
        metadata=dict(asked.metadata),
        key_id=sender.key_id,
        policy_version=sender.policy_version,
    )


def _weights(asked: RouteRequest, runtime: Runtime) -> tuple[float, float]:
    if asked.preference is None:
        assert asked.w_cost is not None, "checked with the request"
        return normalise_preference(asked.w_quality, asked.w_cost)
    presets = runtime.settings.routing.presets
    if asked.preference not in presets:
        allowed = ", ".join(presets) or "none is configured"
        message = f"unknown preference '{asked.preference}'; allowed: {allowed}"
        raise ApiError(422, "invalid_request", message, "preference")
    return normalise_preference(None, presets[asked.preference])


def _vector(values: list[float] | None) -> np.ndarray | None:
    if values is None:
        return None
    with np.errstate(over="ignore"):
        vector = np.array(values, dtype=np.float32)
    if not np.isfinite(vector).all():
        raise BadEmbeddingError("a number is too large for 32 bits")
    return vector


def _answer(routed: Routed) -> RouteAnswer:
    decision = routed.decision
    w_quality, w_cost = routed.question.preference
    scores = decision.expected_scores
    # Our own values in our own types: nothing to check again.
    return RouteAnswer.model_construct(
        decision_id=routed.decision_id,
        policy_version=routed.release.bundle.policy_version,
        release=routed.release.name,
        model=decision.model,
        propensity=decision.propensity,
        probabilities=decision.probabilities,
        expected_score=None if scores is None else scores[decision.model],
        expected_scores=scores,
        expected_cost_usd=decision.expected_costs_usd[decision.model],
        expected_costs_usd=decision.expected_costs_usd,
        expected_latency_s=decision.expected_latencies_s[decision.model],
        expected_latencies_s=decision.expected_latencies_s,
        preference=Preference.model_construct(w_quality=w_quality, w_cost=w_cost),
        ineligible=decision.ineligible,
        kept_for_session=decision.kept,
    )
