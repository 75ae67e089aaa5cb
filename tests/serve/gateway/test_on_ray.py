"""The gateway behind Ray Serve's proxy: what depends on how requests get to the application."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import openai
import pytest

from tests.serve.gateway.leaving import ask_and_leave
from tests.serve.upstream import Fault

ASK: Any = [{"role": "user", "content": "Which planet is the largest?"}]
LONG: Any = [{"role": "user", "content": "word " * 100}]


@pytest.fixture
def client(endpoint, upstream):
    with openai.OpenAI(base_url=f"{endpoint}/v1", api_key="client", max_retries=0, timeout=30) as opened:
        # The first call may have to wait for the encoder.
        opened.chat.completions.create(model="tradewind", messages=ASK)
        upstream.seen.clear()
        yield opened


def test_a_chat_is_answered(client, upstream):
    raw = client.chat.completions.with_raw_response.create(model="tradewind", messages=ASK)
    assert raw.parse().choices[0].message.content == "echo: Which planet is the largest?"
    assert upstream.models() == [raw.headers["x-tradewind-model"]]


def test_a_stream_is_not_buffered(client, upstream):
    upstream.gap_s = 0.15
    started = time.monotonic()
    stream = iter(client.chat.completions.create(model="tradewind", messages=ASK, stream=True))
    next(stream)
    first = time.monotonic() - started
    list(stream)
    assert first < (time.monotonic() - started) / 2


def test_another_model_answers_for_one_that_fails(client, upstream):
    chosen = client.chat.completions.create(model="tradewind", messages=ASK).model
    upstream.always(chosen, Fault(status=401))
    assert client.chat.completions.create(model="tradewind", messages=ASK).model != chosen


def test_a_stream_that_breaks_off_says_so(client, upstream):
    upstream.gap_s = 0.1
    upstream.next("large", Fault(cut_after=2))
    with pytest.raises(openai.APIError) as caught:
        list(client.chat.completions.create(model="large", messages=ASK, stream=True))
    assert caught.value.code == "upstream_cut"


def test_a_client_that_leaves_within_a_stream_ends_the_call(client, upstream):
    upstream.gap_s = 0.1
    stream = client.chat.completions.create(model="large", messages=LONG, stream=True)
    next(iter(stream))
    stream.close()
    assert upstream.wait_for_left(1)


def test_a_client_that_leaves_before_the_answer_ends_the_call(endpoint, upstream):
    upstream.always("large", Fault(delay_s=30))
    ask_and_leave(endpoint, upstream, model="large", messages=ASK)
    assert upstream.wait_for_left(1)


def test_concurrent_requests_get_their_own_answers(endpoint, upstream):
    async def ask(client: Any, number: int) -> tuple[str, str]:
        question = f"number {number}"
        answer = await client.chat.completions.create(
            model="tradewind", messages=[{"role": "user", "content": question}]
        )
        return question, answer.choices[0].message.content

    async def all_of_them() -> list[tuple[str, str]]:
        async with openai.AsyncOpenAI(base_url=f"{endpoint}/v1", api_key="client") as client:
            return await asyncio.gather(*(ask(client, number) for number in range(50)))

    for question, answer in asyncio.run(all_of_them()):
        assert answer == f"echo: {question}"
