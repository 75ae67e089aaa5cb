"""Changing what is served, for keys with the role ``admin``: ``/admin/...``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from policies.errors import InputError
from serve.api.errors import ApiError, json_answer, parsed
from serve.registry import CANARY, SHADOW, Registry, Target
from serve.runtime import Runtime
from serve.schemas import ErrorAnswer

MAX_BYTES = 65_536

Answer = TypeVar("Answer")


class CanaryRequest(BaseModel):
    """Let a registered version decide a part of the sessions."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    version: str = Field(min_length=1, max_length=100, description="model version of the registry")
    percent: float = Field(ge=0.0, le=100.0)


class ShadowRequest(BaseModel):
    """Let a registered version decide along, without effect."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    version: str = Field(min_length=1, max_length=100, description="model version of the registry")


class ReleasesAnswer(BaseModel):
    """What a replica decides with.

    ``releases`` names the policy version of ``champion``, ``canary`` and ``shadow``. ``error`` says why what
    should be served could not be loaded; what was in use before stays then.
    """

    releases: dict[str, str]
    canary_percent: float
    pinned: list[str] = Field(description="versions that requests may name besides")
    loaded_at: str
    error: str | None


class StatusAnswer(ReleasesAnswer):
    """What this replica decides with, and what every living replica told last."""

    replicas: dict[str, dict[str, Any]]


class ChangeAnswer(ReleasesAnswer):
    """What this replica decides with now; the other replicas follow at once."""

    changed: bool


_CONFLICT: dict[int | str, dict[str, Any]] = {
    409: {"model": ErrorAnswer, "description": "it cannot be served; nothing has changed"}
}
_CHANGES: dict[int | str, dict[str, Any]] = {
    **_CONFLICT,
    413: {"model": ErrorAnswer, "description": "body too long"},
    422: {"model": ErrorAnswer, "description": "bad request; the error names the field"},
}


def admin_routes(runtime: Runtime) -> APIRouter:
    """Return the routes that change releases."""
    routes = APIRouter(prefix="/admin", tags=["admin"])
    releases, watch = runtime.releases, runtime.watch

    async def registry(work: Callable[[Registry], Answer]) -> Answer:
        # MLflow's client blocks: never on the loop that answers requests.
        return await asyncio.to_thread(lambda: work(Registry(runtime.settings)))

    async def change(
        target: Callable[[Registry], Target], work: Callable[[Registry, str], None], *, explores: bool = True
    ) -> Response:
        try:
            found = await registry(target)
            # Before the alias moves: what cannot be served here must not become what should be.
            await releases.check(found, explores=explores)
            await registry(lambda opened: work(opened, str(found.model_version)))
        except InputError as error:
            raise ApiError(409, "release_refused", str(error)) from None
        return await reload()

    async def clear(alias: str) -> Response:
        try:
            await registry(lambda opened: opened.clear(alias))
        except InputError as error:
            raise ApiError(409, "release_refused", str(error)) from None
        return await reload()

    @routes.get("/status", response_model=StatusAnswer)
    async def status() -> Response:
        """Tell which releases this replica has and what every replica told last."""
        return json_answer(StatusAnswer(**_releases(runtime), replicas=await watch.replicas()))

    @routes.post("/reload", response_model=ChangeAnswer, responses=_CONFLICT)
    async def reload() -> Response:
        """Load what the aliases name now, here and in every replica, without dropping a request."""
        try:
            changed = await watch.reload()
        except InputError as error:
            raise ApiError(409, "release_refused", str(error)) from None
        return json_answer(ChangeAnswer(**_releases(runtime), changed=changed))

    @routes.post("/rollback", response_model=ChangeAnswer, responses=_CONFLICT)
    async def rollback() -> Response:
        """Make the previous champion the champion again; once more undoes it."""
        return await change(Registry.previous, Registry.make_champion)

    @routes.post("/promote", response_model=ChangeAnswer, responses=_CONFLICT)
    async def promote() -> Response:
        """Make the canary the champion."""

        def make_champion(opened: Registry, version: str) -> None:
            opened.make_champion(version)
            opened.clear(CANARY)

        return await change(lambda opened: opened.need(CANARY), make_champion)

    @routes.put(
        "/canary", response_model=ChangeAnswer, responses=_CHANGES, openapi_extra=_body(CanaryRequest)
    )
    async def set_canary(request: Request) -> Response:
        """Let a version decide a part of the sessions."""
        asked = parsed(CanaryRequest, await request.body(), MAX_BYTES)
        return await change(
            lambda opened: opened.version(asked.version),
            lambda opened, version: opened.set_canary(version, asked.percent),
        )

    @routes.delete("/canary", response_model=ChangeAnswer, responses=_CONFLICT)
    async def clear_canary() -> Response:
        """End the canary: the champion decides everything."""
        return await clear(CANARY)

    @routes.put(
        "/shadow", response_model=ChangeAnswer, responses=_CHANGES, openapi_extra=_body(ShadowRequest)
    )
    async def set_shadow(request: Request) -> Response:
        """Let a version decide along, without effect."""
        asked = parsed(ShadowRequest, await request.body(), MAX_BYTES)
        return await change(lambda opened: opened.version(asked.version), Registry.set_shadow, explores=False)

    @routes.delete("/shadow", response_model=ChangeAnswer, responses=_CONFLICT)
    async def clear_shadow() -> Response:
        """End the shadow."""
        return await clear(SHADOW)

    return routes


def _releases(runtime: Runtime) -> dict[str, Any]:
    current = runtime.releases.current
    return {
        "releases": current.versions(),
        "canary_percent": current.canary_percent if current.canary else 0.0,
        "pinned": sorted(current.pinned),
        "loaded_at": runtime.releases.loaded_at.isoformat(),
        "error": runtime.releases.error,
    }


def _body(model: type[BaseModel]) -> dict[str, Any]:
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": model.model_json_schema()}},
        }
    }
