from __future__ import annotations

import pytest

from serve.latency import HALF_LIFE_S, PRIOR_WEIGHT, Latencies


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_training_alone():
    assert Latencies().expected_s("m", 2.0) == 2.0
    assert Latencies().expected_s("m", None) is None


def test_recent_calls_outweigh_training_by_number():
    found = Latencies(Clock())
    for _ in range(3):
        found.observe("m", 8.0)
    assert found.expected_s("m", 2.0) == pytest.approx((3 * 8 + PRIOR_WEIGHT * 2) / (3 + PRIOR_WEIGHT))
    assert found.expected_s("m", None) == pytest.approx(8.0)
    assert found.expected_s("other", 1.0) == 1.0


def test_an_old_call_counts_half_after_its_half_life_and_training_comes_back():
    clock = Clock()
    found = Latencies(clock)
    found.observe("m", 1.0)
    clock.now = HALF_LIFE_S
    found.observe("m", 4.0)
    assert found.expected_s("m", None) == pytest.approx((0.5 * 1 + 4) / 1.5)
    clock.now = 1e6
    assert found.expected_s("m", 2.0) == pytest.approx(2.0)
    assert found.expected_s("m", None) == pytest.approx(3.0)
