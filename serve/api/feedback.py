"""``POST /v1/feedback``: what came of a decision; ``GET /v1/decisions/{id}``: the decision as it was logged."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request, Response

from serve.access.caller import Caller
from serve.access.current import caller_of
from serve.api.errors import ApiError, json_answer, parsed
from serve.journal.records import DecisionRecord, Outcome
from serve.runtime import Runtime
from serve.schemas import (
    DecisionAnswer,
    ErrorAnswer,
    FeedbackAnswer,
    FeedbackRequest,
    OutcomeAnswer,
    Preference,
)

MAX_BODY_BYTES = 65_536

UNKNOWN: dict[int | str, dict[str, Any]] = {404: {"model": ErrorAnswer, "description": "no such decision"}}
ERRORS: dict[int | str, dict[str, Any]] = UNKNOWN | {
    409: {"model": ErrorAnswer, "description": "a field is known with another value; nothing was changed"},
    413: {"model": ErrorAnswer, "description": "body too long"},
    422: {"model": ErrorAnswer, "description": "bad request; the error names the field"},
}
BODY_SCHEMA = {"application/json": {"schema": {"$ref": f"#/components/schemas/{FeedbackRequest.__name__}"}}}


def feedback_routes(runtime: Runtime) -> APIRouter:
    """Return the routes of the decision log."""
    routes = APIRouter()
    journal = runtime.journal

    @routes.post(
        "/v1/feedback",
        response_model=FeedbackAnswer,
        responses=ERRORS,
        openapi_extra={"requestBody": {"required": True, "content": BODY_SCHEMA}},
    )
    async def feedback(request: Request) -> Response:
        """Join a score, or whatever else is known of the call, to its decision; safe to repeat."""
        told = parsed(FeedbackRequest, await request.body(), MAX_BODY_BYTES)
        caller = caller_of(request)
        if caller.key_id is not None:  # without keys the journal's own look-up is enough
            _own(journal.find(told.decision_id), told.decision_id, caller)
        outcome = Outcome(**told.model_dump(exclude={"decision_id"}))
        status = await journal.record_outcome(told.decision_id, outcome, "feedback")
        runtime.metrics.outcome(status)
        if status == "unknown":
            raise _unknown(told.decision_id)
        if status == "conflict":
            raise ApiError(
                409, "conflict", f"decision '{told.decision_id}': a field is known with another value"
            )
        return json_answer(FeedbackAnswer(decision_id=told.decision_id, status=status))

    @routes.get("/v1/decisions/{decision_id}", response_model=DecisionAnswer, responses=UNKNOWN)
    async def decision(decision_id: str, request: Request) -> Response:
        """Return a decision of the log and what is known of it."""
        record, outcome = _own(journal.find(decision_id), decision_id, caller_of(request))
        return json_answer(_answer(record, outcome))

    return routes


def _own(
    found: tuple[DecisionRecord, Outcome] | None, decision_id: str, caller: Caller
) -> tuple[DecisionRecord, Outcome]:
    """Return a decision that the caller may see: its key's own, or any with the role ``admin``."""
    if found is None or not (found[0].key_id == caller.key_id or "admin" in caller.roles):
        raise _unknown(decision_id)
    return found


def _unknown(decision_id: str) -> ApiError:
    return ApiError(404, "unknown_decision", f"no decision '{decision_id[:128]}' in the log", "decision_id")


def _answer(record: DecisionRecord, outcome: Outcome) -> DecisionAnswer:
    return DecisionAnswer(
        decision_id=record.decision_id,
        timestamp=record.timestamp,
        prompt_id=record.prompt_id,
        model=record.model,
        propensity=record.propensity,
        eligible=list(record.eligible),
        preference=Preference(w_quality=record.w_quality, w_cost=record.w_cost),
        policy_version=record.policy_version,
        release=record.release,
        prompt_tokens=record.prompt_tokens,
        expected_score=record.expected_score,
        expected_cost_usd=record.expected_cost_usd,
        best_cost_usd=record.best_cost_usd,
        key_id=record.key_id,
        session_id=record.session_id,
        retry_of=record.retry_of,
        metadata=record.metadata,
        outcome=OutcomeAnswer(**asdict(outcome)),
    )
