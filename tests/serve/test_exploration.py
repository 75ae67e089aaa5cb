from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from serve.exploration import draw, explored
from serve.settings.decision import ExplorationSettings

K = 5
settings_of = st.builds(
    ExplorationSettings,
    kind=st.sampled_from(["epsilon", "softmax"]),
    traffic_percent=st.floats(0, 100),
    epsilon=st.floats(0, 1),
    temperature=st.floats(1e-3, 10),
    propensity_floor=st.floats(0, 0.5),
)
masks = st.lists(st.booleans(), min_size=K, max_size=K)
rows = st.lists(st.floats(-1, 1), min_size=K, max_size=K)


def one_hot(values, eligible):
    base = np.zeros(K)
    base[np.where(eligible, values, -np.inf).argmax()] = 1.0
    return base


@given(settings=settings_of, values=rows, eligible=masks)
def test_it_is_a_distribution_over_the_eligible_models(settings, values, eligible):
    assume(any(eligible))
    mask = np.array(eligible)
    found = explored(one_hot(values, mask), np.array(values), mask, settings)
    assert found.sum() == pytest.approx(1.0)
    assert (found >= 0).all()
    assert (found[~mask] == 0).all()
    assert (found[mask] >= min(settings.propensity_floor, 1 / mask.sum()) - 1e-12).all()


@given(values=rows, epsilon=st.floats(0, 1), percent=st.floats(0, 100))
def test_the_coin_is_part_of_the_propensity(values, epsilon, percent):
    settings = ExplorationSettings(kind="epsilon", epsilon=epsilon, traffic_percent=percent)
    base = one_hot(values, np.ones(K, dtype=bool))
    found = explored(base, np.array(values), np.ones(K, dtype=bool), settings)
    explores = epsilon * percent / 100
    np.testing.assert_allclose(found, (1 - explores) * base + explores / K, atol=1e-12)


@given(values=rows, shift=st.floats(-5, 5))
def test_softmax_prefers_larger_values_whatever_their_origin(values, shift):
    settings = ExplorationSettings(kind="softmax", temperature=0.2)
    everyone = np.ones(K, dtype=bool)
    found = explored(one_hot(values, everyone), np.array(values), everyone, settings)
    order = np.argsort(values)
    assert (np.diff(found[order]) >= -1e-12).all()
    shifted = explored(one_hot(values, everyone), np.array(values) + shift, everyone, settings)
    np.testing.assert_allclose(found, shifted, atol=1e-9)


def test_none_changes_nothing():
    base = np.array([0.0, 1.0, 0.0, 0.0, 0.0])
    assert explored(base, base, base > -1, ExplorationSettings(propensity_floor=0.1)) is base


@pytest.mark.parametrize(
    "settings",
    [
        ExplorationSettings(kind="epsilon", epsilon=0.4, traffic_percent=50, propensity_floor=0.02),
        ExplorationSettings(kind="softmax", temperature=0.3, traffic_percent=80),
    ],
)
def test_draws_come_as_often_as_their_propensities_say(settings):
    eligible = np.array([True, True, False, True, True])
    values = np.array([0.1, 0.5, 0.9, 0.3, -0.2])
    found = explored(one_hot(values, eligible), values, eligible, settings)
    rng, n = np.random.default_rng(0), 20_000
    counts = np.bincount([draw(found, rng) for _ in range(n)], minlength=K)
    # Five standard errors of a binomial share.
    assert (np.abs(counts / n - found) <= 5 * np.sqrt(found * (1 - found) / n) + 1e-12).all()
