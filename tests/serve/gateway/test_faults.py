"""What the caller sees when upstreams fail."""

from __future__ import annotations

import json
import logging
import time

import httpx
import openai
import pytest

from tests.serve.gateway.leaving import ask_and_leave
from tests.serve.upstream import KEY, Fault

ASK = [{"role": "user", "content": "Which planet is the largest?"}]
DOWN = "http://127.0.0.1:9/v1"
"""Nobody listens there."""
APART_S = 0.1
"""Between events: those that arrive with the first are read before anything is sent."""


def first_choice(client, **options):
    """Return the model that the router prefers for ASK."""
    raw = client.chat.completions.with_raw_response.create(model="tradewind", messages=ASK, **options)
    return raw.headers["x-tradewind-model"]


@pytest.fixture
def chosen(client, upstream):
    model = first_choice(client)
    upstream.seen.clear()
    return model


TEMPORARY = [
    Fault(status=500),
    Fault(status=503),
    Fault(status=429),
    Fault(status=429, headers={"retry-after": "0.05"}),
    Fault(reset=True),
    Fault(body="<html>busy</html>"),
    Fault(body='{"choices": ['),
    Fault(body='{"error": {"message": "overloaded"}}'),
    Fault(body="[]"),
]


@pytest.mark.parametrize("fault", TEMPORARY, ids=lambda f: f"{f.status}-{(f.body or '')[:9]}-{f.reset}")
def test_a_temporary_fault_is_tried_again(client, upstream, chosen, fault):
    upstream.next(chosen, fault)
    raw = client.chat.completions.with_raw_response.create(model="tradewind", messages=ASK)
    assert raw.headers["x-tradewind-model"] == chosen
    assert upstream.models() == [chosen, chosen]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "fault",
    [*TEMPORARY, Fault(status=401), Fault(status=404), Fault(delay_s=1.5), Fault(status=301)],
    ids=lambda f: f"{f.status}-{(f.body or '')[:9]}-{f.reset}-{f.delay_s}",
)
def test_a_lasting_fault_falls_back_to_another_model(app, client, upstream, chosen, fault, stream):
    upstream.always(chosen, fault)
    raw = client.chat.completions.with_raw_response.create(model="tradewind", messages=ASK, stream=stream)
    answer = raw.parse()
    text = (
        "".join(chunk.choices[0].delta.content or "" for chunk in answer).strip()
        if stream
        else answer.choices[0].message.content
    )
    assert text == "echo: Which planet is the largest?"
    assert raw.headers["x-tradewind-model"] != chosen


def test_a_fallback_is_a_decision_of_its_own(app, client, upstream, chosen):
    upstream.always(chosen, Fault(status=500))
    raw = client.chat.completions.with_raw_response.create(model="tradewind", messages=ASK)
    second, done = app.found(raw.headers["x-tradewind-decision-id"])
    first, failed = app.found(second.retry_of)
    assert raw.headers["x-tradewind-retry-of"] == first.decision_id
    assert (first.model, failed.error, failed.cost_usd) == (chosen, "http_500", None)
    assert chosen not in second.eligible
    assert (done.error, done.completion_tokens) == (None, 5)


def test_the_wait_that_an_upstream_asks_for_is_kept(client, upstream, chosen):
    upstream.next(chosen, Fault(status=429, headers={"retry-after": "0.4"}))
    client.chat.completions.create(model="tradewind", messages=ASK)
    first, second = upstream.seen
    assert second.at - first.at >= 0.4


def test_an_upstream_that_asks_for_a_long_wait_is_passed_over(start, upstream, chosen):
    app = start()
    client = app.client()
    upstream.next(chosen, Fault(status=429, headers={"retry-after": "60"}))
    client.chat.completions.create(model="tradewind", messages=ASK)
    assert upstream.models().count(chosen) == 1
    raw = client.chat.completions.with_raw_response.create(model="tradewind", messages=ASK)
    assert upstream.models().count(chosen) == 1
    record, _ = app.found(raw.headers["x-tradewind-decision-id"])
    assert chosen not in record.eligible


def test_an_unhealthy_model_is_named_with_the_reason(start, upstream, chosen):
    app = start()
    client = app.client()
    upstream.next(chosen, Fault(status=429, headers={"retry-after": "60"}))
    client.chat.completions.create(model="tradewind", messages=ASK)
    with httpx.Client(base_url=app.url) as plain:
        answer = plain.post("/v1/route", json={"prompt": "Which planet?", "w_cost": 0.5}).json()
    assert "failed lately" in answer["ineligible"][chosen]


