"""A tool in the pool: decisions may choose it, chat completions cannot call it."""

from __future__ import annotations

from dataclasses import replace

import httpx
import openai
import pytest

from policies.pool import ModelPool, ModelSpec
from tests.serve.gateway.conftest import running, settings

ASK = [{"role": "user", "content": "What is 17 * 23?"}]
ROUTE = {"prompt": "What is 17 * 23?", "w_cost": 0.2}


@pytest.fixture(scope="module")
def app(prepared, tmp_path_factory, bundle, upstream_server):
    """The shared bundle with its smallest model made a tool; the models have their upstream, the tool has none."""
    specs = (*bundle.pool.specs[:2], ModelSpec("tiny", 0.0, 0.0, kind="tool", price_per_call_usd=1e-5))
    folder = tmp_path_factory.mktemp("tools") / "bundle"
    replace(bundle, pool=ModelPool("three", specs)).save(folder)
    place = {"base_url": upstream_server.url, "api_key_env": "UPSTREAM_KEY"}
    with running(
        settings(folder, upstream_server.url, upstreams=dict.fromkeys(["large", "small"], place))
    ) as app:
        yield app


def test_a_decision_may_be_a_tool(app):
    answer = httpx.post(f"{app.url}/v1/route", json={**ROUTE, "models": ["tiny"]})
    assert (answer.status_code, answer.json()["model"]) == (200, "tiny")
    everyone = httpx.post(f"{app.url}/v1/route", json=ROUTE).json()
    assert set(everyone["probabilities"]) == {"large", "small", "tiny"}


def test_chat_chooses_among_what_has_an_endpoint(app, upstream):
    client = app.client()
    for setting in ("0", "0.5", "1"):
        client.chat.completions.create(model=f"tradewind:{setting}", messages=ASK)
    assert set(upstream.models()) <= {"large", "small"}


def test_a_tool_named_in_chat_is_refused_with_the_reason(app):
    with pytest.raises(openai.InternalServerError) as caught:
        app.client().chat.completions.create(model="tiny", messages=ASK)
    assert caught.value.code == "no_endpoint"
    assert "'tiny' has no endpoint; such a tool is for POST /v1/route alone" in caught.value.message


def test_the_list_of_models_tells_a_tool_and_its_price(app):
    listed = {entry["id"]: entry for entry in httpx.get(f"{app.url}/v1/models").json()["data"]}
    assert (listed["tiny"]["kind"], listed["tiny"]["price_per_call_usd"]) == ("tool", 1e-5)
    assert listed["large"]["kind"] == "model"
