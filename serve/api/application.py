"""The HTTP API as an ASGI application, without a word about how it is deployed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from starlette.routing import get_route_path
from starlette.types import ASGIApp, Receive, Scope, Send

from serve.api.admin import admin_routes
from serve.api.chat import chat_routes
from serve.api.console import console_routes
from serve.api.door import Door
from serve.api.errors import IMPOSSIBLE, handle_errors, refusal
from serve.api.feedback import feedback_routes
from serve.api.models import models_routes
from serve.api.route import route_routes
from serve.runtime import Runtime
from serve.schemas import openapi_components

Endpoint = Callable[[Request], Awaitable[Response]]

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
    route, chat = route_routes(runtime), chat_routes(runtime)
    app.include_router(route)
    app.include_router(models_routes(runtime))
    app.include_router(feedback_routes(runtime))
    app.include_router(chat)
    app.include_router(console_routes(runtime))
    app.include_router(admin_routes(runtime))
    handle_errors(app)
    app.add_middleware(ShortCut, endpoints=_hot(route, chat))
    app.add_middleware(
        Door,
        access=runtime.access,
        metrics=runtime.metrics,
        max_in_flight=runtime.settings.max_ongoing_requests,
        max_body_bytes=runtime.settings.access.max_body_bytes,
    )
    _complete_openapi(app)
    return app


def _hot(*routers: APIRouter) -> dict[str, Endpoint]:
    return {
        route.path: route.endpoint
        for router in routers
        for route in router.routes
        if isinstance(route, APIRoute) and route.path in HOT_PATHS
    }


class ShortCut:
    """ASGI middleware that answers the routes that are asked most, without work that they have no use for.

    They take the request and return a response, so that matching, dependencies, validation and serialisation have
    nothing to do; the routes that FastAPI knows stay behind for the documentation. Stands behind the door, which
    turns refusals into answers.

    Args:
        app: answers everything else.
        endpoints: by path, for POST.
    """

    def __init__(self, app: ASGIApp, endpoints: Mapping[str, Endpoint]) -> None:
        self._app = app
        self._endpoints = endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        endpoint = self._endpoints.get(get_route_path(scope))
        if endpoint is None:
            await self._app(scope, receive, send)
            return
        try:
            response = await endpoint(Request(scope, receive, send))
        except IMPOSSIBLE as error:
            raise refusal(error) from None
        await response(scope, receive, send)


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
