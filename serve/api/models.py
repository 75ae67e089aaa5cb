"""``GET /v1/models`` and ``/v1/models/{id}``: what a request may name as its model, as OpenAI's clients list it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from policies.pool import ModelSpec
from serve.api.errors import json_answer
from serve.gateway.dial import SEPARATOR, read_dial
from serve.runtime import Runtime
from serve.schemas import ErrorAnswer, ModelInfo, ModelsAnswer

ROUTER_OWNER = "tradewind"
NOT_FOUND: dict[int | str, dict[str, Any]] = {404: {"model": ErrorAnswer, "description": "no such model"}}


def models_routes(runtime: Runtime) -> APIRouter:
    """Return the routes that list models."""
    routes = APIRouter()

    @routes.get("/v1/models", response_model=ModelsAnswer)
    async def models() -> Response:
        """List what may be named as model: the router, the router at each preset, the models with their prices."""
        bundle = runtime.releases.champion.bundle
        name = runtime.settings.gateway.name
        routers = [name, *(name + SEPARATOR + preset for preset in runtime.settings.routing.presets)]
        data = [
            *(_router(router, runtime) for router in routers),
            *(_model(spec, runtime) for spec in bundle.pool.specs),
        ]
        return json_answer(ModelsAnswer(data=data, policy_version=bundle.policy_version))

    @routes.get("/v1/models/{model:path}", response_model=ModelInfo, responses=NOT_FOUND)
    async def model(model: str) -> Response:
        """Describe one of them; ``tradewind:0.3`` is one as well."""
        release, settings = runtime.releases.champion, runtime.settings
        models = release.bundle.pool.models
        dial = read_dial(model, None, settings.gateway, models, settings.routing.presets)
        if dial.pinned is None:
            return json_answer(_router(model, runtime))
        return json_answer(_model(release.decider.specs[dial.pinned], runtime))

    return routes


def _router(name: str, runtime: Runtime) -> ModelInfo:
    return ModelInfo(id=name, created=_created(runtime), owned_by=ROUTER_OWNER)


def _model(spec: ModelSpec, runtime: Runtime) -> ModelInfo:
    return ModelInfo(
        id=spec.name,
        created=_created(runtime),
        owned_by=runtime.releases.champion.bundle.pool.name,
        input_price_per_mtok_usd=spec.input_price_per_mtok_usd,
        output_price_per_mtok_usd=spec.output_price_per_mtok_usd,
        price_per_call_usd=spec.price_per_call_usd,
        kind=spec.kind,
        context_window_tokens=spec.context_window_tokens,
        tags=list(spec.tags),
    )


def _created(runtime: Runtime) -> int:
    return int(runtime.releases.loaded_at.timestamp())
