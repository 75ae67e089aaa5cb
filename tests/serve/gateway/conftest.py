"""The real application on a plain uvicorn, in front of a real upstream."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
import uvicorn

from policies.encoder import Encoder
from serve.api.application import create_app
from serve.journal.records import DecisionRecord, Outcome
from serve.runtime import Runtime
from serve.settings import ServeSettings
from tests.serve.upstream import KEY, UpstreamServer

MODELS = ("large", "small", "tiny")
QUICK = {
    "backoff_s": 0.01,
    "first_byte_timeout_s": 1.0,
    "read_timeout_s": 0.5,
    "breaker": {"min_calls": 10_000},
}
"""Waits short enough for tests, and a breaker that stays out of those that are not about it."""


@dataclass(frozen=True)
class Running:
    """An application that answers.

    Attributes:
        url: its base URL.
        runtime: its state.
    """

    url: str
    runtime: Runtime

    def client(self, **options: Any) -> openai.OpenAI:
        """Return the official client, which does not retry by itself."""
        return openai.OpenAI(
            base_url=f"{self.url}/v1", api_key="client", max_retries=0, timeout=20, **options
        )

    def found(self, decision_id: str, known: str = "latency_s") -> tuple[DecisionRecord, Outcome]:
        """Return a decision once its outcome has ``known``: outcomes are written behind the answer's back."""
        end = time.monotonic() + 5
        while time.monotonic() < end:
            found = self.runtime.journal.find(decision_id)
            if found is not None and getattr(found[1], known) is not None:
                return found
            time.sleep(0.01)
        raise AssertionError(f"no {known} for decision {decision_id}")


@contextmanager
def running(settings: dict[str, Any]) -> Iterator[Running]:
    """Run the application on uvicorn in a thread."""
    runtime = Runtime.open(ServeSettings.parse(settings))
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(create_app(runtime), log_level="critical", timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        yield Running(f"http://127.0.0.1:{listener.getsockname()[1]}", runtime)
    finally:
        server.should_exit = True
        thread.join(10)


@pytest.fixture(scope="session")
def prepared(encoder: Encoder) -> Iterator[None]:
    """Put the upstream's key into the environment, and load the encoder once for all applications."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("serve.releases.load_bundle_encoder", lambda *_, **__: encoder)
        patch.setenv("UPSTREAM_KEY", KEY)
        yield


def settings(bundle_dir: Path, url: str, **gateway: Any) -> dict[str, Any]:
    """Return settings with all models at one upstream; keywords change the gateway's."""
    place = {"base_url": url, "api_key_env": "UPSTREAM_KEY"}
    given = {**QUICK, "upstreams": dict.fromkeys(MODELS, place), **gateway}
    return {"bundle": str(bundle_dir), "gateway": given}


@pytest.fixture
def start(prepared: None, bundle_dir: Path, upstream: UpstreamServer) -> Iterator[Callable[..., Running]]:
    """Start applications of the test's own; keywords change the gateway's settings."""
    with ExitStack() as stack:
        yield lambda **gateway: stack.enter_context(running(settings(bundle_dir, upstream.url, **gateway)))


@pytest.fixture(scope="session")
def shared_app(prepared: None, bundle_dir: Path, upstream_server: UpstreamServer) -> Iterator[Running]:
    with running(settings(bundle_dir, upstream_server.url)) as app:
        yield app


@pytest.fixture
def app(shared_app: Running, upstream: UpstreamServer) -> Running:
    """The application that tests share when they leave it as it was."""
    return shared_app


@pytest.fixture
def client(app: Running) -> Iterator[openai.OpenAI]:
    with app.client() as opened:
        yield opened
