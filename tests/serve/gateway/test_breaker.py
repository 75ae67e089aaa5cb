"""The circuit breaker, alone and in the gateway."""

from __future__ import annotations

import time

import openai
import pytest

from serve.gateway.breaker import Breaker
from serve.settings.gateway import BreakerSettings
from tests.serve.upstream import Fault

ASK = [{"role": "user", "content": "Which planet is the largest?"}]
SETTINGS = BreakerSettings(window_s=10.0, min_calls=4, failure_share=0.5, open_s=5.0, max_open_s=15.0)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(SETTINGS, clock)


def fail(breaker: Breaker, times: int = 1) -> None:
    for _ in range(times):
        assert breaker.acquire()
        breaker.failed()


def test_few_failures_do_not_open_it(breaker):
    fail(breaker, 3)
    assert breaker.state == "closed"


def test_enough_failures_open_it(breaker):
    fail(breaker, 4)
    assert (breaker.state, breaker.acquire()) == ("open", False)


def test_a_small_share_of_failures_does_not_open_it(breaker):
    for _ in range(20):
        breaker.succeeded()
    fail(breaker, 19)
    assert breaker.state == "closed"
    fail(breaker)
    assert breaker.state == "open"


def test_old_failures_are_forgotten(breaker, clock):
    fail(breaker, 3)
    clock.now += 11
    fail(breaker, 3)
    assert breaker.state == "closed"


def test_after_its_rest_one_call_is_let_through(breaker, clock):
    fail(breaker, 4)
    clock.now += 5
    assert breaker.state == "half_open"
    assert breaker.acquire()
    assert not breaker.acquire()


def test_a_successful_trial_closes_it(breaker, clock):
    fail(breaker, 4)
    clock.now += 5
    breaker.acquire()
    breaker.succeeded()
    assert breaker.state == "closed"
    fail(breaker, 3)
    assert breaker.state == "closed"


def test_each_failed_trial_doubles_the_rest_up_to_a_limit(breaker, clock):
    fail(breaker, 4)
    rests = []
    for _ in range(4):
        rests.append(breaker.retry_after_s)
        clock.now += breaker.retry_after_s
        fail(breaker)
    assert rests == [5.0, 10.0, 15.0, 15.0]


def test_an_abandoned_trial_lets_the_next_through(breaker, clock):
    fail(breaker, 4)
    clock.now += 5
    breaker.acquire()
    breaker.abandoned()
    assert breaker.acquire()


def test_a_rest_that_was_asked_for_opens_it_at_once(breaker, clock):
    breaker.acquire()
    breaker.failed(rest_s=8.0)
    assert (breaker.state, breaker.retry_after_s) == ("open", 8.0)


def test_a_late_success_does_not_end_a_rest(breaker):
    breaker.acquire()
    fail(breaker, 4)
    breaker.succeeded()
    assert breaker.state == "open"


def test_an_upstream_that_keeps_failing_is_left_alone_and_comes_back(start, upstream):
    app = start(attempts=1, breaker={"min_calls": 3, "open_s": 0.4, "max_open_s": 0.4})
    client = app.client()
    upstream.always("large", Fault(status=500))
    for _ in range(3):
        with pytest.raises(openai.InternalServerError):
            client.chat.completions.create(model="large", messages=ASK)
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model="large", messages=ASK)
    assert (caught.value.status_code, len(upstream.seen)) == (503, 3)
    assert int(caught.value.response.headers["retry-after"]) >= 1
    upstream.always("large", None)
    time.sleep(0.45)
    assert client.chat.completions.create(model="large", messages=ASK).choices


def test_the_callers_mistakes_do_not_open_it(start, upstream):
    client = start(breaker={"min_calls": 1}).client()
    upstream.always("large", Fault(status=400))
    for _ in range(3):
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(model="large", messages=ASK)
    upstream.always("large", None)
    assert client.chat.completions.create(model="large", messages=ASK).choices


def test_with_all_models_resting_the_caller_is_told_when_to_come_again(start, upstream):
    client = start(attempts=1, breaker={"min_calls": 1, "open_s": 30.0}).client()
    for model in ("large", "small", "tiny"):
        upstream.always(model, Fault(status=500))
    with pytest.raises(openai.InternalServerError):
        client.chat.completions.create(model="tradewind", messages=ASK)
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model="tradewind", messages=ASK)
    assert (caught.value.status_code, caught.value.code) == (503, "no_healthy_model")
    assert 1 <= int(caught.value.response.headers["retry-after"]) <= 30