@pytest.mark.parametrize("fault", [Fault(cut_after=2), Fault(end_after=2), Fault(stall_after=2)])
def test_a_stream_that_breaks_off_says_so(app, client, upstream, fault):
    upstream.gap_s = APART_S
    upstream.next("large", fault)
    raw = client.chat.completions.with_raw_response.create(model="large", messages=ASK, stream=True)
    chunks = []
    with pytest.raises(openai.APIError) as caught:
        chunks.extend(chunk.choices[0].delta.content for chunk in raw.parse())
    assert caught.value.code == ("upstream_read_timeout" if fault.stall_after else "upstream_cut")
    _, outcome = app.found(raw.headers["x-tradewind-decision-id"], "error")
    assert outcome.error in ("cut", "read_timeout")
    assert outcome.cost_usd is None
    assert upstream.models() == ["large"]


@pytest.mark.parametrize("fault", [Fault(cut_after=2), Fault(end_after=2)])
def test_what_came_before_the_break_arrives(client, upstream, fault):
    upstream.gap_s = APART_S
    upstream.next("large", fault)
    stream = iter(client.chat.completions.create(model="large", messages=ASK, stream=True))
    assert [next(stream).choices[0].delta.content for _ in range(2)] == ["echo: ", "Which "]
    with pytest.raises(openai.APIError):
        next(stream)


@pytest.mark.parametrize("body", ['{"choices": [', '{"error": {"message": "overloaded"}}'])
def test_a_bad_event_is_told(client, upstream, body):
    upstream.gap_s = APART_S
    upstream.next("large", Fault(body=body, event_after=2))
    with pytest.raises(openai.APIError):
        list(client.chat.completions.create(model="large", messages=ASK, stream=True))


def test_a_break_before_the_first_event_is_not_seen(client, upstream, chosen):
    upstream.always(chosen, Fault(cut_after=0))
    stream = client.chat.completions.create(model="tradewind", messages=ASK, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream).startswith("echo:")


def test_events_in_pieces_arrive_whole(client, upstream):
    upstream.next("large", Fault(pieces=3))
    stream = client.chat.completions.create(model="large", messages=ASK, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert text.strip() == "echo: Which planet is the largest?"


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_before_the_answer_ends_the_call(app, upstream, stream):
    upstream.always("large", Fault(delay_s=30))
    ask_and_leave(app.url, upstream, model="large", messages=ASK, stream=stream)
    assert upstream.wait_for_left(1)


def test_a_client_that_leaves_within_a_stream_ends_the_call(app, client, upstream):
    upstream.gap_s = 0.1
    long = [{"role": "user", "content": "word " * 200}]
    raw = client.chat.completions.with_raw_response.create(model="large", messages=long, stream=True)
    stream = raw.parse()
    next(iter(stream))
    stream.close()
    assert upstream.wait_for_left(1)
    _, outcome = app.found(raw.headers["x-tradewind-decision-id"], "error")
    assert outcome.error == "client_disconnected"


def test_all_attempts_together_have_a_limit(start, upstream):
    app = start(total_timeout_s=0.6, attempts=5, max_models=5)
    for model in ("large", "small", "tiny"):
        upstream.always(model, Fault(delay_s=30))
    started = time.monotonic()
    with pytest.raises(openai.InternalServerError) as caught:
        app.client().chat.completions.create(model="tradewind", messages=ASK)
    assert time.monotonic() - started < 3
    assert caught.value.status_code == 504


def test_when_all_fail_the_caller_is_told(client, upstream):
    for model in ("large", "small", "tiny"):
        upstream.always(model, Fault(status=500))
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model="tradewind", messages=ASK)
    assert (caught.value.status_code, caught.value.code) == (502, "upstream_http_500")
    assert set(upstream.models()) == {"large", "small", "tiny"}


def test_no_more_models_are_tried_than_allowed(start, upstream):
    for model in ("large", "small", "tiny"):
        upstream.always(model, Fault(status=500))
    with pytest.raises(openai.InternalServerError):
        start(max_models=2, attempts=1).client().chat.completions.create(model="tradewind", messages=ASK)
    assert len(upstream.seen) == 2


def test_a_named_model_has_no_substitute(client, upstream):
    upstream.always("large", Fault(status=500))
    with pytest.raises(openai.InternalServerError):
        client.chat.completions.create(model="large", messages=ASK)
    assert set(upstream.models()) == {"large"}


def test_a_rate_limit_comes_through(start, upstream):
    client = start().client()
    upstream.always("large", Fault(status=429, headers={"retry-after": "7"}))
    with pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(model="large", messages=ASK)
    assert caught.value.response.headers["retry-after"] == "7"


def test_an_upstream_that_is_down_is_told(start, upstream):
    app = start(upstreams={"large": {"base_url": DOWN}})
    with pytest.raises(openai.InternalServerError) as caught:
        app.client().chat.completions.create(model="large", messages=ASK)
    assert (caught.value.status_code, caught.value.code) == (502, "upstream_connection")
    assert "127.0.0.1" not in caught.value.message


