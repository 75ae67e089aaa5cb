"""``POST /v1/chat/completions`` and ``/v1/completions``: OpenAI-compatible, answered by the models of the pool."""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.types import Receive, Scope, Send

from policies.pool import ModelPool
from serve.access.caller import Caller
from serve.access.current import caller_of
from serve.api.errors import ApiError, check_characters
from serve.api.sender import POLICY_HEADER
from serve.conversation import routing_text
from serve.gateway.client import Stream, Whole
from serve.gateway.dial import W_COST_HEADER, read_dial
from serve.gateway.faults import UpstreamFailedError
from serve.gateway.gateway import CLIENT_LEFT, Delivery, Gateway
from serve.gateway.presence import ClientLeftError, while_client_stays
from serve.gateway.request import Call, Kind, read_call
from serve.question import Constraints, Question
from serve.runtime import Runtime
from serve.schemas import ErrorAnswer

SESSION_HEADER = "x-tradewind-session-id"
MAX_COST_HEADER = "x-tradewind-max-cost-usd"
CLIENT_CLOSED_REQUEST = 499

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": text}
    for status, text in {
        400: "bad request; the error names the field",
        404: "no such model",
        413: "body too long",
        429: "over a limit, of a key or of the model's upstream",
        502: "the model's upstream failed, and so did the others",
        503: "no model can be called now",
        504: "the model's upstream did not answer in time",
    }.items()
}


def _documentation(required: str) -> dict[str, Any]:
    properties: dict[str, Any] = {
        "model": {"type": "string"},
        "stream": {"type": "boolean"},
        required: {"type": "array", "items": {"type": "object"}}
        if required == "messages"
        else {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
    }
    schema = {"type": "object", "required": ["model", required], "properties": properties}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def chat_routes(runtime: Runtime) -> APIRouter:
    """Return the routes of the gateway."""
    routes = APIRouter()
    answers: dict[str, Any] = {"responses": ERRORS, "response_class": Response}

    @routes.post("/v1/chat/completions", openapi_extra=_documentation("messages"), **answers)
    async def chat_completions(request: Request) -> Response:
        """Answer a conversation with the model that the policy chooses, or the one that is named."""
        return await _answered(runtime, "chat/completions", request)

    @routes.post("/v1/completions", openapi_extra=_documentation("prompt"), **answers)
    async def completions(request: Request) -> Response:
        """Complete a prompt with the model that the policy chooses, or the one that is named."""
        return await _answered(runtime, "completions", request)

    return routes


async def _answered(runtime: Runtime, kind: Kind, request: Request) -> Response:
    gateway = runtime.gateway
    call = read_call(kind, await request.body())
    caller = caller_of(request)
    question = _question(runtime, call, request, caller)
    try:
        async with while_client_stays(request.receive):
            delivery = await gateway.answer(call, question, caller)
    except ClientLeftError:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    headers = _headers(delivery)
    if isinstance(delivery.answer, Whole):
        gateway.finish(delivery)
        return Response(delivery.answer.body, headers=headers, media_type="application/json")
    return StreamResponse(gateway, delivery, delivery.answer, headers)


class StreamResponse(Response):
    """Hands events on as they arrive; tells the caller when they break off.

    Args:
        gateway: to be told what came of it.
        delivery: what is answered.
        stream: its stream.
        headers: of the answer.
    """

    def __init__(self, gateway: Gateway, delivery: Delivery, stream: Stream, headers: dict[str, str]) -> None:
        super().__init__(headers={**headers, "cache-control": "no-cache", "x-accel-buffering": "no"})
        # The length is not known, and the type must not get a charset that the upstream did not give.
        del self.headers["content-length"]
        self.headers["content-type"] = "text/event-stream; charset=utf-8"
        self._gateway = gateway
        self._delivery = delivery
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        error: str | None = CLIENT_LEFT
        try:
            async with while_client_stays(receive):
                await send(
                    {
                        "type": "http.response.start",
                        "status": self.status_code,
                        "headers": self.raw_headers,
                    }
                )
                error = await self._relay(send)
        except (ClientLeftError, OSError):
            pass
        finally:
            self._stream.close()
            self._gateway.finish(self._delivery, error)

    async def _relay(self, send: Send) -> str | None:
        """Send all events and return what broke them off, None when they came to their end."""
        error: str | None = None
        block = self._stream.first
        try:
            while block:
                await send({"type": "http.response.body", "body": block, "more_body": True})
                block = await self._stream.next()
        except UpstreamFailedError as failure:
            error = failure.fault.code
            self._gateway.cut(self._delivery)
            told = failure.fault.error(self._delivery.upstream.name).body.model_dump()
            block = b"data: " + json.dumps({"error": told}).encode() + b"\n\n"
            await send({"type": "http.response.body", "body": block, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        return error


def _no_endpoint(pool: ModelPool, pinned: str | None) -> str:
    if pinned is None:
        return "no model has an endpoint"
    tool = any(spec.name == pinned and spec.kind == "tool" for spec in pool.specs)
    return f"model '{pinned}' has no endpoint" + ("; such a tool is for POST /v1/route alone" if tool else "")


def _question(runtime: Runtime, call: Call, request: Request, caller: Caller) -> Question:
    gateway = runtime.gateway
    bundle = runtime.releases.champion.bundle
    headers = request.headers
    presets = runtime.settings.routing.presets
    dial = read_dial(call.model, headers.get(W_COST_HEADER), gateway.settings, bundle.pool.models, presets)
    length = sum(len(message.text()) for message in call.messages)
    field = "messages" if call.kind == "chat/completions" else "prompt"
    check_characters(length, runtime.settings.max_prompt_chars, field)
    offer = gateway.upstreams.offer(bundle.pool)
    models = offer.models if dial.pinned is None else (dial.pinned,)
    if offer.models is not None and (not offer.models or dial.pinned not in (None, *offer.models)):
        raise ApiError(503, "no_endpoint", _no_endpoint(bundle.pool, dial.pinned), "model")
    constraints = Constraints(
        models=models,
        max_cost_usd=_max_cost_usd(headers.get(MAX_COST_HEADER)),
        # A pool that never names a capability does not say which models lack it.
        needs=() if dial.pinned else tuple(need for need in call.needs if need in offer.tags),
        completion_tokens=call.completion_tokens or 0,
    )
    return Question(
        text=routing_text(call.messages, bundle.encoder.max_tokens) if length else "",
        prompt_tokens=call.prompt_tokens,
        preference=dial.preference,
        constraints=constraints,
        session_id=headers.get(SESSION_HEADER),
        metadata=call.metadata,
        key_id=caller.key_id,
        policy_version=headers.get(POLICY_HEADER) or None,
    )


def _max_cost_usd(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value < float("inf"):
        message = f"{MAX_COST_HEADER}: {text!r}; allowed: a number of USD, 0 or more"
        raise ApiError(400, "invalid_request", message, MAX_COST_HEADER)
    return value


def _headers(delivery: Delivery) -> dict[str, str]:
    routed = delivery.routed
    decision = routed.decision
    headers = {
        # What the official clients show as a request's id: the one to send feedback for.
        "x-request-id": routed.decision_id,
        "x-tradewind-decision-id": routed.decision_id,
        "x-tradewind-model": decision.model,
        "x-tradewind-propensity": repr(decision.propensity),
        "x-tradewind-expected-cost-usd": f"{decision.expected_costs_usd[decision.model]:.9g}",
        "x-tradewind-policy-version": routed.release.bundle.policy_version,
    }
    if routed.question.retry_of is not None:
        headers["x-tradewind-retry-of"] = routed.question.retry_of
    return headers
