"""The official client against the gateway: everything that it does with the provider itself."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import openai
import pytest

from tests.serve.upstream import KEY, Fault

ASK = [{"role": "user", "content": "Which planet is the largest?"}]
WEATHER = [
    {
        "type": "function",
        "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {}}}},
    }
]


def test_a_chat_is_answered_by_the_chosen_model(client, upstream):
    raw = client.chat.completions.with_raw_response.create(model="tradewind", messages=ASK)
    answer = raw.parse()
    assert answer.choices[0].message.content == "echo: Which planet is the largest?"
    assert raw.headers["x-tradewind-model"] == answer.model == upstream.seen[0].model


def test_usage_comes_through(client):
    usage = client.chat.completions.create(model="tradewind", messages=ASK).usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (8, 5, 13)


def test_headers_tell_the_decision(app, client):
    raw = client.chat.completions.with_raw_response.create(model="tradewind:0.3", messages=ASK)
    record, _ = app.found(raw.headers["x-tradewind-decision-id"])
    assert raw.headers["x-tradewind-model"] == record.model
    assert float(raw.headers["x-tradewind-propensity"]) == record.propensity
    assert float(raw.headers["x-tradewind-expected-cost-usd"]) == pytest.approx(record.expected_cost_usd)
    assert raw.headers["x-tradewind-policy-version"] == record.policy_version


def test_the_clients_request_id_is_the_decisions(app, client):
    answer = client.chat.completions.create(model="tradewind", messages=ASK)
    assert app.runtime.journal.find(answer._request_id) is not None


def test_a_stream_comes_in_events(client):
    chunks = list(client.chat.completions.create(model="tradewind", messages=ASK, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text.strip() == "echo: Which planet is the largest?"
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_a_stream_without_usage_has_no_usage_chunk(client):
    chunks = list(client.chat.completions.create(model="tradewind", messages=ASK, stream=True))
    assert all(chunk.choices for chunk in chunks)


def test_a_stream_with_usage_ends_with_it(client):
    chunks = list(
        client.chat.completions.create(
            model="tradewind", messages=ASK, stream=True, stream_options={"include_usage": True}
        )
    )
    assert (chunks[-1].choices, chunks[-1].usage.completion_tokens) == ([], 5)


def test_streams_have_the_headers_as_well(client):
    raw = client.chat.completions.with_raw_response.create(model="tradewind", messages=ASK, stream=True)
    assert raw.headers["x-tradewind-decision-id"]
    assert raw.headers["content-type"].startswith("text/event-stream")


def test_a_stream_is_not_buffered(client, upstream):
    upstream.gap_s = 0.15
    started = time.monotonic()
    stream = client.chat.completions.create(model="tradewind", messages=ASK, stream=True)
    next(iter(stream))
    first = time.monotonic() - started
    list(stream)
    assert first < (time.monotonic() - started) / 2


def test_tools_come_through(client):
    call = client.chat.completions.create(model="tradewind", messages=ASK, tools=WEATHER)
    function = call.choices[0].message.tool_calls[0].function
    assert (function.name, json.loads(function.arguments)) == ("weather", {"city": ASK[0]["content"]})


def test_tools_come_through_a_stream(client):
    chunks = list(client.chat.completions.create(model="tradewind", messages=ASK, tools=WEATHER, stream=True))
    assert chunks[0].choices[0].delta.tool_calls[0].function.name == "weather"


def test_a_tools_answer_can_be_sent_back(client):
    call = client.chat.completions.create(model="tradewind", messages=ASK, tools=WEATHER)
    message = call.choices[0].message
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "rain"}
    again = client.chat.completions.create(model="tradewind", messages=[*ASK, message, result])
    assert again.choices[0].message.content.startswith("echo:")


def test_json_mode_comes_through(client):
    answer = client.chat.completions.create(
        model="tradewind", messages=ASK, response_format={"type": "json_object"}
    )
    assert json.loads(answer.choices[0].message.content) == {"echo": ASK[0]["content"]}


def test_completions_are_answered(client):
    answer = client.completions.create(model="tradewind", prompt="Once upon a time")
    assert answer.choices[0].text == "echo: Once upon a time"


def test_completions_stream(client):
    chunks = list(client.completions.create(model="tradewind", prompt="Once upon", stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks).strip() == "echo: Once upon"


def test_all_else_reaches_the_upstream_as_it_was_sent(client, upstream):
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    content = [{"type": "text", "text": "What is this? ünïcode"}, image]
    client.chat.completions.create(
        model="tradewind",
        messages=[{"role": "user", "content": content, "name": "me"}],
        temperature=0.1,
        seed=7,
        logit_bias={"50256": -100},
        extra_body={"vendor_option": {"deep": [1, None, 1e-7]}},
    )
    body = dict(upstream.seen[0].body)
    assert body.pop("model") in ("large", "small", "tiny")
    assert body == {
        "messages": [{"role": "user", "content": content, "name": "me"}],
        "temperature": 0.1,
        "seed": 7,
        "logit_bias": {"50256": -100},
        "vendor_option": {"deep": [1, None, 1e-7]},
    }


def test_the_upstream_gets_its_own_key_and_not_the_callers(client, upstream):
    client.chat.completions.create(model="tradewind", messages=ASK)
    assert upstream.seen[0].headers["authorization"] == f"Bearer {KEY}"


def test_the_upstream_is_called_by_its_own_name_for_the_model(start, upstream):
    place = {"base_url": upstream.url, "model": "vendor/large-2026"}
    answer = start(upstreams={"large": place}).client().chat.completions.create(model="large", messages=ASK)
    assert (upstream.models(), answer.model) == (["vendor/large-2026"], "vendor/large-2026")


def test_a_pool_model_that_is_named_answers(app, client):
    for model in ("large", "small", "tiny"):
        raw = client.chat.completions.with_raw_response.create(model=model, messages=ASK)
        record, _ = app.found(raw.headers["x-tradewind-decision-id"])
        assert (record.model, record.eligible, record.propensity) == (model, (model,), 1.0)


def dialled(app, client, **options):
    raw = client.chat.completions.with_raw_response.create(messages=ASK, **options)
    return app.found(raw.headers["x-tradewind-decision-id"])[0].w_cost


def test_the_dial_is_set_by_the_models_name(app, client):
    assert dialled(app, client, model="tradewind:0.25") == 0.25


def test_the_dial_is_set_by_a_preset(app, client):
    presets = app.runtime.settings.routing.presets
    assert dialled(app, client, model="tradewind:cheap") == presets["cheap"]


def test_the_dial_is_set_by_a_header(app, client):
    headers = {"x-tradewind-w-cost": "0.75"}
    assert dialled(app, client, model="tradewind", extra_headers=headers) == 0.75


def test_the_models_name_wins_over_the_header(app, client):
    headers = {"x-tradewind-w-cost": "0.75"}
    assert dialled(app, client, model="tradewind:0.25", extra_headers=headers) == 0.25


def test_without_a_dial_the_default_holds(app, client):
    assert dialled(app, client, model="tradewind") == app.runtime.settings.gateway.default_w_cost


def test_the_outcome_is_recorded(app, client):
    raw = client.chat.completions.with_raw_response.create(model="large", messages=ASK)
    _, outcome = app.found(raw.headers["x-tradewind-decision-id"])
    assert (outcome.prompt_tokens, outcome.completion_tokens, outcome.error) == (8, 5, None)
    assert outcome.cost_usd == pytest.approx((8 * 3.0 + 5 * 15.0) / 1e6)
    assert 0 < outcome.latency_s < 5


@pytest.mark.parametrize("asked", [True, False])
def test_the_outcome_of_a_stream_is_recorded(app, client, asked):
    options = {"stream_options": {"include_usage": True}} if asked else {}
    raw = client.chat.completions.with_raw_response.create(
        model="large", messages=ASK, stream=True, **options
    )
    list(raw.parse())
    _, outcome = app.found(raw.headers["x-tradewind-decision-id"])
    assert (outcome.prompt_tokens, outcome.completion_tokens) == (8, 5)
    assert outcome.cost_usd == pytest.approx((8 * 3.0 + 5 * 15.0) / 1e6)


def test_an_unknown_cost_is_not_zero(app, client, upstream):
    upstream.next("large", Fault(body='{"choices": [{"message": {"role": "assistant", "content": "hi"}}]}'))
    raw = client.chat.completions.with_raw_response.create(model="large", messages=ASK)
    _, outcome = app.found(raw.headers["x-tradewind-decision-id"])
    assert (outcome.cost_usd, outcome.completion_tokens, outcome.error) == (None, None, None)


def test_long_prompts_go_to_models_that_have_room(app, client):
    long = [{"role": "user", "content": "word " * 4_000}]
    raw = client.chat.completions.with_raw_response.create(model="tradewind:1", messages=long)
    record, _ = app.found(raw.headers["x-tradewind-decision-id"])
    assert record.eligible == ("large",)


def test_room_for_the_answer_counts(app, client):
    raw = client.chat.completions.with_raw_response.create(
        model="tradewind:1", messages=ASK, max_completion_tokens=5_000
    )
    record, _ = app.found(raw.headers["x-tradewind-decision-id"])
    assert record.eligible == ("large",)


def test_metadata_and_session_are_kept(app, client):
    raw = client.chat.completions.with_raw_response.create(
        model="tradewind",
        messages=ASK,
        metadata={"team": "a"},
        extra_headers={"x-tradewind-session-id": "s1"},
    )
    record, _ = app.found(raw.headers["x-tradewind-decision-id"])
    assert (record.metadata, record.session_id) == ({"team": "a"}, "s1")


def test_an_image_alone_is_routed(client):
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    answer = client.chat.completions.create(
        model="tradewind", messages=[{"role": "user", "content": [image]}]
    )
    assert answer.choices[0].message.content == "echo: "


def test_concurrent_requests_get_their_own_answers(app, upstream):
    upstream.gap_s = 0.01

    async def ask(client: Any, number: int) -> tuple[str, str]:
        question = f"number {number} of " + "x" * (number % 5 + 1)
        messages = [{"role": "user", "content": question}]
        if number % 2:
            answer = await client.chat.completions.create(model="tradewind", messages=messages)
            return question, answer.choices[0].message.content
        text = ""
        async for chunk in await client.chat.completions.create(
            model="tradewind", messages=messages, stream=True
        ):
            text += chunk.choices[0].delta.content or ""
        return question, text.strip()

    async def all_of_them() -> list[tuple[str, str]]:
        async with openai.AsyncOpenAI(base_url=f"{app.url}/v1", api_key="client", max_retries=0) as client:
            return await asyncio.gather(*(ask(client, number) for number in range(50)))

    for question, answer in asyncio.run(all_of_them()):
        assert answer == f"echo: {question}"
