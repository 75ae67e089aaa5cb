"""The console: the page at ``/`` and what it asks for (``/v1/dial``, ``/v1/explain``, ``/v1/traffic``)."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from policies.costs import estimate_tokens
from serve.api.errors import ApiError, check_characters, json_answer, parsed
from serve.api.route import ERRORS, max_body_bytes
from serve.console.answers import DialAnswer, ExplainAnswer, ExplainRequest, TrafficAnswer
from serve.console.explain import explain
from serve.console.live import LivePicture
from serve.console.page import HEADERS, page_files
from serve.console.picture import DIAL
from serve.console.samples import SAMPLES
from serve.console.traffic import LONGEST_WINDOW_S, traffic_answer
from serve.question import Constraints
from serve.runtime import Runtime

EXPLAIN_SCHEMA = {"application/json": {"schema": ExplainRequest.model_json_schema()}}

Window = Annotated[float, Query(ge=60.0, le=LONGEST_WINDOW_S, description="seconds back from now")]


def console_routes(runtime: Runtime) -> APIRouter:
    """Return the routes of the page."""
    routes = APIRouter(tags=["console"])
    page = page_files()
    live = LivePicture(runtime.releases, runtime.service.recent, sample=runtime.settings.decision == "sample")
    limit = max_body_bytes(runtime.settings.max_prompt_chars)

    @routes.get("/", include_in_schema=False)
    async def index(request: Request) -> Response:
        return _file(request, "index.html")

    @routes.get("/console/{name}", include_in_schema=False)
    async def part(request: Request, name: str) -> Response:
        return _file(request, name)

    def _file(request: Request, name: str) -> Response:
        found = page.get(name)
        if found is None:
            raise ApiError(404, "not_found", f"no such file; the page has {', '.join(sorted(page))}")
        headers = {**HEADERS, "ETag": found.etag}
        if request.headers.get("if-none-match") == found.etag:
            return Response(status_code=304, headers=headers)
        return Response(found.body, media_type=found.media_type, headers=headers)

    @routes.get("/v1/dial", response_model=DialAnswer)
    async def dial() -> Response:
        """Place every model and the policy along the dial by expected cost and score over recent prompts."""
        release, contexts, drawn = await live.get()
        encoder = release.embedder.encoder.identity
        answer = DialAnswer(
            policy_version=release.bundle.policy_version,
            policy_kind=release.bundle.policy.kind,
            encoder=f"{encoder.name} ({encoder.backend})",
            source=contexts.source,
            prompts=drawn.prompts,
            w_cost=list(DIAL),
            models=drawn.models,
            policy=drawn.policy,
            mix_line=drawn.mix_line,
            always_best=drawn.always_best,
            presets=runtime.settings.routing.presets,
            samples=list(SAMPLES),
        )
        return json_answer(answer)

    @routes.post(
        "/v1/explain",
        response_model=ExplainAnswer,
        responses=ERRORS,
        openapi_extra={"requestBody": {"required": True, "content": EXPLAIN_SCHEMA}},
    )
    async def explain_prompt(request: Request) -> Response:
        """Decide one prompt at every setting of the dial; nothing is logged and no model is called."""
        asked = parsed(ExplainRequest, await request.body(), limit)
        check_characters(len(asked.prompt), runtime.settings.max_prompt_chars, "prompt")
        release = runtime.releases.champion
        constraints = Constraints(
            models=None if asked.models is None else tuple(asked.models),
            exclude=tuple(asked.exclude),
            max_cost_usd=asked.max_cost_usd,
            max_latency_s=asked.max_latency_s,
        )
        release.decider.check_models(constraints)
        embedding = await release.embedder.embed(asked.prompt)
        tokens = estimate_tokens(len(asked.prompt))
        service = runtime.service
        answer = await asyncio.to_thread(
            explain, release, embedding, tokens, constraints, service.unhealthy(), service.latencies
        )
        return json_answer(answer)

    @routes.get("/v1/traffic", response_model=TrafficAnswer, responses={422: ERRORS[422]})
    async def traffic(window_s: Window = 3600.0) -> Response:
        """Tell what went through lately: decisions, cost, savings, feedback, versions, health, errors."""
        return json_answer(await asyncio.to_thread(traffic_answer, runtime, window_s))

    return routes
