"""Rate limits: one bucket a key, shared by replicas."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.access.buckets import Buckets, TokenLease
from serve.access.slices import OverRateError, TokenSlices
from serve.control import Control, ControlState, ControlUnavailableError
from serve.settings.access import AccessSettings, KeySettings


def key(requests_per_s: float, burst: int | None = None) -> KeySettings:
    return KeySettings(id="abcd", name="team", sha256="0" * 64, requests_per_s=requests_per_s, burst=burst)


class Time:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_passes_then_the_rate():
    time = Time()
    bucket = Buckets({"abcd": key(2.0, burst=3)}, time)
    assert [bucket.lease("abcd", 1).tokens for _ in range(4)] == [1, 1, 1, 0]
    time.now = 0.25
    assert bucket.lease("abcd", 1).retry_after_s == pytest.approx(0.25)
    time.now = 0.5
    assert bucket.lease("abcd", 1).tokens == 1


@given(
    rate=st.floats(0.1, 100.0),
    burst=st.integers(1, 50),
    asks=st.lists(st.tuples(st.floats(0.0, 2.0), st.integers(1, 20)), max_size=60),
)
def test_no_interval_gets_more_than_burst_and_rate(rate, burst, asks):
    time = Time()
    bucket = Buckets({"abcd": key(rate, burst)}, time)
    passed = []
    for pause, wanted in asks:
        time.now += pause
        passed.append((time.now, bucket.lease("abcd", wanted).tokens))
    for start in range(len(passed)):
        for end in range(start, len(passed)):
            taken = sum(tokens for _, tokens in passed[start : end + 1])
            assert taken <= burst + rate * (passed[end][0] - passed[start][0]) + 1e-6


def control(entry: KeySettings) -> ControlState:
    return ControlState(AccessSettings(keys=(entry,)))


async def passes(slices: TokenSlices) -> bool:
    try:
        await slices.take("abcd")
    except OverRateError:
        return False
    return True


def test_replicas_share_one_limit():
    async def crowd() -> int:
        entry = key(0.001, burst=40)
        state = control(entry)
        replicas = [TokenSlices(state, {"abcd": entry}, 2) for _ in range(2)]
        return sum(await asyncio.gather(*(passes(replicas[i % 2]) for i in range(200))))

    assert asyncio.run(crowd()) == 40


def test_a_refusal_tells_when_to_come_again():
    async def ask() -> float:
        entry = key(0.5, burst=1)
        slices = TokenSlices(control(entry), {"abcd": entry}, 1)
        assert await passes(slices)
        with pytest.raises(OverRateError) as caught:
            await slices.take("abcd")
        return caught.value.retry_after_s

    assert asyncio.run(ask()) == pytest.approx(2.0, abs=0.1)


class Away:
    async def lease_tokens(self, key_id: str, wanted: int) -> TokenLease:
        raise ControlUnavailableError("away")


def test_alone_a_replica_keeps_to_its_part_of_the_limit():
    async def crowd() -> int:
        slices = TokenSlices(cast(Control, Away()), {"abcd": key(0.001, burst=40)}, 4)
        return sum(await asyncio.gather(*(passes(slices) for _ in range(200))))

    assert asyncio.run(crowd()) == 10
