"""What the gateway's settings must satisfy before anything starts, and what is read of answers and waits."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from policies.errors import InputError
from policies.pool import ModelPool, ModelSpec
from serve.gateway.answers import EventStream
from serve.gateway.backoff import backoff_s, retry_after_s
from serve.gateway.request import read_call
from serve.gateway.upstreams import Upstream, Upstreams
from serve.settings.gateway import GatewaySettings

POOL = ModelPool("two", (ModelSpec("a", 1.0, 2.0, endpoint="http://one/v1/"), ModelSpec("b", 1.0, 2.0)))
EVENT = b'data: {"choices": [{"index": 0, "delta": {"content": "hi"}, "finish_reason": null}]}\n\n'
LAST = b'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}\n\n'
USAGE = b'data: {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}\n\n'
DONE = b"data: [DONE]\n\n"


def found(spec: ModelSpec, environment: dict[str, str], **settings: object) -> Upstream | str:
    return Upstreams(GatewaySettings.model_validate(settings), environment).of(spec)


def test_a_model_is_called_where_the_pool_says():
    upstream = found(POOL.specs[0], {})
    assert isinstance(upstream, Upstream)
    assert str(upstream.urls["chat/completions"]) == "http://one/v1/chat/completions"
    assert "Authorization" not in upstream.headers


def test_a_key_belongs_to_its_endpoint():
    upstream = found(POOL.specs[0], {"ONE": "k1"}, api_key_envs={"http://one/v1": "ONE"})
    assert isinstance(upstream, Upstream)
    assert upstream.headers["Authorization"] == "Bearer k1"


def test_a_models_own_key_comes_first():
    settings = {"api_key_envs": {"http://one/v1": "ONE"}, "upstreams": {"a": {"api_key_env": "OWN"}}}
    upstream = found(POOL.specs[0], {"ONE": "k1", "OWN": "k2"}, **settings)
    assert isinstance(upstream, Upstream)
    assert upstream.headers["Authorization"] == "Bearer k2"


def test_keys_are_not_shown():
    upstream = found(POOL.specs[0], {"ONE": "k-secret"}, api_key_envs={"http://one/v1": "ONE"})
    assert "k-secret" not in repr(upstream) + str(upstream)


@pytest.mark.parametrize("key", [{}, {"ONE": ""}, {"ONE": "a\nb"}, {"ONE": "schlüssel"}])
def test_a_key_that_is_not_there_is_named_before_anything_starts(key):
    settings = GatewaySettings(api_key_envs={"http://one/v1": "ONE"})
    with pytest.raises(InputError, match="environment variable ONE") as caught:
        Upstreams(settings, key).check(POOL)
    assert "schlüssel" not in str(caught.value)


def test_an_unknown_model_is_named_before_anything_starts():
    settings = GatewaySettings.model_validate({"upstreams": {"c": {}}})
    with pytest.raises(InputError, match=r"upstreams\.c: no such model; allowed: a, b"):
        Upstreams(settings, {}).check(POOL)


@pytest.mark.parametrize("url", ["ftp://x/v1", "x/v1", "http://", "http://user:pw@x/v1", "http://x/v1?k=v"])
def test_a_bad_address_is_refused(url):
    with pytest.raises(ValidationError):
        GatewaySettings.model_validate({"upstreams": {"a": {"base_url": url}}})


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3.0),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:10 GMT"}, 10.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:27:00 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "inf"}, None),
    ],
)
def test_the_wait_that_is_asked_for(headers, wait):
    assert retry_after_s(headers, datetime(2026, 10, 21, 7, 28, tzinfo=UTC)) == wait


@given(attempt=st.integers(1, 10), first=st.floats(0.0, 10.0), draw=st.floats(0.0, 1.0, exclude_max=True))
def test_backoff_is_within_a_doubling_limit(attempt, first, draw):
    assert 0.0 <= backoff_s(attempt, first, draw) <= first * 2 ** (attempt - 1)


@given(cuts=st.lists(st.integers(0, len(EVENT * 2 + LAST + DONE)), max_size=8), crlf=st.booleans())
def test_however_a_stream_is_cut_into_pieces_the_same_arrives(cuts, crlf):
    whole = EVENT * 2 + LAST + USAGE + DONE
    whole = whole.replace(b"\n", b"\r\n") if crlf else whole
    stream = EventStream(drop_usage=False)
    borders = [0, *sorted(cuts), len(whole)]
    passed = b""
    for start, end in pairwise(borders):
        block, fault = stream.feed(whole[start:end])
        passed += block
        assert fault is None
    assert stream.finish() == (b"", None)
    assert passed == whole
    assert stream.usage is not None
    assert stream.usage.completion_tokens == 2


def test_usage_that_nobody_asked_for_is_left_out():
    stream = EventStream(drop_usage=True)
    block, _ = stream.feed(EVENT + LAST + USAGE + DONE)
    assert block == EVENT + LAST + DONE
    assert stream.usage is not None


def test_comments_pass():
    stream = EventStream(drop_usage=True)
    assert stream.feed(b": keep-alive\n\n") == (b": keep-alive\n\n", None)
    assert stream.events == 0


@pytest.mark.parametrize("last", [DONE[:-2], DONE[:-1], b""])
def test_a_stream_without_its_last_line_end_is_whole(last):
    stream = EventStream(drop_usage=True)
    stream.feed(EVENT + LAST + last)
    assert stream.finish()[1] is None


@pytest.mark.parametrize("cut", [0, 20, len(EVENT) - 1])
def test_a_stream_that_ends_early_is_cut(cut):
    stream = EventStream(drop_usage=True)
    stream.feed(EVENT + EVENT[:cut])
    assert stream.finish()[1] == "cut"


def test_bytes_of_the_request_are_kept():
    body = b'{"model":"tradewind","messages":[{"role":"user","content":"a"}],"n":1.10,"z":{"k" : [1e400]}}'
    assert read_call("chat/completions", body).body("x", True) == body.replace(b"tradewind", b"x")


def test_streams_are_asked_for_usage_beside_other_options():
    body = b'{"model":"t","messages":[{"role":"user","content":"a"}],"stream":true,"stream_options":{"x":1}}'
    sent = read_call("chat/completions", body).body("t", True)
    assert b'"stream_options":{"x":1,"include_usage":true}' in sent


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(noise):
    from serve.api.errors import ApiError

    for kind in ("chat/completions", "completions"):
        with pytest.raises(ApiError) as caught:
            read_call(kind, b'{"model": "t", "messages": ' + noise)
        assert caught.value.status == 400