def test_models_without_an_endpoint_are_not_chosen(start, upstream):
    app = start(upstreams={"small": {"base_url": upstream.url}})
    assert first_choice(app.client()) == "small"


def test_a_named_model_without_an_endpoint_is_told(start, upstream):
    client = start(upstreams={"small": {"base_url": upstream.url}}).client()
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model="large", messages=ASK)
    assert (caught.value.code, "'large'" in caught.value.message) == ("no_endpoint", True)


def test_without_any_endpoint_the_gateway_says_so(start):
    with pytest.raises(openai.InternalServerError) as caught:
        start(upstreams={}).client().chat.completions.create(model="tradewind", messages=ASK)
    assert (caught.value.status_code, caught.value.code) == (503, "no_endpoint")


def test_the_callers_own_mistake_is_passed_on_and_not_repeated(client, upstream, chosen):
    body = json.dumps({"error": {"message": "temperature must be at most 2", "code": "bad_value"}})
    upstream.always(chosen, Fault(status=400, body=body))
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="tradewind", messages=ASK)
    assert "temperature must be at most 2" in caught.value.message
    assert upstream.models() == [chosen]


def test_a_window_that_is_too_small_after_all_leads_to_another_model(client, upstream, chosen):
    message = "This model's maximum context length is 8192 tokens."
    body = json.dumps({"error": {"message": message, "code": "context_length_exceeded"}})
    upstream.always(chosen, Fault(status=400, body=body))
    raw = client.chat.completions.with_raw_response.create(model="tradewind", messages=ASK)
    assert raw.headers["x-tradewind-model"] != chosen
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=chosen, messages=ASK)
    assert caught.value.code == "context_length_exceeded"


def test_a_prompt_that_fits_nowhere_is_a_context_error(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="tradewind", messages=ASK, max_completion_tokens=100_000)
    assert caught.value.code == "context_length_exceeded"


@pytest.mark.parametrize("model", ["gpt-9", "tradewind:2", "tradewind:fast", "tradewind:", "large:0.3"])
def test_an_unknown_model_is_not_found(client, model):
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model=model, messages=ASK)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b"[]", None),
        (b'{"model": "tradewind"}', None),
        (b'{"model": 3, "messages": [{"role": "user", "content": "a"}]}', "model"),
        (b'{"model": "tradewind", "messages": []}', "messages"),
        (b'{"model": "tradewind", "messages": [{"role": "user", "content": 7}]}', "messages[0].content"),
        (b'{"model": "tradewind", "messages": [{"role": "user", "content": "a"}], "stream": 1}', "stream"),
        (b'{"model": "tradewind", "messages": [{"role": "user", "content": "\xff"}]}', None),
        (b'{"model": "tradewind", "messages": [{"role": "user", "content": "\\ud800"}]}', None),
        (b'{"model":"tradewind","messages":[{"role":"user","content":"a"}],"max_tokens":0}', "max_tokens"),
    ],
)
def test_a_bad_request_names_the_field(app, body, param):
    response = httpx.post(f"{app.url}/v1/chat/completions", content=body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize(
    ("header", "value"),
    [
        *(("x-tradewind-w-cost", value) for value in ("2", "-1", "nan", "much")),
        *(("x-tradewind-max-cost-usd", value) for value in ("-1", "nan", "much")),
    ],
)
def test_a_bad_header_is_refused(client, header, value):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="tradewind", messages=ASK, extra_headers={header: value})
    assert caught.value.param == header


def test_an_answer_beyond_the_limit_is_refused(start, upstream):
    upstream.always("large", Fault(body=json.dumps({"choices": [], "padding": "x" * 300_000})))
    with pytest.raises(openai.InternalServerError) as caught:
        start(max_answer_mb=0.1).client().chat.completions.create(model="large", messages=ASK)
    assert caught.value.code == "upstream_too_long"


@pytest.mark.parametrize("status", [400, 401, 429, 500])
def test_no_key_appears_in_errors_and_logs(client, upstream, status, caplog):
    caplog.set_level(logging.DEBUG)
    body = json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}", "code": "invalid_api_key"}})
    upstream.always("large", Fault(status=status, body=body, headers={"x-echo": KEY}))
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(model="large", messages=ASK)
    assert KEY not in caught.value.response.text + str(caught.value.response.headers)
    assert KEY not in caplog.text


def test_prompts_do_not_appear_in_errors_and_logs(client, upstream, caplog):
    caplog.set_level(logging.DEBUG, logger="serve")
    upstream.always("large", Fault(status=500))
    secret = [{"role": "user", "content": "my confidential question"}]
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model="large", messages=secret)
    assert "confidential" not in caught.value.response.text
    assert "confidential" not in "".join(r.getMessage() for r in caplog.records if r.name.startswith("serve"))
