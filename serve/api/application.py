"""The HTTP API as an ASGI application, without a word about how it is deployed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from starlette.routing import Route

from serve.api.admin import admin_routes
from serve.api.chat import chat_routes
from serve.api.console import console_routes
from serve.api.door import Door
from serve.api.errors import handle_errors
from serve.api.feedback import feedback_routes
from serve.api.models import models_routes
from serve.api.route import route_routes
from serve.runtime import Runtime
from serve.schemas import openapi_components

HOT_PATHS = ("/v1/route", "/v1/chat/completions", "/v1/completions")


def create_app(runtime: Runtime) -> FastAPI:
    """Return the application over one replica's state; its lifespan starts and stops that state's tasks."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with runtime.running():
            yield

    app = FastAPI(
        title="Tradewind",
        version="1",
        description="Which model should answer this prompt?",
        lifespan=lifespan,
        # Their pages load scripts from another host; the description itself is at /openapi.json.
        docs_url=None,
        redoc_url=None,
    )
    app.include_router(route_routes(runtime))
    app.include_router(models_routes(runtime))
    app.include_router(feedback_routes(runtime))
    app.include_router(chat_routes(runtime))
    app.include_router(console_routes(runtime))
    app.include_router(admin_routes(runtime))
    _shorten(app, route_routes(runtime), chat_routes(runtime))
    handle_errors(app)
    app.add_middleware(
        Door,
        access=runtime.access,
        metrics=runtime.metrics,
        max_in_flight=runtime.settings.max_ongoing_requests,
        max_body_bytes=runtime.settings.access.max_body_bytes,
    )
    _complete_openapi(app)
    return app


def _shorten(app: FastAPI, *routers: APIRouter) -> None:
    """Find the routes that are asked most first, and without FastAPI's work that they have no use for.

    They take the request and return a response, so that dependencies, validation and serialisation have nothing to
    do; the routes that FastAPI knows stay behind them for the documentation.
    """
    app.router.routes[:0] = [
        Route(route.path, route.endpoint, methods=["POST"])
        for router in routers
        for route in router.routes
        if isinstance(route, APIRoute) and route.path in HOT_PATHS
    ]


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
