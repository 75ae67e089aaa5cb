"""Intervals of means: coverage, clustering, edge cases."""

from __future__ import annotations

import numpy as np
import pytest

from policies import ope

INTERVALS = {
    "normal": ope.normal_interval,
    "bootstrap": ope.bootstrap_interval,
    "studentised": ope.studentised_bootstrap_interval,
    "bernstein": lambda x, confidence=0.95, groups=None: ope.empirical_bernstein_interval(
        x, 30.0, confidence, groups
    ),
}
every_interval = pytest.mark.parametrize("interval", INTERVALS.values(), ids=INTERVALS.keys())


@pytest.mark.parametrize("name", ["normal", "bootstrap", "studentised"])
def test_coverage_is_close_to_nominal(name):
    rng = np.random.default_rng(0)
    draws = rng.exponential(size=(200, 150))
    covered = [INTERVALS[name](x, 0.9) for x in draws]
    share = np.mean([low <= 1.0 <= high for low, high in covered])
    assert 0.83 < share < 0.96


def test_bernstein_never_falls_short_and_is_wider():
    rng = np.random.default_rng(1)
    draws = (rng.random((200, 300)) < 0.1) * 10.0
    safe = [ope.empirical_bernstein_interval(x, 10.0, 0.95) for x in draws]
    assert all(low <= 1.0 <= high for low, high in safe)
    low, high = ope.normal_interval(draws[0])
    assert safe[0].high - safe[0].low > high - low


@every_interval
def test_more_confidence_is_wider(interval):
    x = np.random.default_rng(2).normal(size=200)
    narrow, wide = interval(x, 0.5), interval(x, 0.99)
    assert wide.low < narrow.low < x.mean() < narrow.high < wide.high


@every_interval
def test_copies_of_events_in_one_group_add_no_certainty(interval):
    x = np.random.default_rng(3).normal(size=150)
    alone = interval(x, 0.9)
    copied = interval(np.repeat(x, 4), 0.9, groups=np.repeat(np.arange(150), 4))
    assert copied.low == pytest.approx(alone.low, abs=1e-9)
    assert copied.high == pytest.approx(alone.high, abs=1e-9)


def test_bernstein_refuses_a_range_below_the_observed():
    with pytest.raises(ValueError, match="at least the observed"):
        ope.empirical_bernstein_interval(np.array([0.0, 5.0]), 1.0)


@pytest.mark.parametrize("name", ["normal", "studentised"])
def test_one_event_says_nothing(name):
    assert INTERVALS[name](np.array([0.4])) == (-np.inf, np.inf)


def test_constant_contributions_have_no_spread():
    assert ope.studentised_bootstrap_interval(np.full(50, 0.25)) == (0.25, 0.25)


@every_interval
def test_missing_contributions_are_refused(interval):
    with pytest.raises(ValueError, match="all finite"):
        interval(np.array([0.1, np.nan]))


def test_labels_must_match_events():
    with pytest.raises(ValueError, match="one label per event"):
        ope.normal_interval(np.ones(4), groups=np.arange(3))
